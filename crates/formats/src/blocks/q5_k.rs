//! Q5_K: 256 weights of five bits, affine in groups of 32, scales and mins of six bits.

use super::layout::{Encoder, Layout, block_format, levels, nibbles, put_nibbles};
use super::q4_k::{put_nearest_six_bit_scales, put_six_bit_scales, six_bit_scales};
use super::search::{superblock, weights};
use crate::kernels::Isa;

block_format! {
    /// `d * scale * q - dmin * min`, 5.5 bits per weight.
    Q5_K = Q5K, 13
}

/// Bytes: d, dmin, 12 of scales and mins, 32 of the quants' fifth bits, 128 of nibbles.
struct Q5K;

impl Layout for Q5K {
    const BLOCK: usize = 256;
    const BYTES: usize = 176;
    const ZERO: Option<u8> = None;

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (bytes, quants) in block[48..176].chunks_exact(32).zip(quants.chunks_exact_mut(64)) {
            nibbles(bytes, quants);
        }
        for (k, quants) in quants.chunks_exact_mut(32).enumerate() {
            for (quant, byte) in quants.iter_mut().zip(&block[16..48]) {
                *quant |= ((byte >> k) & 1) << 4;
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
        six_bit_scales(block, scales, mins);
    }
}

impl Encoder for Q5K {
    const LEVELS: &[u8] = levels(0, 32);
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &weights::Q5_K);
        let fit = superblock::affine::<S, 31, 63, 32, 8>(s, &x, &w);
        put_six_bit_scales(fit.d, fit.dmin, &fit.scales, &fit.mins, block);
        Self::put_codes(&fit.quants, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        block[16..48].fill(0);
        for (k, codes) in codes.chunks_exact(32).enumerate() {
            for (code, byte) in codes.iter().zip(&mut block[16..48]) {
                *byte |= (code >> 4) << k;
            }
        }
        for (codes, bytes) in codes.chunks_exact(64).zip(block[48..176].chunks_exact_mut(32)) {
            put_nibbles(codes, bytes);
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(s: S, scales: &[f32], mins: &[f32], weights: &[f32], block: &mut [u8]) {
        put_nearest_six_bit_scales(s, scales, mins, weights, block);
    }
}
