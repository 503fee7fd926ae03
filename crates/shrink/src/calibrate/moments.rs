//! Sums over the inputs of a linear layer.

use bantam_nn::matrix::{Threads, View, multiply};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The second moments of a linear layer's input: `Σ x xᵀ` over all tokens seen.
///
/// With them the squared error that other weights make of the layer's output is known without its inputs:
/// `Σ |(w - v)·x|² = (w - v) M (w - v)ᵀ`.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    tokens: u64,
    cols: usize,
    /// `[cols, cols]`.
    sums: Vec<f32>,
}

impl Moments {
    /// Of no input yet.
    pub fn new(cols: usize) -> Self {
        Self { tokens: 0, cols, sums: vec![0.0; cols * cols] }
    }

    /// Adds inputs `[tokens, cols]`.
    pub fn add(&mut self, x: &[f32]) {
        let view = View::new(x, self.cols);
        multiply(&mut self.sums, true, 1.0, view.transposed(), view, Threads::All);
        self.tokens += (x.len() / self.cols) as u64;
    }

    /// Tokens seen.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Input channels.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The mean of `x xᵀ`, `[cols, cols]`.
    pub fn mean(&self) -> Vec<f32> {
        let share = 1.0 / self.tokens.max(1) as f32;
        self.sums.iter().map(|s| s * share).collect()
    }

    /// The mean square of each channel: an importance matrix's row.
    pub fn mean_squares(&self) -> Vec<f32> {
        let share = 1.0 / self.tokens.max(1) as f32;
        (0..self.cols).map(|i| self.sums[i * self.cols + i] * share).collect()
    }
}

/// What linear layers saw, by the path of their weight; layers with one input share its moments.
pub type Inputs = BTreeMap<String, Arc<Moments>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_add_up_over_parts() {
        let x = [1.0, 2.0, -3.0, 0.5, 0.0, 4.0, 1.0, 0.0]; // four tokens of two channels
        let mut moments = Moments::new(2);
        moments.add(&x[..2]);
        moments.add(&x[2..]);
        assert_eq!(moments.tokens(), 4);
        assert_eq!(moments.mean_squares(), [11.0 / 4.0, 20.25 / 4.0]);
        assert_eq!(moments.mean(), [11.0 / 4.0, 0.5 / 4.0, 0.5 / 4.0, 20.25 / 4.0]);
    }
}
