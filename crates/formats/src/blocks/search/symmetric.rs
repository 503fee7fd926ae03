//! One group with one scale: `weight = scale * level`.

use super::lanes::{LANES, Lanes, range};
use crate::blocks::iq4;
use crate::kernels::Isa;
use std::array::from_fn;

/// The levels among which a quant chooses.
pub trait Levels {
    /// The lowest level.
    const LOW: f32;
    /// The highest level.
    const HIGH: f32;
    /// How far, in levels, the greatest weight is tried beyond and within the outermost level.
    const REACH: f32;

    /// The level nearest to each lane.
    fn nearest<S: Isa>(s: S, t: Lanes<S>) -> Lanes<S>;

    /// The code of the level nearest to each lane.
    fn code<S: Isa>(s: S, t: Lanes<S>) -> Lanes<S>;
}

/// The integers from `LOW` to `HIGH`, coded from zero.
pub struct Uniform<const LOW: i32, const HIGH: i32>;

impl<const LOW: i32, const HIGH: i32> Levels for Uniform<LOW, HIGH> {
    const LOW: f32 = LOW as f32;
    const HIGH: f32 = HIGH as f32;
    const REACH: f32 = 1.2;

    #[inline(always)]
    fn nearest<S: Isa>(_: S, t: Lanes<S>) -> Lanes<S> {
        t.at_least(Self::LOW).at_most(Self::HIGH).round()
    }

    #[inline(always)]
    fn code<S: Isa>(s: S, t: Lanes<S>) -> Lanes<S> {
        Self::nearest(s, t) - Self::LOW
    }
}

/// The odd integers from 1 to 31: the scales of the IQ2 and IQ3 formats.
pub struct Odd;

impl Levels for Odd {
    const LOW: f32 = 1.0;
    const HIGH: f32 = 31.0;
    const REACH: f32 = 2.0;

    #[inline(always)]
    fn nearest<S: Isa>(s: S, t: Lanes<S>) -> Lanes<S> {
        Self::code(s, t) * 2.0 + 1.0
    }

    #[inline(always)]
    fn code<S: Isa>(_: S, t: Lanes<S>) -> Lanes<S> {
        (t * 0.5 - 0.5).at_least(0.0).at_most(15.0).round()
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
    fn nearest<S: Isa>(s: S, t: Lanes<S>) -> Lanes<S> {
        let mut level = Lanes::splat(s, Self::LOW);
        for (midway, next) in MIDWAY.iter().zip(&iq4::LEVELS[1..]) {
            level = t.if_above(*midway, Lanes::splat(s, f32::from(*next)), level);
        }
        level
    }

    #[inline(always)]
    fn code<S: Isa>(s: S, t: Lanes<S>) -> Lanes<S> {
        let mut code = Lanes::splat(s, 0.0);
        for (i, midway) in MIDWAY.iter().enumerate() {
            code = t.if_above(*midway, Lanes::splat(s, (i + 1) as f32), code);
        }
        code
    }
}

/// The weight of greatest magnitude.
#[inline(always)]
pub fn extreme<const N: usize>(x: &[f32; N]) -> f32 {
    let (low, high) = range(x);
    if -low > high { low } else { high }
}

/// A scale not yet rounded to what can be stored.
#[derive(Clone, Copy, Default)]
pub struct Scale {
    /// The scale.
    pub scale: f32,
    /// What the weighted error grows by with the square of a deviation from the scale.
    pub curvature: f32,
}

/// Weights smaller than this are zero in every format: the least f16 is 6e-8.
pub const NEGLIGIBLE: f32 = 1e-12;

/// The levels that the extreme weight is tried at: around the lowest, and around the highest.
#[inline(always)]
pub fn targets<L: Levels>() -> [f32; LANES] {
    from_fn(|i| {
        if L::LOW == 0.0 {
            L::HIGH + (i as f32 - 7.5) / 7.5 * L::REACH
        } else {
            let spread = ((i % 8) as f32 - 3.5) / 3.5 * L::REACH;
            if i < 8 { L::LOW + spread } else { L::HIGH + spread }
        }
    })
}

/// The scale with the least weighted error; 0 where all weights are negligible.
///
/// Tries inverse scales that put the extreme weight near the lowest level, or near the highest. With `t = inverse * x`,
/// `l` the nearest level and `e = t - l`, the best scale for these levels is `(1 + a) / inverse` with
/// `a = sum(w e l) / sum(w l²)`. Working on `e` keeps the sums accurate.
#[inline(always)]
pub fn best_scale<S: Isa, L: Levels, const N: usize>(s: S, x: &[f32; N], w: &[f32; N]) -> Scale {
    let extreme = extreme(x);
    if extreme.abs() < NEGLIGIBLE {
        return Scale::default();
    }
    let targets = Lanes::load(s, &targets::<L>());
    let inverse = targets * (1.0 / extreme);
    let zero = Lanes::splat(s, 0.0);
    let (mut el, mut ll, mut ee) = (zero, zero, zero);
    for i in 0..N {
        let t = inverse * x[i];
        let l = L::nearest(s, t);
        let e = t - l;
        let wl = l * w[i];
        el = el + wl * e;
        ll = ll + wl * l;
        ee = ee + e * e * w[i];
    }
    let a = ll.if_above(0.0, el / ll, zero);
    let unit = targets.reciprocal() * extreme;
    let cost = (ee - a * el) * unit * unit;
    let best = cost.argmin();
    let scale = unit * (a + 1.0);
    Scale { scale: scale.array()[best], curvature: ll.array()[best] }
}

/// The weighted error of each candidate scale.
#[inline(always)]
pub fn cost<S: Isa, L: Levels, const N: usize>(s: S, x: &[f32; N], w: &[f32; N], scale: Lanes<S>) -> Lanes<S> {
    let inverse = scale.reciprocal();
    let mut cost = Lanes::splat(s, 0.0);
    for i in 0..N {
        let e = Lanes::splat(s, x[i]) - L::nearest(s, inverse * x[i]) * scale;
        cost = cost + e * e * w[i];
    }
    cost
}

/// The codes of the levels nearest at this scale.
#[inline(always)]
pub fn codes<S: Isa, L: Levels, const N: usize>(s: S, x: &[f32; N], scale: f32) -> [u8; N] {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut out = [0; N];
    for (x, out) in x.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        *out = L::code(s, Lanes::load(s, x) * inverse).bytes();
    }
    out
}
