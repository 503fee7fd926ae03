//! The head and the loss in one: logits exist only for a few rows at a time, and their gradient goes straight on.
//!
//! A vocabulary of 150,000 tokens makes 600 KB of logits a token; kept for a batch, with their gradients, they would need
//! many times the memory of all other activations (Wijmans et al. 2024; Hsu et al. 2024).

use super::{Parameters, vector};
use crate::matrix::{Threads, View, multiply};
use crate::tensor::{Pool, Tensor};
use rayon::prelude::*;

/// A loss on the logits of each row.
pub trait Objective: Sync {
    /// The loss of row `row` of the batch, which counts, by its logits, which become the gradient of that loss.
    fn loss(&self, row: usize, logits: &mut [f32]) -> f64;

    /// Whether the row counts (padding and prompts do not). Its logits are not even computed otherwise.
    fn counts(&self, row: usize) -> bool;
}

/// Logits held at once: 64 MB.
pub(super) const LOGITS: usize = 1 << 24;

/// Where the head's parameters are, and how much of what it makes there is at a time.
pub(super) struct Head {
    pub weight: usize,
    pub bias: Option<usize>,
    /// Logits held at once; at least those of a row are.
    pub at_once: usize,
}

impl Head {
    /// The mean loss of the rows that count, times `scale`; adds the gradients of that to the head's parameters and returns
    /// that of the hidden states.
    pub fn loss(
        &self,
        hidden: &Tensor,
        objective: &dyn Objective,
        scale: f32,
        parameters: &mut Parameters,
        pool: &Pool,
    ) -> (f64, Tensor) {
        let (vocab, width) = (parameters[self.weight].shape[0], hidden.cols());
        let rows: Vec<usize> = (0..hidden.rows()).filter(|&row| objective.counts(row)).collect();
        let mut gradient = pool.take(hidden.rows(), width);
        gradient.fill(0.0);
        let weight = scale / rows.len().max(1) as f32;
        let mut total = 0.0;
        for rows in rows.chunks((self.at_once / vocab).max(1)) {
            let mut chosen = pool.take(rows.len(), width);
            for (chosen, &row) in chosen.chunks_exact_mut(width).zip(rows) {
                chosen.copy_from_slice(&hidden[row * width..][..width]);
            }
            let mut logits = pool.take(rows.len(), vocab);
            self.logits(&chosen, &mut logits, parameters);
            let losses = logits.par_chunks_exact_mut(vocab).zip(rows).map(|(logits, &row)| {
                let loss = objective.loss(row, logits);
                vector::scale(logits, weight);
                loss
            });
            total += losses.collect::<Vec<f64>>().iter().sum::<f64>();
            self.backward(&logits, &mut chosen, parameters);
            for (chosen, &row) in chosen.chunks_exact(width).zip(rows) {
                gradient[row * width..][..width].copy_from_slice(chosen);
            }
        }
        (total * f64::from(weight), gradient)
    }

    fn logits(&self, hidden: &Tensor, logits: &mut Tensor, parameters: &Parameters) {
        let weight = View::new(&parameters[self.weight].values, hidden.cols());
        multiply(logits, false, 1.0, View::new(hidden, hidden.cols()), weight.transposed(), Threads::All);
        if let Some(bias) = self.bias {
            vector::add_rows(logits, &parameters[bias].values);
        }
    }

    /// Turns `hidden` into its gradient.
    fn backward(&self, d_logits: &Tensor, hidden: &mut Tensor, parameters: &mut Parameters) {
        let width = hidden.cols();
        let d = View::new(d_logits, d_logits.cols());
        if let Some(dw) = parameters[self.weight].receive() {
            multiply(dw, true, 1.0, d.transposed(), View::new(hidden, width), Threads::All);
        }
        if let Some(db) = self.bias.and_then(|bias| parameters[bias].receive()) {
            vector::add_columns(db, d_logits);
        }
        let weight = View::new(&parameters[self.weight].values, width);
        multiply(hidden, false, 1.0, d, weight, Threads::All);
    }
}

