//! Q3_K: 256 weights of three bits, symmetric in groups of 16, scales of six bits.

use super::layout::{Encoder, Layout, block_format, f16_at, levels, put_f16};
use super::q2_k::{put_two_bits, two_bits};
use super::search::{superblock, symmetric::Uniform, units, weights};
use crate::kernels::Isa;
use half::f16;

block_format! {
    /// `d * (scale - 32) * (q - 4)`, 3.4375 bits per weight.
    Q3_K = Q3K, 11
}

/// Bytes: 32 of the quants' third bits, 64 of their lower two, 12 of scales, d.
struct Q3K;

impl Layout for Q3K {
    const BLOCK: usize = 256;
    const BYTES: usize = 110;
    const ZERO: Option<u8> = Some(4);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        two_bits(&block[32..96], quants);
        for (k, quants) in quants.chunks_exact_mut(32).enumerate() {
            for (quant, byte) in quants.iter_mut().zip(&block[..32]) {
                *quant |= ((byte >> k) & 1) << 2;
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16_at(block, 108);
        let (low, high) = (&block[96..104], &block[104..108]);
        for (g, scale) in scales.iter_mut().enumerate() {
            let code = ((low[g % 8] >> (4 * (g / 8))) & 15) | (((high[g % 4] >> (2 * (g / 4))) & 3) << 4);
            *scale = d * (i32::from(code) - 32) as f32;
        }
    }
}

impl Encoder for Q3K {
    const LEVELS: &[u8] = levels(0, 8);
    const SHARING: usize = 16;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &weights::Q3_K);
        let fit = superblock::symmetric_sixteen::<S, Uniform<-4, 3>, -32, 31>(s, &x, &w);
        Self::put_codes(&fit.quants, block);
        put_coded(fit.scale, &fit.codes, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        block[..32].fill(0);
        for (k, codes) in codes.chunks_exact(32).enumerate() {
            for (code, byte) in codes.iter().zip(&mut block[..32]) {
                *byte |= (code >> 2) << k;
            }
        }
        put_two_bits(codes, &mut block[32..96]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(s: S, scales: &[f32], _: &[f32], weights: &[f32], block: &mut [u8]) {
        let coded = units::nearest::<S, Uniform<-32, 31>, 16>(s, scales, weights);
        put_coded(coded.unit, &coded.codes, block);
    }
}

/// Writes the scales.
#[inline(always)]
fn put_coded(unit: f16, codes: &[i32; 16], block: &mut [u8]) {
    block[96..108].fill(0);
    for (g, code) in codes.iter().enumerate() {
        let code = (code + 32) as u8;
        block[96 + g % 8] |= (code & 15) << (4 * (g / 8));
        block[104 + g % 4] |= (code >> 4) << (2 * (g / 4));
    }
    put_f16(block, 108, unit);
}
