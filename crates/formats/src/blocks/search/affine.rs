//! One group with a scale and an offset: `weight = scale * quant + offset`.

use super::lanes::{Lanes, range};
use crate::kernels::Isa;

/// A scale and an offset, not yet rounded to what can be stored.
#[derive(Clone, Copy, Default)]
pub struct Line {
    /// The scale.
    pub scale: f32,
    /// The offset.
    pub offset: f32,
    /// The weighted mean of the quants: how far the best offset falls when the scale rises.
    pub mean: f32,
    /// What the weighted error grows by with the square of a deviation from the scale, the offset following.
    pub scale_curvature: f32,
    /// The same for a deviation from the offset.
    pub offset_curvature: f32,
}

/// Weights closer together than this are one weight in every format: the least f16 is 6e-8.
const NEGLIGIBLE: f32 = 1e-12;

/// The line with the least weighted error whose offset does not exceed `ceiling`.
///
/// Tries lines that put the range's ends near the outermost quants, or clip it at the lower end. With
/// `t = (x - offset) * inverse`, `l` the nearest quant and `e = t - l`, a line is corrected by the `a` and `b` that
/// minimize `sum w (e - a l - b)²`. Working on `e` keeps the sums accurate.
#[inline(always)]
pub fn best_line<S: Isa, const HIGH: i32, const N: usize>(s: S, x: &[f32; N], w: &[f32; N], ceiling: f32) -> Line {
    let (low, high) = range(x);
    let low = if low < ceiling { low } else { ceiling };
    let width = high - low;
    if width < NEGLIGIBLE {
        return Line { offset: low, offset_curvature: 1.0, ..Line::default() };
    }
    let step = width / HIGH as f32;
    let inverse = Lanes::from_fn(s, |i| HIGH as f32 - 1.05 + (i % 8) as f32 * 0.3) / width;
    let offset = Lanes::from_fn(s, |i| if i < 8 { low } else { low + 0.35 * step });

    let zero = Lanes::splat(s, 0.0);
    let (mut l1, mut l2, mut e1, mut el, mut ee, mut w1) = (zero, zero, zero, zero, zero, zero);
    for i in 0..N {
        let t = (Lanes::splat(s, x[i]) - offset) * inverse;
        let l = nearest::<S, HIGH>(t);
        let e = t - l;
        let (wl, we) = (l * w[i], e * w[i]);
        w1 = w1 + w[i];
        l1 = l1 + wl;
        l2 = l2 + wl * l;
        e1 = e1 + we;
        el = el + we * l;
        ee = ee + we * e;
    }
    // Nearly equal quants, or all weight on one of them, do not determine a line.
    let determinant = w1 * l2 - l1 * l1;
    let relative = determinant / (w1 * l2);
    let b = relative.if_above(1e-4, (l2 * e1 - l1 * el) / determinant, zero);
    // The offset stays below the ceiling; the best scale follows it.
    let b = b.min((Lanes::splat(s, ceiling) - offset) * inverse);
    let a = relative.if_above(1e-4, (el - l1 * b) / l2, zero);
    let quadratic = a * a * l2 + a * b * l1 * 2.0 + b * b * w1;
    let unit = inverse.reciprocal();
    let cost = (ee - (a * el + b * e1) * 2.0 + quadratic) * unit * unit;
    let best = cost.argmin();
    Line {
        scale: (unit * (a + 1.0)).array()[best],
        offset: (offset + unit * b).array()[best],
        mean: (l1 / w1).array()[best],
        scale_curvature: (determinant / w1).array()[best],
        offset_curvature: w1.array()[best],
    }
}

/// The quant nearest to each lane.
#[inline(always)]
pub fn nearest<S: Isa, const HIGH: i32>(t: Lanes<S>) -> Lanes<S> {
    t.at_least(0.0).at_most(HIGH as f32).round()
}

/// The weighted error of each candidate line.
#[inline(always)]
pub fn cost<S: Isa, const HIGH: i32, const N: usize>(
    s: S,
    x: &[f32; N],
    w: &[f32; N],
    scale: Lanes<S>,
    offset: Lanes<S>,
) -> Lanes<S> {
    let inverse = scale.reciprocal();
    let mut cost = Lanes::splat(s, 0.0);
    for i in 0..N {
        let d = Lanes::splat(s, x[i]) - offset;
        let e = d - nearest::<S, HIGH>(d * inverse) * scale;
        cost = cost + e * e * w[i];
    }
    cost
}

/// The quants nearest at this line.
#[inline(always)]
pub fn codes<S: Isa, const HIGH: i32, const N: usize>(s: S, x: &[f32; N], scale: f32, offset: f32) -> [u8; N] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut out = [0; N];
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        *out = nearest::<S, HIGH>((Lanes::load(s, x) - offset) * inverse).bytes();
    }
    out
}
