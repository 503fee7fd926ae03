//! Root mean square norm, and layer norm.

use super::tape::{Backward, Node, Var};
use super::{Parameters, ROWS_AT_ONCE, vector};
use crate::tensor::{Pool, Tensor};
use rayon::prelude::*;

/// `y = x / sqrt(mean(x²) + eps) * w` over groups as wide as `w`.
pub(super) struct RmsNorm {
    pub x: Var,
    pub weight: usize,
    pub eps: f32,
}

impl RmsNorm {
    pub fn forward(&self, parameters: &Parameters, pool: &Pool) -> Tensor {
        let (x, w) = (&self.x, &parameters[self.weight].values);
        let mut y = pool.take(x.rows(), x.cols());
        let part = ROWS_AT_ONCE * x.cols();
        y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| vector::rms_norm(x, w, self.eps, y));
        y
    }
}

impl Node for RmsNorm {
    /// With `r = 1 / sqrt(mean(x²) + eps)` and `g = dy w`: `dx = r g - r³ x mean(g x)`, `dw = Σ dy x r`.
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        rows_backward(&self.x, self.weight, &dy, to, |x, w, dy, dx, add, dw| {
            vector::rms_norm_backward(x, w, self.eps, dy, dx, add, dw);
        });
    }
}

/// Brings the gradient of normed rows back: `part` takes some rows of `x`, the weight, their `dy`, and writes `dx` (or adds to it)
/// and their share of `dw`.
fn rows_backward(
    x: &Var,
    weight: usize,
    dy: &Tensor,
    to: &mut Backward<'_>,
    part: impl Fn(&[f32], &[f32], &[f32], &mut [f32], bool, &mut [f32]) + Sync,
) {
    let len = ROWS_AT_ONCE * x.cols();
    let mut sums = Vec::new();
    to.write(x.id, x.rows(), x.cols(), |dx, add, parameters| {
        let w = &parameters[weight].values;
        let parts = dx.par_chunks_mut(len).zip(dy.par_chunks(len)).zip(x.par_chunks(len));
        sums = parts
            .map(|((dx, dy), x)| {
                let mut dw = vec![0.0; w.len()];
                part(x, w, dy, dx, add, &mut dw);
                dw
            })
            .collect();
    });
    if let Some(dw) = to.parameters[weight].receive() {
        sums.iter().for_each(|sum| vector::add_rows(dw, sum));
    }
}

/// `y = (x - mean) / sqrt(variance + eps) * w + b` of each row.
pub(super) struct LayerNorm {
    pub x: Var,
    pub weight: usize,
    pub bias: usize,
    pub eps: f32,
}

impl LayerNorm {
    pub fn forward(&self, parameters: &Parameters, pool: &Pool) -> Tensor {
        let (x, w, b) = (&self.x, &parameters[self.weight].values, &parameters[self.bias].values);
        let mut y = pool.take(x.rows(), x.cols());
        let part = ROWS_AT_ONCE * x.cols();
        y.par_chunks_mut(part).zip(x.par_chunks(part)).for_each(|(y, x)| vector::layer_norm(x, w, b, self.eps, y));
        y
    }
}

impl Node for LayerNorm {
    /// With `n` the normed values, `r = 1 / sqrt(variance + eps)` and `g = dy w`: `dx = r (g - mean(g) - n mean(g n))`,
    /// `dw = Σ dy n`, `db = Σ dy`.
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        rows_backward(&self.x, self.weight, &dy, to, |x, w, dy, dx, add, dw| {
            vector::layer_norm_backward(x, w, self.eps, dy, dx, add, dw);
        });
        if let Some(db) = to.parameters[self.bias].receive() {
            vector::add_columns(db, &dy);
        }
    }
}
