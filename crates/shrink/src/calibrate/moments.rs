//! Sums over the inputs of a linear layer.

use bantam_nn::matrix::{Threads, View, multiply};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Rows of sums that are one product.
const PANEL: usize = 256;

/// Tokens in a row that are taken as one observation: those of a text resemble each other. A sequence, by default.
const PART: usize = 512;

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
    /// Squared Frobenius norms of the sums over each part, summed.
    squares: f64,
    /// Squared numbers of tokens of each part, summed.
    squared_tokens: f64,
}

impl Moments {
    /// Of no input yet.
    pub fn new(cols: usize) -> Self {
        let panel = |first: usize| vec![0.0; PANEL.min(cols - first) * (cols - first)];
        Self {
            tokens: 0,
            cols,
            panels: (0..cols).step_by(PANEL).map(panel).collect(),
            squares: 0.0,
            squared_tokens: 0.0,
        }
    }

    /// Products that a token takes to add.
    pub(crate) fn work(cols: f64) -> f64 {
        cols * (cols / 2.0 + PART as f64)
    }

    /// Adds inputs `[tokens, cols]`.
    pub fn add(&mut self, x: &[f32]) {
        let (view, tokens) = (View::new(x, self.cols), x.len() / self.cols);
        for (panel, first) in self.panels.iter_mut().zip((0..self.cols).step_by(PANEL)) {
            let rows = view.part(0..tokens, first..self.cols.min(first + PANEL)).transposed();
            multiply(panel, true, 1.0, rows, view.part(0..tokens, first..self.cols), Threads::All);
        }
        for part in x.chunks(PART * self.cols) {
            // The norm of xᵀ x is that of the smaller x xᵀ.
            let (view, tokens) = (View::new(part, self.cols), part.len() / self.cols);
            let mut products = vec![0.0; tokens * tokens];
            multiply(&mut products, false, 1.0, view, view.transposed(), Threads::All);
            self.squares += squared(&products);
            self.squared_tokens += (tokens * tokens) as f64;
        }
        self.tokens += tokens as u64;
    }

    /// How much of the mean of `x xᵀ` is chance, as a share from 0 to 1: mixed with so much of a multiple of the identity it is
    /// nearest to what it would be over endless text (Ledoit, Wolf 2004; with parts of the text, not tokens, as observations).
    ///
    /// One part does not say how others would differ: then all of it.
    pub fn shrinkage(&self) -> f64 {
        let (cols, tokens) = (self.cols as f64, self.tokens.max(1) as f64);
        let rows = || (0..self.cols).map(|i| self.row(i));
        let norm = rows().map(|row| 2.0 * squared(row) - f64::from(row[0]).powi(2)).sum::<f64>() / tokens.powi(2);
        let trace = rows().map(|row| f64::from(row[0])).sum::<f64>() / tokens;
        let of_one = self.squared_tokens / tokens.powi(2);
        if of_one >= 1.0 {
            return 1.0;
        }
        let chance = (self.squares / tokens.powi(2) - norm * of_one) / (1.0 - of_one);
        let share = chance / (norm - trace.powi(2) / cols);
        // Of nothing, or of what is a multiple of the identity already, it is all the same.
        if share.is_nan() { 1.0 } else { share.clamp(0.0, 1.0) }
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

/// The sum of squares.
fn squared(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum()
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

    /// A part of a text whose channels differ in size, as a whole larger or smaller.
    fn part(cols: usize, size: f32, random: &mut SplitMix64) -> Vec<f32> {
        let value = |i: usize| size * (1.0 + (i % cols) as f32 / 8.0) * random.normal() as f32;
        (0..PART * cols).map(value).collect()
    }

    fn of(cols: usize, parts: &[Vec<f32>]) -> Moments {
        let mut moments = Moments::new(cols);
        parts.iter().for_each(|x| moments.add(x));
        moments
    }

    #[test]
    fn the_share_of_chance_is_the_variance_of_the_mean_over_its_distance_from_the_identity() {
        let (cols, mut random) = (48, SplitMix64::new(2));
        let parts: Vec<Vec<f32>> = [0.8, 1.0, 1.1, 1.3].map(|size| part(cols, size, &mut random)).to_vec();
        let all = of(cols, &parts);
        let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let (count, mean) = (parts.len() as f64, all.mean());
        let differences = parts.iter().map(|x| apart(&of(cols, std::slice::from_ref(x)).mean(), &mean));
        let variance = differences.sum::<f64>() / (count * (count - 1.0));
        let mut identity = vec![0.0; cols * cols];
        let size = mean.iter().step_by(cols + 1).sum::<f32>() / cols as f32;
        identity.iter_mut().step_by(cols + 1).for_each(|d| *d = size);
        let expected = variance / apart(&mean, &identity);
        assert!(expected > 0.01 && expected < 0.5, "{expected} says little");
        assert!((all.shrinkage() - expected).abs() < 1e-3 * expected, "{} is not {expected}", all.shrinkage());
    }

    #[test]
    fn less_is_chance_in_more_text() {
        let (cols, mut random) = (48, SplitMix64::new(3));
        let parts: Vec<Vec<f32>> = (0..64).map(|i| part(cols, 0.5 + i as f32 / 64.0, &mut random)).collect();
        let few: Vec<_> = parts.iter().step_by(16).cloned().collect();
        assert_eq!(of(cols, &parts[..1]).shrinkage(), 1.0, "one part says nothing");
        let (few, many) = (of(cols, &few).shrinkage(), of(cols, &parts).shrinkage());
        assert!(few > 4.0 * many && many > 0.0, "{few} and {many}");
        assert_eq!(Moments::new(cols).shrinkage(), 1.0);
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
