//! The two levels of scales of a K-quant: a small integer code per group, times one f16 for all.

use super::affine::{self, Line};
use super::lanes::{Lanes, clamp, round};
use super::symmetric::{self, Levels, to_f16};
use half::f16;

/// A super-block of symmetric groups: `weight = scale * code * level`.
pub struct SymmetricFit<const GROUPS: usize> {
    /// The scale of the codes.
    pub scale: f16,
    /// The groups' scales in units of `scale`.
    pub codes: [i32; GROUPS],
    /// The codes of the levels.
    pub quants: [u8; 256],
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

/// Encodes `GROUPS` symmetric groups of `N`, their codes from `LOW` to `HIGH`.
#[inline(always)]
pub fn symmetric<L: Levels, const LOW: i32, const HIGH: i32, const N: usize, const GROUPS: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
) -> SymmetricFit<GROUPS> {
    let (x, _) = x.as_chunks::<N>();
    let (w, _) = w.as_chunks::<N>();
    let mut ideal = [0f32; GROUPS];
    for g in 0..GROUPS {
        ideal[g] = symmetric::best_scale::<L, N>(&x[g], &w[g]);
    }
    let scale = to_f16(symmetric::extreme(&ideal) / LOW as f32);
    let unit = scale.to_f32();
    let mut fit = SymmetricFit { scale, codes: [0; GROUPS], quants: [0; 256] };
    for g in 0..GROUPS {
        let start = if unit == 0.0 { 0.0 } else { round(clamp(ideal[g] / unit, LOW as f32, HIGH as f32)) };
        let codes = Lanes::from_fn(|i| clamp(start + i as f32 - 8.0, LOW as f32, HIGH as f32));
        let best = symmetric::cost::<L, N>(&x[g], &w[g], codes * unit).argmin();
        fit.codes[g] = codes.0[best] as i32;
        let quants = symmetric::codes::<L, N>(&x[g], unit * codes.0[best]);
        fit.quants[g * N..][..N].copy_from_slice(&quants);
    }
    fit
}

/// Encodes `GROUPS` affine groups of `N` with quants up to `HIGH`, their scales and mins up to `CODE`.
#[inline(always)]
pub fn affine<const HIGH: i32, const CODE: i32, const N: usize, const GROUPS: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
) -> AffineFit<GROUPS> {
    let (x, _) = x.as_chunks::<N>();
    let (w, _) = w.as_chunks::<N>();
    let mut ideal = [Line { scale: 0.0, offset: 0.0, cost: 0.0 }; GROUPS];
    let (mut largest, mut deepest) = (0f32, 0f32);
    for g in 0..GROUPS {
        ideal[g] = affine::best_line::<HIGH, N>(&x[g], &w[g], 0.0);
        largest = largest.max(ideal[g].scale);
        deepest = deepest.max(-ideal[g].offset);
    }
    let (d, dmin) = (to_f16(largest / CODE as f32), to_f16(deepest / CODE as f32));
    let (unit, min_unit) = (d.to_f32(), dmin.to_f32());
    let mut fit = AffineFit { d, dmin, scales: [0; GROUPS], mins: [0; GROUPS], quants: [0; 256] };
    for g in 0..GROUPS {
        let code = |v: f32, unit: f32| if unit == 0.0 { 0.0 } else { clamp(round(v / unit), 0.0, CODE as f32) };
        let (scale, min) = (code(ideal[g].scale, unit), code(-ideal[g].offset, min_unit));
        let scales = Lanes::from_fn(|i| clamp(scale + (i / 5) as f32 - 1.0, 0.0, CODE as f32));
        let mins = Lanes::from_fn(|i| clamp(min + (i % 5) as f32 - 2.0, 0.0, CODE as f32));
        let best = affine::cost::<HIGH, N>(&x[g], &w[g], scales * unit, mins * -min_unit).argmin();
        fit.scales[g] = scales.0[best] as u8;
        fit.mins[g] = mins.0[best] as u8;
        let quants = affine::codes::<HIGH, N>(&x[g], unit * scales.0[best], -min_unit * mins.0[best]);
        fit.quants[g * N..][..N].copy_from_slice(&quants);
    }
    fit
}
