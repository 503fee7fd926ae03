//! The cache of keys and values.

use crate::{Error, Result};
use bantam_checkpoint::Config;
use bantam_formats::{Activation, Format, Matrix};
use std::ops::Range;

/// Positions per page. Pages are allocated as the sequence grows, so that a large context costs nothing until it is used.
pub(super) const PAGE: usize = 64;

/// Keys and values of past positions, each head a row in a number format.
pub struct KvCache {
    layers: Vec<[Store; 2]>,
    position: usize,
}

/// The keys and values of one layer.
pub(super) struct LayerCache<'a> {
    pub(super) keys: &'a Store,
    pub(super) values: &'a Store,
}

/// One layer's keys, or its values.
pub(super) struct Store {
    format: &'static Format,
    /// F32.
    decoded: &'static Format,
    heads: usize,
    /// Width of a head.
    width: usize,
    /// Bytes of a head at one position.
    bytes: usize,
    /// Each page holds `PAGE` positions of the first head, then of the second, and so on.
    pages: Vec<Box<[u8]>>,
}

impl KvCache {
    /// An empty cache in `format`.
    ///
    /// # Errors
    /// If the format cannot be written or does not divide the heads.
    pub fn new(config: &Config, format: &'static Format) -> Result<Self> {
        let store = |width| Store::new(format, config.head_count_kv, width);
        let layer = |_| Ok([store(config.key_length)?, store(config.value_length)?]);
        Ok(Self { layers: (0..config.block_count).map(layer).collect::<Result<_>>()?, position: 0 })
    }

    /// Positions done.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Writes a layer's keys and values, `[tokens, heads * width]`, from the current position on.
    pub(super) fn write(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let [key_store, value_store] = &mut self.layers[layer];
        key_store.write(self.position, keys);
        value_store.write(self.position, values);
    }

    pub(super) fn layer(&self, layer: usize) -> LayerCache<'_> {
        let [keys, values] = &self.layers[layer];
        LayerCache { keys, values }
    }

    pub(super) fn advance(&mut self, tokens: usize) {
        self.position += tokens;
    }

    pub(super) fn truncate(&mut self, position: usize) {
        self.position = self.position.min(position);
    }
}

impl Store {
    fn new(format: &'static Format, heads: usize, width: usize) -> Result<Self> {
        let refuse = |reason| Error::CacheFormat { format, reason };
        if format.encode.is_none() {
            return Err(refuse("bantam can only read this format".into()));
        }
        let bytes = format.bytes_of(width).ok_or_else(|| {
            refuse(format!("its blocks of {} do not divide heads of {width}; F16 always works", format.block))
        })?;
        let decoded = Format::f32();
        Ok(Self { format, decoded, heads, width, bytes, pages: Vec::new() })
    }

    fn write(&mut self, position: usize, rows: &[f32]) {
        let encode = self.format.encode.expect("checked when the store was made");
        for (at, row) in (position..).zip(rows.chunks_exact(self.heads * self.width)) {
            if at / PAGE == self.pages.len() {
                self.pages.push(vec![0; self.heads * PAGE * self.bytes].into());
            }
            let page = &mut self.pages[at / PAGE];
            for (head, row) in row.chunks_exact(self.width).enumerate() {
                let start = (head * PAGE + at % PAGE) * self.bytes;
                encode(row, None, &mut page[start..start + self.bytes]);
            }
        }
    }

    /// The rows of `head` at `positions`, which lie in one page: where they are if their format is floating point,
    /// otherwise decoded into `buffer`.
    pub(super) fn rows<'a>(&'a self, head: usize, positions: Range<usize>, buffer: &'a mut Vec<f32>) -> Matrix<'a> {
        let start = (head * PAGE + positions.start % PAGE) * self.bytes;
        let (rows, cols) = (positions.len(), self.width);
        let data = &self.pages[positions.start / PAGE][start..start + rows * self.bytes];
        if self.format.product.activation == Activation::F32 {
            return Matrix { format: self.format, data, rows, cols };
        }
        buffer.resize(rows * cols, 0.0);
        (self.format.decode)(data, buffer);
        Matrix { format: self.decoded, data: bytemuck::cast_slice(buffer), rows, cols }
    }
}
