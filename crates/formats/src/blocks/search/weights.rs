//! How much each weight's squared error counts.
//!
//! The rules are those that llama.cpp arrived at by experiment, so that an error means the same in both: without
//! importance, larger weights count more, format by format; with importance (an imatrix: mean squares of the
//! activations), it is multiplied by `sqrt(sigma² + x²)`, where `sigma²` is a multiple of the block's mean square.

use super::lanes::{Lanes, clamp};
use crate::kernels::Isa;

/// A format's rule.
pub struct Rule {
    /// Without importance.
    pub bare: Bare,
    /// With importance: `sigma²` as a multiple of the block's mean square; `None` takes the importance as it is.
    pub sigma: Option<f32>,
}

/// What counts without importance.
#[derive(Clone, Copy)]
pub enum Bare {
    /// `|x|`.
    Magnitude,
    /// `rms + |x|`, the root mean square over 32 weights (a whole block of Q2_0, which has 64).
    RmsPlusMagnitude,
    /// `x²`.
    Square,
    /// `x²` and half of the block's mean square.
    SquarePlusMean,
}

/// Q4_0 to Q8_0, Q2_0. ggml does not search here; with every weight alike, extreme weights are clipped so much that models
/// diverge more for it.
pub const LEGACY: Rule = Rule { bare: Bare::RmsPlusMagnitude, sigma: Some(1.0) };
/// Q2_K.
pub const Q2_K: Rule = Rule { bare: Bare::Magnitude, sigma: Some(1.0) };
/// Q3_K.
pub const Q3_K: Rule = Rule { bare: Bare::Square, sigma: Some(2.0) };
/// Q4_K.
pub const Q4_K: Rule = Rule { bare: Bare::RmsPlusMagnitude, sigma: Some(2.0) };
/// Q5_K.
pub const Q5_K: Rule = Rule { bare: Bare::RmsPlusMagnitude, sigma: Some(2.0) };
/// Q6_K. ggml counts squares here; with this rule the models measured diverge by 0 to 9 % less.
pub const Q6_K: Rule = Rule { bare: Bare::RmsPlusMagnitude, sigma: None };
/// IQ4_NL and IQ4_XS.
pub const IQ4: Rule = Rule { bare: Bare::Square, sigma: Some(2.0) };

/// TQ1_0 and TQ2_0: the scale is the best of all, for just what counts. ggml does not search here.
pub const TERNARY: Rule = Rule { bare: Bare::RmsPlusMagnitude, sigma: None };

/// IQ2_XXS and IQ2_XS. ggml does not write them without importance.
pub const IQ2_X: Rule = Rule { bare: Bare::SquarePlusMean, sigma: Some(1.0) };
/// IQ2_S, IQ3_XXS and IQ3_S. ggml counts squares alone for the last two, and a weight near zero then becomes anything.
pub const IQ3: Rule = Rule { bare: Bare::SquarePlusMean, sigma: Some(2.0) };

/// Beyond any scale that an f16 can carry; keeps the squares of what follows finite.
const LARGEST: f32 = 1e9;

/// A block of weights, made finite, and what its errors count: never negative, never all zero, about 1 in the mean.
#[inline(always)]
pub fn block<const N: usize>(x: &[f32], importance: Option<&[f32]>, rule: &Rule) -> ([f32; N], [f32; N]) {
    let block = finite(x.as_array().expect("a block"));
    if let Some(importance) = importance
        && let Some(weights) = normalized(with_importance(&block, importance, rule))
    {
        return (block, weights);
    }
    match normalized(bare(&block, rule.bare)) {
        Some(weights) => (block, weights),
        None => (block, [1.0; N]),
    }
}

/// The weights with what is not finite, or beyond any scale, made so that it is; NaN becomes 0.
#[inline(always)]
pub fn finite<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let mut out = [0f32; N];
    for i in 0..N {
        out[i] = if x[i].is_nan() { 0.0 } else { clamp(x[i], -LARGEST, LARGEST) };
    }
    out
}

#[inline(always)]
fn with_importance<const N: usize>(x: &[f32; N], importance: &[f32], rule: &Rule) -> [f32; N] {
    let mut out = [0f32; N];
    let sigma2 = rule.sigma.map(|factor| factor * mean_square(x));
    for i in 0..N {
        let shape = sigma2.map_or(1.0, |sigma2| (sigma2 + x[i] * x[i]).sqrt());
        out[i] = importance[i] * shape;
    }
    out
}

