//! The backend that runs a model: weights in their formats, a key-value cache, no allocation per token.
//!
//! Where to start: [`Run`] implements [`Backend`]; `attention.rs` is attention over the cache, `cache.rs` the cache.

mod attention;
mod cache;

pub use crate::tensor::Tensor;
pub use cache::KvCache;

use crate::layers::{Activation, AttentionSpec, Embedding, LayerNorm, Linear, RmsNorm};
use crate::sequences::Layout;
use crate::tensor::Pool;
use crate::weights::Weight;
use crate::{Backend, Result};
use crate::{sequences, vector};
use attention::{Rotations, Workspace};
use bantam_checkpoint::Config;
use bantam_checkpoint::config::Pooling;
use bantam_formats::kernels::{matmul_each, parallel};
use bantam_formats::{Format, Scratch, matmul};
use std::sync::Arc;

/// Runs one sequence, whose positions go on from where the cache ends, or batches of whole sequences, without a cache.
pub struct Run {
    cache: KvCache,
    /// The lengths of the whole sequences that the rows are, one after another; `None` if the rows go on with the cached one.
    whole: Option<Arc<[usize]>>,
    rotations: Rotations,
    pool: Pool,
    scratch: Scratch,
    attention: Workspace,
}

impl Run {
    /// An empty sequence whose keys and values are cached in `format`.
    ///
    /// # Errors
    /// If the format cannot be written or does not divide the heads.
    pub fn new(config: &Config, format: &'static Format) -> Result<Self> {
        Ok(Self {
            cache: KvCache::new(config, format)?,
            whole: None,
            rotations: Rotations::default(),
            pool: Pool::default(),
            scratch: Scratch::default(),
            attention: Workspace::default(),
        })
    }

    /// From now on the rows are whole sequences of these lengths, one after another: each begins at position 0 and sees no other.
    pub fn set_sequences(&mut self, lengths: &[usize]) {
        self.whole = Some(lengths.into());
    }

    /// The lengths of the sequences that `rows` rows are: what was set, or one sequence.
    fn lengths(&self, rows: usize) -> Arc<[usize]> {
        self.whole.clone().unwrap_or_else(|| [rows].into())
    }

    /// The cache.
    pub fn cache(&self) -> &KvCache {
        &self.cache
    }

    /// Counts `tokens` more positions as done, once the definition has run on them.
    pub fn advance(&mut self, tokens: usize) {
        self.cache.advance(tokens);
    }

    /// Forgets the positions from `position` on.
    pub fn truncate(&mut self, position: usize) {
        self.cache.truncate(position);
    }

    /// A linear layer between slices: `x` is `[tokens, inputs]`, `y` is `[tokens, outputs]`.
    pub fn linear_into(&mut self, layer: &Linear, x: &[f32], y: &mut [f32]) {
        match &layer.weight {
            Weight::Blocks(blocks) => matmul(&blocks.matrix(), x, y, &mut self.scratch),
        }
        add_bias(layer, y);
    }
}

impl Backend for Run {
    type Tensor = Tensor;

    fn embed(&mut self, embedding: &Embedding, tokens: &[u32]) -> Tensor {
        let Weight::Blocks(table) = &embedding.table;
        let mut x = self.pool.take(tokens.len(), table.cols);
        for (row, &token) in x.chunks_exact_mut(table.cols).zip(tokens) {
            table.decode_row(token as usize, row);
            row.iter_mut().for_each(|v| *v *= embedding.scale);
        }
        x
    }

    fn embed_positions(&mut self, embedding: &Embedding, tokens: usize) -> Tensor {
        let positions: Vec<u32> = match &self.whole {
            Some(lengths) => lengths.iter().flat_map(|&len| 0..len as u32).collect(),
            None => (self.cache.position() as u32..).take(tokens).collect(),
        };
        self.embed(embedding, &positions)
    }

    fn linear(&mut self, layer: &Linear, x: &Tensor) -> Tensor {
        let mut y = self.pool.take(x.rows(), layer.weight.rows());
        self.linear_into(layer, x, &mut y);
        y
    }

    fn linears<const N: usize>(&mut self, layers: [&Linear; N], x: &Tensor) -> [Tensor; N] {
        let mut ys = layers.map(|layer| self.pool.take(x.rows(), layer.weight.rows()));
        let matrices = layers.map(|layer| match &layer.weight {
            Weight::Blocks(blocks) => blocks.matrix(),
        });
        matmul_each(&matrices, x, &mut ys.each_mut().map(|y| &mut y[..]), &mut self.scratch);
        layers.iter().zip(&mut ys).for_each(|(layer, y)| add_bias(layer, y));
        ys
    }

    fn rms_norm(&mut self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        let mut y = self.pool.take(x.rows(), x.cols());
        for_rows(&mut y, x.cols(), |at, y| vector::rms_norm(&x[at..at + y.len()], &norm.weight.values, norm.eps, y));
        y
    }

    fn layer_norm(&mut self, norm: &LayerNorm, x: &Tensor) -> Tensor {
        let mut y = self.pool.take(x.rows(), x.cols());
        for_rows(&mut y, x.cols(), |at, y| {
            vector::layer_norm(&x[at..at + y.len()], &norm.weight.values, &norm.bias.values, norm.eps, y);
        });
        y
    }

    fn attention(&mut self, spec: &AttentionSpec, mut q: Tensor, mut k: Tensor, v: Tensor) -> Tensor {
        if self.whole.is_some() || !spec.causal {
            return sequences::attend(spec, self.lengths(q.rows()), [q, k, v], &self.pool);
        }
        let (tokens, position) = (q.rows(), self.cache.position());
        if let Some(rotary) = &spec.rotary {
            let rotation = self.rotations.at(rotary, position..position + tokens);
            attention::rotate(rotation, &mut q, spec.heads, spec.key_length);
            attention::rotate(rotation, &mut k, spec.kv_heads, spec.key_length);
        }
        self.cache.write(spec.layer, &k, &v);
        let mut out = self.pool.take(tokens, spec.heads * spec.value_length);
        let cache = self.cache.layer(spec.layer);
        attention::attend(spec, &cache, position, &q, &mut out, &mut self.attention);
        out
    }

    fn pool(&mut self, pooling: Pooling, x: &Tensor) -> Tensor {
        Layout(self.lengths(x.rows())).pool(pooling, x, &self.pool)
    }

    fn activate(&mut self, activation: Activation, mut x: Tensor) -> Tensor {
        let cols = x.cols();
        for_rows(&mut x, cols, |_, x| vector::activate(activation, x));
        x
    }

    fn gated(&mut self, activation: Activation, mut gate: Tensor, up: Tensor) -> Tensor {
        let cols = gate.cols();
        for_rows(&mut gate, cols, |at, gate| vector::gate(activation, gate, &up[at..at + gate.len()]));
        gate
    }

    fn add(&mut self, mut x: Tensor, y: Tensor) -> Tensor {
        let cols = x.cols();
        for_rows(&mut x, cols, |at, x| vector::add_rows(x, &y[at..at + x.len()]));
        x
    }
}

fn add_bias(layer: &Linear, y: &mut [f32]) {
    if let Some(bias) = &layer.bias {
        for_rows(y, bias.values.len(), |_, rows| vector::add_rows(rows, &bias.values));
    }
}

/// Elements that a thread takes at a time.
const AT_ONCE: usize = 8 * 1024;

/// Calls `f` with groups of whole rows of `x` and the index of their first element, in parallel if there are many.
fn for_rows(x: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let group = AT_ONCE.div_ceil(cols) * cols;
    parallel::for_each_part(x, group, |i, rows| f(i * group, rows));
}
