//! Choosing the next token from logits.

use crate::random::SplitMix64;
use crate::{Error, Result};

/// How to choose. The steps apply in the order of the fields down to `min_p`, then the temperature (llama.cpp's order).
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Logits of recent tokens are divided by this if positive, multiplied if negative (Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Only the `top_k` most likely tokens stay; 0 keeps all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability stay (Holtzman et al. 2020); 1 keeps all.
    pub top_p: f32,
    /// Only tokens at least this many times as likely as the likeliest stay (Nguyen et al. 2024); 0 keeps all.
    pub min_p: f32,
    /// Logits are divided by this; 0 always takes the likeliest token.
    pub temperature: f32,
    /// The same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    /// The likeliest token.
    fn default() -> Self {
        Self { repetition_penalty: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, temperature: 0.0, seed: 0 }
    }
}

/// Chooses tokens; holds the state of the random numbers.
pub struct Sampler {
    sampling: Sampling,
    random: SplitMix64,
    candidates: Vec<Candidate>,
}

#[derive(Clone, Copy)]
struct Candidate {
    token: u32,
    logit: f32,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// # Errors
    /// If a setting makes no sense.
    pub fn new(sampling: Sampling) -> Result<Self> {
        let error = |message| Err(Error::Sampling { message });
        let Sampling { repetition_penalty, top_p, min_p, temperature, .. } = sampling;
        if !(temperature.is_finite() && temperature >= 0.0) {
            return error(format!(
                "the temperature is {temperature}; 0 (always the likeliest token) or more is needed"
            ));
        }
        if !(repetition_penalty.is_finite() && repetition_penalty > 0.0) {
            return error(format!("the repetition penalty is {repetition_penalty}; more than 0 is needed, 1 for none"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return error(format!("top-p is {top_p}; more than 0 and up to 1 is needed"));
        }
        if !(0.0..=1.0).contains(&min_p) {
            return error(format!("min-p is {min_p}; 0 to 1 is needed"));
        }
        Ok(Self { random: SplitMix64::new(sampling.seed), sampling, candidates: Vec::new() })
    }

    /// The next token, given the logits of the whole vocabulary and the tokens whose repetition is penalized.
    ///
    /// # Errors
    /// If a logit is NaN, or the largest is infinite.
    pub fn sample(&mut self, logits: &[f32], recent: &[u32]) -> Result<u32> {
        if let Some(token) = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
            return Err(Error::NotANumber { token });
        }
        self.candidates.clear();
        self.candidates.extend((0..).zip(logits).map(|(token, &logit)| Candidate { token, logit }));
        self.penalize(recent);
        if self.sampling.temperature == 0.0 {
            return Ok(self.candidates.iter().copied().reduce(likelier).map_or(0, |c| c.token));
        }
        self.keep_top_k();
        self.keep_top_p();
        self.keep_min_p();
        Ok(self.draw())
    }

    fn penalize(&mut self, recent: &[u32]) {
        let penalty = self.sampling.repetition_penalty;
        if penalty == 1.0 {
            return;
        }
        for (i, &token) in recent.iter().enumerate() {
            if recent[..i].contains(&token) {
                continue; // penalized once, however often it occurs
            }
            if let Some(candidate) = self.candidates.get_mut(token as usize) {
                let factor = if candidate.logit > 0.0 { 1.0 / penalty } else { penalty };
                candidate.logit *= factor;
            }
        }
    }

    /// Keeps the `top_k` likeliest, sorted.
    fn keep_top_k(&mut self) {
        let k = self.sampling.top_k;
        if k > 0 && k < self.candidates.len() {
            self.candidates.select_nth_unstable_by(k - 1, order);
            self.candidates.truncate(k);
        }
        // Sorting a whole vocabulary is only needed to find where top-p cuts it.
        if k > 0 || self.sampling.top_p < 1.0 {
            self.candidates.sort_unstable_by(order);
        }
    }

    fn keep_top_p(&mut self) {
        if self.sampling.top_p == 1.0 {
            return;
        }
        let max = self.max();
        let weight = |c: &Candidate| f64::from(c.logit - max).exp();
        let mut rest = f64::from(self.sampling.top_p) * self.candidates.iter().map(weight).sum::<f64>();
        let reaches = self.candidates.iter().position(|c| {
            rest -= weight(c);
            rest <= 0.0
        });
        self.candidates.truncate(reaches.map_or(usize::MAX, |i| i + 1));
    }

    fn keep_min_p(&mut self) {
        if self.sampling.min_p > 0.0 {
            let threshold = self.max() + self.sampling.min_p.ln();
            self.candidates.retain(|c| c.logit >= threshold);
        }
    }

    fn draw(&mut self) -> u32 {
        let max = self.max();
        let temperature = f64::from(self.sampling.temperature);
        let weight = |c: &Candidate| (f64::from(c.logit - max) / temperature).exp();
        let mut rest = self.random.unit() * self.candidates.iter().map(weight).sum::<f64>();
        let drawn = self.candidates.iter().find(|c| {
            rest -= weight(c);
            rest < 0.0
        });
        // Rounding may leave a rest beyond the last candidate.
        drawn.or(self.candidates.last()).map_or(0, |c| c.token)
    }

    fn max(&self) -> f32 {
        self.candidates.iter().fold(f32::MIN, |max, c| max.max(c.logit))
    }
}

/// The likelier first; of equals the smaller token, so that the order does not depend on the sort.
fn order(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// The likelier of two; of equals the first.
fn likelier(a: Candidate, b: Candidate) -> Candidate {
    if b.logit > a.logit { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(sampling: Sampling, logits: &[f32], n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(sampling).unwrap();
        (0..n).map(|_| sampler.sample(logits, &[]).unwrap()).collect()
    }

    fn random(seed: u64) -> Sampling {
        Sampling { temperature: 1.0, seed, ..Sampling::default() }
    }

    #[test]
    fn greedy_takes_the_first_of_the_likeliest() {
        assert_eq!(draws(Sampling::default(), &[0.0, 3.0, 3.0, -1.0], 1), [1]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let drawn = draws(random(1), &logits, 20_000);
        let share = |token| drawn.iter().filter(|&&t| t == token).count() as f64 / 20_000.0;
        assert!((share(0) - 0.5).abs() < 0.02 && (share(1) - 0.3).abs() < 0.02 && (share(2) - 0.2).abs() < 0.02);
    }

    #[test]
    fn temperature_sharpens() {
        let logits = [0.0, 1.0];
        let cold = draws(Sampling { temperature: 0.2, ..random(1) }, &logits, 1000);
        let hot = draws(Sampling { temperature: 5.0, ..random(1) }, &logits, 1000);
        let zeros = |drawn: Vec<u32>| drawn.iter().filter(|&&t| t == 0).count();
        assert!(zeros(cold) < 30);
        assert!(zeros(hot) > 350);
    }

    #[test]
    fn the_seed_decides() {
        let logits = [0.0; 100];
        assert_eq!(draws(random(7), &logits, 50), draws(random(7), &logits, 50));
        assert_ne!(draws(random(7), &logits, 50), draws(random(8), &logits, 50));
    }

    #[test]
    fn filters_keep_what_they_say() {
        let logits = [0.4f32.ln(), 0.1f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
        let seen = |sampling| {
            let mut seen = draws(sampling, &logits, 500);
            seen.sort();
            seen.dedup();
            seen
        };
        assert_eq!(seen(Sampling { top_k: 2, ..random(1) }), [0, 2]);
        assert_eq!(seen(Sampling { top_p: 0.65, ..random(1) }), [0, 2]);
        assert_eq!(seen(Sampling { top_p: 0.75, ..random(1) }), [0, 2, 3]);
        assert_eq!(seen(Sampling { min_p: 0.45, ..random(1) }), [0, 2, 3]);
    }

    #[test]
    fn repetition_is_penalized_whatever_the_sign() {
        let mut sampler = Sampler::new(Sampling { repetition_penalty: 2.0, ..Sampling::default() }).unwrap();
        assert_eq!(sampler.sample(&[3.0, 2.0], &[0]).unwrap(), 1);
        assert_eq!(sampler.sample(&[-1.0, -1.5], &[0, 0]).unwrap(), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        let mut sampler = Sampler::new(Sampling::default()).unwrap();
        assert!(matches!(sampler.sample(&[0.0, f32::NAN], &[]), Err(Error::NotANumber { token: 1 })));
        for bad in [
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { min_p: 1.5, ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
        ] {
            assert!(matches!(Sampler::new(bad), Err(Error::Sampling { .. })));
        }
    }
}
