//! MXFP4 and NVFP4: 4-bit floating point (E2M1) with a shared 8-bit scale. Read only: models come trained in them.
//!
//! Sources: OCP Microscaling Formats (MX) v1.0; NVIDIA's NVFP4.

use super::layout::{Layout, block_format, nibbles};

block_format! {
    /// 32 weights, the scale a power of two.
    MXFP4 = MxFp4, 39, read only
}
block_format! {
    /// 64 weights, an E4M3 scale for each 16.
    NVFP4 = NvFp4, 40, read only
}

/// Twice the E2M1 value of a code, plus 12.
const QUANTS: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// Bytes: the exponent, 16 of nibbles.
struct MxFp4;

impl Layout for MxFp4 {
    const BLOCK: usize = 32;
    const BYTES: usize = 17;
    const ZERO: Option<u8> = Some(12);
    const LARGEST: f32 = f32::MAX;

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        nibbles(&block[1..17], quants);
        for quant in quants {
            *quant = QUANTS[usize::from(*quant)];
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(half_e8m0(block[0]));
    }
}

/// Bytes: 4 of scales, 4 times 8 of nibbles.
struct NvFp4;

impl Layout for NvFp4 {
    const BLOCK: usize = 64;
    const BYTES: usize = 36;
    const ZERO: Option<u8> = Some(12);
    const LARGEST: f32 = 448.0 * 6.0;

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (bytes, quants) in block[4..36].chunks_exact(8).zip(quants.chunks_exact_mut(16)) {
            nibbles(bytes, quants);
            for quant in quants {
                *quant = QUANTS[usize::from(*quant)];
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        for (scale, byte) in scales.iter_mut().zip(&block[..4]) {
            *scale = half_e4m3(*byte);
        }
    }
}

/// Half of `2^(e - 127)`, since the quants are doubled.
#[inline(always)]
fn half_e8m0(e: u8) -> f32 {
    // Below 2 the half is subnormal: 2^-128 is bit 21.
    let bits = if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 };
    f32::from_bits(bits)
}

/// Half of an E4M3 value (bias 7), its sign ignored; ggml reads both the zero and the NaN code as zero.
#[inline(always)]
fn half_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from((byte >> 3) & 15), f32::from(byte & 7));
    match byte {
        0 | 0x7f => 0.0,
        _ if exponent == 0 => mantissa / 1024.0,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits(((exponent - 8 + 127) as u32) << 23),
    }
}
