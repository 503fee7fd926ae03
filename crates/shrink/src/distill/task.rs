//! Learning from sequences: labels, a teacher's probabilities, or both.

use super::embeddings::{insert_projection, projection};
use super::matching::States;
use super::{Divergence, OnPolicy, Said, Soft, SoftLabels, Teacher, fingerprint};
use crate::Error;
use crate::text::{Mixture, Sequence, Source};
use crate::train::{Pass, Task};
use bantam_nn::Model;
use bantam_nn::random::SplitMix64;
use bantam_nn::train::{CrossEntropy, Dropout, Objective, Parameters, Train, Var};
use xxhash_rust::xxh3::Xxh3;

/// How a teacher's word is weighed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Matching {
    /// What to bring down.
    pub divergence: Divergence,
    /// T of the student; the teacher was asked at the same.
    pub temperature: f32,
    /// The weight of the teacher's word beside the labels.
    pub soft: f32,
}

/// Hidden states to match beside what is said.
#[derive(Clone, Debug, PartialEq)]
pub struct HiddenMatching {
    /// How heavily, beside the teacher's word, whose weight is 1.
    pub weights: States,
    /// The teacher's layer for each of the student's, counted from 0; the teacher tells their states.
    pub layers: Vec<usize>,
    /// The teacher's width; where the student's differs, a projection is learned for each layer.
    pub width: usize,
}

/// Batches of sequences, drawn from a mixture.
pub struct TextTask<'a> {
    /// The student.
    pub student: &'a Model,
    sources: &'a [Source],
    mixture: Mixture,
    seed: u64,
    /// Sequences a step.
    pub batch: usize,
    /// Sequences gone through together; a step goes through its batch part by part and adds up the gradients. They are those of the whole
    /// batch but for what is dropped, and for hidden states, whose distance is a share of the part's squares.
    pub at_once: usize,
    /// Shares of the embeddings and of what layers add that are dropped.
    pub dropout: (f32, f32),
    /// Without one the labels alone are learned.
    pub teacher: Option<(Box<dyn Teacher + 'a>, Matching)>,
    /// The teacher's hidden states to match.
    pub hidden: Option<HiddenMatching>,
    /// A share of the sequences is written by the student itself.
    pub on_policy: Option<OnPolicy<'a>>,
}

impl<'a> TextTask<'a> {
    /// Learning from labels alone.
    pub fn new(student: &'a Model, sources: &'a [Source], batch: usize, seed: u64) -> Self {
        Self {
            student,
            sources,
            mixture: Mixture::new(sources, seed),
            seed,
            batch,
            at_once: batch,
            dropout: (0.0, 0.0),
            teacher: None,
            hidden: None,
            on_policy: None,
        }
    }

    /// How many steps go through about so many tokens, none of them written by the student.
    pub fn steps_within(&self, tokens: f64) -> usize {
        let mean = |source: &Source| source.tokens() as f64 / source.sequences.len() as f64;
        let of_a_draw: f64 = self.sources.iter().zip(self.mixture.shares()).map(|(s, share)| share * mean(s)).sum();
        (tokens / (self.batch as f64 * of_a_draw)) as usize
    }

    /// The sequences of a step, with their numbers.
    fn drawn(&mut self, step: u64) -> Vec<(u64, &'a Sequence)> {
        let draws = (0..self.batch as u64).map(|i| self.mixture.draw(step * self.batch as u64 + i));
        let sources = self.sources;
        let number = |source: usize, at: usize| {
            sources[..source].iter().map(|s| s.sequences.len() as u64).sum::<u64>() + at as u64
        };
        draws.map(|(source, at)| (number(source, at), &sources[source].sequences[at])).collect()
    }
}

