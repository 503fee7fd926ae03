//! Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 weights, each with its own f16 scale (and offset).

use super::layout::{Encoder, Layout, block_format, f16_at, levels, nibbles, put_f16, put_nearest_f16, put_nibbles};
use super::search::{lanes::LANES, symmetric::Uniform, together, weights::LEGACY};
use crate::kernels::Isa;

block_format! {
    /// 4 bits, symmetric: `d * (q - 8)`.
    Q4_0 = Q40, 2
}
block_format! {
    /// 4 bits, affine: `d * q + m`.
    Q4_1 = Q41, 3
}
block_format! {
    /// 5 bits, symmetric: `d * (q - 16)`.
    Q5_0 = Q50, 6
}
block_format! {
    /// 5 bits, affine: `d * q + m`.
    Q5_1 = Q51, 7
}
block_format! {
    /// 8 bits, symmetric: `d * q`.
    Q8_0 = Q80, 8
}

// Where the outermost weights are tried: chosen one by one, each so that with those before it the least is lost on
// matrices of language models and on Gaussian weights. None is clipped by more than half a level. More of them gain
// little: twice as many lose a thousandth less.

const FOUR_BITS: [f32; 8] = [-8.0, -8.49, -7.1, -7.7, -6.1, -8.2, -6.8, -7.3];
const FIVE_BITS: [f32; 8] = [-16.0, -15.1, -16.49, -14.1, -15.7, -14.8, 13.1, -16.2];
// The one beyond finds again what was quantized to fewer bits before, whose lowest level is a power of two.
const EIGHT_BITS: [f32; 7] = [-127.0, -126.0, -125.0, -124.0, -123.1, -127.4, -128.0];
const FOUR_BITS_AFFINE: [(f32, f32); 7] =
    [(0.0, 0.0), (0.2, 0.35), (-0.2, -0.2), (0.9, 0.2), (0.0, 0.2), (-0.49, 0.0), (0.9, -0.2)];
// The second finds again what was quantized to four bits before.
const FIVE_BITS_AFFINE: [(f32, f32); 7] =
    [(0.0, 0.0), (0.0, -1.0), (0.9, 0.2), (-0.2, -0.2), (0.2, 0.2), (0.9, -0.9), (0.9, -0.2)];

/// Bytes: d, 16 of nibbles.
struct Q40;

impl Layout for Q40 {
    const BLOCK: usize = 32;
    const BYTES: usize = 18;
    const ZERO: Option<u8> = Some(8);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        nibbles(&block[2..18], quants);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, 0));
    }
}

impl Encoder for Q40 {
    const TOGETHER: usize = LANES;
    const LEVELS: &[u8] = levels(0, 16);
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::symmetric::<S, Uniform<-8, 7>, 32>(s, x, importance, &LEGACY, &FOUR_BITS);
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

/// Bytes: d, m, 16 of nibbles.
struct Q41;

impl Layout for Q41 {
    const BLOCK: usize = 32;
    const BYTES: usize = 20;
    const ZERO: Option<u8> = None;

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        nibbles(&block[4..20], quants);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
        scales.fill(f16_at(block, 0));
        mins.fill(-f16_at(block, 2));
    }
}

impl Encoder for Q41 {
    const TOGETHER: usize = LANES;
    const LEVELS: &[u8] = levels(0, 16);
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::affine::<S, 15, 32>(s, x, importance, &LEGACY, &FOUR_BITS_AFFINE);
        for (i, block) in blocks.chunks_exact_mut(Self::BYTES).enumerate() {
            let fit = fits.block(i);
            put_f16(block, 0, fit.scale);
            put_f16(block, 2, fit.offset);
            Self::put_codes(fit.quants, block);
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_nibbles(codes, &mut block[4..20]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], mins: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, 0, scales[0]);
        put_nearest_f16(block, 2, -mins[0]);
    }
}

/// Bytes: d, 4 of fifth bits (bit i is that of quant i), 16 of nibbles.
struct Q50;

