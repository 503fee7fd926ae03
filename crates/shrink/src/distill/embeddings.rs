//! Learning a teacher's embeddings of unlabelled sentences.

use super::encoder_teacher::EncoderTeacher;
use super::matching::{self, EmbeddingMatching};
use crate::Error;
use crate::text::{Mixture, Sentences};
use crate::train::{Pass, Task};
use bantam_nn::random::SplitMix64;
use bantam_nn::train::{Dropout, Parameters, Train, Var};
use bantam_nn::{Backend, Encoder};

/// Batches of sentences, drawn from a mixture.
pub struct EmbeddingTask<'a> {
    student: &'a Encoder,
    teacher: EncoderTeacher<'a>,
    sources: &'a [Sentences],
    mixture: Mixture,
    matching: EmbeddingMatching,
    /// The teacher's layer that each of the student's is to be like.
    layers: Vec<usize>,
    /// Sentences a step.
    batch: usize,
    /// The most tokens of a sentence.
    length: usize,
    seed: u64,
    /// Shares of the embeddings and of what layers add that are dropped.
    pub dropout: (f32, f32),
    /// Whether the embeddings of tokens are held fixed.
    pub fixed_tokens: bool,
}

/// The teacher's layer for each of the student's, spread evenly, the last for the last.
pub fn spread(student: usize, teacher: usize) -> Vec<usize> {
    (1..=student).map(|layer| (layer * teacher).div_ceil(student).max(1) - 1).collect()
}

/// Where the projection lies that brings the student's embeddings, or a layer's hidden states, to the teacher's width. It is
/// trained with the student and is no part of it.
pub(super) fn projection(what: &str) -> String {
    format!("distill.projection.{what}")
}

/// Adds a projection to begin with, random and as large as keeps the values' size: `[teacher's width, student's width]`.
pub(super) fn insert_projection(parameters: &mut Parameters, what: &str, shape: [usize; 2], random: &mut SplitMix64) {
    let spread = 1.0 / (shape[1] as f64).sqrt();
    let values = (0..shape[0] * shape[1]).map(|_| (random.normal() * spread) as f32).collect();
    parameters.insert(&projection(what), &shape, values);
}

impl<'a> EmbeddingTask<'a> {
    /// Learning from `teacher` what `matching` says. `layers` has the teacher's layer for each of the student's.
    pub fn new(
        student: &'a Encoder,
        teacher: EncoderTeacher<'a>,
        sources: &'a [Sentences],
        matching: EmbeddingMatching,
        layers: Vec<usize>,
        (batch, length, seed): (usize, usize, u64),
    ) -> Self {
        let mixture = Mixture::of_sentences(sources, seed);
        let layers = if matching.of_layers() { layers } else { Vec::new() };
        Self {
            student,
            teacher,
            sources,
            mixture,
            matching,
            layers,
            batch,
            length,
            seed,
            dropout: (0.0, 0.0),
            fixed_tokens: false,
        }
    }

    /// The sentences of a step.
    fn drawn(&mut self, step: u64) -> Vec<&'a str> {
        let draws = (0..self.batch as u64).map(|i| self.mixture.draw(step * self.batch as u64 + i));
        let sources = self.sources;
        draws.map(|(source, at)| &sources[source].texts[at][..]).collect()
    }

    fn widths_differ(&self) -> bool {
        self.student.width() != self.teacher.encoder().width()
    }

    /// The student's values at the teacher's width.
    fn projected(&self, pass: &mut Train<'_>, what: &str, x: &Var) -> Var {
        if self.widths_differ() { pass.project(&projection(what), x) } else { x.clone() }
    }

    /// Sets off the gradients of all that is matched; returns the loss.
    fn learn(
        &self,
        pass: &mut Train<'_>,
        pooled: &Var,
        (layers, lengths): (&[Var], &[usize]),
        taught: &super::encoder_teacher::Taught,
    ) -> f64 {
        let EmbeddingMatching { cosine, mse, relation, hidden, token_relation } = self.matching;
        let (width, teacher_width) = (self.student.width(), self.teacher.encoder().width());
        let mut loss = 0.0;
        if cosine > 0.0 || mse > 0.0 {
            let x = self.projected(pass, "embedding", pooled);
            let mut gradient = vec![0.0; x.len()];
            if cosine > 0.0 {
                loss += matching::cosine(&x, &taught.embeddings, teacher_width, cosine, &mut gradient);
            }
            if mse > 0.0 {
                loss += matching::squares(&x, &taught.embeddings, mse, &mut gradient);
            }
            pass.set_off(&x, &gradient);
        }
        if relation > 0.0 {
            let mut gradient = vec![0.0; pooled.len()];
            loss += matching::relation(pooled, width, &taught.embeddings, teacher_width, relation, &mut gradient);
            pass.set_off(pooled, &gradient);
        }
        let each = 1.0 / self.layers.len().max(1) as f32;
        for (layer, (state, target)) in layers.iter().zip(&taught.hidden).enumerate() {
            if hidden.any() {
                let x = self.projected(pass, &format!("layer{layer}"), state);
                let mut gradient = vec![0.0; x.len()];
                loss += hidden.loss(&x, target, teacher_width, each, &mut gradient);
                pass.set_off(&x, &gradient);
            }
            if token_relation > 0.0 {
                let mut gradient = vec![0.0; state.len()];
                let (ours, theirs) = ((&state[..], width), (&target[..], teacher_width));
                loss += matching::token_relation(ours, theirs, lengths, token_relation * each, &mut gradient);
                pass.set_off(state, &gradient);
            }
        }
        loss
    }
}

