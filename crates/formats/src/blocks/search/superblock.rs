//! The two levels of scales of a K-quant: a small integer code per group, times one f16 for all.
//!
//! The groups' ideal scales choose the f16 (itself a search for a scale, with the ideal scales as weights). Then each
//! group tries the codes around its ideal with exact errors; then the f16 is fitted again to all chosen quants, and
//! the groups choose once more.

use super::affine::{self, Line};
use super::lanes::{LANES, Lanes, clamp, round, round_to_f16};
use super::symmetric::{self, Levels, Scale, Uniform};
use crate::kernels::Isa;
use half::f16;
use std::array::from_fn;

/// A super-block of symmetric groups: `weight = scale * code * level`.
pub struct SymmetricFit<const GROUPS: usize> {
    /// The scale of the codes.
    pub scale: f16,
    /// The groups' scales in units of `scale`.
    pub codes: [i32; GROUPS],
    /// The codes of the levels.
    pub quants: [u8; 256],
}

/// Encodes `GROUPS` symmetric groups of `N`, their codes from `LOW` to `HIGH`.
#[inline(always)]
pub fn symmetric<S: Isa, L: Levels, const LOW: i32, const HIGH: i32, const N: usize, const GROUPS: usize>(
    s: S,
    x: &[f32; 256],
    w: &[f32; 256],
) -> SymmetricFit<GROUPS> {
    let (groups, weights) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let mut ideal = [Scale::default(); GROUPS];
    for g in 0..GROUPS {
        ideal[g] = symmetric::best_scale::<S, L, N>(s, &groups[g], &weights[g]);
    }
    let (scales, curvatures) = (ideal.map(|i| i.scale), ideal.map(|i| i.curvature));
    let mut unit = round_to_f16(symmetric::best_scale::<S, Uniform<LOW, HIGH>, GROUPS>(s, &scales, &curvatures).scale);
    let (mut codes, total) = choose::<S, L, LOW, HIGH, N, GROUPS>(s, groups, weights, &scales, unit);
    let refitted = refit::<S, L, N, GROUPS>(s, groups, weights, unit, &codes);
    if refitted != unit {
        let again = choose::<S, L, LOW, HIGH, N, GROUPS>(s, groups, weights, &scales, refitted);
        if again.1 < total {
            (unit, codes) = (refitted, again.0);
        }
    }
    finish::<S, L, N, GROUPS>(s, groups, unit, &codes)
}

/// As [`symmetric`] for sixteen groups of sixteen, in a third of the time: one group a lane, the candidates in turn, so
/// that no lanes need be compared with each other.
#[inline(always)]
pub fn symmetric_sixteen<S: Isa, L: Levels, const LOW: i32, const HIGH: i32>(
    s: S,
    x: &[f32; 256],
    w: &[f32; 256],
) -> SymmetricFit<16> {
    let groups = x.as_chunks::<16>().0;
    let (x, w) = (Lanes::transpose(s, x, 16), Lanes::transpose(s, w, 16));
    let (ideal, curvature) = ideal_sixteen::<S, L>(s, &x, &w);
    let (scales, curvatures) = (ideal.array(), curvature.array());
    let unit = round_to_f16(symmetric::best_scale::<S, Uniform<LOW, HIGH>, 16>(s, &scales, &curvatures).scale);

    let zero = Lanes::splat(s, 0.0);
    let start = (ideal * (1.0 / unit)).at_least(LOW as f32).at_most(HIGH as f32).round();
    let (mut codes, mut least) = (start, Lanes::splat(s, f32::MAX));
    for offset in -3..=3 {
        let code = (start + offset as f32).at_least(LOW as f32).at_most(HIGH as f32);
        let scale = code * unit;
        let inverse = scale.reciprocal();
        let mut cost = zero;
        for (x, w) in x.iter().zip(&w) {
            let e = *x - L::nearest(s, *x * inverse) * scale;
            cost = cost + e * e * *w;
        }
        let better = least - cost;
        codes = better.if_above(0.0, code, codes);
        least = better.if_above(0.0, cost, least);
    }
    finish::<S, L, 16, 16>(s, groups, unit, &codes.array())
}

