//! One group with a scale and an offset: `weight = scale * quant + offset`.

use super::lanes::{LANES, Lanes, ROUNDER, clamp};
use super::symmetric::f16_neighbour;
use half::f16;

/// A block with its scale and offset as stored.
pub struct Fit<const N: usize> {
    /// The scale.
    pub scale: f16,
    /// The offset, the weight of quant 0.
    pub offset: f16,
    /// The quants.
    pub quants: [u8; N],
}

/// A scale and an offset, not yet rounded to what can be stored, and the weighted error.
#[derive(Clone, Copy)]
pub struct Line {
    /// The scale.
    pub scale: f32,
    /// The offset.
    pub offset: f32,
    /// The weighted squared error.
    pub cost: f32,
}

/// Encodes a block whose scale and offset are an f16 each.
#[inline(always)]
pub fn encode_block<const HIGH: i32, const N: usize>(x: &[f32; N], w: &[f32; N]) -> Fit<N> {
    let line = best_line::<HIGH, N>(x, w, f32::INFINITY);
    let (low, high) = range(x);
    // Four stored scales by four stored offsets around the best, the last of them the plain choice: the range's ends.
    let mut scale = Lanes::from_fn(|i| f16_neighbour(line.scale, i as i32 / 4 - 1).to_f32());
    let mut offset = Lanes::from_fn(|i| f16_neighbour(line.offset, i as i32 % 4 - 1).to_f32());
    scale.0[LANES - 1] = f16_neighbour((high - low) / HIGH as f32, 0).to_f32();
    offset.0[LANES - 1] = f16_neighbour(low, 0).to_f32();
    let best = cost::<HIGH, N>(x, w, scale, offset).argmin();
    let (scale, offset) = (scale.0[best], offset.0[best]);
    Fit { scale: f16::from_f32(scale), offset: f16::from_f32(offset), quants: codes::<HIGH, N>(x, scale, offset) }
}

/// The least and the greatest weight.
#[inline(always)]
pub fn range<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (mut low, mut high) = (x[0], x[0]);
    for v in x {
        low = if *v < low { *v } else { low };
        high = if *v > high { *v } else { high };
    }
    (low, high)
}

/// The line with the least weighted error whose offset does not exceed `ceiling`.
#[inline(always)]
pub fn best_line<const HIGH: i32, const N: usize>(x: &[f32; N], w: &[f32; N], ceiling: f32) -> Line {
    let (low, high) = range(x);
    let low = if low < ceiling { low } else { ceiling };
    let width = high - low;
    if width <= 0.0 {
        return Line { scale: 0.0, offset: low, cost: 0.0 };
    }
    let step = width / HIGH as f32;
    // The range's ends near the outermost quants: more quants than the range needs, or fewer and clipped.
    let wide = Lanes::from_fn(|i| (HIGH as f32 - 1.2 + i as f32 * 0.15) / width);
    let mut best = sweep::<HIGH, N>(x, w, wide, Lanes::splat(low), ceiling);
    let clipped = sweep::<HIGH, N>(x, w, wide, Lanes::splat(low + 0.4 * step), ceiling);
    if clipped.cost < best.cost {
        best = clipped;
    }
    // Between those.
    let inverse =
        Lanes::from_fn(|i| 1.0 / (best.scale * (1.0 + (i / 4) as f32 * 0.1 / HIGH as f32 - 0.15 / HIGH as f32)));
    let offset = Lanes::from_fn(|i| best.offset + best.scale * ((i % 4) as f32 * 0.1 - 0.15));
    let refined = sweep::<HIGH, N>(x, w, inverse, offset, ceiling);
    if refined.cost < best.cost { refined } else { best }
}

/// Tries inverse scales and offsets; the best least-squares line and its weighted error.
///
/// With `t = (x - offset) * inverse`, `l` the nearest quant and `e = t - l`, the line is corrected by the `a` and `b`
/// that minimize `sum w (e - a l - b)²`. Working on `e` keeps the sums accurate.
#[inline(always)]
fn sweep<const HIGH: i32, const N: usize>(
    x: &[f32; N],
    w: &[f32; N],
    inverse: Lanes,
    offset: Lanes,
    ceiling: f32,
) -> Line {
    let zero = Lanes::ZERO;
    let (mut l1, mut l2, mut e1, mut el, mut ee, mut w1) = (zero, zero, zero, zero, zero, 0.0);
    for i in 0..N {
        let t = (Lanes::splat(x[i]) - offset) * inverse;
        let l = nearest::<HIGH>(t);
        let e = t - l;
        let (wl, we) = (l * w[i], e * w[i]);
        l1 = l1 + wl;
        l2 = l2 + wl * l;
        e1 = e1 + we;
        el = el + we * l;
        ee = ee + we * e;
        w1 += w[i];
    }
    let w1 = Lanes::splat(w1);
    let unit = inverse.reciprocal();
    let determinant = w1 * l2 - l1 * l1;
    let a = (w1 * el - l1 * e1).ratio(determinant);
    let b = (l2 * e1 - l1 * el).ratio(determinant);
    // Where the offset would pass the ceiling it stays there, and the scale alone is fitted.
    let limit = (Lanes::splat(ceiling) - offset) * inverse;
    let over = b - limit;
    let b = over.if_positive(limit, b);
    let a = over.if_positive((el - l1 * b).ratio(l2), a);
    let quadratic = a * a * l2 + a * b * l1 * 2.0 + b * b * w1;
    let cost = (ee - (a * el + b * e1) * 2.0 + quadratic) * unit * unit;
    let best = cost.argmin();
    Line {
        scale: unit.0[best] * (1.0 + a.0[best]),
        offset: offset.0[best] + unit.0[best] * b.0[best],
        cost: cost.0[best],
    }
}

/// The quant nearest to each lane.
#[inline(always)]
fn nearest<const HIGH: i32>(t: Lanes) -> Lanes {
    t.max(Lanes::ZERO).min(Lanes::splat(HIGH as f32)).round()
}

/// The weighted error of each candidate line.
#[inline(always)]
pub fn cost<const HIGH: i32, const N: usize>(x: &[f32; N], w: &[f32; N], scale: Lanes, offset: Lanes) -> Lanes {
    let inverse = scale.reciprocal();
    let mut cost = Lanes::ZERO;
    for i in 0..N {
        let d = Lanes::splat(x[i]) - offset;
        let e = d - nearest::<HIGH>(d * inverse) * scale;
        cost = cost + e * e * w[i];
    }
    cost
}

/// The quants nearest at this line.
#[inline(always)]
pub fn codes<const HIGH: i32, const N: usize>(x: &[f32; N], scale: f32, offset: f32) -> [u8; N] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut out = [0; N];
    for i in 0..N {
        let level = clamp((x[i] - offset) * inverse, 0.0, HIGH as f32) + ROUNDER;
        out[i] = (level.to_bits() as i32 - ROUNDER.to_bits() as i32) as u8;
    }
    out
}
