//! Q5_K: 256 weights of five bits, affine in groups of 32, scales and mins of six bits.

use super::layout::{Encoder, Layout, block_format, encode, nibbles, put_nibbles};
use super::q4_k::{put_six_bit_scales, six_bit_scales};
use super::search::{superblock, weights};
use crate::kernels::Isa;

block_format! {
    /// `d * scale * q - dmin * min`, 5.5 bits per weight.
    Q5_K = Q5K, 13, Some(encode::<Q5K>)
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
    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &weights::Q5_K);
        let fit = superblock::affine::<S, 31, 63, 32, 8>(s, &x, &w);
        put_six_bit_scales(&fit, block);
        block[16..48].fill(0);
        for (k, quants) in fit.quants.chunks_exact(32).enumerate() {
            for (quant, byte) in quants.iter().zip(&mut block[16..48]) {
                *byte |= (quant >> 4) << k;
            }
        }
        for (quants, bytes) in fit.quants.chunks_exact(64).zip(block[48..176].chunks_exact_mut(32)) {
            put_nibbles(quants, bytes);
        }
    }
}