/// The ideal scales and their curvatures ([`symmetric::best_scale`]) of sixteen groups, one a lane.
#[inline(always)]
fn ideal_sixteen<S: Isa, L: Levels>(s: S, x: &[Lanes<S>; 16], w: &[Lanes<S>; 16]) -> (Lanes<S>, Lanes<S>) {
    let zero = Lanes::splat(s, 0.0);
    let (mut low, mut high) = (zero, zero);
    for x in x {
        low = x.min(low);
        high = x.max(high);
    }
    let extreme = (low + high).if_above(0.0, high, low);
    let (mut scale, mut curvature, mut least) = (zero, zero, Lanes::splat(s, f32::MAX));
    // Half of them are enough, since the codes around the best are tried too.
    for target in symmetric::targets::<L>().into_iter().step_by(2) {
        let inverse = Lanes::splat(s, target) / extreme;
        let (mut el, mut ll, mut ee) = (zero, zero, zero);
        for (x, w) in x.iter().zip(w) {
            let t = inverse * *x;
            let l = L::nearest(s, t);
            let e = t - l;
            let (wl, we) = (l * *w, e * *w);
            el = el + wl * e;
            ll = ll + wl * l;
            ee = ee + we * e;
        }
        let a = ll.if_above(0.0, el / ll, zero);
        let unit = extreme * (1.0 / target);
        let cost = (ee - a * el) * unit * unit;
        // Not where the group is all zeros: its cost is NaN.
        let better = least - cost;
        scale = better.if_above(0.0, unit * (a + 1.0), scale);
        curvature = better.if_above(0.0, ll, curvature);
        least = better.if_above(0.0, cost, least);
    }
    (scale, curvature)
}

#[inline(always)]
fn finish<S: Isa, L: Levels, const N: usize, const GROUPS: usize>(
    s: S,
    groups: &[[f32; N]],
    unit: f32,
    codes: &[f32; GROUPS],
) -> SymmetricFit<GROUPS> {
    let mut quants = [0; 256];
    for (g, quants) in quants.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        *quants = symmetric::codes::<S, L, N>(s, &groups[g], unit * codes[g]);
    }
    SymmetricFit { scale: f16::from_f32(unit), codes: codes.map(|c| c as i32), quants }
}

/// The codes around the ideal scales with the least error, and that error.
#[inline(always)]
fn choose<S: Isa, L: Levels, const LOW: i32, const HIGH: i32, const N: usize, const GROUPS: usize>(
    s: S,
    groups: &[[f32; N]],
    weights: &[[f32; N]],
    ideal: &[f32; GROUPS],
    unit: f32,
) -> ([f32; GROUPS], f32) {
    let (mut codes, mut total) = ([0f32; GROUPS], 0.0);
    for g in 0..GROUPS {
        let start = round(clamp(ideal[g] / unit, LOW as f32, HIGH as f32));
        let tried: [f32; LANES] = from_fn(|i| clamp(start + i as f32 - 8.0, LOW as f32, HIGH as f32));
        let cost = symmetric::cost::<S, L, N>(s, &groups[g], &weights[g], Lanes::load(s, &tried) * unit);
        let best = cost.argmin();
        codes[g] = tried[best];
        total += cost.array()[best];
    }
    (codes, total)
}

/// The unit that fits best the levels nearest with these codes, as an f16.
#[inline(always)]
fn refit<S: Isa, L: Levels, const N: usize, const GROUPS: usize>(
    s: S,
    groups: &[[f32; N]],
    weights: &[[f32; N]],
    unit: f32,
    codes: &[f32; GROUPS],
) -> f32 {
    let (mut xy, mut yy) = (Lanes::splat(s, 0.0), Lanes::splat(s, 0.0));
    for g in 0..GROUPS {
        let scale = unit * codes[g];
        if scale == 0.0 {
            continue;
        }
        let inverse = 1.0 / scale;
        for (x, w) in groups[g].as_chunks().0.iter().zip(weights[g].as_chunks().0) {
            let x = Lanes::load(s, x);
            let y = L::nearest(s, x * inverse) * codes[g];
            let wy = Lanes::load(s, w) * y;
            xy = xy + wy * x;
            yy = yy + wy * y;
        }
    }
    let (xy, yy) = (xy.sum(), yy.sum());
    if yy > 0.0 { round_to_f16(xy / yy) } else { unit }
}

/// A super-block of affine groups: `weight = d * scale * quant - dmin * min`.
pub struct AffineFit<const GROUPS: usize> {
    /// The unit of the scales.
    pub d: f16,
    /// The unit of the mins.
    pub dmin: f16,
    /// The groups' scales.
    pub scales: [u8; GROUPS],
    /// The groups' mins.
    pub mins: [u8; GROUPS],
    /// The quants.
    pub quants: [u8; 256],
}

