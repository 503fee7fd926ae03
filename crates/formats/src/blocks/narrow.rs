//! Q1_0 and Q2_0: one and two bits with an f16 scale, in blocks that rows of most models divide.

use super::layout::{Encoder, Layout, block_format, f16_at, levels, put_f16, put_nearest_f16};
use super::search::{lanes::LANES, symmetric::Uniform, together, weights::LEGACY};
use crate::kernels::Isa;

block_format! {
    /// 128 weights of one bit: `-d` or `d`. Read only: models come trained in it.
    Q1_0 = Q10, 41, read only
}
block_format! {
    /// 64 weights of two bits: `d * (q - 1)`, that is -1, 0, 1 or 2 times the scale.
    Q2_0 = Q20, 42
}

/// Bytes: d, 16 of bits.
struct Q10;

impl Layout for Q10 {
    const BLOCK: usize = 128;
    const BYTES: usize = 18;
    const ZERO: Option<u8> = Some(1);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (byte, quants) in block[2..18].iter().zip(quants.chunks_exact_mut(8)) {
            for (i, quant) in quants.iter_mut().enumerate() {
                *quant = ((byte >> i) & 1) * 2;
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, 0));
    }
}

/// Where the extreme weight is tried.
const TARGETS: [f32; 8] = [-1.0, -1.4, -1.8, -2.2, 2.0, 2.4, 2.8, 1.6];

/// Bytes: d, 16 of two-bit quants.
struct Q20;

impl Layout for Q20 {
    const BLOCK: usize = 64;
    const BYTES: usize = 18;
    const ZERO: Option<u8> = Some(1);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (byte, quants) in block[2..18].iter().zip(quants.chunks_exact_mut(4)) {
            for (i, quant) in quants.iter_mut().enumerate() {
                *quant = (byte >> (2 * i)) & 3;
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, 0));
    }
}

impl Encoder for Q20 {
    const TOGETHER: usize = LANES;
    const LEVELS: &[u8] = levels(0, 4);
    const SHARING: usize = 64;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::symmetric::<S, Uniform<-1, 2>, 64>(s, x, importance, &LEGACY, &TARGETS);
        for (i, block) in blocks.chunks_exact_mut(Self::BYTES).enumerate() {
            let fit = fits.block(i);
            put_f16(block, 0, fit.scale);
            Self::put_codes(fit.quants, block);
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (codes, byte) in codes.chunks_exact(4).zip(&mut block[2..18]) {
            *byte = codes[0] | (codes[1] << 2) | (codes[2] << 4) | (codes[3] << 6);
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, 0, scales[0]);
    }
}