impl Task for EmbeddingTask<'_> {
    fn description(&self) -> String {
        // A file of the same name may have other text by now.
        let weights: Vec<Option<f64>> = self.sources.iter().map(|s| s.spec.weight).collect();
        let lengths: Vec<usize> = self.sources.iter().map(|s| s.texts.len()).collect();
        let (text, teacher) = (Sentences::fingerprint(self.sources), self.teacher.description());
        let Self { matching, layers, batch, length, seed, dropout, fixed_tokens, .. } = self;
        format!(
            "sentences {text:016x}, {lengths:?} in files of weights {weights:?}, batch {batch}, length {length}, seed {seed}, dropout {dropout:?}, \
             fixed tokens {fixed_tokens}, \
             teacher {teacher}, {matching:?}, layers {layers:?}, student {:?}",
            self.student.config()
        )
    }

    fn extend(&self, parameters: &mut Parameters) {
        if self.fixed_tokens {
            parameters.freeze(|path| path == "token_embd.weight");
        }
        if !self.widths_differ() {
            return;
        }
        let shape = [self.teacher.encoder().width(), self.student.width()];
        let embedding = (self.matching.cosine > 0.0 || self.matching.mse > 0.0).then(|| "embedding".to_owned());
        let projected = if self.matching.hidden.any() { self.layers.len() } else { 0 };
        let layers = (0..projected).map(|layer| format!("layer{layer}"));
        for (i, what) in embedding.into_iter().chain(layers).enumerate() {
            insert_projection(parameters, &what, shape, &mut SplitMix64::child(self.seed, i as u64));
        }
    }

    fn pass(&mut self, step: u64, parameters: &mut Parameters) -> Result<Pass, Error> {
        let sentences = self.drawn(step);
        let taught = self.teacher.teaches(&sentences, &self.layers)?;
        let tokens = |text: &&str| self.student.tokens(text, self.length);
        let sequences = sentences.iter().map(tokens).collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<usize> = sequences.iter().map(Vec::len).collect();
        let (input, hidden) = self.dropout;
        let dropout = Dropout { input, hidden, seed: SplitMix64::child(self.seed, step).next() };
        let mut pass = Train::new(parameters, &lengths).with_dropout(dropout);
        let mut layers = Vec::new();
        let mut keep = |_, x: &Var| {
            if layers.len() < self.layers.len() {
                layers.push(x.clone());
            }
        };
        let hidden = self.student.definition().hidden(&mut pass, &sequences.concat(), &mut keep);
        let pooled = pass.pool(self.student.pooling(), &hidden);
        let loss = self.learn(&mut pass, &pooled, (&layers, &lengths), &taught);
        pass.backward();
        Ok(Pass { loss, items: lengths.iter().sum() })
    }
}

#[cfg(test)]
mod tests {
    use super::spread;

    #[test]
    fn layers_are_spread_with_the_last_for_the_last() {
        assert_eq!(spread(3, 6), [1, 3, 5]);
        assert_eq!(spread(6, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(spread(4, 6), [1, 2, 4, 5]);
        assert_eq!(spread(3, 1), [0, 0, 0]);
    }
}
