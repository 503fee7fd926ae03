//! The linear layer and the embedding.

use super::Parameters;
use super::tape::{Backward, Node, Var};
use super::vector;
use crate::matrix::{Threads, View, multiply};
use crate::tensor::{Pool, Tensor};

/// `y = x Wᵀ + b`.
pub(super) struct Linear {
    pub x: Var,
    /// Places of the parameters.
    pub weight: usize,
    pub bias: Option<usize>,
}

impl Linear {
    pub fn forward(&self, parameters: &Parameters, pool: &Pool) -> Tensor {
        let (x, w) = (&self.x, &parameters[self.weight]);
        let mut y = pool.take(x.rows(), w.shape[0]);
        let weight = View::new(&w.values, x.cols());
        multiply(&mut y, false, 1.0, View::new(x, x.cols()), weight.transposed(), Threads::All);
        if let Some(bias) = self.bias {
            vector::add_rows(&mut y, &parameters[bias].values);
        }
        y
    }
}

impl Node for Linear {
    /// `dx = dy W`, `dW = dyᵀ x`, `db = Σ dy`.
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        let x = &self.x;
        let dy_view = View::new(&dy, dy.cols());
        // A model's input takes no gradient, which is half of the work of a first layer.
        if to.wants(x.id) {
            to.write(x.id, x.rows(), x.cols(), |dx, add, parameters| {
                multiply(dx, add, 1.0, dy_view, View::new(&parameters[self.weight].values, x.cols()), Threads::All);
            });
        }
        if let Some(dw) = to.parameters[self.weight].receive() {
            multiply(dw, true, 1.0, dy_view.transposed(), View::new(x, x.cols()), Threads::All);
        }
        if let Some(db) = self.bias.and_then(|bias| to.parameters[bias].receive()) {
            vector::add_columns(db, &dy);
        }
    }
}

/// Rows of a table, times a scale.
pub(super) struct Embedding {
    pub tokens: Vec<u32>,
    pub table: usize,
    pub scale: f32,
}

impl Embedding {
    pub fn forward(&self, parameters: &Parameters, pool: &Pool) -> Tensor {
        let table = &parameters[self.table];
        let mut y = pool.take(self.tokens.len(), table.shape[1]);
        for (y, &token) in y.chunks_exact_mut(table.shape[1]).zip(&self.tokens) {
            let row = &table.values[token as usize * y.len()..][..y.len()];
            y.iter_mut().zip(row).for_each(|(y, x)| *y = x * self.scale);
        }
        y
    }
}

impl Node for Embedding {
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        if let Some(table) = to.parameters[self.table].receive() {
            for (dy, &token) in dy.chunks_exact(dy.cols()).zip(&self.tokens) {
                let row = &mut table[token as usize * dy.len()..][..dy.len()];
                row.iter_mut().zip(dy).for_each(|(row, dy)| *row += dy * self.scale);
            }
        }
    }
}
