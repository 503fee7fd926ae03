//! What the IQ2 and IQ3 formats have in common: blocks of 256 weights, eight of them at a time points of a code book with signs,
//! an f16 scale, and scales of four bits for groups.

use super::books::{Book, Eight};
use super::layout::{Encoder, Layout, f16_at, level, put_f16};
use super::search::symmetric::Odd;
use super::search::weights::{self, Rule};
use super::search::{points, units};
use crate::kernels::{Isa, Kernel};
use std::array::from_fn;
use std::marker::PhantomData;

/// The quant that means zero.
const ZERO: u8 = 128;

/// Where a format's bytes hold points, signs and scales. The f16 scale comes first in all of them.
pub(crate) trait Points {
    /// The points.
    type Book: Book;
    /// Bytes per block.
    const BYTES: usize;
    /// Weights that share a scale: 16 or 32.
    const GROUP: usize;
    /// The scale of a group is the block's times `(2 code + 1) / UNITS`.
    const UNITS: f32;
    /// The quants that can be, ascending.
    const LEVELS: &'static [u8];
    /// What errors count.
    const RULE: Rule;

    /// Reads the weights `8 i .. 8 i + 8`.
    fn eight(block: &[u8], i: usize) -> Eight;

    /// Reads the code of a group's scale.
    fn code(block: &[u8], group: usize) -> u8;

    /// Writes all weights, and leaves the scales.
    fn put_eights(eights: &[Eight; 32], block: &mut [u8]);

    /// Writes the codes of all groups' scales, and leaves the weights.
    fn put_codes(codes: &[u8], block: &mut [u8]);
}

/// The quants of weights with these magnitudes, on both sides of zero.
pub(crate) const fn levels<const M: usize, const LEVELS: usize>(magnitudes: &[u8; M]) -> [u8; LEVELS] {
    assert!(LEVELS == 2 * M);
    let mut levels = [0; LEVELS];
    let mut i = 0;
    while i < M {
        levels[M + i] = ZERO + magnitudes[i];
        levels[M - 1 - i] = ZERO - magnitudes[i];
        i += 1;
    }
    levels
}

/// The quants of eight weights.
#[inline(always)]
fn quants_of<B: Book>(eight: Eight) -> [u8; 8] {
    let mut quants = B::magnitudes(eight.points);
    for (i, quant) in quants.iter_mut().enumerate() {
        *quant = if eight.signs >> i & 1 == 1 { ZERO - *quant } else { ZERO + *quant };
    }
    quants
}

impl<P: Points> Layout for P {
    const BLOCK: usize = 256;
    const BYTES: usize = P::BYTES;
    const ZERO: Option<u8> = Some(ZERO);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        for (i, quants) in quants.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *quants = quants_of::<P::Book>(P::eight(block, i));
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        let d = f16_at(block, 0);
        for (g, scales) in scales.chunks_exact_mut(P::GROUP / 16).enumerate() {
            scales.fill(d * f32::from(2 * P::code(block, g) + 1) * (1.0 / P::UNITS));
        }
    }
}

impl<P: Points> Encoder for P {
    const LEVELS: &'static [u8] = P::LEVELS;
    const SHARING: usize = P::GROUP;
    const VECTOR: usize = 8;
    const TOGETHER_NEAREST: Option<crate::grid::Together> = Some(nearest::<P::Book>);

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        let (x, w) = weights::block::<256>(x, importance, &P::RULE);
        let fit = points::superblock::<S, P::Book>(s, &x, &w, P::GROUP, P::UNITS);
        put_f16(block, 0, fit.scale);
        P::put_eights(&fit.eights, block);
        P::put_codes(&fit.codes[..256 / P::GROUP], block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        let mut eights = [Eight::default(); 32];
        for (codes, eight) in codes.as_chunks::<8>().0.iter().zip(&mut eights) {
            let positions = codes.map(|code| f32::from(P::LEVELS[usize::from(code)]));
            *eight = nearest_eight::<P::Book>(&positions, &[1.0; 8]);
        }
        P::put_eights(&eights, block);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(s: S, scales: &[f32], _: &[f32], weights: &[f32], block: &mut [u8]) {
        let mut wanted = [0f32; 16];
        for (wanted, scale) in wanted.iter_mut().zip(scales) {
            *wanted = scale * P::UNITS;
        }
        let mut codes = [0i32; 16];
        let unit = if P::GROUP == 16 {
            let coded = units::nearest::<S, Odd, 16>(s, &wanted, weights);
            codes = coded.codes;
            coded.unit
        } else {
            let coded = units::nearest::<S, Odd, 8>(s, &wanted[..8], weights);
            codes[..8].copy_from_slice(&coded.codes);
            coded.unit
        };
        put_f16(block, 0, unit);
        <P as Points>::put_codes(&codes.map(|odd| (odd / 2) as u8)[..256 / P::GROUP], block);
    }
}

/// See [`Encoder::TOGETHER_NEAREST`].
fn nearest<B: Book>(positions: &[f32], weights: &[f32], quants: &mut [u8]) {
    // Weights of which nothing counts count alike.
    let counts = weights.iter().any(|w| *w > 0.0);
    let (positions, weights) = (from_fn(|i| positions[i]), from_fn(|i| if counts { weights[i] } else { 1.0 }));
    quants.copy_from_slice(&quants_of::<B>(nearest_eight::<B>(&positions, &weights)));
}

fn nearest_eight<B: Book>(positions: &[f32; 8], weights: &[f32; 8]) -> Eight {
    level().dispatch(Nearest::<B> { positions, weights, book: PhantomData })
}

struct Nearest<'a, B> {
    positions: &'a [f32; 8],
    weights: &'a [f32; 8],
    book: PhantomData<B>,
}

impl<B: Book> Kernel for Nearest<'_, B> {
    type Output = Eight;

    #[inline(always)]
    fn run<S: Isa>(self, s: S) -> Eight {
        let mut x = weights::finite(self.positions);
        for x in &mut x {
            *x -= f32::from(ZERO);
        }
        points::nearest::<S, B>(s, &x, self.weights)
    }
}
