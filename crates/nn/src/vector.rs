//! The loops over f32 that are not matrix products on weights. Plain code in fixed lanes, which the compiler vectorizes for
//! whatever the processor has; [`simd`] chooses at run time. Loops are written as `for`: a closure that is not inlined would
//! run without the instructions.

use crate::layers::Activation;
use pulp::Arch;

/// Lanes that sums run in: a register of AVX-512, two of AVX2. Fixed, so that a sum does not depend on the machine's registers.
const LANES: usize = 16;

/// Runs `f` compiled for the best instruction set of this machine. What `f` calls must be inlined into it.
#[inline(always)]
pub(crate) fn simd<R>(f: impl FnOnce() -> R) -> R {
    Arch::new().dispatch(f)
}

/// `x *= factor`.
pub(crate) fn scale(x: &mut [f32], factor: f32) {
    simd(
        #[inline(always)]
        || {
            for x in x {
                *x *= factor;
            }
        },
    )
}

/// `x += factor * y`.
pub(crate) fn add_scaled(x: &mut [f32], y: &[f32], factor: f32) {
    simd(
        #[inline(always)]
        || {
            for (x, y) in x.iter_mut().zip(y) {
                *x += factor * y;
            }
        },
    )
}

/// `x += y` for each row of `x` as long as `y`.
pub(crate) fn add_rows(x: &mut [f32], y: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for x in x.chunks_exact_mut(y.len()) {
                for (x, y) in x.iter_mut().zip(y) {
                    *x += y;
                }
            }
        },
    )
}

/// `y = x / sqrt(mean(x²) + eps) * weight` over each group of `weight.len()`.
pub(crate) fn rms_norm(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (x, y) in x.chunks_exact(weight.len()).zip(y.chunks_exact_mut(weight.len())) {
                let scale = 1.0 / (dot(x, x) / weight.len() as f32 + eps).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
                    *y = x * scale * w;
                }
            }
        },
    )
}

/// `y = (x - mean) / sqrt(variance + eps) * weight + bias` of each row of `weight.len()`.
pub(crate) fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            let n = weight.len();
            for (x, y) in x.chunks_exact(n).zip(y.chunks_exact_mut(n)) {
                let (mean, scale) = moments(x, eps);
                for i in 0..n {
                    y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
                }
            }
        },
    )
}

/// The mean of `x`, and `1 / sqrt(variance + eps)`.
#[inline(always)]
pub(crate) fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let mean = total(x) / x.len() as f32;
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (l, x) in lanes.iter_mut().zip(chunk) {
            *l = (x - mean).mul_add(x - mean, *l);
        }
    }
    let mut squares = sum(lanes);
    for x in rest {
        squares += (x - mean) * (x - mean);
    }
    (mean, 1.0 / (squares / x.len() as f32 + eps).sqrt())
}

/// `Σ x`.
#[inline(always)]
pub(crate) fn total(x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for chunk in chunks {
        for (l, x) in lanes.iter_mut().zip(chunk) {
            *l += x;
        }
    }
    let mut total = sum(lanes);
    for x in rest {
        total += x;
    }
    total
}

/// Compiles a loop for each activation; `$f` is a function to its value and its derivative.
macro_rules! by_activation {
    ($activation:expr, $f:ident => $loop:expr) => {
        match $activation {
            $crate::layers::Activation::Relu => {
                use $crate::vector::relu as $f;
                $loop
            }
            $crate::layers::Activation::Silu => {
                use $crate::vector::silu as $f;
                $loop
            }
            $crate::layers::Activation::GeluTanh => {
                use $crate::vector::gelu_tanh as $f;
                $loop
            }
            $crate::layers::Activation::Gelu => {
                use $crate::vector::gelu as $f;
                $loop
            }
        }
    };
}
pub(crate) use by_activation;

/// `x = activation(x)`.
pub(crate) fn activate(activation: Activation, x: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            by_activation!(activation, f => for x in x {
                *x = f(*x).0;
            })
        },
    )
}

/// `gate = activation(gate) * up`.
pub(crate) fn gate(activation: Activation, gate: &mut [f32], up: &[f32]) {
    simd(
        #[inline(always)]
        || {
            by_activation!(activation, f => for (g, u) in gate.iter_mut().zip(up) {
                *g = f(*g).0 * u;
            })
        },
    )
}

/// `max(x, 0)` and its derivative.
#[inline(always)]
pub(crate) fn relu(x: f32) -> (f32, f32) {
    if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
}