/// `x = softmax(x / temperature)`; returns the logarithm of `Σ exp(x / temperature)`.
pub fn softmax(x: &mut [f32], temperature: f32) -> f32 {
    vector::scale(x, 1.0 / temperature);
    let max = vector::max(x);
    let sum = vector::exp_minus(x, max);
    vector::scale(x, 1.0 / sum);
    max + sum.ln()
}

/// The negative log-likelihood of one token a row: training on labels.
pub struct CrossEntropy<'a> {
    /// The token that follows each row; `None` where none counts.
    pub targets: &'a [Option<u32>],
}

impl Objective for CrossEntropy<'_> {
    fn loss(&self, row: usize, logits: &mut [f32]) -> f64 {
        let target = self.targets[row].expect("the row counts") as usize;
        let at_target = logits[target];
        let log_sum = softmax(logits, 1.0);
        logits[target] -= 1.0;
        f64::from(log_sum - at_target)
    }

    fn counts(&self, row: usize) -> bool {
        self.targets[row].is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;
    use std::collections::BTreeSet;
    use std::sync::Mutex;

    const VOCAB: usize = 11;

    /// The negative log-likelihood, and where in memory the rows of logits lay.
    struct Noted<'a> {
        objective: CrossEntropy<'a>,
        places: Mutex<BTreeSet<usize>>,
    }

    impl Objective for Noted<'_> {
        fn loss(&self, row: usize, logits: &mut [f32]) -> f64 {
            self.places.lock().unwrap().insert(logits.as_ptr() as usize);
            self.objective.loss(row, logits)
        }

        fn counts(&self, row: usize) -> bool {
            self.objective.counts(row)
        }
    }

    /// The loss of ten rows, of which two do not count; the gradients of hidden states, weight and bias; and for how many rows of logits there
    /// was memory.
    fn loss(at_once: usize) -> (f64, [Vec<f32>; 3], usize) {
        const ROWS: usize = 10;
        const WIDTH: usize = 6;
        let mut random = SplitMix64::new(5);
        let mut normal = |len: usize| (0..len).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        let (mut parameters, pool) = (Parameters::default(), Pool::default());
        parameters.insert("output.weight", &[VOCAB, WIDTH], normal(VOCAB * WIDTH));
        parameters.insert("output.bias", &[VOCAB], normal(VOCAB));
        let mut hidden = pool.take(ROWS, WIDTH);
        hidden.copy_from_slice(&normal(ROWS * WIDTH));
        let targets: Vec<Option<u32>> = (0..ROWS).map(|row| (row % 4 != 3).then_some(row as u32)).collect();
        let objective = Noted { objective: CrossEntropy { targets: &targets }, places: Mutex::default() };
        let head = Head { weight: 0, bias: Some(1), at_once };
        let (loss, gradient) = head.loss(&hidden, &objective, 0.5, &mut parameters, &pool);
        for (row, gradient) in gradient.chunks_exact(WIDTH).enumerate() {
            assert_eq!(gradient.iter().any(|&g| g != 0.0), targets[row].is_some(), "row {row}");
        }
        let [weight, bias] = [0, 1].map(|at| parameters[at].gradient.clone());
        (loss, [gradient.to_vec(), weight, bias], objective.places.into_inner().unwrap().len())
    }

    #[test]
    fn a_loss_taken_in_parts_is_that_of_all_rows_together() {
        let (whole, gradients, rows) = loss(LOGITS);
        assert_eq!(rows, 8, "those that count, in one part");
        // Three rows at a time leave two for the last part; less than a row is a row.
        for (at_once, rows) in [(3 * VOCAB + 5, 3), (1, 1)] {
            let (parts, by_parts, held) = loss(at_once);
            assert_eq!(held, rows, "rows of logits at once");
            assert!((parts - whole).abs() < 1e-5, "{rows} at once: {parts} is not {whole}");
            for (name, (a, b)) in ["hidden", "weight", "bias"].iter().zip(by_parts.iter().zip(&gradients)) {
                assert!(
                    a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5),
                    "{rows} at once, {name}: {a:?} is not {b:?}"
                );
            }
        }
    }
}
