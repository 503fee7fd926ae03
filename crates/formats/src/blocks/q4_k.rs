//! Q4_K: 256 weights of four bits, affine in groups of 32, scales and mins of six bits.

use super::layout::{Encoder, Layout, block_format, f16_at, levels, nibbles, put_f16, put_nibbles};
use super::search::{superblock, symmetric::Uniform, units, weights};
use crate::kernels::Isa;
use half::f16;

block_format! {
    /// `d * scale * q - dmin * min`, 4.5 bits per weight.
    Q4_K = Q4K, 12
}

/// Bytes: d, dmin, 12 of scales and mins, 128 of nibbles.
struct Q4K;

impl Layout for Q4K {
    const BLOCK: usize = 256;
    const BYTES: usize = 144;
    const ZERO: Option<u8> = None;

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (bytes, quants) in block[16..144].chunks_exact(32).zip(quants.chunks_exact_mut(64)) {
            nibbles(bytes, quants);
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
        six_bit_scales(block, scales, mins);
    }
}

impl Encoder for Q4K {
    const LEVELS: &[u8] = levels(0, 16);
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &weights::Q4_K);
        let fit = superblock::affine::<S, 15, 63, 32, 8>(s, &x, &w);
        put_six_bit_scales(fit.d, fit.dmin, &fit.scales, &fit.mins, block);
        Self::put_codes(&fit.quants, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (codes, bytes) in codes.chunks_exact(64).zip(block[16..144].chunks_exact_mut(32)) {
            put_nibbles(codes, bytes);
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(s: S, scales: &[f32], mins: &[f32], weights: &[f32], block: &mut [u8]) {
        put_nearest_six_bit_scales(s, scales, mins, weights, block);
    }
}

/// Reads the head of a Q4_K or Q5_K block: d, dmin, and 8 scales and 8 mins of six bits in 12 bytes. The first 4
/// scales and the first 4 mins lie in the lower six bits of bytes 0 to 7; of the others, the lower four bits in the
/// nibbles of bytes 8 to 11, and the upper two in the upper bits of bytes 0 to 7.
#[inline(always)]
pub(super) fn six_bit_scales(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
    let (d, dmin) = (f16_at(block, 0), f16_at(block, 2));
    let bytes = &block[4..16];
    for (g, (scale, min)) in scales.chunks_exact_mut(2).zip(mins.chunks_exact_mut(2)).enumerate() {
        let (scale_code, min_code) = if g < 4 {
            (bytes[g] & 63, bytes[g + 4] & 63)
        } else {
            ((bytes[g + 4] & 15) | ((bytes[g - 4] >> 6) << 4), (bytes[g + 4] >> 4) | ((bytes[g] >> 6) << 4))
        };
        scale.fill(d * f32::from(scale_code));
        min.fill(dmin * f32::from(min_code));
    }
}

/// Undoes [`six_bit_scales`].
#[inline(always)]
pub(super) fn put_six_bit_scales(d: f16, dmin: f16, scales: &[u8; 8], mins: &[u8; 8], block: &mut [u8]) {
    put_f16(block, 0, d);
    put_f16(block, 2, dmin);
    let bytes = &mut block[4..16];
    for g in 0..4 {
        let (scale, min) = (scales[g + 4], mins[g + 4]);
        bytes[g] = scales[g] | ((scale >> 4) << 6);
        bytes[g + 4] = mins[g] | ((min >> 4) << 6);
        bytes[g + 8] = (scale & 15) | ((min & 15) << 4);
    }
}

/// Writes scales and mins near to these, see [`Encoder::put_scales`].
#[inline(always)]
pub(super) fn put_nearest_six_bit_scales<S: Isa>(
    s: S,
    scales: &[f32],
    mins: &[f32],
    weights: &[f32],
    block: &mut [u8],
) {
    let scales = units::nearest::<S, Uniform<0, 63>, 8>(s, scales, weights);
    let mins = units::nearest::<S, Uniform<0, 63>, 8>(s, mins, weights);
    put_six_bit_scales(scales.unit, mins.unit, &scales.codes.map(|c| c as u8), &mins.codes.map(|c| c as u8), block);
}
