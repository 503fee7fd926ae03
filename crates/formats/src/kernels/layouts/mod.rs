//! How each format's blocks become vectors: what the kernels know of a format.
//!
//! [`Layout`] is for quantized formats, [`FloatLayout`] for floating point. The layouts are ggml's
//! (`ggml-common.h` says where the fields lie, `dequantize_row_*` what they mean).

#![allow(non_camel_case_types, reason = "layouts have the names of their formats")]

mod codebook;
mod float;
mod k_quants;
mod legacy;
mod points;
mod ternary;

pub(crate) use codebook::{IQ4_NL, IQ4_XS, MXFP4, NVFP4};
pub(crate) use float::{BF16, F16, F32};
pub(crate) use k_quants::{Q2_K, Q3_K, Q4_K, Q5_K, Q6_K};
pub(crate) use legacy::{Q1_0, Q2_0, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0};
pub(crate) use points::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS};
pub(crate) use ternary::{TQ1_0, TQ2_0};

use super::isa::Isa;
use crate::format::Activation;

/// Weights that a layout's blocks are taken in: the largest block, and 16 scales.
pub(crate) const STEP: usize = 256;

/// Weights in a 64-byte vector of quants; a step has four chunks.
pub(crate) const CHUNK: usize = 64;

/// A quantized format's blocks as vectors of unsigned quants with scales:
/// `weight = scale * (quant - OFFSET)`, or with [`MINS`](Layout::MINS) `weight = scale * quant - min`.
pub(crate) trait Layout {
    /// The form of the activations that ggml multiplies this format with.
    const ACTIVATION: Activation;
    /// Bytes of 256 weights.
    const STEP_BYTES: usize;
    /// Bytes of the shortest run of whole blocks that is a whole number of chunks.
    const PIECE_BYTES: usize;
    /// Chunks of a piece.
    const CHUNKS: usize = 4 * Self::PIECE_BYTES / Self::STEP_BYTES;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// What is subtracted from every quant.
    const OFFSET: u8 = 0;
    /// Whether groups have a minimum.
    const MINS: bool = false;
    /// Whether quants use all eight bits rather than staying below 64. The offset is then 128.
    const WIDE: bool = false;

    /// The 64 quants of chunk `chunk` of `step`, in order.
    ///
    /// `step` holds `STEP_BYTES`, or fewer at the end of a row, but whole pieces.
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V;

    /// One scale and one minimum for every 16 weights of `step`; those past its end are zero.
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F);
}

/// A floating point format.
pub(crate) trait FloatLayout {
    /// Bytes per weight.
    const BYTES: usize;

    /// The 16 weights in the first `16 * BYTES` bytes.
    fn load<S: Isa>(s: S, bytes: &[u8]) -> S::F;

    /// The first 16 weights in `bytes`, or those that there are and then zeros.
    #[inline(always)]
    fn load_some<S: Isa>(s: S, bytes: &[u8]) -> S::F {
        if bytes.len() >= 16 * Self::BYTES {
            return Self::load(s, bytes);
        }
        let mut padded = [0; 64];
        padded[..bytes.len()].copy_from_slice(bytes);
        Self::load(s, &padded)
    }
}

/// The `N` bytes of `bytes` from `at`.
#[inline(always)]
fn array<const N: usize>(bytes: &[u8], at: usize) -> &[u8; N] {
    bytes[at..].first_chunk().expect("the step holds whole blocks")
}

/// The little-endian u16 at `at`.
#[inline(always)]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*array(bytes, at))
}

/// The little-endian u32 at `at`.
#[inline(always)]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*array(bytes, at))
}

/// The half-precision floats at `at` of the blocks, of `bytes` bytes and `32 * N` weights: a scale for every 16.
#[inline(always)]
fn half_scales<const N: usize, S: Isa>(s: S, step: &[u8], bytes: usize, at: usize) -> S::F {
    let mut d = [0u16; 8];
    for (d, block) in d.chunks_exact_mut(N).zip(step.chunks_exact(bytes)) {
        d.fill(u16_at(block, at));
    }
    s.twice_f16(d)
}
