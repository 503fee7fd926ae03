//! Q2_K: 256 weights of two bits, affine in groups of 16, scales and mins of four bits.

use super::layout::{Encoder, Layout, block_format, f16_at, levels, put_f16};
use super::search::{superblock, symmetric::Uniform, units, weights};
use crate::kernels::Isa;
use half::f16;

block_format! {
    /// `d * scale * q - dmin * min`, 2.625 bits per weight.
    Q2_K = Q2K, 10
}

/// Bytes: 16 of scales (low nibble) and mins (high nibble), 64 of quants, d, dmin.
struct Q2K;

impl Layout for Q2K {
    const BLOCK: usize = 256;
    const BYTES: usize = 84;
    const ZERO: Option<u8> = None;

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        two_bits(&block[16..80], quants);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
        let (d, dmin) = (f16_at(block, 80), f16_at(block, 82));
        for (byte, (scale, min)) in block[..16].iter().zip(scales.iter_mut().zip(mins)) {
            *scale = d * f32::from(byte & 15);
            *min = dmin * f32::from(byte >> 4);
        }
    }
}

impl Encoder for Q2K {
    const LEVELS: &[u8] = levels(0, 4);
    const SHARING: usize = 16;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &weights::Q2_K);
        let fit = superblock::affine::<S, 3, 15, 16, 16>(s, &x, &w);
        put_coded(fit.d, fit.dmin, &fit.scales, &fit.mins, block);
        Self::put_codes(&fit.quants, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_two_bits(codes, &mut block[16..80]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(s: S, scales: &[f32], mins: &[f32], weights: &[f32], block: &mut [u8]) {
        let scales = units::nearest::<S, Uniform<0, 15>, 16>(s, scales, weights);
        let mins = units::nearest::<S, Uniform<0, 15>, 16>(s, mins, weights);
        put_coded(scales.unit, mins.unit, &scales.codes.map(|c| c as u8), &mins.codes.map(|c| c as u8), block);
    }
}

/// Writes the scales and mins.
#[inline(always)]
fn put_coded(d: f16, dmin: f16, scales: &[u8; 16], mins: &[u8; 16], block: &mut [u8]) {
    for (byte, (scale, min)) in block[..16].iter_mut().zip(scales.iter().zip(mins)) {
        *byte = scale | (min << 4);
    }
    put_f16(block, 80, d);
    put_f16(block, 82, dmin);
}

/// Reads 256 two-bit quants from 64 bytes. Each half of the bytes holds 128 quants: its 32 bytes carry in their
/// lowest two bits quants 0 to 31, in the next two 32 to 63, and so on.
#[inline(always)]
pub(super) fn two_bits(bytes: &[u8], quants: &mut [u8]) {
    for (bytes, quants) in bytes.chunks_exact(32).zip(quants.chunks_exact_mut(128)) {
        for (k, quants) in quants.chunks_exact_mut(32).enumerate() {
            for (quant, byte) in quants.iter_mut().zip(bytes) {
                *quant = (byte >> (2 * k)) & 3;
            }
        }
    }
}

/// Undoes [`two_bits`], using the lowest two bits of each quant.
#[inline(always)]
pub(super) fn put_two_bits(quants: &[u8], bytes: &mut [u8]) {
    for (quants, bytes) in quants.chunks_exact(128).zip(bytes.chunks_exact_mut(32)) {
        bytes.fill(0);
        for (k, quants) in quants.chunks_exact(32).enumerate() {
            for (quant, byte) in quants.iter().zip(bytes.iter_mut()) {
                *byte |= (quant & 3) << (2 * k);
            }
        }
    }
}
