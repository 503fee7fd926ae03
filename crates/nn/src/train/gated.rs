//! The gate of a feed-forward layer, and the sum of a residual stream.

use super::tape::{Backward, Node, Var};
use super::{ROWS_AT_ONCE, vector};
use crate::layers::Activation;
use crate::tensor::{Pool, Tensor};
use rayon::prelude::*;

/// `activation(gate) * up`.
pub(super) struct Gated {
    pub activation: Activation,
    pub gate: Var,
    pub up: Var,
}

impl Gated {
    pub fn forward(&self, pool: &Pool) -> Tensor {
        let (gate, up) = (&self.gate, &self.up);
        let mut y = gate.clone().into_value(pool);
        let part = ROWS_AT_ONCE * y.cols();
        y.par_chunks_mut(part).zip(up.par_chunks(part)).for_each(|(y, up)| vector::gate(self.activation, y, up));
        y
    }
}

impl Node for Gated {
    /// `dup = dy activation(gate)`, `dgate = dy up activation'(gate)`.
    fn backward(self: Box<Self>, mut dy: Tensor, to: &mut Backward<'_>) {
        let (gate, up) = (&self.gate, &self.up);
        let mut dup = to.pool.take(dy.rows(), dy.cols());
        let part = ROWS_AT_ONCE * dy.cols();
        let gradients = dy.par_chunks_mut(part).zip(dup.par_chunks_mut(part));
        let values = gate.par_chunks(part).zip(up.par_chunks(part));
        gradients.zip(values).for_each(|((dy, dup), (gate, up))| {
            vector::gate_backward(self.activation, gate, up, dy, dup);
        });
        to.give(gate.id, dy);
        to.give(up.id, dup);
    }
}

/// `x + y`.
pub(super) struct Add {
    pub x: usize,
    pub y: usize,
}

impl Node for Add {
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        let mut copy = to.pool.take(dy.rows(), dy.cols());
        copy.copy_from_slice(&dy);
        to.give(self.x, dy);
        to.give(self.y, copy);
    }
}
