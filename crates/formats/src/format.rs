//! What a number format is: one row of the [`FORMATS`] table.

use crate::blocks;
use crate::grid::Grid;
use crate::kernels::Product;

/// A number format: how weights along a row lie in bytes, and what can be done with them.
///
/// Compare formats by [`id`](Format::id) (or with `==`, which does so). All layouts of [`FORMATS`] are those of ggml, little
/// endian; those of [`INTEGERS`] are bantam's own.
pub struct Format {
    /// The format's name as in ggml and in file listings, for example `Q4_K`.
    pub name: &'static str,
    /// The ggml type id that GGUF files carry; from [`NOT_IN_GGUF`] on, one that no file has.
    pub id: u32,
    /// Weights per block. Rows are a whole number of blocks.
    pub block: usize,
    /// Bytes per block.
    pub bytes: usize,
    /// The largest magnitude of a weight that it holds for certain, whatever the block's other weights.
    pub largest: f32,
    /// Decodes whole blocks: `src` holds `n` blocks, `dst` receives `n * block` weights. Bit-exact with ggml.
    pub decode: fn(src: &[u8], dst: &mut [f32]),
    /// Encodes whole blocks, `None` for formats that bantam only reads.
    ///
    /// `importance`, one non-negative weight per element of `src`, says how much each element's error matters;
    /// without it each element counts by the format's own rule. Deterministic: the same bytes on every machine.
    pub encode: Option<Encode>,
    /// Whether all blocks of a row have one scale: rows are then encoded one at a time, see [`encode_rows`](Format::encode_rows).
    pub per_row: bool,
    /// What blocks can hold, to choose quants and scales oneself; `None` for floating point and formats that bantam
    /// only reads.
    pub grid: Option<Grid>,
    /// How to multiply a row by activations.
    pub product: Product,
}

/// Encodes `src` (whole blocks) into `dst`, weighing errors by `importance` where given.
pub type Encode = fn(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]);

/// The form into which activations are brought before a product with a format's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// As they are.
    F32,
    /// Int8 in groups of 32, one scale each, rounded to f16 (ggml's Q8_0 and Q8_1).
    Int8x32,
    /// Int8 in groups of 256, one f32 scale each (ggml's Q8_K).
    Int8x256,
    /// Int8 with one scale for a token, the largest magnitude divided by 127 (vLLM's dynamic quantization); what that rounds
    /// them to is multiplied in f32.
    Int8Token,
}

/// The first [`id`](Format::id) of the formats that GGUF does not have.
pub const NOT_IN_GGUF: u32 = 1 << 16;

/// The fewest weights that share a scale in any format.
pub const GROUP: usize = 16;

impl Format {
    /// The format with this ggml type id.
    pub fn by_id(id: u32) -> Option<&'static Format> {
        FORMATS.iter().copied().find(|f| f.id == id)
    }

    /// The format with this name, in any case: `q4_k`, `Q4_K`.
    pub fn by_name(name: &str) -> Option<&'static Format> {
        FORMATS.iter().chain(INTEGERS).copied().find(|f| f.name.eq_ignore_ascii_case(name))
    }

    /// Single precision, in which norms and biases are kept.
    pub fn f32() -> &'static Format {
        Self::by_name("F32").expect("F32 is a format")
    }

    /// Half precision, the usual format of a model that is not quantized.
    pub fn f16() -> &'static Format {
        Self::by_name("F16").expect("F16 is a format")
    }

    /// Whether GGUF files can hold it.
    pub fn in_gguf(&self) -> bool {
        self.id < NOT_IN_GGUF
    }

    /// Encodes whole rows of `cols` weights, as [`encode`](Format::encode) does.
    ///
    /// # Panics
    /// If the format can only be read.
    pub fn encode_rows(&self, cols: usize, src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
        let encode = self.encode.expect("the format can be written");
        if !self.per_row {
            return encode(src, importance, dst);
        }
        let bytes = self.bytes_of(cols).expect("the format divides the row");
        for (i, (row, dst)) in src.chunks_exact(cols).zip(dst.chunks_exact_mut(bytes)).enumerate() {
            encode(row, importance.map(|v| &v[i * cols..][..cols]), dst);
        }
    }

    /// Whether a row of `len` weights is a whole number of blocks.
    pub fn divides(&self, len: usize) -> bool {
        len.is_multiple_of(self.block)
    }

    /// Bytes of `len` weights, or `None` if `len` is not a whole number of blocks or the size overflows.
    pub fn bytes_of(&self, len: usize) -> Option<usize> {
        self.divides(len).then(|| (len / self.block).checked_mul(self.bytes)).flatten()
    }

    /// Bits per weight, scales included.
    pub fn bits(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.block as f64
    }
}

impl PartialEq for Format {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Format {}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name)
    }
}

/// The formats of other engines' files (compressed-tensors, GPTQ), which no GGUF file holds.
pub static INTEGERS: &[&Format] =
    &[&blocks::integer::INT4_G128, &blocks::integer::INT4_G64, &blocks::integer::INT4_G32, &blocks::integer::INT8];

/// Every format that GGUF files hold and bantam knows.
pub static FORMATS: &[&Format] = &[
    &blocks::float::F32,
    &blocks::float::F16,
    &blocks::float::BF16,
    &blocks::legacy::Q8_0,
    &blocks::q6_k::Q6_K,
    &blocks::q5_k::Q5_K,
    &blocks::legacy::Q5_1,
    &blocks::legacy::Q5_0,
    &blocks::q4_k::Q4_K,
    &blocks::legacy::Q4_1,
    &blocks::legacy::Q4_0,
    &blocks::iq4::IQ4_NL,
    &blocks::iq4::IQ4_XS,
    &blocks::fp4::NVFP4,
    &blocks::fp4::MXFP4,
    &blocks::q3_k::Q3_K,
    &blocks::iq3::IQ3_S,
    &blocks::iq3::IQ3_XXS,
    &blocks::q2_k::Q2_K,
    &blocks::iq2::IQ2_S,
    &blocks::iq2::IQ2_XS,
    &blocks::iq2::IQ2_XXS,
    &blocks::narrow::Q2_0,
    &blocks::ternary::TQ2_0,
    &blocks::ternary::TQ1_0,
    &blocks::narrow::Q1_0,
];
