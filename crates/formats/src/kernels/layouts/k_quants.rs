//! The K-quants: blocks of 256 whose scales are themselves small integers times a scale of the block.

use super::{Layout, array, u16_at, u32_at};
use crate::format::Activation;
use crate::kernels::isa::Isa;

/// Two bits of chunk `chunk` from planes that hold, in 32 bytes for each 128 weights, the weights `l`, `l + 32`,
/// `l + 64` and `l + 96` in byte `l` from the low bits up.
#[inline(always)]
pub(super) fn two_bits<S: Isa>(s: S, planes: &[u8], chunk: usize) -> S::V {
    let p = array(planes, 32 * (chunk / 2));
    let shift = 4 * (chunk as u32 % 2);
    s.shift_halves(s.load_halves(p, p), shift, shift + 2, 3)
}

/// Bit `i` of byte `l` of `plane` for the weight `32 i + l`.
#[inline(always)]
fn one_bit<S: Isa>(s: S, plane: &[u8; 32], chunk: usize) -> S::V {
    let shift = 2 * chunk as u32;
    s.shift_halves(s.load_halves(plane, plane), shift, shift + 1, 1)
}

/// The low nibbles of 32 bytes, then their high nibbles.
#[inline(always)]
fn nibbles32<S: Isa>(s: S, nibbles: &[u8], chunk: usize) -> S::V {
    let p = array(nibbles, 32 * chunk);
    s.shift_halves(s.load_halves(p, p), 0, 4, 0x0f)
}

/// Eight scales and eight minimums of six bits each in 12 bytes (Q4_K, Q5_K), each repeated for its two groups of 16,
/// times `d` and `dmin`, which lie at the block's start.
#[inline(always)]
fn six_bit_scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
    let (a, b, c) = (u32_at(step, 4), u32_at(step, 8), u32_at(step, 12));
    let upper = |v: u32| (v >> 6 & 0x0303_0303) << 4;
    let join = |low: u32, high: u32| (u64::from(low) | u64::from(high) << 32).to_le_bytes();
    let scales = join(a & 0x3f3f_3f3f, c & 0x0f0f_0f0f | upper(a));
    let mins = join(b & 0x3f3f_3f3f, c >> 4 & 0x0f0f_0f0f | upper(b));
    let d = s.splat_f(s.f16(u16_at(step, 0)));
    let dmin = s.splat_f(s.f16(u16_at(step, 2)));
    (s.mul(d, s.twice_u8(scales)), s.mul(dmin, s.twice_u8(mins)))
}

/// `scales and mins: [u8; 16], two bits: [u8; 64], d: f16, dmin: f16`
pub(crate) struct Q2_K;

impl Layout for Q2_K {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 84;
    const PIECE_BYTES: usize = 84;
    const GROUP: usize = 16;
    const MINS: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        two_bits(s, &step[16..80], chunk)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        let both = u128::from_le_bytes(*array(step, 0));
        let nibbles = u128::from_le_bytes([0x0f; 16]);
        let d = s.splat_f(s.f16(u16_at(step, 80)));
        let dmin = s.splat_f(s.f16(u16_at(step, 82)));
        let scales = s.load_u8((both & nibbles).to_le_bytes());
        let mins = s.load_u8((both >> 4 & nibbles).to_le_bytes());
        (s.mul(d, scales), s.mul(dmin, mins))
    }
}

/// `third bits: [u8; 32], two bits: [u8; 64], scales: [u8; 12], d: f16`
pub(crate) struct Q3_K;

impl Layout for Q3_K {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 110;
    const PIECE_BYTES: usize = 110;
    const GROUP: usize = 16;
    const OFFSET: u8 = 4;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        let third = s.shift_left::<2>(one_bit(s, array(step, 0), chunk));
        s.or(two_bits(s, &step[32..96], chunk), third)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        let (a, b, c) = (u32_at(step, 96), u32_at(step, 100), u32_at(step, 104));
        let low = |v: u32, shift: u32| u128::from(v >> shift & 0x0f0f_0f0f);
        let high = |shift: u32| u128::from((c >> shift & 0x0303_0303) << 4);
        let six_bits = (low(a, 0) | high(0))
            | (low(b, 0) | high(2)) << 32
            | (low(a, 4) | high(4)) << 64
            | (low(b, 4) | high(6)) << 96;
        let scales = s.sub(s.load_u8(six_bits.to_le_bytes()), s.splat_f(32.0));
        (s.mul(s.splat_f(s.f16(u16_at(step, 108))), scales), s.splat_f(0.0))
    }
}

/// `d: f16, dmin: f16, scales and mins: [u8; 12], nibbles: [u8; 128]`
pub(crate) struct Q4_K;

impl Layout for Q4_K {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 144;
    const PIECE_BYTES: usize = 144;
    const GROUP: usize = 32;
    const MINS: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        nibbles32(s, &step[16..144], chunk)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        six_bit_scales(s, step)
    }
}

/// `d: f16, dmin: f16, scales and mins: [u8; 12], fifth bits: [u8; 32], nibbles: [u8; 128]`
pub(crate) struct Q5_K;

impl Layout for Q5_K {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 176;
    const PIECE_BYTES: usize = 176;
    const GROUP: usize = 32;
    const MINS: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        let fifth = s.shift_left::<4>(one_bit(s, array(step, 16), chunk));
        s.or(nibbles32(s, &step[48..176], chunk), fifth)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        six_bit_scales(s, step)
    }
}

/// `low nibbles: [u8; 128], upper two bits: [u8; 64], scales: [i8; 16], d: f16`
pub(crate) struct Q6_K;

impl Layout for Q6_K {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 210;
    const PIECE_BYTES: usize = 210;
    const GROUP: usize = 16;
    const OFFSET: u8 = 32;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        // 64 bytes hold 128 weights: the first 64 in their low nibbles.
        let shift = 4 * (chunk as u32 % 2);
        let low = s.shift_halves(s.load(array(step, 64 * (chunk / 2))), shift, shift, 0x0f);
        s.or(low, s.shift_left::<4>(two_bits(s, &step[128..192], chunk)))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        let d = s.splat_f(s.f16(u16_at(step, 208)));
        (s.mul(d, s.load_i8(bytemuck::cast(*array::<16>(step, 192)))), s.splat_f(0.0))
    }
}
