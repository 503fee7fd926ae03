//! Sixteen numbers side by side: one candidate a lane, or one weight a lane.
//!
//! Only operations that IEEE 754 rounds the same way everywhere, so that every instruction set finds the same bytes.

use crate::kernels::Isa;
use std::array::from_fn;
use std::ops::{Add, Div, Mul, Sub};

/// Lanes of a vector.
pub const LANES: usize = 16;

/// Sixteen f32 with the arithmetic of an instruction set.
#[derive(Clone, Copy)]
pub struct Lanes<S: Isa> {
    s: S,
    v: S::F,
}

impl<S: Isa> Lanes<S> {
    /// The same number in every lane.
    #[inline(always)]
    pub fn splat(s: S, v: f32) -> Self {
        Lanes { s, v: s.splat_f(v) }
    }

    /// One number a lane.
    #[inline(always)]
    pub fn load(s: S, v: &[f32; LANES]) -> Self {
        Lanes { s, v: s.load_f(v) }
    }

    /// Lane by lane from its index.
    #[inline(always)]
    pub fn from_fn(s: S, f: impl Fn(usize) -> f32) -> Self {
        Self::load(s, &from_fn(f))
    }

    /// Lane `j` of vector `i` is `rows[j * stride + i]`.
    #[inline(always)]
    pub fn transpose(s: S, rows: &[f32], stride: usize) -> [Self; LANES] {
        // Loops, since `from_fn` may stay a function of its own, compiled for the baseline.
        let mut v = [s.to_bits(s.splat_f(0.0)); LANES];
        for (j, v) in v.iter_mut().enumerate() {
            *v = s.to_bits(s.load_f(rows[j * stride..][..LANES].try_into().expect("sixteen")));
        }
        let mut out = [Self::splat(s, 0.0); LANES];
        for (out, v) in out.iter_mut().zip(s.transpose(v)) {
            out.v = s.from_bits(v);
        }
        out
    }

    /// The numbers.
    #[inline(always)]
    pub fn array(self) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        self.s.store_f(self.v, &mut out);
        out
    }

    /// The square root of each lane.
    #[inline(always)]
    pub fn sqrt(self) -> Self {
        let mut out = self.array();
        for v in &mut out {
            *v = v.sqrt();
        }
        Self::load(self.s, &out)
    }

    /// The greater of each lane and its negative.
    #[inline(always)]
    pub fn abs(self) -> Self {
        self.max(Self::splat(self.s, 0.0) - self)
    }

    /// The integers in the lanes as bytes; each lane is an integer from 0 to 255.
    #[inline(always)]
    pub fn bytes(self) -> [u8; LANES] {
        let mut out = [0i8; LANES];
        self.s.store_low_bytes(self.s.to_bits((self + ROUNDER).v), &mut out);
        bytemuck::cast(out)
    }

    /// The sum of the lanes.
    #[inline(always)]
    pub fn sum(self) -> f32 {
        self.s.sum(self.v)
    }

    /// The greater of each lane and `bound`; `bound` where a lane is NaN.
    #[inline(always)]
    pub fn at_least(self, bound: f32) -> Self {
        Lanes { v: self.s.max(self.v, self.s.splat_f(bound)), ..self }
    }

    /// The lesser of each lane and `bound`; `bound` where a lane is NaN.
    #[inline(always)]
    pub fn at_most(self, bound: f32) -> Self {
        self.min(Self::splat(self.s, bound))
    }

    /// The lesser of each pair of lanes; that of `bound` where a lane is NaN.
    #[inline(always)]
    pub fn min(self, bound: Self) -> Self {
        Lanes { v: self.s.min(self.v, bound.v), ..self }
    }

    /// The greater of each pair of lanes; that of `bound` where a lane is NaN.
    #[inline(always)]
    pub fn max(self, bound: Self) -> Self {
        Lanes { v: self.s.max(self.v, bound.v), ..self }
    }

    /// `then` where a lane exceeds `threshold`, else `otherwise`.
    #[inline(always)]
    pub fn if_above(self, threshold: f32, then: Self, otherwise: Self) -> Self {
        self.if_exceeds(Self::splat(self.s, threshold), then, otherwise)
    }

    /// `then` where a lane exceeds that of `other`, else `otherwise`.
    #[inline(always)]
    pub fn if_exceeds(self, other: Self, then: Self, otherwise: Self) -> Self {
        Lanes { v: self.s.if_greater(self.v, other.v, then.v, otherwise.v), ..self }
    }

    /// Whether any lane exceeds that of `other`.
    #[inline(always)]
    pub fn any_exceeds(self, other: Self) -> bool {
        self.s.any_greater(self.v, other.v)
    }

    /// The least lane; NaN counts as the greatest.
    #[inline(always)]
    pub fn least(self) -> f32 {
        reduce(self.at_most(f32::MAX).array(), |a, b| if b < a { b } else { a })
    }

    /// To the nearest integer, ties to even; for magnitudes below 2^22.
    #[inline(always)]
    pub fn round(self) -> Self {
        self + ROUNDER - ROUNDER
    }

    /// `1 / self`.
    #[inline(always)]
    pub fn reciprocal(self) -> Self {
        Self::splat(self.s, 1.0) / self
    }

    /// A lane with the least number (to 19 bits); NaN counts as the greatest.
    #[inline(always)]
    pub fn argmin(self) -> usize {
        // The lane's index in the lowest bits of its number: then the least number carries its lane.
        let mut keys = self.at_most(f32::MAX).array();
        for (i, key) in keys.iter_mut().enumerate() {
            *key = f32::from_bits((key.to_bits() & !15) | i as u32);
        }
        let least = reduce(keys, |a, b| if b < a { b } else { a });
        (least.to_bits() & 15) as usize
    }
}

