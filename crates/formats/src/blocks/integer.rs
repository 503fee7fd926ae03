//! Integers as other engines' files have them (compressed-tensors, GPTQ): 4 bits with a scale for 32, 64 or 128 weights,
//! and 8 bits with one scale for a whole row.
//!
//! Those files keep scales and quants apart; whoever reads or writes them joins them to these blocks, which lie in no file
//! of GGUF's. Scales are f32, so that whatever a file has (f16, bf16, f32) is held exactly; those that are chosen here are f16,
//! which is what is written. Weights are multiplied as those engines do: 4 bits are decoded for activations that are not
//! rounded, 8 bits meet activations of 8 bits with one scale for a token.

use super::grid::grid;
use super::layout::{Encoder, Layout, decode, encode, levels, nibbles, put_nibbles};
use super::search::{lanes::LANES, lanes::round_to_f16, symmetric::Uniform, together, weights::LEGACY};
use crate::format::{Activation, Format, NOT_IN_GGUF};
use crate::kernels::{Isa, Product};

/// 4 bits, symmetric: `d * (q - 8)`, one scale for 128 weights.
pub static INT4_G128: Format = int4::<128>("INT4_G128", NOT_IN_GGUF);
/// The same, one scale for 64 weights.
pub static INT4_G64: Format = int4::<64>("INT4_G64", NOT_IN_GGUF + 1);
/// The same, one scale for 32 weights.
pub static INT4_G32: Format = int4::<32>("INT4_G32", NOT_IN_GGUF + 2);
/// 8 bits, symmetric: `d * (q - 128)`, one scale for a row, which each block repeats.
pub static INT8: Format = Format {
    name: "INT8",
    id: NOT_IN_GGUF + 3,
    block: Int8::BLOCK,
    bytes: Int8::BYTES,
    largest: Int8::LARGEST,
    decode: decode::<Int8>,
    encode: Some(encode_row),
    per_row: true,
    grid: Some(grid::<Int8>()),
    product: Product::decoded::<Int8>(Activation::Int8Token),
};

const fn int4<const N: usize>(name: &'static str, id: u32) -> Format {
    Format {
        name,
        id,
        block: Int4::<N>::BLOCK,
        bytes: Int4::<N>::BYTES,
        largest: Int4::<N>::LARGEST,
        decode: decode::<Int4<N>>,
        encode: Some(encode::<Int4<N>>),
        per_row: false,
        grid: Some(grid::<Int4<N>>()),
        product: Product::decoded::<Int4<N>>(Activation::F32),
    }
}

/// Where the extreme weight is tried: as for Q4_0, which has the same levels.
const TARGETS: [f32; 8] = [-8.0, -8.49, -7.1, -7.7, -6.1, -8.2, -6.8, -7.3];

/// Bytes: the scale (f32), 16 of nibbles for every 32 weights.
struct Int4<const N: usize>;

impl<const N: usize> Layout for Int4<N> {
    const BLOCK: usize = N;
    const BYTES: usize = SCALE + N / 2;
    const ZERO: Option<u8> = Some(8);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (bytes, quants) in block[SCALE..].as_chunks::<16>().0.iter().zip(quants.as_chunks_mut::<32>().0) {
            nibbles(bytes, quants);
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(scale(block));
    }
}

impl<const N: usize> Encoder for Int4<N> {
    const TOGETHER: usize = LANES;
    const LEVELS: &[u8] = levels(0, 16);
    const SHARING: usize = N;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::symmetric::<S, Uniform<-8, 7>, N>(s, x, importance, &LEGACY, &TARGETS);
        for (i, block) in blocks.chunks_exact_mut(Self::BYTES).enumerate() {
            let fit = fits.block(i);
            put_scale(block, fit.scale.to_f32());
            Self::put_codes(fit.quants, block);
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (codes, bytes) in codes.as_chunks::<32>().0.iter().zip(block[SCALE..].as_chunks_mut::<16>().0) {
            put_nibbles(codes, bytes);
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_scale(block, round_to_f16(scales[0]));
    }
}

/// Bytes: the scale (f32), 32 of quants (i8).
struct Int8;

impl Layout for Int8 {
    const BLOCK: usize = 32;
    const BYTES: usize = SCALE + 32;
    const ZERO: Option<u8> = Some(128);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (quant, byte) in quants.iter_mut().zip(&block[SCALE..]) {
            *quant = byte ^ 0x80;
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(scale(block));
    }
}

impl Encoder for Int8 {
    /// All that a file can hold, although none is written below -127.
    const LEVELS: &[u8] = levels(0, 256);
    const SHARING: usize = 32;

    /// Blocks by themselves are not what the format is for: see [`encode_row`].
    #[inline(always)]
    fn encode<S: Isa>(_: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        encode_row(x, importance, blocks);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (byte, code) in block[SCALE..].iter_mut().zip(codes) {
            *byte = code ^ 0x80;
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_scale(block, round_to_f16(scales[0]));
    }
}

/// Encodes one row: of scales that put the extreme weight at 127 or clip it, the one with the least weighted error.
fn encode_row(x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
    /// Where the extreme weight is tried.
    const AT: [f32; 6] = [127.0, 131.0, 136.0, 142.0, 150.0, 160.0];
    let importance = importance.filter(|v| v.iter().any(|w| *w > 0.0));
    let extreme = x.iter().fold(0f32, |m, v| m.max(v.abs()));
    let round = |w: f32, inverse: f32| (w * inverse).clamp(-127.0, 127.0).round_ties_even();
    let inverse = |scale: f32| if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let error = |scale: f32| {
        let inverse = inverse(scale);
        let one = |(i, w): (usize, &f32)| {
            let error = w - scale * round(*w, inverse);
            f64::from(error * error) * importance.map_or(1.0, |v| f64::from(v[i]))
        };
        x.iter().enumerate().map(one).sum::<f64>()
    };
    let scales = AT.map(|at| round_to_f16(extreme / at));
    let best = scales.into_iter().map(|s| (error(s), s)).min_by(|a, b| a.0.total_cmp(&b.0)).map_or(0.0, |(_, s)| s);
    let inverse = inverse(best);
    for (x, block) in x.as_chunks::<{ Int8::BLOCK }>().0.iter().zip(blocks.chunks_exact_mut(Int8::BYTES)) {
        put_scale(block, best);
        for (byte, w) in block[SCALE..].iter_mut().zip(x) {
            *byte = (round(*w, inverse) as i8).cast_unsigned();
        }
    }
}

/// Bytes of a scale.
const SCALE: usize = 4;

#[inline(always)]
fn scale(block: &[u8]) -> f32 {
    f32::from_le_bytes(*block.first_chunk().expect("a block begins with its scale"))
}

/// Replaces the scale of a block by any f32, as a file has it; [`Grid::put_scales`](crate::Grid::put_scales) rounds to f16.
#[inline(always)]
pub fn put_scale(block: &mut [u8], scale: f32) {
    block[..SCALE].copy_from_slice(&scale.to_le_bytes());
}
