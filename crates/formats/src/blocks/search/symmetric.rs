//! One group with one scale: `weight = scale * level`.

use super::lanes::{LANES, Lanes, ROUNDER, clamp};
use crate::blocks::iq4;
use half::f16;

/// The levels among which a quant chooses.
pub trait Levels {
    /// The lowest level.
    const LOW: f32;
    /// The highest level.
    const HIGH: f32;
    /// How far, in levels, the greatest weight is tried beyond and within the outermost level.
    const REACH: f32;

    /// The level nearest to each lane.
    fn nearest(t: Lanes) -> Lanes;

    /// The code of the level nearest to `t`.
    fn code(t: f32) -> u8;
}

/// The integers from `LOW` to `HIGH`, coded from zero.
pub struct Uniform<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Uniform<LOW, HIGH> {
    const LOW: f32 = LOW as f32;
    const HIGH: f32 = HIGH as f32;
    const REACH: f32 = 1.2;

    #[inline(always)]
    fn nearest(t: Lanes) -> Lanes {
        t.max(Lanes::splat(Self::LOW)).min(Lanes::splat(Self::HIGH)).round()
    }

    #[inline(always)]
    fn code(t: f32) -> u8 {
        let level = clamp(t, Self::LOW, Self::HIGH) + ROUNDER;
        // The sum's lowest bits are the level's.
        (level.to_bits() as i32 - ROUNDER.to_bits() as i32 - LOW) as u8
    }
}

/// The levels of IQ4_NL and IQ4_XS.
pub struct Iq4;

/// Midway between neighbouring levels.
const MIDWAY: [f32; 15] = {
    let mut out = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        out[i] = (iq4::LEVELS[i] as f32 + iq4::LEVELS[i + 1] as f32) / 2.0;
        i += 1;
    }
    out
};

impl Levels for Iq4 {
    const LOW: f32 = iq4::LEVELS[0] as f32;
    const HIGH: f32 = iq4::LEVELS[15] as f32;
    const REACH: f32 = 12.0;

    #[inline(always)]
    fn nearest(t: Lanes) -> Lanes {
        let mut level = Lanes::splat(Self::LOW);
        for (midway, pair) in MIDWAY.iter().zip(iq4::LEVELS.windows(2)) {
            level = level + t.step(*midway, f32::from(pair[1]) - f32::from(pair[0]));
        }
        level
    }

    #[inline(always)]
    fn code(t: f32) -> u8 {
        let mut code = 0;
        for midway in MIDWAY {
            code += u8::from(t > midway);
        }
        code
    }
}

/// A block with its scale as stored.
pub struct Fit<const N: usize> {
    /// The scale.
    pub scale: f16,
    /// The codes of the levels.
    pub quants: [u8; N],
}

/// Encodes a block whose only scale is an f16.
#[inline(always)]
pub fn encode_block<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N]) -> Fit<N> {
    let extreme = extreme(x);
    let scale = best_scale::<L, N>(x, w);
    // What storing rounds to, its neighbours, and the plain choice that maps the extreme weight to the lowest level.
    let neighbours = Lanes::from_fn(|i| f16_neighbour(scale, i as i32 - 8).to_f32());
    let mut candidates = neighbours;
    candidates.0[LANES - 1] = to_f16(extreme / L::LOW).to_f32();
    let best = f16::from_f32(candidates.0[cost::<L, N>(x, w, candidates).argmin()]);
    Fit { scale: best, quants: codes::<L, N>(x, best.to_f32()) }
}

/// The weight of greatest magnitude.
#[inline(always)]
pub fn extreme<const N: usize>(x: &[f32; N]) -> f32 {
    let (mut low, mut high) = (0f32, 0f32);
    for v in x {
        low = if *v < low { *v } else { low };
        high = if *v > high { *v } else { high };
    }
    if -low > high { low } else { high }
}

/// The scale (not yet rounded to what can be stored) with the least weighted error; 0 for a block of zeros.
#[inline(always)]
pub fn best_scale<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N]) -> f32 {
    let extreme = extreme(x);
    if extreme == 0.0 {
        return 0.0;
    }
    // The extreme weight near the lowest level, or near the highest.
    let spread = |i: usize| (i as f32 - 7.5) / 7.5 * L::REACH;
    let low = sweep::<L, N>(x, w, Lanes::from_fn(|i| (L::LOW + spread(i)) / extreme));
    let high = sweep::<L, N>(x, w, Lanes::from_fn(|i| (L::HIGH + spread(i)) / extreme));
    let (mut best, _) = if low.1 <= high.1 { low } else { high };
    // Between the lanes around the best.
    let fine = |i: usize| 1.0 + (i as f32 - 7.5) / 7.5 * (L::REACH / 7.5 / L::HIGH);
    let refined = sweep::<L, N>(x, w, Lanes::from_fn(|i| fine(i) / best));
    if refined.1 < low.1.min(high.1) {
        best = refined.0;
    }
    best
}

/// Tries inverse scales; the best least-squares scale and its weighted error.
///
/// With `t = inverse * x`, `l` the nearest level and `e = t - l`, the scale `(1 + a) / inverse` with
/// `a = sum(w e l) / sum(w l²)` is the best for these levels. Working on `e` keeps the sums accurate.
#[inline(always)]
fn sweep<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N], inverse: Lanes) -> (f32, f32) {
    let (mut el, mut ll, mut ee) = (Lanes::ZERO, Lanes::ZERO, Lanes::ZERO);
    for i in 0..N {
        let t = inverse * x[i];
        let l = L::nearest(t);
        let e = t - l;
        let wl = l * w[i];
        el = el + wl * e;
        ll = ll + wl * l;
        ee = ee + e * e * w[i];
    }
    let a = el.ratio(ll);
    let unit = inverse.reciprocal();
    let cost = (ee - a * el) * unit * unit;
    let best = cost.argmin();
    (unit.0[best] * (1.0 + a.0[best]), cost.0[best])
}

/// The weighted error of each candidate scale.
#[inline(always)]
pub fn cost<L: Levels, const N: usize>(x: &[f32; N], w: &[f32; N], scale: Lanes) -> Lanes {
    let inverse = scale.reciprocal();
    let mut cost = Lanes::ZERO;
    for i in 0..N {
        let e = Lanes::splat(x[i]) - L::nearest(inverse * x[i]) * scale;
        cost = cost + e * e * w[i];
    }
    cost
}

/// The codes of the levels nearest at this scale.
#[inline(always)]
pub fn codes<L: Levels, const N: usize>(x: &[f32; N], scale: f32) -> [u8; N] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut out = [0; N];
    for i in 0..N {
        out[i] = L::code(x[i] * inverse);
    }
    out
}

/// Rounds to f16, staying finite.
#[inline(always)]
pub fn to_f16(v: f32) -> f16 {
    f16::from_f32(v.clamp(-65504.0, 65504.0))
}

/// The f16 that lies `offset` steps further from zero than the nearest to `v`, of the same sign.
#[inline(always)]
pub fn f16_neighbour(v: f32, offset: i32) -> f16 {
    let bits = to_f16(v).to_bits();
    let magnitude = (i32::from(bits & 0x7fff) + offset).clamp(0, 0x7bff);
    f16::from_bits((bits & 0x8000) | magnitude as u16)
}
