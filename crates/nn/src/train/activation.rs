//! Functions on every value, and dropout.

use super::tape::{Backward, Node, Var};
use super::{ROWS_AT_ONCE, vector};
use crate::layers::{Activation, DropoutSite};
use crate::random::SplitMix64;
use crate::tensor::{Pool, Tensor};
use rayon::prelude::*;

/// `activation(x)`.
pub(super) struct Activate {
    pub activation: Activation,
    pub x: Var,
}

impl Activate {
    pub fn forward(&self, pool: &Pool) -> Tensor {
        let mut y = self.x.clone().into_value(pool);
        let part = ROWS_AT_ONCE * y.cols();
        y.par_chunks_mut(part).for_each(|y| vector::activate(self.activation, y));
        y
    }
}

impl Node for Activate {
    fn backward(self: Box<Self>, mut dy: Tensor, to: &mut Backward<'_>) {
        let part = ROWS_AT_ONCE * dy.cols();
        let parts = dy.par_chunks_mut(part).zip(self.x.par_chunks(part));
        parts.for_each(|(dy, x)| vector::activate_backward(self.activation, x, dy));
        to.give(self.x.id, dy);
    }
}

/// Which share of values to drop, and by which random numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dropout {
    /// Of the inputs.
    pub input: f32,
    /// Of the outputs of hidden layers.
    pub hidden: f32,
    /// Another one for each step.
    pub seed: u64,
}

impl Dropout {
    /// The share at a site.
    pub(super) fn share(&self, site: DropoutSite) -> f32 {
        match site {
            DropoutSite::Input => self.input,
            DropoutSite::Hidden => self.hidden,
        }
    }
}

/// Values dropped; the backward pass draws the same again.
pub(super) struct Drop {
    pub x: usize,
    pub share: f32,
    pub seed: u64,
}

impl Drop {
    pub fn apply(&self, values: &mut Tensor) {
        let part = ROWS_AT_ONCE * values.cols();
        let threshold = (f64::from(self.share) * 2f64.powi(32)) as u64;
        let kept = 1.0 / (1.0 - self.share);
        values.par_chunks_mut(part).enumerate().for_each(|(i, values)| {
            let mut random = SplitMix64::child(self.seed, i as u64);
            // Each draw serves two values.
            for pair in values.chunks_mut(2) {
                let mut bits = random.next();
                for value in pair {
                    *value *= if bits & 0xffff_ffff < threshold { 0.0 } else { kept };
                    bits >>= 32;
                }
            }
        });
    }
}

impl Node for Drop {
    fn backward(self: Box<Self>, mut dy: Tensor, to: &mut Backward<'_>) {
        self.apply(&mut dy);
        to.give(self.x, dy);
    }
}
