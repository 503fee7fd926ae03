//! One group with the levels -1, 0 and 1: the best scale of all.

use super::lanes::round_to_f16;
use crate::kernels::Isa;
use half::f16;

/// A scale and the codes (the level plus one) of 256 weights.
pub struct Fit {
    /// The scale.
    pub scale: f16,
    /// The codes.
    pub codes: [u8; 256],
}

/// The scale with the least weighted error, and the nearest levels at it as it is stored.
///
/// Whatever the scale, those weights are not zero whose magnitude exceeds half of it: the greatest. Of each number of greatest
/// weights, the best scale is the weighted mean of their magnitudes, and the error falls by `sum(w |x|)² / sum(w)`, so that
/// going once through all numbers finds the best. Weights that are ternary already have no error at their own magnitude.
#[inline(always)]
pub fn best<S: Isa>(_: S, x: &[f32; 256], w: &[f32; 256]) -> Fit {
    // The bits of magnitudes are in the order of the magnitudes; the place makes the order one.
    let mut order = [0u64; 256];
    for i in 0..256 {
        order[i] = u64::from(x[i].abs().to_bits()) << 8 | i as u64;
    }
    order.sort_unstable();
    let (mut wx, mut ww, mut scale, mut most) = (0f64, 0f64, 0f64, 0f64);
    for key in order.iter().rev() {
        let i = (key & 255) as usize;
        wx += f64::from(w[i]) * f64::from(x[i].abs());
        ww += f64::from(w[i]);
        if wx * wx > most * ww {
            (scale, most) = (wx / ww, wx * wx / ww);
        }
    }
    let stored = round_to_f16(scale as f32);
    let half = 0.5 * stored;
    let mut codes = [1; 256];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = 1 + u8::from(*x > half) - u8::from(*x < -half);
    }
    Fit { scale: f16::from_f32(stored), codes }
}