impl Layout for Q50 {
    const BLOCK: usize = 32;
    const BYTES: usize = 22;
    const ZERO: Option<u8> = Some(16);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        nibbles(&block[6..22], quants);
        fifth_bits(&block[2..6], quants);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, 0));
    }
}

impl Encoder for Q50 {
    const TOGETHER: usize = LANES;
    const LEVELS: &[u8] = levels(0, 32);
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::symmetric::<S, Uniform<-16, 15>, 32>(s, x, importance, &LEGACY, &FIVE_BITS);
        for (i, block) in blocks.chunks_exact_mut(Self::BYTES).enumerate() {
            let fit = fits.block(i);
            put_f16(block, 0, fit.scale);
            Self::put_codes(fit.quants, block);
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_fifth_bits(codes, &mut block[2..6]);
        put_nibbles(codes, &mut block[6..22]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, 0, scales[0]);
    }
}

/// Bytes: d, m, 4 of fifth bits, 16 of nibbles.
struct Q51;

impl Layout for Q51 {
    const BLOCK: usize = 32;
    const BYTES: usize = 24;
    const ZERO: Option<u8> = None;

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        nibbles(&block[8..24], quants);
        fifth_bits(&block[4..8], quants);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], mins: &mut [f32]) {
        scales.fill(f16_at(block, 0));
        mins.fill(-f16_at(block, 2));
    }
}

impl Encoder for Q51 {
    const TOGETHER: usize = LANES;
    const LEVELS: &[u8] = levels(0, 32);
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::affine::<S, 31, 32>(s, x, importance, &LEGACY, &FIVE_BITS_AFFINE);
        for (i, block) in blocks.chunks_exact_mut(Self::BYTES).enumerate() {
            let fit = fits.block(i);
            put_f16(block, 0, fit.scale);
            put_f16(block, 2, fit.offset);
            Self::put_codes(fit.quants, block);
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_fifth_bits(codes, &mut block[4..8]);
        put_nibbles(codes, &mut block[8..24]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], mins: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, 0, scales[0]);
        put_nearest_f16(block, 2, -mins[0]);
    }
}

/// Bytes: d, 32 of i8.
struct Q80;

impl Layout for Q80 {
    const BLOCK: usize = 32;
    const BYTES: usize = 34;
    const ZERO: Option<u8> = Some(128);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (quant, byte) in quants.iter_mut().zip(&block[2..34]) {
            *quant = byte ^ 0x80;
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, 0));
    }
}

impl Encoder for Q80 {
    const TOGETHER: usize = LANES;
    // As in ggml: -128 is read, not written.
    const LEVELS: &[u8] = levels(1, 255);
    const SHARING: usize = 32;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]) {
        let fits = together::symmetric::<S, Uniform<-127, 127>, 32>(s, x, importance, &LEGACY, &EIGHT_BITS);
        for (i, block) in blocks.chunks_exact_mut(Self::BYTES).enumerate() {
            let fit = fits.block(i);
            put_f16(block, 0, fit.scale);
            Self::put_codes(fit.quants, block);
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (code, byte) in codes.iter().zip(&mut block[2..34]) {
            *byte = code.wrapping_sub(127);
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, 0, scales[0]);
    }
}

/// Adds the fifth bit to 32 quants.
#[inline(always)]
fn fifth_bits(bytes: &[u8], quants: &mut [u8]) {
    let bits = u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    for (i, quant) in quants.iter_mut().enumerate().take(32) {
        *quant |= (((bits >> i) & 1) as u8) << 4;
    }
}

/// Undoes [`fifth_bits`].
#[inline(always)]
fn put_fifth_bits(quants: &[u8], bytes: &mut [u8]) {
    let bits = quants.iter().enumerate().fold(0u32, |bits, (i, quant)| bits | (u32::from(quant >> 4) << i));
    bytes.copy_from_slice(&bits.to_le_bytes());
}
