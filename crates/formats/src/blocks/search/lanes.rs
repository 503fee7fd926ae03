//! Sixteen numbers side by side: one candidate a lane. Lanes never mix, so results do not depend on vector width.

use std::ops::{Add, Div, Mul, Sub};

/// Candidates tried in one pass.
pub const LANES: usize = 16;

/// One f32 a candidate.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Lanes(pub [f32; LANES]);

impl Lanes {
    /// All lanes zero.
    pub const ZERO: Lanes = Lanes([0.0; LANES]);

    /// The same number in every lane.
    #[inline(always)]
    pub fn splat(v: f32) -> Self {
        Lanes([v; LANES])
    }

    /// Lane by lane from its index.
    #[inline(always)]
    pub fn from_fn(f: impl Fn(usize) -> f32) -> Self {
        let mut out = Self::ZERO;
        for i in 0..LANES {
            out.0[i] = f(i);
        }
        out
    }

    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        let mut out = Self::ZERO;
        for i in 0..LANES {
            out.0[i] = f(self.0[i], other.0[i]);
        }
        out
    }

    /// The greater; `other` where a lane is NaN.
    #[inline(always)]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }

    /// The smaller; `other` where a lane is NaN.
    #[inline(always)]
    pub fn min(self, other: Self) -> Self {
        self.zip(other, |a, b| if a < b { a } else { b })
    }

    /// To the nearest integer, ties to even; for magnitudes below 2^22.
    #[inline(always)]
    pub fn round(self) -> Self {
        self + Self::splat(ROUNDER) - Self::splat(ROUNDER)
    }

    /// `1 / self`, and 0 where that is not finite.
    #[inline(always)]
    pub fn reciprocal(self) -> Self {
        self.zip(self, |a, _| {
            let r = 1.0 / a;
            if r.abs() <= f32::MAX { r } else { 0.0 }
        })
    }

    /// `self / other`, and 0 where that is not finite.
    #[inline(always)]
    pub fn ratio(self, other: Self) -> Self {
        self.zip(other, |a, b| {
            let r = a / b;
            if r.abs() <= f32::MAX { r } else { 0.0 }
        })
    }

    /// `step` where `self` exceeds `threshold`, else 0.
    #[inline(always)]
    pub fn step(self, threshold: f32, step: f32) -> Self {
        self.zip(self, |a, _| if a > threshold { step } else { 0.0 })
    }

    /// `then` where `self` exceeds 0, else `otherwise`.
    #[inline(always)]
    pub fn if_positive(self, then: Self, otherwise: Self) -> Self {
        let mut out = Self::ZERO;
        for i in 0..LANES {
            out.0[i] = if self.0[i] > 0.0 { then.0[i] } else { otherwise.0[i] };
        }
        out
    }

    /// The first lane with the least number; lane 0 if all are NaN.
    #[inline(always)]
    pub fn argmin(self) -> usize {
        let mut best = 0;
        for i in 1..LANES {
            if self.0[i] < self.0[best] || self.0[best].is_nan() {
                best = i;
            }
        }
        best
    }
}

/// Adding 1.5 * 2^23 leaves no bits for a fraction.
pub const ROUNDER: f32 = 12_582_912.0;

/// To the nearest integer, ties to even; for magnitudes below 2^22.
#[inline(always)]
pub fn round(v: f32) -> f32 {
    (v + ROUNDER) - ROUNDER
}

/// `v` clamped to a range; `low` if it is NaN.
#[inline(always)]
pub fn clamp(v: f32, low: f32, high: f32) -> f32 {
    let v = if v > low { v } else { low };
    if v < high { v } else { high }
}

macro_rules! lanewise {
    ($($trait:ident $method:ident $op:tt),*) => {$(
        impl $trait for Lanes {
            type Output = Lanes;
            #[inline(always)]
            fn $method(self, other: Lanes) -> Lanes {
                self.zip(other, |a, b| a $op b)
            }
        }
        impl $trait<f32> for Lanes {
            type Output = Lanes;
            #[inline(always)]
            fn $method(self, other: f32) -> Lanes {
                self $op Lanes::splat(other)
            }
        }
    )*};
}
lanewise!(Add add +, Sub sub -, Mul mul *, Div div /);