/// `x sigmoid(x)` and its derivative.
#[inline(always)]
pub(crate) fn silu(x: f32) -> (f32, f32) {
    let denominator = 1.0 + exp(-x);
    let sigmoid = 1.0 / denominator;
    (x / denominator, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

/// GELU by its tanh, `x (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2`, where `(1 + tanh z) / 2 = sigmoid(2z)`; and its derivative.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> (f32, f32) {
    const TWICE_ROOT: f32 = 1.595_769; // 2 √(2/π)
    let z = TWICE_ROOT * (x + 0.044_715 * x * x * x);
    let dz = TWICE_ROOT * (1.0 + 3.0 * 0.044_715 * x * x);
    let denominator = 1.0 + exp(-z);
    let sigmoid = 1.0 / denominator;
    (x / denominator, sigmoid * (1.0 + x * dz * (1.0 - sigmoid)))
}

/// `x Φ(x)` and its derivative `Φ(x) + x φ(x)`, of the normal distribution's Φ and its density φ.
#[inline(always)]
pub(crate) fn gelu(x: f32) -> (f32, f32) {
    const INVERSE_ROOT: f32 = 0.398_942_3; // 1 / √(2π)
    let below = 0.5 * (1.0 + erf(x * std::f32::consts::FRAC_1_SQRT_2));
    (x * below, below + x * INVERSE_ROOT * exp(-0.5 * x * x))
}

/// The error function within 3e-7 (Abramowitz, Stegun 1964, 7.1.26, and rounding).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / 0.327_591_1_f32.mul_add(magnitude, 1.0);
    let mut p = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_8, -0.284_496_74, 0.254_829_6] {
        p = t.mul_add(p, c);
    }
    (1.0 - p * t * exp(-magnitude * magnitude)).copysign(x)
}

/// The largest of `x`.
pub(crate) fn max(x: &[f32]) -> f32 {
    simd(
        #[inline(always)]
        || {
            let (chunks, rest) = x.as_chunks::<LANES>();
            let mut lanes = [f32::NEG_INFINITY; LANES];
            for chunk in chunks {
                for (l, x) in lanes.iter_mut().zip(chunk) {
                    *l = if *x > *l { *x } else { *l };
                }
            }
            lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| a.max(b))
        },
    )
}

/// `x = exp(x - max)`; returns the sum.
pub(crate) fn exp_minus(x: &mut [f32], max: f32) -> f32 {
    simd(
        #[inline(always)]
        || {
            let (chunks, rest) = x.as_chunks_mut::<LANES>();
            let mut lanes = [0.0; LANES];
            for chunk in chunks {
                for (l, x) in lanes.iter_mut().zip(chunk) {
                    *x = exp(*x - max);
                    *l += *x;
                }
            }
            let mut rest_sum = 0.0;
            for x in rest {
                *x = exp(*x - max);
                rest_sum += *x;
            }
            sum(lanes) + rest_sum
        },
    )
}

/// Rotates the pairs `2i, 2i + 1`.
pub(crate) fn rotate_neighbours(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for ((pair, c), s) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
                *pair = [pair[0] * c - pair[1] * s, pair[0] * s + pair[1] * c];
            }
        },
    )
}

/// Rotates the pairs `i, i + n/2`.
pub(crate) fn rotate_halves(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    simd(
        #[inline(always)]
        || {
            let (first, second) = head.split_at_mut(cos.len());
            for (((a, b), c), s) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
            }
        },
    )
}

#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<LANES>();
    let (b, b_rest) = b.as_chunks::<LANES>();
    let mut lanes = [0.0f32; LANES];
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    let mut rest = 0.0;
    for (a, b) in a_rest.iter().zip(b_rest) {
        rest += a * b;
    }
    sum(lanes) + rest
}

/// Adds lanes in halves, as registers do.
#[inline(always)]
fn sum(lanes: [f32; LANES]) -> f32 {
    let (mut eight, mut four) = ([0.0; 8], [0.0; 4]);
    for i in 0..8 {
        eight[i] = lanes[i] + lanes[i + 8];
    }
    for i in 0..4 {
        four[i] = eight[i] + eight[i + 4];
    }
    (four[0] + four[2]) + (four[1] + four[3])
}

