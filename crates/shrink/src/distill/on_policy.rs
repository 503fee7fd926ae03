//! Learning from one's own text: the student writes, the teacher judges each token (Agarwal et al. 2024, GKD; Gu et al. 2024,
//! MiniLLM). What a student says at inference is then what it was trained on; text of others never shows it its own mistakes.
//!
//! The gradient is that of the divergence at the positions written, as in GKD: it does not go through the drawing of tokens.
//!
//! Cost: a step writes its share of sequences together, token by token, with the f32 weights as they lie in memory: about one
//! reading of all weights for each token of the longest, beside the teacher's pass over what was written (it cannot be kept, as the
//! text is new each time).

use super::task::Example;
use super::{Said, Teacher};
use crate::Error;
use crate::text::Sequence;
use bantam_nn::generate::{Request, generate};
use bantam_nn::random::SplitMix64;
use bantam_nn::train::Parameters;
use bantam_nn::{Model, Sampler, Sampling};

/// A student's own text in its training.
pub struct OnPolicy<'a> {
    share: f64,
    length: usize,
    ends: Vec<u32>,
    teacher: Box<dyn Teacher + 'a>,
}

impl<'a> OnPolicy<'a> {
    /// `share` of a step's sequences, within 0 and 1, is written by the student after the beginnings of the data's: what is
    /// not learned of a sequence, or the first half of a text of which all is. They have up to `length` tokens; `ends` end
    /// them. `teacher` judges them: it must be one that can be asked anything.
    pub fn new(share: f64, length: usize, ends: Vec<u32>, teacher: Box<dyn Teacher + 'a>) -> Self {
        Self { share, length, ends, teacher }
    }

    /// All that changes what is learned.
    pub(super) fn description(&self) -> String {
        format!("{} of sequences up to {}, judged by {}", self.share, self.length, self.teacher.description())
    }

    /// Has the student write its share of a step's sequences in place of those at the places returned. What it writes is a
    /// function of the step, the seed and the weights.
    pub(super) fn write(
        &self,
        step: u64,
        seed: u64,
        drawn: &[Example<'_>],
        student: &Model,
        parameters: &Parameters,
    ) -> Result<Vec<(usize, Sequence)>, Error> {
        let mut written = Vec::new();
        for at in places(self.share, step, seed, drawn.len()) {
            let example = &drawn[at];
            let prompt = beginning(example.sequence());
            if prompt < self.length {
                let sampling = Sampling {
                    temperature: 1.0,
                    seed: SplitMix64::child(seed, at as u64).next(),
                    ..Sampling::default()
                };
                let tokens = example.sequence().tokens[..prompt].to_vec();
                let sampler = Sampler::new(sampling)?;
                written.push((at, Request { limit: self.length - prompt, prompt: tokens, sampler }));
            }
        }
        let (places, mut requests): (Vec<usize>, Vec<Request>) = written.into_iter().unzip();
        let mut batch = student.batch_of(parameters, requests.len(), self.length);
        let is_end = |token| self.ends.contains(&token);
        let continuations = generate(&mut batch, &mut requests, &is_end, &mut |_, _, _| true)?;
        let sequences = requests.into_iter().zip(continuations).map(|(request, continuation)| {
            let (begins, mut tokens) = (request.prompt.len(), request.prompt);
            tokens.extend(continuation.tokens);
            tokens.extend(continuation.end);
            Sequence { learned: (0..tokens.len()).map(|i| i >= begins).collect(), tokens, told: Vec::new() }
        });
        Ok(places.into_iter().zip(sequences).collect())
    }

    /// What the teacher says of what was written.
    pub(super) fn judge(&mut self, tokens: &[u32]) -> Result<Said, Error> {
        self.teacher.says(u64::MAX, tokens)
    }
}

/// Which of a step's sequences the student writes: some of all, since sources take turns in an order that may be the same in each step.
fn places(share: f64, step: u64, seed: u64, sequences: usize) -> Vec<usize> {
    // Shares hold over steps too, where one step has none or one.
    let upto = |step: u64| (step as f64 * sequences as f64 * share).round() as usize;
    let mut places: Vec<usize> = (0..sequences).collect();
    SplitMix64::child(seed, u64::MAX).shuffle(&mut places);
    places.truncate(upto(step + 1) - upto(step));
    places
}

/// How many tokens of a sequence the student is given.
fn beginning(sequence: &Sequence) -> usize {
    match sequence.learned.iter().position(|&learned| learned) {
        Some(given) if given > 1 => given,
        _ => sequence.tokens.len().div_ceil(2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_have_their_share() {
        for (share, sequences) in [(0.5, 4), (0.1, 3), (1.0, 2)] {
            let mut counts = vec![0; sequences];
            for step in 0..1000 {
                places(share, step, SplitMix64::child(7, step).next(), sequences)
                    .iter()
                    .for_each(|&at| counts[at] += 1);
            }
            let (all, expected) = (counts.iter().sum::<usize>(), 1000.0 * share);
            assert_eq!(all, (expected * sequences as f64).round() as usize);
            assert!(counts.iter().all(|&count| (count as f64 / expected - 1.0).abs() < 0.2), "{share}: {counts:?}");
        }
    }
}