impl Task for TextTask<'_> {
    fn description(&self) -> String {
        // A file of the same name may have other text by now.
        let shares: Vec<f64> = self.mixture.shares().collect();
        let (text, learned) = (fingerprint(self.sources), learned(self.sources));
        let text = format!("text {text:016x}, learned {learned:016x}, in shares {shares:?}");
        let teacher =
            self.teacher.as_ref().map(|(teacher, matching)| format!("{}, {matching:?}", teacher.description()));
        let Self { batch, seed, dropout, hidden, .. } = self;
        let on_policy = self.on_policy.as_ref().map(OnPolicy::description);
        // Each part of a batch draws anew what is dropped, and measures hidden states by its own squares.
        let in_parts = *dropout != (0.0, 0.0) || hidden.is_some();
        let at_once = if in_parts { self.at_once } else { self.batch };
        let task =
            format!("{text}, batch {batch}, at once {at_once}, seed {seed}, dropout {dropout:?}, teacher {teacher:?}");
        // Equal weights may be of another model.
        let student = self.student.config();
        format!("{task}, hidden {hidden:?}, on policy {on_policy:?}, student {student:?}")
    }

    fn extend(&self, parameters: &mut Parameters) {
        let width = self.student.config().embedding_length;
        let Some(hidden) = self.hidden.as_ref().filter(|hidden| hidden.width != width) else { return };
        for layer in 0..hidden.layers.len() {
            let random = &mut SplitMix64::child(self.seed, layer as u64);
            insert_projection(parameters, &format!("layer{layer}"), [hidden.width, width], random);
        }
    }

    fn pass(&mut self, step: u64, parameters: &mut Parameters) -> Result<Pass, Error> {
        let mut sequences: Vec<Example<'_>> = self.drawn(step).into_iter().map(Example::Data).collect();
        if let Some(on_policy) = &self.on_policy {
            let seed = SplitMix64::child(self.seed, step).next();
            for (at, written) in on_policy.write(step, seed, &sequences, self.student, parameters)? {
                sequences[at] = Example::Written(written);
            }
        }
        let taught = sequences
            .into_iter()
            .map(|example| Ok((self.said(&example)?, example)))
            .collect::<Result<Vec<(Option<Said>, Example<'_>)>, Error>>()?;
        let counting = |examples: &[(Option<Said>, Example<'_>)]| {
            examples.iter().map(|(said, example)| self.counting(said.as_ref(), example.sequence())).sum::<usize>()
                as f32
        };
        let all = counting(&taught).max(1.0);
        let mut whole = Pass { loss: 0.0, items: 0 };
        let mut random = SplitMix64::child(self.seed, step);
        for part in taught.chunks(self.at_once.max(1)) {
            let dropout = Dropout { input: self.dropout.0, hidden: self.dropout.1, seed: random.next() };
            let pass = self.part(part, counting(part) / all, dropout, parameters)?;
            whole = Pass { loss: whole.loss + pass.loss, items: whole.items + pass.items };
        }
        Ok(whole)
    }
}

impl TextTask<'_> {
    /// Of how many tokens of a sequence something is learned.
    fn counting(&self, said: Option<&Said>, sequence: &Sequence) -> usize {
        let of_labels = self.teacher.as_ref().is_none_or(|(_, matching)| matching.soft < 1.0);
        let taught = |at: usize| of_labels || said.is_some_and(|said| said.at(at).is_some());
        next_tokens(sequence).enumerate().filter(|(at, label)| label.is_some() && taught(*at)).count()
    }

    /// Adds the gradients of the mean loss of some sequences, of which that was said, times `share`.
    fn part(
        &self,
        taught: &[(Option<Said>, Example<'_>)],
        share: f32,
        dropout: Dropout,
        parameters: &mut Parameters,
    ) -> Result<Pass, Error> {
        let all = || taught.iter().map(|(_, example)| example.sequence());
        let said = || taught.iter().filter_map(|(said, _)| said.as_ref());
        let tokens: Vec<u32> = all().flat_map(|s| s.tokens.iter().copied()).collect();
        let lengths: Vec<usize> = all().map(|s| s.tokens.len()).collect();
        let labels: Vec<Option<u32>> = all().flat_map(next_tokens).collect();
        let mut pass = Train::new(parameters, &lengths).with_dropout(dropout);
        let definition = self.student.definition();
        let matched = self.hidden.as_ref().map_or(0, |hidden| hidden.layers.len());
        let mut states = Vec::with_capacity(matched);
        let mut keep = |layer, x: &Var| {
            if layer < matched {
                states.push(x.clone());
            }
        };
        let hidden = definition.observe(&mut pass, &tokens, &mut keep);
        let mut learn = |objective: &dyn Objective| pass.loss(definition.head(), &hidden, objective, share);
        let loss = match &self.teacher {
            None => learn(&CrossEntropy { targets: &labels }),
            Some((_, Matching { divergence, temperature, soft })) => {
                let all = said().flat_map(|said| (0..said.positions()).map(|at| said.at(at)));
                let teacher: Vec<Option<Soft<'_>>> =
                    all.zip(&labels).map(|(said, label)| said.filter(|_| label.is_some())).collect();
                let (divergence, temperature, soft) = (*divergence, *temperature, *soft);
                learn(&SoftLabels { teacher: &teacher, labels: &labels, divergence, temperature, soft })
            }
        };
        let mut apart = 0.0;
        if let Some(matching) = &self.hidden {
            apart = matching.set_off(&mut pass, &states, &said().collect::<Vec<_>>(), share);
        }
        pass.backward();
        Ok(Pass { loss: loss + apart, items: tokens.len() })
    }
}

impl HiddenMatching {
    /// Sets off the gradients that bring the student's states nearer to the teacher's; returns the loss, times `share`.
    fn set_off(&self, pass: &mut Train<'_>, states: &[Var], said: &[&Said], share: f32) -> f64 {
        let mut loss = 0.0;
        for (layer, state) in states.iter().enumerate() {
            let of_layer = |said: &Said| {
                let len = said.positions() * self.width;
                said.hidden[layer * len..(layer + 1) * len].to_vec()
            };
            let target: Vec<f32> = said.iter().copied().flat_map(of_layer).collect();
            let x = match state.cols() == self.width {
                true => state.clone(),
                false => pass.project(&projection(&format!("layer{layer}")), state),
            };
            let mut gradient = vec![0.0; x.len()];
            let share = share / states.len() as f32;
            loss += self.weights.loss(&x, &target, self.width, share, &mut gradient);
            pass.set_off(&x, &gradient);
        }
        loss
    }
}

impl TextTask<'_> {
    /// What the teacher says of a sequence, if there is one.
    fn said(&mut self, example: &Example<'_>) -> Result<Option<Said>, Error> {
        match (example, &mut self.teacher, &mut self.on_policy) {
            (Example::Written(sequence), _, Some(on_policy)) => on_policy.judge(&sequence.tokens).map(Some),
            (Example::Data((number, sequence)), Some((teacher, _)), _) => {
                teacher.says(*number, &sequence.tokens).map(Some)
            }
            _ => Ok(None),
        }
    }
}

/// A hash of where sources part and of which tokens of their sequences are learned: neither changes what a teacher says of them.
fn learned(sources: &[Source]) -> u64 {
    let mut hash = Xxh3::new();
    for source in sources {
        hash.update(&(source.sequences.len() as u64).to_le_bytes());
        source.sequences.iter().flat_map(|s| &s.learned).for_each(|&learned| hash.update(&[u8::from(learned)]));
    }
    hash.digest()
}

/// A sequence of a step.
pub(super) enum Example<'a> {
    /// Of the data, with its number.
    Data((u64, &'a Sequence)),
    /// Written by the student.
    Written(Sequence),
}

impl Example<'_> {
    pub(super) fn sequence(&self) -> &Sequence {
        match self {
            Example::Data((_, sequence)) => sequence,
            Example::Written(sequence) => sequence,
        }
    }
}

/// The token that follows each, where it is to be learned.
fn next_tokens(sequence: &Sequence) -> impl Iterator<Item = Option<u32>> + '_ {
    let next = sequence.tokens.iter().zip(&sequence.learned).skip(1).map(|(&token, &learned)| learned.then_some(token));
    next.chain([None])
}
