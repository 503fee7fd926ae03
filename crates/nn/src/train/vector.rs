//! The loops of training over f32, beside those that it shares with [`run`](crate::run).

use super::optimizer::AdamStep;
use crate::layers::Activation;
use crate::vector::{by_activation, dot, moments, simd, total};

pub(super) use crate::vector::{activate, add_rows, exp_minus, gate, layer_norm, max, rms_norm, scale};

/// `sums += Σ rows`, rows as long as `sums`.
pub(super) fn add_columns(sums: &mut [f32], rows: &[f32]) {
    for row in rows.chunks_exact(sums.len()) {
        add_rows(sums, row);
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

/// The gradients of [`layer_norm`]: `dx` is written, or added to if `add`; `dw` is added to.
pub(super) fn layer_norm_backward(
    x: &[f32],
    w: &[f32],
    eps: f32,
    dy: &[f32],
    dx: &mut [f32],
    add: bool,
    dw: &mut [f32],
) {
    simd(
        #[inline(always)]
        || {
            let n = w.len();
            let kept = if add { 1.0 } else { 0.0 };
            let (mut normed, mut g) = (vec![0.0; n], vec![0.0; n]);
            for ((x, dy), dx) in x.chunks_exact(n).zip(dy.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
                let (mean, r) = moments(x, eps);
                for i in 0..n {
                    normed[i] = (x[i] - mean) * r;
                    g[i] = dy[i] * w[i];
                    dw[i] += dy[i] * normed[i];
                }
                let (level, along) = (total(&g) / n as f32, dot(&g, &normed) / n as f32);
                if !add {
                    dx.fill(0.0); // A new gradient's memory may hold anything, NaN too.
                }
                for i in 0..n {
                    dx[i] = kept * dx[i] + r * (g[i] - level - normed[i] * along);
                }
            }
        },
    )
}

/// The gradients of [`gate`]: `d` is that of the output and becomes that of the gate.
pub(super) fn gate_backward(activation: Activation, gate: &[f32], up: &[f32], d: &mut [f32], d_up: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            by_activation!(activation, f => for (((d, d_up), &g), u) in d.iter_mut().zip(d_up).zip(gate).zip(up) {
                let (value, slope) = f(g);
                *d_up = *d * value;
                *d *= u * slope;
            })
        },
    )
}

/// `d *= activation'(x)`.
pub(super) fn activate_backward(activation: Activation, x: &[f32], d: &mut [f32]) {
    simd(
        #[inline(always)]
        || {
            by_activation!(activation, f => for (d, &x) in d.iter_mut().zip(x) {
                *d *= f(x).1;
            })
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
