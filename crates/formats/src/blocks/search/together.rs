//! Sixteen small blocks at once, one a lane: those whose scales do not depend on each other.
//!
//! Candidates are tried in turn, so that no lanes need be compared with each other. A candidate maps the outermost
//! weights near the outermost quants, which gives quants `l`; the scale that fits these best is a least-squares problem.
//! With `w` what the squared errors count, that scale is `sum(w x l) / sum(w l²)`, and the error falls by the `gain`
//! `sum(w x l)² / sum(w l²)`, so that the greatest gain decides. The quants at the best scale are fitted once more.

use super::affine;
use super::lanes::{LANES, Lanes, round_to_f16};
use super::symmetric::{self, Levels};
use super::weights::{self, Rule};
use crate::kernels::Isa;
use half::f16;

/// Sixteen blocks with their scales and offsets as stored.
pub struct Fits<const N: usize> {
    scales: [f32; LANES],
    offsets: [f32; LANES],
    quants: [[u8; N]; LANES],
}

/// One of them.
pub struct Fit<'a, const N: usize> {
    /// The scale.
    pub scale: f16,
    /// The offset, the weight of quant 0.
    pub offset: f16,
    /// The codes of the quants.
    pub quants: &'a [u8; N],
}

impl<const N: usize> Fits<N> {
    /// A block.
    #[inline(always)]
    pub fn block(&self, i: usize) -> Fit<'_, N> {
        Fit { scale: f16::from_f32(self.scales[i]), offset: f16::from_f32(self.offsets[i]), quants: &self.quants[i] }
    }
}

/// Up to sixteen blocks, and what the errors count: block by block, and one block a lane.
struct Blocks<S: Isa, const N: usize> {
    rows: [[f32; N]; LANES],
    x: [Lanes<S>; N],
    w: [Lanes<S>; N],
}

impl<S: Isa, const N: usize> Blocks<S, N> {
    #[inline(always)]
    fn new(s: S, x: &[f32], importance: Option<&[f32]>, rule: &Rule) -> Self {
        let mut rows = [[0f32; N]; LANES];
        for (row, x) in rows.iter_mut().zip(x.as_chunks::<N>().0) {
            *row = weights::finite(x);
        }
        let x = columns(s, &rows);
        let w = weights::in_lanes(s, &x, importance.map(|v| importances(s, v)).as_ref(), rule);
        Blocks { rows, x, w }
    }
}

#[inline(always)]
fn importances<S: Isa, const N: usize>(s: S, importance: &[f32]) -> [Lanes<S>; N] {
    let mut rows = [[0f32; N]; LANES];
    for (row, v) in rows.iter_mut().zip(importance.as_chunks::<N>().0) {
        *row = *v;
    }
    columns(s, &rows)
}

/// Lane `j` of vector `i` is `rows[j][i]`.
#[inline(always)]
fn columns<S: Isa, const N: usize>(s: S, rows: &[[f32; N]; LANES]) -> [Lanes<S>; N] {
    let mut out = [Lanes::splat(s, 0.0); N];
    for (c, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        *out = Lanes::transpose(s, &rows.as_flattened()[c * LANES..], N);
    }
    out
}

