//! Blocks of 32 with one half-precision scale; of 64 for Q2_0, of 128 for Q1_0.

use super::{Layout, array, half_scales, u32_at};
use crate::format::Activation;
use crate::kernels::isa::Isa;

/// Nibbles of two neighbouring blocks of `bytes` bytes, each with its 16 bytes of nibbles at `at`.
#[inline(always)]
pub(super) fn nibbles<S: Isa>(s: S, step: &[u8], chunk: usize, bytes: usize, at: usize) -> S::V {
    let first = 2 * chunk * bytes;
    s.nibbles(array(step, first + at), array(step, first + bytes + at))
}

/// The fifth bits of two neighbouring blocks, at their place.
#[inline(always)]
fn fifth_bits<S: Isa>(s: S, step: &[u8], chunk: usize, bytes: usize, at: usize) -> S::V {
    let first = 2 * chunk * bytes;
    let (a, b) = (u32_at(step, first + at), u32_at(step, first + bytes + at));
    s.bits(u64::from(a) | u64::from(b) << 32, 16)
}

/// `d: f16, quants: [i8; 32]`
pub(crate) struct Q8_0;

impl Layout for Q8_0 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 8 * 34;
    const PIECE_BYTES: usize = 2 * 34;
    const GROUP: usize = 32;
    const OFFSET: u8 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        let first = 2 * chunk * 34;
        s.xor(s.load_halves(array(step, first + 2), array(step, first + 36)), s.splat(0x80))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<1, S>(s, step, 34, 0), s.splat_f(0.0))
    }
}

/// `d: f16, nibbles: [u8; 16]`
pub(crate) struct Q4_0;

impl Layout for Q4_0 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 8 * 18;
    const PIECE_BYTES: usize = 2 * 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 8;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        nibbles(s, step, chunk, 18, 2)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<1, S>(s, step, 18, 0), s.splat_f(0.0))
    }
}

/// `d: f16, min: f16, nibbles: [u8; 16]`; the minimum is added.
pub(crate) struct Q4_1;

impl Layout for Q4_1 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 8 * 20;
    const PIECE_BYTES: usize = 2 * 20;
    const GROUP: usize = 32;
    const MINS: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        nibbles(s, step, chunk, 20, 4)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<1, S>(s, step, 20, 0), s.sub(s.splat_f(0.0), half_scales::<1, S>(s, step, 20, 2)))
    }
}

/// `d: f16, fifth bits: u32, nibbles: [u8; 16]`
pub(crate) struct Q5_0;

impl Layout for Q5_0 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 8 * 22;
    const PIECE_BYTES: usize = 2 * 22;
    const GROUP: usize = 32;
    const OFFSET: u8 = 16;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        s.or(nibbles(s, step, chunk, 22, 6), fifth_bits(s, step, chunk, 22, 2))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<1, S>(s, step, 22, 0), s.splat_f(0.0))
    }
}

/// `d: f16, min: f16, fifth bits: u32, nibbles: [u8; 16]`; the minimum is added.
pub(crate) struct Q5_1;

impl Layout for Q5_1 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 8 * 24;
    const PIECE_BYTES: usize = 2 * 24;
    const GROUP: usize = 32;
    const MINS: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        s.or(nibbles(s, step, chunk, 24, 8), fifth_bits(s, step, chunk, 24, 4))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<1, S>(s, step, 24, 0), s.sub(s.splat_f(0.0), half_scales::<1, S>(s, step, 24, 2)))
    }
}

/// `d: f16, quants of two bits: [u8; 16]`, 64 weights
pub(crate) struct Q2_0;

impl Layout for Q2_0 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 4 * 18;
    const PIECE_BYTES: usize = 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        s.crumbs(array(step, 18 * chunk + 2))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<2, S>(s, step, 18, 0), s.splat_f(0.0))
    }
}

/// `d: f16, signs: [u8; 16]`, 128 weights of -d or d
pub(crate) struct Q1_0;

impl Layout for Q1_0 {
    const ACTIVATION: Activation = Activation::Int8x32;
    const STEP_BYTES: usize = 2 * 18;
    const PIECE_BYTES: usize = 18;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        s.bits(u64::from_le_bytes(*array(step, 18 * (chunk / 2) + 2 + 8 * (chunk % 2))), 2)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (half_scales::<4, S>(s, step, 18, 0), s.splat_f(0.0))
    }
}
