//! How far a prediction moves, seen on a part of the vocabulary.
//!
//! With `δ` the changes of the logits, the divergence of a softmax `p` from the changed one is `ln Σ p exp(δ) - Σ p δ`: an average over
//! tokens drawn from `p`. The likeliest tokens are taken as they are and the others by a systematic sample (Madow 1949), so that of a large
//! vocabulary, which most of a small model's time would go to, a few hundred rows of the head are needed.

use bantam_nn::layers::Linear;
use bantam_nn::softmax::log_probability;

/// The likeliest tokens, taken as they are.
const LIKELY: usize = 256;

/// Tokens drawn from all others.
const DRAWN: usize = 64;

/// A part of the vocabulary that stands for what is predicted.
pub(super) struct Outcomes {
    tokens: Vec<u32>,
    /// What each stands for, of 1 in all.
    shares: Vec<f64>,
    logits: Vec<f32>,
}

impl Outcomes {
    /// Of a prediction with these logits, `[vocabulary]`. `None` if they are not finite.
    pub fn of(logits: &[f32]) -> Option<Self> {
        let log_sum = f64::from(logits[0]) - log_probability(logits, 0)?;
        let share = |token: u32| (f64::from(logits[token as usize]) - log_sum).exp();
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let likely = LIKELY.min(order.len());
        if likely < order.len() {
            order.select_nth_unstable_by(likely, |&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
        }
        let (likely, others) = order.split_at(likely);
        let mut tokens = likely.to_vec();
        let mut shares: Vec<f64> = likely.iter().map(|&token| share(token)).collect();
        // Places in even steps through what the others have between them.
        let step = others.iter().map(|&token| share(token)).sum::<f64>() / DRAWN as f64;
        let (mut passed, mut next) = (0.0, step / 2.0);
        for &token in others {
            passed += share(token);
            let before = next;
            while next < passed {
                next += step;
            }
            if next > before {
                tokens.push(token);
                shares.push(next - before);
            }
        }
        let logits = tokens.iter().map(|&token| logits[token as usize]).collect();
        Some(Self { tokens, shares, logits })
    }

    /// The KL divergence, in nats, to the prediction that `head` makes of `hidden`, `[width]`. Not finite if that is not.
    pub fn divergence(&self, head: &Linear, hidden: &[f32]) -> f64 {
        let matrix = head.weight.matrix();
        let mut row = vec![0.0; matrix.cols];
        let moved = |(&token, &before): (&u32, &f32)| {
            matrix.decode_row(token as usize, &mut row);
            let product: f32 = row.iter().zip(hidden).map(|(w, x)| w * x).sum();
            let bias = head.bias.as_ref().map_or(0.0, |bias| bias.values[token as usize]);
            f64::from(product + bias - before)
        };
        self.divergence_of(self.tokens.iter().zip(&self.logits).map(moved).collect())
    }

    fn divergence_of(&self, moved: Vec<f64>) -> f64 {
        let total: f64 = self.shares.iter().sum();
        let mean = moved.iter().zip(&self.shares).map(|(d, share)| d * share).sum::<f64>() / total;
        // About the mean, so that what all logits move by together, which changes nothing, costs no digits.
        let spread = moved.iter().zip(&self.shares).map(|(d, share)| (d - mean).exp() * share).sum::<f64>() / total;
        spread.ln()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_nn::random::SplitMix64;
    use bantam_nn::softmax::compare;

    #[test]
    fn a_part_of_the_vocabulary_tells_what_the_whole_does() {
        let mut random = SplitMix64::new(3);
        // From a sharp prediction, which the likeliest tokens tell whole, to a flat one, of which most is drawn.
        for (sharpness, tolerance) in [(6.0, 0.02), (3.0, 0.1), (1.0, 0.2)] {
            let logits: Vec<f32> = (0..50_000).map(|_| (sharpness * random.normal()) as f32).collect();
            let (mut found, mut truth) = (0.0, 0.0);
            for _ in 0..20 {
                let moved: Vec<f32> = logits.iter().map(|l| l + 5.0 + 0.3 * random.normal() as f32).collect();
                let outcomes = Outcomes::of(&logits).unwrap();
                let delta = |&token: &u32| f64::from(moved[token as usize]) - f64::from(logits[token as usize]);
                found += outcomes.divergence_of(outcomes.tokens.iter().map(delta).collect());
                truth += compare(&logits, &moved, 0).unwrap().kl;
            }
            assert!((found / truth - 1.0).abs() < tolerance, "{sharpness}: {found} instead of {truth}");
        }
    }

    #[test]
    fn a_small_vocabulary_is_taken_whole() {
        let logits = [1.0, -2.0, 0.5, 3.0];
        let outcomes = Outcomes::of(&logits).unwrap();
        let moved = [1.5, -2.5, 0.0, 3.25];
        let delta = |&token: &u32| f64::from(moved[token as usize] - logits[token as usize]);
        let found = outcomes.divergence_of(outcomes.tokens.iter().map(delta).collect());
        assert!((found - compare(&logits, &moved, 0).unwrap().kl).abs() < 1e-6);
        assert!((outcomes.shares.iter().sum::<f64>() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_finite_is_none() {
        assert!(Outcomes::of(&[0.0, f32::NAN]).is_none());
        assert!(Outcomes::of(&[0.0, f32::INFINITY]).is_none());
    }
}