/// Combines halves, then quarters, and so on.
#[inline(always)]
pub fn reduce(mut v: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    for i in 0..8 {
        v[i] = f(v[i], v[i + 8]);
    }
    for i in 0..4 {
        v[i] = f(v[i], v[i + 4]);
    }
    for i in 0..2 {
        v[i] = f(v[i], v[i + 2]);
    }
    f(v[0], v[1])
}

/// The least and the greatest number of a group.
#[inline(always)]
pub fn range<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    let (mut low, mut high) = ([x[0]; LANES], [x[0]; LANES]);
    for chunk in x.chunks(LANES) {
        for (i, v) in chunk.iter().enumerate() {
            low[i] = if *v < low[i] { *v } else { low[i] };
            high[i] = if *v > high[i] { *v } else { high[i] };
        }
    }
    let low = reduce(low, |a, b| if b < a { b } else { a });
    let high = reduce(high, |a, b| if b > a { b } else { a });
    (low, high)
}

/// Adding 1.5 * 2^23 leaves no bits for a fraction, and the integer in the lowest bits.
const ROUNDER: f32 = 12_582_912.0;

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

/// To the nearest f16, within its finite range; 0 if it is NaN.
#[inline(always)]
pub fn round_to_f16(v: f32) -> f32 {
    // Below 2^-14 the spacing is 2^-24, which is that of f32 from 0.5 to 1.
    let subnormal = (v + 0.75) - 0.75;
    let bits = v.to_bits();
    let normal = f32::from_bits(bits.wrapping_add(0xfff + ((bits >> 13) & 1)) & !0x1fff);
    let rounded = if v.abs() < 6.103_515_6e-5 { subnormal } else { normal };
    let finite = clamp(rounded, -65504.0, 65504.0);
    if v.is_nan() { 0.0 } else { finite }
}

macro_rules! lanewise {
    ($($trait:ident $method:ident),*) => {$(
        impl<S: Isa> $trait for Lanes<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: Self) -> Self {
                Lanes { v: self.s.$method(self.v, other.v), ..self }
            }
        }
        impl<S: Isa> $trait<f32> for Lanes<S> {
            type Output = Self;
            #[inline(always)]
            fn $method(self, other: f32) -> Self {
                Lanes { v: self.s.$method(self.v, self.s.splat_f(other)), ..self }
            }
        }
    )*};
}
lanewise!(Add add, Sub sub, Mul mul, Div div);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_to_f16_as_the_half_crate_does() {
        for high in 0..=u16::MAX {
            for low in [0, 1, 0xfff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0xffff] {
                let v = f32::from_bits(u32::from(high) << 16 | low);
                let expected = half::f16::from_f32(v).to_f32().clamp(-65504.0, 65504.0);
                let expected = if v.is_nan() { 0.0 } else { expected };
                assert_eq!(round_to_f16(v), expected, "{v:e}");
            }
        }
    }
}
