//! Sums over the inputs of a linear layer.

use bantam_nn::matrix::{Threads, View, multiply};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of sums that are one product.
const PANEL: usize = 256;

/// Rows of the mean that are filled together, a cache line of each column.
const TURNED: usize = 16;

/// The second moments of a linear layer's input: `Σ x xᵀ` over all tokens seen.
///
/// With them the squared error that other weights make of the layer's output is known without its inputs:
/// `Σ |(w - v)·x|² = (w - v) M (w - v)ᵀ`.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    tokens: u64,
    cols: usize,
    /// The upper triangle, in panels: the one that begins at row `i` is `[PANEL, cols - i]`, the last has fewer rows.
    panels: Vec<Vec<f32>>,
}

impl Moments {
    /// Of no input yet.
    pub fn new(cols: usize) -> Self {
        let panel = |first: usize| vec![0.0; PANEL.min(cols - first) * (cols - first)];
        Self { tokens: 0, cols, panels: (0..cols).step_by(PANEL).map(panel).collect() }
    }

    /// Adds inputs `[tokens, cols]`.
    pub fn add(&mut self, x: &[f32]) {
        let (view, tokens) = (View::new(x, self.cols), x.len() / self.cols);
        for (panel, first) in self.panels.iter_mut().zip((0..self.cols).step_by(PANEL)) {
            let rows = view.part(0..tokens, first..self.cols.min(first + PANEL)).transposed();
            multiply(panel, true, 1.0, rows, view.part(0..tokens, first..self.cols), Threads::All);
        }
        self.tokens += tokens as u64;
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
        let (cols, share) = (self.cols, self.share());
        let mut mean = vec![0.0; cols * cols];
        mean.par_chunks_mut(TURNED * cols).enumerate().for_each(|(at, rows)| {
            let (first, last) = (at * TURNED, cols.min((at + 1) * TURNED));
            for (row, i) in rows.chunks_exact_mut(cols).zip(first..) {
                row[i..].iter_mut().zip(self.row(i)).for_each(|(mean, sum)| *mean = sum * share);
            }
            // Below the diagonal stand the columns of the rows above.
            for j in 0..last {
                let above = self.row(j);
                for i in first.max(j + 1)..last {
                    rows[(i - first) * cols + j] = above[i - j] * share;
                }
            }
        });
        mean
    }

    /// The mean square of each channel: an importance matrix's row.
    pub fn mean_squares(&self) -> Vec<f32> {
        let share = self.share();
        (0..self.cols).map(|i| self.row(i)[0] * share).collect()
    }

    /// What a sum counts in a mean.
    fn share(&self) -> f32 {
        1.0 / self.tokens.max(1) as f32
    }

    /// Row `i` of the sums from its diagonal on.
    fn row(&self, i: usize) -> &[f32] {
        let (first, row) = (i / PANEL * PANEL, i % PANEL);
        let cols = self.cols - first;
        &self.panels[i / PANEL][row * cols + row..(row + 1) * cols]
    }
}

/// What linear layers saw, by the path of their weight; layers with one input share its moments.
pub type Inputs = BTreeMap<String, Arc<Moments>>;

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_nn::random::SplitMix64;

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

    #[test]
    fn more_channels_than_a_panel_has_rows_add_up_too() {
        let (cols, tokens) = (2 * PANEL + 37, 3);
        let mut random = SplitMix64::new(1);
        let x: Vec<f32> = (0..tokens * cols).map(|_| random.normal() as f32).collect();
        let mut moments = Moments::new(cols);
        moments.add(&x);
        let mean = moments.mean();
        for (i, j) in (0..cols).flat_map(|i| (0..cols).map(move |j| (i, j))) {
            let sum: f32 = x.chunks_exact(cols).map(|x| x[i] * x[j]).sum();
            assert!((mean[i * cols + j] - sum / tokens as f32).abs() < 1e-5, "({i}, {j})");
        }
        let diagonal: Vec<f32> = (0..cols).map(|i| mean[i * cols + i]).collect();
        assert_eq!(moments.mean_squares(), diagonal);
    }
}
