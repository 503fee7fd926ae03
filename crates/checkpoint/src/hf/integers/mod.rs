//! Directories whose weights are integers: those of vLLM and transformers.
//!
//! A [`Packing`] is how such a directory stores one weight: as several tensors, whose names follow the module's
//! (`q_proj.weight_packed`, `q_proj.weight_scale`). Between it and bantam's rows of blocks ([`INTEGERS`]) lie plain quants and
//! scales. Each packing is a row here, as a number format is one in `formats`.
//!
//! Where to start: `compressed_tensors.rs` and `gptq.rs` for the packings, `read.rs` for what [`open`](super::open) makes of them,
//! `write.rs` for [`IntegerWriter`].

mod compressed_tensors;
mod gptq;
mod read;
mod write;

use super::translation::to_neighbours;
use crate::TensorData;
use bantam_formats::blocks::integer::put_scale;
use bantam_formats::{Format, INTEGERS};
use half::{bf16, f16};
pub(crate) use read::Quantization;
use std::sync::Arc;
pub use write::IntegerWriter;

/// How a directory stores the integers of a weight.
pub struct Packing {
    /// Its name in mixes and messages.
    pub name: &'static str,
    /// Bits of a weight: 4, or 8.
    bits: u32,
    /// Whether all weights of a model have the same group size.
    pub uniform: bool,
    /// The tensors that hold a weight.
    parts: fn(&Shape) -> Vec<PartInfo>,
    /// Rows, columns and group size of the weight, given the shapes of the tensors that there are; their own are checked afterwards.
    shape: fn(PartShapes<'_>) -> Option<(usize, usize, usize)>,
    /// The bytes of the tensors, in the order of `parts`.
    pack: fn(&Integers) -> Vec<Vec<u8>>,
    /// Refuses tensors whose numbers mean what bantam does not have, given the bytes in the order of `parts`.
    check: fn(&Shape, &[&[u8]]) -> Result<(), String>,
    /// The quants and the bytes of the scales, from the bytes in the order of `parts`.
    unpack: fn(&Shape, &[&[u8]]) -> QuantsAndScales,
    /// The `quantization_config` of a model whose modules have these formats.
    config: fn(&[Group], &[String]) -> serde_json::Value,
}

impl Packing {
    /// Whether its directories can hold integers of this format: those of 8 bits have one scale for a row, those of 4 several.
    pub fn holds(&self, format: &Format) -> bool {
        !format.in_gguf() && format.per_row == (self.bits == 8)
    }
}

/// The shapes of a weight's tensors, by the ends of their names.
type PartShapes<'a> = &'a dyn Fn(&str) -> Option<Vec<usize>>;

/// The quants of a weight, and the bytes of its scales.
type QuantsAndScales = (Vec<u8>, Vec<u8>);

/// Every packing.
pub static PACKINGS: &[&Packing] =
    &[&compressed_tensors::PACK_QUANTIZED, &compressed_tensors::INT_QUANTIZED, &gptq::GPTQ];

impl Packing {
    /// The packing of this name.
    pub fn by_name(name: &str) -> Option<&'static Packing> {
        PACKINGS.iter().copied().find(|p| p.name == name)
    }
}

impl std::fmt::Debug for Packing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// One of the tensors that hold a weight.
struct PartInfo {
    /// The end of its name, after the module's.
    suffix: &'static str,
    /// Its type; `F16` may be any floating point type where it is read.
    dtype: &'static str,
    shape: Vec<usize>,
}

/// A weight's rows, columns and format.
#[derive(Clone, Copy, Debug)]
struct Shape {
    rows: usize,
    cols: usize,
    format: &'static Format,
}

impl Shape {
    /// Weights that share a scale.
    fn group(&self) -> usize {
        if self.format.per_row { self.cols } else { self.format.block }
    }

    /// Scales of a row.
    fn groups(&self) -> usize {
        self.cols / self.group()
    }
}

/// Modules whose weights have one format.
struct Group {
    format: &'static Format,
    /// The ends of their names, without the number of the layer: `self_attn.q_proj`.
    modules: Vec<String>,
}

/// A weight as quants and scales.
struct Integers {
    shape: Shape,
    /// `[rows, cols]`, as the format's grid has them (zero is 8 or 128).
    quants: Vec<u8>,
    /// `[rows, groups]`.
    scales: Vec<f32>,
}

