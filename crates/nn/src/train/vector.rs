//! The loops of training over f32, as those of [`run`](crate::run): plain code that the compiler vectorizes for whatever
//! the processor has.

use super::optimizer::AdamStep;
use crate::layers::Activation;
use crate::run::vector::{dot, exp, simd};

pub(super) use crate::run::vector::{exp_minus, max, rms_norm};

/// `x += y`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    simd(
        #[inline(always)]
        || {
            for (x, y) in x.iter_mut().zip(y) {
                *x += y;
            }
        },
    )
}

/// `x += y` for each row of `x` as long as `y`.
pub(super) fn add_to_rows(x: &mut [f32], y: &[f32]) {
    crate::run::vector::add_rows(x, y);
}

/// `sums += Σ rows`, rows as long as `sums`.
pub(super) fn add_columns(sums: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        add(sums, row);
    }
}

/// The gradients of [`rms_norm`]: `dx` is written, or added to if `add`; `dw` is added to.
pub(super) fn rms_norm_backward(x: &[f32], w: &[f32], eps: f32, dy: &[f32], dx: &mut [f32], add: bool, dw: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            let n = w.len();
            let kept = if add { 1.0 } else { 0.0 };
            let mut g = vec![0.0; n];
            for ((x, dy), dx) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
                let r = 1.0 / (dot(x, x) / n as f32 + eps).sqrt();
                for i in 0..n {
                    g[i] = dy[i] * w[i];
                    dw[i] += dy[i] * x[i] * r;
                }
                let along = r * r * r * dot(&g, x) / n as f32;
                if !add {
                    dx.fill(0.0); // A new gradient's memory may hold anything, NaN too.
                }
                for i in 0..n {
                    dx[i] = kept * dx[i] + r * g[i] - along * x[i];
                }
            }
        },
    )
}

/// `y = activation(gate) * up`.
pub(super) fn gated(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    simd(
        #[inline(always)]
        || match activation {
            Activation::Relu => {
                for ((y, &g), u) in y.iter_mut().zip(gate).zip(up) {
                    *y = relu(g).0 * u;
                }
            }
            Activation::Silu => {
                for ((y, &g), u) in y.iter_mut().zip(gate).zip(up) {
                    *y = silu(g).0 * u;
                }
            }
            Activation::GeluTanh => {
                for ((y, &g), u) in y.iter_mut().zip(gate).zip(up) {
                    *y = gelu(g).0 * u;
                }
            }
        },
    )
}

/// The gradients of [`gated`]: `d` is that of the output and becomes that of the gate.
pub(super) fn gated_backward(activation: Activation, gate: &[f32], up: &[f32], d: &mut [f32], d_up: &mut [f32]) {
    simd(
        #[inline(always)]
        || match activation {
            Activation::Relu => gated_backward_by(relu, gate, up, d, d_up),
            Activation::Silu => gated_backward_by(silu, gate, up, d, d_up),
            Activation::GeluTanh => gated_backward_by(gelu, gate, up, d, d_up),
        },
    )
}

#[inline(always)]
fn gated_backward_by(f: impl Fn(f32) -> (f32, f32), gate: &[f32], up: &[f32], d: &mut [f32], d_up: &mut [f32]) {
    for (((d, d_up), &g), u) in d.iter_mut().zip(d_up).zip(gate).zip(up) {
        let (value, slope) = f(g);
        *d_up = *d * value;
        *d *= u * slope;
    }
}

/// `x = activation(x)`.
pub(super) fn activate(activation: Activation, x: &mut [f32]) {
    simd(
        #[inline(always)]
        || match activation {
            Activation::Relu => x.iter_mut().for_each(|x| *x = relu(*x).0),
            Activation::Silu => x.iter_mut().for_each(|x| *x = silu(*x).0),
            Activation::GeluTanh => x.iter_mut().for_each(|x| *x = gelu(*x).0),
        },
    )
}

/// `d *= activation'(x)`.
pub(super) fn activate_backward(activation: Activation, x: &[f32], d: &mut [f32]) {
    simd(
        #[inline(always)]
        || match activation {
            Activation::Relu => d.iter_mut().zip(x).for_each(|(d, &x)| *d *= relu(x).1),
            Activation::Silu => d.iter_mut().zip(x).for_each(|(d, &x)| *d *= silu(x).1),
            Activation::GeluTanh => d.iter_mut().zip(x).for_each(|(d, &x)| *d *= gelu(x).1),
        },
    )
}

/// `max(x, 0)` and its derivative.
#[inline(always)]
fn relu(x: f32) -> (f32, f32) {
    if x > 0.0 { (x, 1.0) } else { (0.0, 0.0) }
}

/// `x sigmoid(x)` and its derivative.
#[inline(always)]
fn silu(x: f32) -> (f32, f32) {
    let sigmoid = 1.0 / (1.0 + exp(-x));
    (x * sigmoid, sigmoid * (1.0 + x * (1.0 - sigmoid)))
}

/// `x sigmoid(z)` with `z = 2 √(2/π) (x + 0.044715 x³)`, which is GELU by its tanh, and its derivative.
#[inline(always)]
fn gelu(x: f32) -> (f32, f32) {
    const TWICE_ROOT: f32 = 1.595_769; // 2 √(2/π)
    let z = TWICE_ROOT * (x + 0.044_715 * x * x * x);
    let dz = TWICE_ROOT * (1.0 + 3.0 * 0.044_715 * x * x);
    let sigmoid = 1.0 / (1.0 + exp(-z));
    (x * sigmoid, sigmoid * (1.0 + x * dz * (1.0 - sigmoid)))
}

/// `scores = exp(scores - by)`.
pub(super) fn exp_of(scores: &mut [f32], by: f32) {
    simd(
        #[inline(always)]
        || {
            for s in scores {
                *s = exp(*s - by);
            }
        },
    )
}

/// The softmax's backward: `d = p (d - mean) scale`, where `mean = Σ p d`.
pub(super) fn softmax_backward(p: &[f32], mean: f32, scale: f32, d: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            for (d, p) in d.iter_mut().zip(p) {
                *d = p * (*d - mean) * scale;
            }
        },
    )
}

/// `x *= factor`.
pub(super) fn scale(x: &mut [f32], factor: f32) {
    crate::run::vector::scale(x, factor);
}

/// `Σ a b`.
pub(super) fn inner(a: &[f32], b: &[f32]) -> f32 {
    simd(
        #[inline(always)]
        || dot(a, b),
    )
}

/// One step of Adam.
pub(super) fn adam(values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32], step: AdamStep) {
    let AdamStep { betas, eps, rate, root, decay } = step;
    simd(
        #[inline(always)]
        || {
            let moments = mean.iter_mut().zip(square);
            for ((value, &g), (m, s)) in values.iter_mut().zip(gradient).zip(moments) {
                *m = betas.0 * *m + (1.0 - betas.0) * g;
                *s = betas.1 * *s + (1.0 - betas.1) * g * g;
                *value = *value * decay - rate * *m / (s.sqrt() / root + eps);
            }
        },
    )
}

/// One step of gradient descent with momentum.
pub(super) fn sgd(values: &mut [f32], gradient: &[f32], mean: &mut [f32], momentum: f32, decay: f32, rate: f32) {
    simd(
        #[inline(always)]
        || {
            for ((value, &g), m) in values.iter_mut().zip(gradient).zip(mean) {
                *m = momentum * *m + g + decay * *value;
                *value -= rate * *m;
            }
        },
    )
}
