//! Nibbles that index a table of 16 values: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

use super::legacy::nibbles;
use super::{Layout, array, half_scales, u16_at};
use crate::format::Activation;
use crate::kernels::isa::Isa;

/// The values of IQ4_NL and IQ4_XS, plus 128.
const IQ4: [u8; 16] = [1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241];

/// Twice the values of the four-bit float with two bits of exponent and one of mantissa, plus 12.
const FP4: [u8; 16] = [12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0];

/// `d: f16, nibbles: [u8; 16]`
pub(crate) struct IQ4_NL;

impl Layout for IQ4_NL {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 8 * 18;
    const PIECE_BYTES: usize = 2 * 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        s.lookup(&IQ4, nibbles(s, step, chunk, 18, 2))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<1, S>(s, step, 18, 0), s.splat_f(0.0))
    }
}

/// `d: f16, upper bits of eight scales: u16, lower bits of the scales: [u8; 4], nibbles: [u8; 128]`, 256 weights
pub(crate) struct IQ4_XS;

impl Layout for IQ4_XS {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 136;
    const PIECE_BYTES: usize = 136;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        let at = 8 + 32 * chunk;
        s.lookup(&IQ4, s.nibbles(array(step, at), array(step, at + 16)))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        let (high, low) = (u16_at(step, 2), array::<4>(step, 4));
        let mut scales = [0; 8];
        for (group, scale) in scales.iter_mut().enumerate() {
            let low = low[group / 2] >> (4 * (group % 2)) & 0x0f;
            let high = (high >> (2 * group) & 3) as u8;
            *scale = low | high << 4;
        }
        let d = s.splat_f(s.f16(u16_at(step, 0)));
        (s.mul(d, s.sub(s.twice_u8(scales), s.splat_f(32.0))), s.splat_f(0.0))
    }
}

/// `exponent: u8, nibbles: [u8; 16]`, as in the OCP microscaling specification
pub(crate) struct MXFP4;

impl Layout for MXFP4 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 8 * 17;
    const PIECE_BYTES: usize = 2 * 17;
    const GROUP: usize = 32;
    const OFFSET: u8 = 12;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        s.lookup(&FP4, nibbles(s, step, chunk, 17, 1))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        let mut d = [0.0; 16];
        for (d, block) in d.chunks_exact_mut(2).zip(step.chunks_exact(17)) {
            d.fill(half_power(block[0]));
        }
        (s.load_f(&d), s.splat_f(0.0))
    }
}

/// Half of the power of two with this biased exponent, `2^(e - 128)`: the table has twice the values.
#[inline(always)]
fn half_power(e: u8) -> f32 {
    let bits = if e < 2 { 0x0020_0000 << e } else { (u32::from(e) - 1) << 23 };
    f32::from_bits(bits)
}

/// `scales of four bits of exponent and three of mantissa: [u8; 4], nibbles: [[u8; 8]; 4]`, 64 weights
pub(crate) struct NVFP4;

impl Layout for NVFP4 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 4 * 36;
    const PIECE_BYTES: usize = 36;
    const GROUP: usize = 16;
    const OFFSET: u8 = 12;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        let mut words = [[0; 8]; 8];
        for (i, words) in words.chunks_exact_mut(2).enumerate() {
            let word = u64::from_le_bytes(*array(step, 36 * chunk + 4 + 8 * i));
            words[0] = (word & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
            words[1] = (word >> 4 & 0x0f0f_0f0f_0f0f_0f0f).to_le_bytes();
        }
        s.lookup(&FP4, s.load(&bytemuck::cast(words)))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        let mut d = [0.0; 16];
        for (d, block) in d.chunks_exact_mut(4).zip(step.chunks_exact(36)) {
            for (d, byte) in d.iter_mut().zip(block) {
                *d = half_e4m3(*byte);
            }
        }
        (s.load_f(&d), s.splat_f(0.0))
    }
}

/// Half of a float with four bits of exponent and three of mantissa, its sign ignored. As in ggml its NaN is zero.
#[inline(always)]
fn half_e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    match byte {
        0 | 0x7f => 0.0,
        _ if exponent == 0 => mantissa / 1024.0,
        _ => (1.0 + mantissa / 8.0) * f32::from_bits(((exponent - 8 + 127) as u32) << 23),
    }
}
