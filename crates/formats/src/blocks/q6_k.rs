//! Q6_K: 256 weights of six bits, symmetric in groups of 16, scales of eight bits.

use super::layout::{Encoder, Layout, block_format, f16_at, levels, nibbles, put_f16, put_nibbles};
use super::q2_k::{put_two_bits, two_bits};
use super::search::{superblock, symmetric::Uniform, units, weights};
use crate::kernels::Isa;
use half::f16;

block_format! {
    /// `d * scale * (q - 32)`, 6.5625 bits per weight.
    Q6_K = Q6K, 14
}

/// Bytes: 128 of the quants' lower four bits, 64 of their upper two, 16 of scales (i8), d.
struct Q6K;

impl Layout for Q6K {
    const BLOCK: usize = 256;
    const BYTES: usize = 210;
    const ZERO: Option<u8> = Some(32);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        let mut upper = [0u8; 256];
        two_bits(&block[128..192], &mut upper);
        for (bytes, quants) in block[..128].chunks_exact(64).zip(quants.chunks_exact_mut(128)) {
            nibbles(bytes, quants);
        }
        for (quant, upper) in quants.iter_mut().zip(upper) {
            *quant |= upper << 4;
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16_at(block, 208);
        for (scale, byte) in scales.iter_mut().zip(&block[192..208]) {
            *scale = d * f32::from(*byte as i8);
        }
    }
}

impl Encoder for Q6K {
    const LEVELS: &[u8] = levels(0, 64);
    const SHARING: usize = 16;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &weights::Q6_K);
        let fit = superblock::symmetric::<S, Uniform<-32, 31>, -128, 127, 16, 16>(s, &x, &w);
        Self::put_codes(&fit.quants, block);
        put_coded(fit.scale, &fit.codes, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        let codes: &[u8; 256] = codes.as_array().expect("a block");
        for (codes, bytes) in codes.chunks_exact(128).zip(block[..128].chunks_exact_mut(64)) {
            put_nibbles(codes, bytes);
        }
        put_two_bits(&codes.map(|code| code >> 4), &mut block[128..192]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(s: S, scales: &[f32], _: &[f32], weights: &[f32], block: &mut [u8]) {
        let coded = units::nearest::<S, Uniform<-128, 127>, 16>(s, scales, weights);
        put_coded(coded.unit, &coded.codes, block);
    }
}

/// Writes the scales.
#[inline(always)]
fn put_coded(unit: f16, codes: &[i32; 16], block: &mut [u8]) {
    for (byte, code) in block[192..208].iter_mut().zip(codes) {
        *byte = *code as i8 as u8;
    }
    put_f16(block, 208, unit);
}