/// Encodes blocks with a scale each, `weight = scale * level`. `targets` are the levels that the extreme weight is
/// tried at.
#[inline(always)]
pub fn symmetric<S: Isa, L: Levels, const N: usize>(
    s: S,
    x: &[f32],
    importance: Option<&[f32]>,
    rule: &Rule,
    targets: &[f32],
) -> Fits<N> {
    let blocks = Blocks::<S, N>::new(s, x, importance, rule);
    let zero = Lanes::splat(s, 0.0);
    let (mut low, mut high) = (zero, zero);
    for x in &blocks.x {
        low = x.min(low);
        high = x.max(high);
    }
    let extreme = (low + high).if_above(0.0, high, low);
    let (mut scale, mut gain) = (zero, zero);
    // With importance it may pay to clip the extreme weight, or to spread the others. The second half of these targets
    // is around the highest level, which for levels alike on both sides says nothing new.
    let more = symmetric::targets::<L>();
    let more = match importance {
        None => &[],
        Some(_) if L::LOW == -L::HIGH => &more[..LANES / 2],
        Some(_) => &more[..],
    };
    for target in targets.iter().chain(more) {
        let (fitted, fitted_gain) = fit_scale::<S, L, N>(s, &blocks, Lanes::splat(s, *target) / extreme);
        let better = fitted_gain - gain;
        scale = better.if_above(0.0, fitted, scale);
        gain = better.if_above(0.0, fitted_gain, gain);
    }
    let (scale, _) = fit_scale::<S, L, N>(s, &blocks, scale.reciprocal());
    let scales = rounded_to_f16(scale);
    let mut quants = [[0; N]; LANES];
    for ((row, scale), quants) in blocks.rows.iter().zip(scales).zip(&mut quants) {
        *quants = symmetric::codes::<S, L, N>(s, row, scale);
    }
    Fits { scales, offsets: [0.0; LANES], quants }
}

/// The scale that fits the levels nearest with this inverse scale, and its gain; 0 where all levels are.
#[inline(always)]
fn fit_scale<S: Isa, L: Levels, const N: usize>(
    s: S,
    blocks: &Blocks<S, N>,
    inverse: Lanes<S>,
) -> (Lanes<S>, Lanes<S>) {
    let zero = Lanes::splat(s, 0.0);
    let (mut xl, mut ll) = (zero, zero);
    for (x, w) in blocks.x.iter().zip(&blocks.w) {
        let l = L::nearest(s, *x * inverse);
        let wl = *w * l;
        xl = xl + wl * *x;
        ll = ll + wl * l;
    }
    let scale = xl / ll;
    (ll.if_above(0.0, scale, zero), ll.if_above(0.0, xl * scale, zero))
}

/// Lines tried too where importance is given: it may pay to clip an outermost weight, or to spread the others.
const WIDER: [(f32, f32); 16] = {
    let (low, high) = ([-1.2, -0.4, 0.2, 0.8], [1.2, 0.4, -0.2, -0.8]);
    let mut out = [(0.0, 0.0); 16];
    let mut i = 0;
    while i < 16 {
        out[i] = (low[i / 4], high[i % 4]);
        i += 1;
    }
    out
};