#[inline(always)]
fn bare<const N: usize>(x: &[f32; N], rule: Bare) -> [f32; N] {
    let mut out = [1f32; N];
    match rule {
        Bare::Magnitude => {
            for i in 0..N {
                out[i] = x[i].abs();
            }
        }
        Bare::RmsPlusMagnitude => {
            for (out, x) in out.as_chunks_mut::<32>().0.iter_mut().zip(x.as_chunks::<32>().0) {
                let rms = mean_square(x).sqrt();
                for i in 0..32 {
                    out[i] = rms + x[i].abs();
                }
            }
        }
        Bare::Square => {
            for i in 0..N {
                out[i] = x[i] * x[i];
            }
        }
        Bare::SquarePlusMean => {
            let half = 0.5 * mean_square(x);
            for i in 0..N {
                out[i] = half + x[i] * x[i];
            }
        }
    }
    out
}

/// As [`block`] for sixteen blocks of finite weights, one a lane: what their errors count.
#[inline(always)]
pub fn in_lanes<S: Isa, const N: usize>(
    s: S,
    x: &[Lanes<S>; N],
    importance: Option<&[Lanes<S>; N]>,
    rule: &Rule,
) -> [Lanes<S>; N] {
    let (zero, one) = (Lanes::splat(s, 0.0), Lanes::splat(s, 1.0));
    let mut out = [one; N];
    let mut mean_square = zero;
    for x in x {
        mean_square = mean_square + *x * *x;
    }
    mean_square = mean_square * (1.0 / N as f32);
    let rms = mean_square.sqrt();
    let mut total = zero;
    for (out, x) in out.iter_mut().zip(x) {
        *out = match rule.bare {
            Bare::Magnitude => x.abs(),
            Bare::RmsPlusMagnitude => rms + x.abs(),
            Bare::Square => *x * *x,
            Bare::SquarePlusMean => mean_square * 0.5 + *x * *x,
        };
        total = total + *out;
    }
    let inverse = total.reciprocal() * N as f32;
    for out in &mut out {
        *out = usable(inverse, *out * inverse, one);
    }
    let Some(importance) = importance else { return out };
    let sigma2 = mean_square * rule.sigma.unwrap_or(0.0);
    let mut with = *importance;
    let mut total = zero;
    for (with, x) in with.iter_mut().zip(x) {
        if rule.sigma.is_some() {
            *with = *with * (sigma2 + *x * *x).sqrt();
        }
        total = total + *with;
    }
    let inverse = total.reciprocal() * N as f32;
    for (out, with) in out.iter_mut().zip(&with) {
        *out = usable(inverse, *with * inverse, *out);
    }
    out
}

/// `then` where the inverse of a sum is positive and finite, else `otherwise`.
#[inline(always)]
fn usable<S: Isa>(inverse: Lanes<S>, then: Lanes<S>, otherwise: Lanes<S>) -> Lanes<S> {
    inverse.if_above(0.0, inverse.if_above(f32::MAX, otherwise, then), otherwise)
}

/// Divided by the mean, so that products with squares neither overflow nor vanish; `None` if that cannot be.
#[inline(always)]
fn normalized<const N: usize>(mut weights: [f32; N]) -> Option<[f32; N]> {
    let inverse = N as f32 / sum(&weights);
    if !(inverse > 0.0 && inverse <= f32::MAX) {
        return None;
    }
    for w in &mut weights {
        *w *= inverse;
    }
    Some(weights)
}

#[inline(always)]
fn mean_square<const N: usize>(x: &[f32; N]) -> f32 {
    let mut squares = [0f32; N];
    for i in 0..N {
        squares[i] = x[i] * x[i];
    }
    sum(&squares) / N as f32
}

/// The sum in a fixed order that vectorizes: sixteen partial sums.
#[inline(always)]
fn sum<const N: usize>(v: &[f32; N]) -> f32 {
    let mut partial = [0f32; 16];
    for chunk in v.as_chunks::<16>().0 {
        for i in 0..16 {
            partial[i] += chunk[i];
        }
    }
    partial.iter().sum()
}