/// Encodes `GROUPS` affine groups of `N` with quants up to `HIGH`, their scales and mins up to `CODE`.
#[inline(always)]
pub fn affine<S: Isa, const HIGH: i32, const CODE: i32, const N: usize, const GROUPS: usize>(
    s: S,
    x: &[f32; 256],
    w: &[f32; 256],
) -> AffineFit<GROUPS> {
    let (groups, weights) = (x.as_chunks::<N>().0, w.as_chunks::<N>().0);
    let mut ideal = [Line::default(); GROUPS];
    for g in 0..GROUPS {
        ideal[g] = affine::best_line::<S, HIGH, N>(s, &groups[g], &weights[g], 0.0);
    }
    let unit_of = |values: [f32; GROUPS], curvatures: [f32; GROUPS]| match CODE {
        15 => symmetric::best_scale::<S, Uniform<0, 15>, GROUPS>(s, &values, &curvatures).scale,
        _ => symmetric::best_scale::<S, Uniform<0, 63>, GROUPS>(s, &values, &curvatures).scale,
    };
    let mut unit = round_to_f16(unit_of(ideal.map(|l| l.scale), ideal.map(|l| l.scale_curvature)));
    let mut min_unit = round_to_f16(unit_of(ideal.map(|l| -l.offset), ideal.map(|l| l.offset_curvature)));
    let (mut scales, mut mins, total) =
        choose_affine::<S, HIGH, CODE, N, GROUPS>(s, groups, weights, &ideal, unit, min_unit);
    let refitted = refit_affine::<S, HIGH, N, GROUPS>(s, groups, weights, unit, min_unit, &scales, &mins);
    if refitted != (unit, min_unit) {
        let again = choose_affine::<S, HIGH, CODE, N, GROUPS>(s, groups, weights, &ideal, refitted.0, refitted.1);
        if again.2 < total {
            ((unit, min_unit), scales, mins) = (refitted, again.0, again.1);
        }
    }
    let mut quants = [0; 256];
    for (g, quants) in quants.as_chunks_mut::<N>().0.iter_mut().enumerate() {
        *quants = affine::codes::<S, HIGH, N>(s, &groups[g], unit * scales[g], -min_unit * mins[g]);
    }
    AffineFit {
        d: f16::from_f32(unit),
        dmin: f16::from_f32(min_unit),
        scales: scales.map(|v| v as u8),
        mins: mins.map(|v| v as u8),
        quants,
    }
}

/// The codes of scales and mins around the ideal lines with the least error, and that error.
#[inline(always)]
fn choose_affine<S: Isa, const HIGH: i32, const CODE: i32, const N: usize, const GROUPS: usize>(
    s: S,
    groups: &[[f32; N]],
    weights: &[[f32; N]],
    ideal: &[Line; GROUPS],
    unit: f32,
    min_unit: f32,
) -> ([f32; GROUPS], [f32; GROUPS], f32) {
    let (mut scales, mut mins, mut total) = ([0f32; GROUPS], [0f32; GROUPS], 0.0);
    for g in 0..GROUPS {
        // Scales around the ideal; for each, mins around the best for that scale.
        let line = ideal[g];
        let start = round(clamp(line.scale / unit, 0.0, CODE as f32));
        let tried: [f32; LANES] = from_fn(|i| clamp(start + (i / 3) as f32 - 2.0, 0.0, CODE as f32));
        let tried_mins: [f32; LANES] = from_fn(|i| {
            let min = (tried[i] * unit - line.scale) * line.mean - line.offset;
            round(clamp(min / min_unit + (i % 3) as f32 - 1.0, 0.0, CODE as f32))
        });
        let (scale, offset) = (Lanes::load(s, &tried) * unit, Lanes::load(s, &tried_mins) * -min_unit);
        let cost = affine::cost::<S, HIGH, N>(s, &groups[g], &weights[g], scale, offset);
        let best = cost.argmin();
        (scales[g], mins[g]) = (tried[best], tried_mins[best]);
        total += cost.array()[best];
    }
    (scales, mins, total)
}

/// The units that fit best the quants nearest with these codes, as f16.
///
/// The residuals `e` of the present units are fitted by `a * scale * quant - b * min`.
#[inline(always)]
fn refit_affine<S: Isa, const HIGH: i32, const N: usize, const GROUPS: usize>(
    s: S,
    groups: &[[f32; N]],
    weights: &[[f32; N]],
    unit: f32,
    min_unit: f32,
    scales: &[f32; GROUPS],
    mins: &[f32; GROUPS],
) -> (f32, f32) {
    let zero = Lanes::splat(s, 0.0);
    let (mut yy, mut ym, mut mm, mut ey, mut em) = (zero, zero, zero, zero, zero);
    for g in 0..GROUPS {
        let (scale, min) = (unit * scales[g], min_unit * mins[g]);
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for (x, w) in groups[g].as_chunks().0.iter().zip(weights[g].as_chunks().0) {
            let d = Lanes::load(s, x) + min;
            let l = affine::nearest::<S, HIGH>(d * inverse);
            let (e, y, w) = (d - l * scale, l * scales[g], Lanes::load(s, w));
            let (wy, wm) = (w * y, w * mins[g]);
            yy = yy + wy * y;
            ym = ym + wy * mins[g];
            mm = mm + wm * mins[g];
            ey = ey + wy * e;
            em = em + wm * e;
        }
    }
    let [yy, ym, mm, ey, em] = [yy, ym, mm, ey, em].map(|v| f64::from(v.sum()));
    let determinant = yy * mm - ym * ym;
    if yy <= 0.0 {
        return (unit, min_unit);
    }
    let (a, b) = if determinant > 1e-6 * yy * mm {
        ((ey * mm - em * ym) / determinant, (ey * ym - em * yy) / determinant)
    } else {
        (ey / yy, 0.0)
    };
    (round_to_f16(unit + a as f32), round_to_f16(min_unit + b as f32))
}