/// `eˣ` within 2 units in the last place; below -87.3 it stays at 1.2e-38, above 88.3 at 2.2e38. NaN stays NaN.
///
/// By Cody and Waite: `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a polynomial for `eʳ`, and `n` into the exponent's bits.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold
    const LN2_HIGH: f32 = 0.693_359_4; // 15 bits, so that n times it is exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > 88.3 { 88.3 } else { x };
    let x = if x < -87.3 { -87.3 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    // The Taylor series: its first omitted term is 7e-9 at ln 2 / 2.
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = r.mul_add(p, c);
    }
    p * f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|i| ((i * 37 % 101) as f32 / 50.0 - 1.0) * scale).collect()
    }

    fn assert_close(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (i, (&f, &e)) in found.iter().zip(expected).enumerate() {
            assert!((f64::from(f) - e).abs() <= 2e-6 * (1.0 + e.abs()), "at {i}: {f}, expected {e}");
        }
    }

    #[test]
    fn exp_is_accurate_everywhere() {
        for i in -870..880 {
            let x = i as f32 / 10.0 + 0.013;
            let relative = f64::from(exp(x)) / f64::from(x).exp() - 1.0;
            assert!(relative.abs() < 2.5e-7, "exp({x}) is off by {relative}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn softmax_parts_match_the_definition() {
        for len in [1, 15, 16, 50, 64] {
            let x = ramp(len, 20.0);
            let expected_max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(max(&x), expected_max);
            let weights: Vec<f64> = x.iter().map(|&x| f64::from(x - expected_max).exp()).collect();
            let mut found = x.clone();
            let sum = exp_minus(&mut found, expected_max);
            assert_close(&found, &weights);
            assert_close(&[sum], &[weights.iter().sum()]);
        }
    }

    #[test]
    fn activations_match_the_definition() {
        let (gate, up) = (ramp(101, 10.0), ramp(101, 3.0));
        let expect = |f: fn(f64) -> f64| -> Vec<f64> {
            gate.iter().zip(&up).map(|(&g, &u)| f(g.into()) * f64::from(u)).collect()
        };
        let mut found = gate.clone();
        super::gate(Activation::Silu, &mut found, &up);
        assert_close(&found, &expect(|x| x / (1.0 + (-x).exp())));
        let mut found = gate.clone();
        super::gate(Activation::GeluTanh, &mut found, &up);
        let root = (2.0 / std::f64::consts::PI).sqrt();
        assert_eq!(root, 0.797_884_560_802_865_4);
        assert_close(
            &found,
            &expect(|x| x * (1.0 + (0.797_884_560_802_865_4 * (x + 0.044715 * x * x * x)).tanh()) / 2.0),
        );
    }

    #[test]
    fn rms_norm_works_in_groups() {
        let (x, weight) = (ramp(3 * 20, 4.0), ramp(20, 1.0));
        let mut y = vec![0.0; 60];
        rms_norm(&x, &weight, 1e-6, &mut y);
        let expected: Vec<f64> = (0..60)
            .map(|i| {
                let group = &x[i / 20 * 20..][..20];
                let mean = group.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 20.0;
                f64::from(x[i]) / (mean + 1e-6).sqrt() * f64::from(weight[i % 20])
            })
            .collect();
        assert_close(&y, &expected);
    }

    #[test]
    fn gelu_is_the_normal_distributions() {
        // x Φ(x) by erf to 15 digits.
        for (x, expected) in
            [(-3.0, -0.004_049_694), (-0.5, -0.154_268_77), (0.0, 0.0), (1.0, 0.841_344_8), (4.0, 3.999_873_3)]
        {
            let (value, slope) = gelu(x);
            assert!((value - expected).abs() < 1e-6, "{x}: {value}");
            let difference = (gelu(x + 1e-2).0 - gelu(x - 1e-2).0) / 2e-2;
            assert!((slope - difference).abs() < 1e-4, "{x}: slope {slope}, by differences {difference}");
        }
    }

    #[test]
    fn layer_norm_takes_mean_and_variance_out() {
        let (x, weight, bias) = (ramp(3 * 20, 4.0), ramp(20, 1.0), ramp(20, 2.0));
        let mut y = vec![0.0; 60];
        layer_norm(&x, &weight, &bias, 1e-6, &mut y);
        let expected: Vec<f64> = (0..60)
            .map(|i| {
                let group = &x[i / 20 * 20..][..20];
                let mean = group.iter().map(|&x| f64::from(x)).sum::<f64>() / 20.0;
                let variance = group.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / 20.0;
                (f64::from(x[i]) - mean) / (variance + 1e-6).sqrt() * f64::from(weight[i % 20])
                    + f64::from(bias[i % 20])
            })
            .collect();
        assert_close(&y, &expected);
    }

    #[test]
    fn rotations_turn_pairs() {
        let (cos, sin) = ([0.0, -1.0], [1.0, 0.0]); // a quarter turn, a half turn
        let mut neighbours = [1.0, 2.0, 3.0, 4.0];
        rotate_neighbours(&mut neighbours, &cos, &sin);
        assert_eq!(neighbours, [-2.0, 1.0, -3.0, -4.0]);
        let mut halves = [1.0, 2.0, 3.0, 4.0];
        rotate_halves(&mut halves, &cos, &sin);
        assert_eq!(halves, [-3.0, -2.0, 1.0, -4.0]);
    }
}
