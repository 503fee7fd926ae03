//! IQ4_NL and IQ4_XS: 4 bits that choose among 16 unevenly spaced levels.

use super::layout::{Encoder, Layout, block_format, f16_at, nibbles, put_f16, put_nearest_f16, put_nibbles};
use super::search::{lanes::LANES, superblock, symmetric, together, units, weights};
use crate::kernels::Isa;
use half::f16;

block_format! {
    /// 32 weights, one f16 scale.
    IQ4_NL = Iq4Nl, 20
}
block_format! {
    /// 256 weights, an f16 scale and eight 6-bit scales.
    IQ4_XS = Iq4Xs, 23
}

/// The levels, denser near zero as weights are (ggml's `kvalues_iq4nl`).
pub const LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// The level of a code, plus 128.
const QUANTS: [u8; 16] = {
    let mut quants = [0; 16];
    let mut i = 0;
    while i < 16 {
        quants[i] = (LEVELS[i] as i16 + 128) as u8;
        i += 1;
    }
    quants
};

/// Reads 32 quants from 16 bytes of codes.
#[inline(always)]
fn lookup(bytes: &[u8], quants: &mut [u8]) {
    nibbles(bytes, quants);
    for quant in quants {
        *quant = QUANTS[usize::from(*quant)];
    }
}

/// Where the extreme weight is tried, chosen like those of the legacy formats.
const TARGETS: [f32; 5] = [-127.0, 113.0, -106.0, -122.0, 91.0];

/// Bytes: d, 16 of nibbles.
struct Iq4Nl;

impl Layout for Iq4Nl {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const ZERO: Option<u8> = Some(128);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        lookup(&block[2..18], quants);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, 0));
    }
}

impl Encoder for Iq4Nl {
    const TOGETHER: usize = LANES;
    const LEVELS: &[u8] = &QUANTS;
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::symmetric::<S, symmetric::Iq4, 32>(s, x, importance, &weights::IQ4, &TARGETS);
        for (i, block) in blocks.chunks_exact_mut(Self::BYTES).enumerate() {
            let fit = fits.block(i);
            put_f16(block, 0, fit.scale);
            Self::put_codes(fit.quants, block);
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_nibbles(codes, &mut block[2..18]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, 0, scales[0]);
    }
}

/// Bytes: d, the scales' upper two bits (16 bits), their lower four (4), 8 times 16 of nibbles.
struct Iq4Xs;

impl Layout for Iq4Xs {
    const BLOCK: usize = 256;
    const BYTES: usize = 136;
    const ZERO: Option<u8> = Some(128);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (bytes, quants) in block[8..136].chunks_exact(16).zip(quants.chunks_exact_mut(32)) {
            lookup(bytes, quants);
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16_at(block, 0);
        let high = u16::from_le_bytes([block[2], block[3]]);
        for (g, scale) in scales.chunks_exact_mut(2).enumerate() {
            let low = (block[4 + g / 2] >> (4 * (g % 2))) & 15;
            let code = i32::from(low) | (i32::from((high >> (2 * g)) & 3) << 4);
            scale.fill(d * (code - 32) as f32);
        }
    }
}

impl Encoder for Iq4Xs {
    const LEVELS: &[u8] = &QUANTS;
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &weights::IQ4);
        let fit = superblock::symmetric::<S, symmetric::Iq4, -32, 31, 32, 8>(s, &x, &w);
        put_coded(fit.scale, &fit.codes, block);
        Self::put_codes(&fit.quants, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (codes, bytes) in codes.chunks_exact(32).zip(block[8..136].chunks_exact_mut(16)) {
            put_nibbles(codes, bytes);
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(s: S, scales: &[f32], _: &[f32], weights: &[f32], block: &mut [u8]) {
        let coded = units::nearest::<S, symmetric::Uniform<-32, 31>, 8>(s, scales, weights);
        put_coded(coded.unit, &coded.codes, block);
    }
}

/// Writes the scales of an IQ4_XS block.
#[inline(always)]
fn put_coded(unit: f16, codes: &[i32; 8], block: &mut [u8]) {
    put_f16(block, 0, unit);
    block[2..8].fill(0);
    let mut high = 0u16;
    for (g, code) in codes.iter().enumerate() {
        let code = (code + 32) as u8;
        block[4 + g / 2] |= (code & 15) << (4 * (g % 2));
        high |= u16::from(code >> 4) << (2 * g);
    }
    block[2..4].copy_from_slice(&high.to_le_bytes());
}