/// Encodes blocks with a scale and an offset each, `weight = scale * quant + offset`, quants from 0 to `HIGH`.
/// `targets` are the quants that the least and the greatest weight are tried at, the latter less `HIGH`.
#[inline(always)]
pub fn affine<S: Isa, const HIGH: i32, const N: usize>(
    s: S,
    x: &[f32],
    importance: Option<&[f32]>,
    rule: &Rule,
    targets: &[(f32, f32)],
) -> Fits<N> {
    let mut blocks = Blocks::<S, N>::new(s, x, importance, rule);
    // About their mean the weights do not pull at the offset, and the sums stay accurate.
    let zero = Lanes::splat(s, 0.0);
    let mut sum = zero;
    for (x, w) in blocks.x.iter().zip(&blocks.w) {
        sum = sum + *x * *w;
    }
    let mean = sum * (1.0 / N as f32);
    let (mut low, mut high) = (blocks.x[0] - mean, blocks.x[0] - mean);
    for x in &mut blocks.x {
        *x = *x - mean;
        low = x.min(low);
        high = x.max(high);
    }
    let width = high - low;
    let (mut scale, mut offset, mut gain) = (zero, zero, zero);
    for (at_low, at_high) in targets.iter().chain(if importance.is_some() { &WIDER[..] } else { &[] }) {
        let inverse = Lanes::splat(s, HIGH as f32 + at_high - at_low) / width;
        let fitted = fit_line::<S, HIGH, N>(s, &blocks, inverse, Lanes::splat(s, *at_low) - low * inverse);
        // Of lines that are as good but for rounding the first, whose offset is a weight that is there.
        let better = fitted.gain - gain * (1.0 + 4e-6);
        scale = better.if_above(0.0, fitted.scale, scale);
        offset = better.if_above(0.0, zero - fitted.scale * fitted.mean, offset);
        gain = better.if_above(0.0, fitted.gain, gain);
    }
    let inverse = scale.reciprocal();
    let fitted = fit_line::<S, HIGH, N>(s, &blocks, inverse, zero - offset * inverse);
    // As they can be stored: the best line and the range's ends; with importance also scales around the best. What was
    // quantized before is found again by an offset that is one of the weights.
    const NEAR: [(f32, bool); 5] =
        [(1.0, false), (0.0, true), (1.0, true), (1.0 - 1.0 / 1024.0, false), (1.0 + 1.0 / 1024.0, false)];
    let (mut best, mut least) = ((zero, mean), Lanes::splat(s, f32::MAX));
    for (near, from_low) in &NEAR[..if importance.is_some() { 5 } else { 2 }] {
        let scale = if *near > 0.0 { fitted.scale * *near } else { width * (1.0 / HIGH as f32) };
        let scale = Lanes::load(s, &rounded_to_f16(scale));
        let offset = if *from_low { low + mean } else { mean - scale * fitted.mean };
        let offset = Lanes::load(s, &rounded_to_f16(offset));
        let error = line_error::<S, HIGH, N>(s, &blocks, scale, offset - mean);
        let better = least - error;
        best.0 = better.if_above(0.0, scale, best.0);
        best.1 = better.if_above(0.0, offset, best.1);
        least = better.if_above(0.0, error, least);
    }
    let (scales, offsets) = (best.0.array(), best.1.array());
    let mut quants = [[0; N]; LANES];
    for (i, (row, quants)) in blocks.rows.iter().zip(&mut quants).enumerate() {
        *quants = affine::codes::<S, HIGH, N>(s, row, scales[i], offsets[i]);
    }
    Fits { scales, offsets, quants }
}

/// The best line through the quants of another: its scale, the mean of the quants, and its gain.
struct FittedLine<S: Isa> {
    scale: Lanes<S>,
    mean: Lanes<S>,
    gain: Lanes<S>,
}

/// The line that fits the quants nearest to `inverse * x + shift`; flat where those do not determine a line.
#[inline(always)]
fn fit_line<S: Isa, const HIGH: i32, const N: usize>(
    s: S,
    blocks: &Blocks<S, N>,
    inverse: Lanes<S>,
    shift: Lanes<S>,
) -> FittedLine<S> {
    let zero = Lanes::splat(s, 0.0);
    let (mut xl, mut l1, mut l2) = (zero, zero, zero);
    for (x, w) in blocks.x.iter().zip(&blocks.w) {
        let l = affine::nearest::<S, HIGH>(*x * inverse + shift);
        let wl = *w * l;
        l1 = l1 + wl;
        l2 = l2 + wl * l;
        xl = xl + wl * *x;
    }
    // The weights' errors count 1 in the mean.
    let mean = l1 * (1.0 / N as f32);
    let variance = l2 - l1 * mean;
    let scale = xl / variance;
    let relative = variance / l2;
    FittedLine {
        scale: relative.if_above(1e-4, scale, zero),
        mean: relative.if_above(1e-4, mean, zero),
        gain: relative.if_above(1e-4, xl * scale, zero),
    }
}

/// The weighted error with this line.
#[inline(always)]
fn line_error<S: Isa, const HIGH: i32, const N: usize>(
    s: S,
    blocks: &Blocks<S, N>,
    scale: Lanes<S>,
    offset: Lanes<S>,
) -> Lanes<S> {
    let inverse = scale.reciprocal();
    let mut error = Lanes::splat(s, 0.0);
    for (x, w) in blocks.x.iter().zip(&blocks.w) {
        let d = *x - offset;
        let e = d - affine::nearest::<S, HIGH>(d * inverse) * scale;
        error = error + e * e * *w;
    }
    error
}

#[inline(always)]
fn rounded_to_f16<S: Isa>(v: Lanes<S>) -> [f32; LANES] {
    let mut out = v.array();
    for v in &mut out {
        *v = round_to_f16(*v);
    }
    out
}