impl Integers {
    /// Of rows of blocks.
    fn of(shape: Shape, blocks: &[u8]) -> Self {
        let Shape { rows, cols, format } = shape;
        let grid = format.grid.as_ref().expect("integers have a grid");
        let mut quants = vec![0; rows * cols];
        let each = shape.group() / format.block;
        let mut scales = Vec::with_capacity(rows * shape.groups());
        let blocks = blocks.chunks_exact(format.bytes).zip(quants.chunks_exact_mut(format.block));
        for (i, (block, quants)) in blocks.enumerate() {
            let (mut scale, mut min) = ([0.0], [0.0]);
            (grid.read)(block, quants, &mut scale, &mut min);
            // A scale that a row repeats is taken once.
            if i.is_multiple_of(each) {
                scales.push(scale[0]);
            }
        }
        Self { shape, quants, scales }
    }

    /// Rows of blocks.
    fn blocks(&self) -> Vec<u8> {
        let Shape { rows, cols, format } = self.shape;
        let grid = format.grid.as_ref().expect("integers have a grid");
        let mut bytes = vec![0; rows * format.bytes_of(cols).expect("the format divides the row")];
        let each = self.shape.group() / format.block;
        let blocks = bytes.chunks_exact_mut(format.bytes).zip(self.quants.chunks_exact(format.block));
        for (i, (block, quants)) in blocks.enumerate() {
            put_scale(block, self.scales[i / each]);
            (grid.put_quants)(block, quants);
        }
        bytes
    }

    /// The same with rows in another order: row `r` of the result is row `source(r)`.
    fn reordered(self, source: impl Fn(usize) -> usize) -> Self {
        let Shape { rows, cols, .. } = self.shape;
        let groups = self.shape.groups();
        let quants = (0..rows).flat_map(|r| &self.quants[source(r) * cols..][..cols]).copied().collect();
        let scales = (0..rows).flat_map(|r| &self.scales[source(r) * groups..][..groups]).copied().collect();
        Self { quants, scales, ..self }
    }

    /// The scales as the file has them.
    fn half_scales(&self) -> Vec<u8> {
        self.scales.iter().flat_map(|s| f16::from_f32(*s).to_le_bytes()).collect()
    }
}

/// A weight in a file, to be read.
pub(crate) struct Packed {
    packing: &'static Packing,
    shape: Shape,
    /// In the order of the packing's parts.
    parts: Vec<TensorData>,
    /// The type of the scales.
    scales: String,
    /// As in [`Translation`](super::Translation).
    heads: Option<usize>,
}

impl Packed {
    /// The rows of blocks.
    pub fn blocks(&self) -> Arc<[u8]> {
        let parts: Vec<&[u8]> = self.parts.iter().map(|part| &part[..]).collect();
        let (quants, scales) = (self.packing.unpack)(&self.shape, &parts);
        let integers = Integers { shape: self.shape, quants, scales: decode_scales(&self.scales, &scales) };
        let integers = match self.heads {
            Some(heads) => integers.reordered(|row| to_neighbours(row, self.shape.rows / heads)),
            None => integers,
        };
        self.parts.iter().for_each(TensorData::release);
        integers.blocks().into()
    }
}

/// The types that scales have.
const SCALE_TYPES: [&str; 3] = ["F16", "BF16", "F32"];

fn decode_scales(dtype: &str, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        "F16" => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        "BF16" => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

/// The format of weights of so many bits, of which so many share a scale.
fn format_of(bits: u32, group: usize) -> Option<&'static Format> {
    INTEGERS.iter().copied().find(|f| if bits == 8 { f.per_row } else { !f.per_row && f.block == group })
}

/// Eight quants of four bits in each little-endian word, the first in its lowest bits, which is two in each byte.
fn pack_nibbles(quants: impl Iterator<Item = u8>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut quants = quants;
    while let Some(low) = quants.next() {
        bytes.push(low | quants.next().unwrap_or(0) << 4);
    }
    bytes
}

/// Undoes [`pack_nibbles`].
fn unpack_nibbles(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|b| [b & 15, b >> 4]).collect()
}
