//! A candidate against its base.

use crate::base::{Base, BaseText, check_context};
use crate::divergence::{Chunk, score, scored, summarize};
use crate::results::{Category, Evaluation, Sample};
use crate::{Error, Progress, Result, choice, samples, summary};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_nn::softmax::Broken;
use bantam_nn::{Model, Session};
use std::collections::BTreeMap;
use std::path::Path;

/// Measures a candidate, unless it was measured before: divergence from the base by category, multiple choice, sample continuations. Speed and
/// how the candidate was made are left for the caller to fill in.
///
/// Memory is bounded by one chunk's hidden states and [`LOGITS`] logits of each model.
///
/// # Errors
/// If the candidate cannot be loaded or run, its tokenizer or vocabulary is not the base's, or logits are not finite.
pub fn evaluate(candidate: &Checkpoint, base: &mut Base, progress: &dyn Progress) -> Result<Evaluation> {
    let path = candidate.path();
    let tokenizer = Tokenizer::of(candidate)?;
    let model = Model::load(candidate)?;
    same_vocabulary((path, &tokenizer, &model), (&base.path, &base.tokenizer, &base.model))?;
    check_context(path, base.context(), model.config().context_length)?;
    same_splits(path, &tokenizer, base)?;
    base.evaluation(candidate, &model, progress, |base| measure(candidate, &tokenizer, &model, base, progress))
}

fn measure(
    candidate: &Checkpoint,
    tokenizer: &Tokenizer,
    model: &Model,
    base: &mut Base,
    progress: &dyn Progress,
) -> Result<Evaluation> {
    let path = candidate.path();
    let categories = divergences(path, model, base, LOGITS, progress)?;
    let choices = base.tasks.iter().map(|(task, base_answers)| {
        Ok(choice::mark(task, &choice::answers(model, path, tokenizer, task, progress)?, base_answers))
    });
    let samples = base.samples.iter().map(|(prompt, continuation)| {
        let candidate = samples::continuation(model, tokenizer, prompt)?;
        Ok(Sample { prompt: prompt.clone(), base: continuation.clone(), candidate })
    });
    Ok(Evaluation {
        candidate: summary::of(candidate)?,
        choices: choices.collect::<Result<_>>()?,
        samples: samples.collect::<Result<_>>()?,
        overall: summarize(categories.values().map(Vec::as_slice)),
        categories: categories.iter().map(|(&c, chunks)| (c, summarize([chunks.as_slice()]))).collect(),
        speed: None,
        made_by: Vec::new(),
        seconds_to_make: None,
    })
}

/// The chunks' scores by category, from up to `at_once` logits of each model at a time, but at least those of a token.
fn divergences(
    path: &Path,
    model: &Model,
    base: &mut Base,
    at_once: usize,
    progress: &dyn Progress,
) -> Result<BTreeMap<Category, Vec<Chunk>>> {
    let context = base.context();
    let total = base.texts.iter().map(|text| text.tokens.len()).sum();
    let mut done = 0;
    let mut categories = BTreeMap::<Category, Vec<Chunk>>::new();
    let mut pair = Pair {
        paths: (path, &base.path),
        session: model.session(context),
        base_head: base.model.session(context),
        vocab: model.config().vocab_size,
        widths: (model.config().embedding_length, base.model.config().embedding_length),
        at_once,
        logits: [Vec::new(), Vec::new()],
    };
    for text in &mut base.texts {
        for i in 0..text.tokens.len() / context {
            progress.update("text", done, total, "tokens");
            let chunk = pair.chunk(text, i, context)?;
            categories.entry(text.text.category).or_default().push(chunk);
            done += context;
        }
    }
    progress.update("text", total, total, "tokens");
    Ok(categories)
}

/// Logits of each model held at once: 64 MB.
pub const LOGITS: usize = 1 << 24;

/// Candidate and base on the same chunk.
struct Pair<'m> {
    paths: (&'m Path, &'m Path),
    session: Session<'m>,
    /// A session of the base whose head alone is used.
    base_head: Session<'m>,
    vocab: usize,
    widths: (usize, usize),
    /// Logits of each model held at once.
    at_once: usize,
    logits: [Vec<f32>; 2],
}

impl Pair<'_> {
    /// The scores of chunk `i`.
    fn chunk(&mut self, text: &mut BaseText, i: usize, context: usize) -> Result<Chunk> {
        let positions = scored(context);
        let (width, base_width) = self.widths;
        let mut base_hidden = vec![0.0; positions.len() * base_width];
        text.hidden(i, &mut base_hidden)?;
        let tokens = &text.tokens[i * context..(i + 1) * context];
        self.session.truncate(0);
        let hidden = self.session.forward(&tokens[..context - 1])?[positions.start * width..].to_vec();

        let rows = (self.at_once / self.vocab).max(1);
        let mut chunk = Chunk::with_capacity(positions.len());
        let targets = tokens[positions.start + 1..].chunks(rows);
        for ((targets, hidden), base_hidden) in
            targets.zip(hidden.chunks(rows * width)).zip(base_hidden.chunks(rows * base_width))
        {
            let [logits, base_logits] = &mut self.logits;
            logits.resize(targets.len() * self.vocab, 0.0);
            base_logits.resize(targets.len() * self.vocab, 0.0);
            self.session.logits(hidden, logits);
            self.base_head.logits(base_hidden, base_logits);
            let scores = score(base_logits, logits, targets).map_err(|(row, broken)| Error::NotFinite {
                model: if broken == Broken::Base { self.paths.1 } else { self.paths.0 }.to_owned(),
                text: text.text.name.clone(),
                token: i * context + positions.start + chunk.len() + row,
            })?;
            chunk.extend(scores);
        }
        Ok(chunk)
    }
}

/// A model with its tokenizer, and its file for messages.
pub type Speaker<'a> = (&'a Path, &'a Tokenizer, &'a Model);

/// Refuses a candidate that does not have its base's tokens, or begins texts with another one: predictions can be compared only token by
/// token.
///
/// # Errors
/// [`Error::Tokenizers`], with the first difference.
pub fn same_vocabulary(candidate: Speaker<'_>, base: Speaker<'_>) -> Result<()> {
    let [ours, theirs] = [candidate, base].map(|(_, _, model)| model.config().vocab_size);
    if ours != theirs {
        return Err(apart(candidate.0, base.0, format!("{ours} tokens and {theirs}")));
    }
    if let Some(id) = (0..ours as u32).find(|&id| candidate.1.token_text(id) != base.1.token_text(id)) {
        let [ours, theirs] = [candidate, base].map(|(_, tokenizer, _)| tokenizer.token_text(id).unwrap_or(""));
        return Err(apart(candidate.0, base.0, format!("token {id} is {ours:?} and {theirs:?}")));
    }
    let [ours, theirs] = [candidate, base].map(|(_, tokenizer, _)| tokenizer.bos().filter(|_| tokenizer.add_bos()));
    match ours == theirs {
        true => Ok(()),
        false => Err(apart(candidate.0, base.0, "they begin a text with different tokens".to_owned())),
    }
}

/// Equal tokens may still be put together differently; the texts themselves show it.
fn same_splits(path: &Path, candidate: &Tokenizer, base: &Base) -> Result<()> {
    for BaseText { text, .. } in &base.texts {
        let [ours, theirs] = [candidate, &base.tokenizer].map(|t| t.encode(&text.text, Special::DOCUMENT));
        if ours? != theirs? {
            return Err(apart(path, &base.path, format!("they split {} differently", text.name)));
        }
    }
    Ok(())
}

fn apart(candidate: &Path, base: &Path, difference: String) -> Error {
    Error::Tokenizers { candidate: candidate.to_owned(), base: base.to_owned(), difference }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Store;
    use crate::{Options, Suite, Text};
    use bantam_nn::softmax::Score;

    /// A tiny random model of `bantam-nn`'s tests.
    fn checkpoint(name: &str) -> Checkpoint {
        Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures").join(name)).unwrap()
    }

    #[test]
    fn few_logits_at_once_give_the_scores_of_all() {
        const CONTEXT: usize = 32;
        let folder = tempfile::tempdir().unwrap();
        let words = "The quick brown fox jumps over the lazy dog, and then? ".repeat(5);
        let text = Text { category: Category::Prose, name: "fox".into(), source: String::new(), text: words };
        let suite = Suite { texts: vec![text], tasks: Vec::new() };
        let store = Store::at(folder.path());
        let options = Options { context: CONTEXT, chunks: Some(2), samples: false, store };
        // The candidate's hidden states are half as wide as the base's, so that the one's cannot be cut like the other's.
        let candidate = checkpoint("gemma3");
        let mut base = Base::prepare(&checkpoint("llama"), &suite, &options, &()).unwrap();
        let model = Model::load(&candidate).unwrap();
        let mut scores = |at_once: usize| -> Vec<Score> {
            let categories = divergences(candidate.path(), &model, &mut base, at_once, &()).unwrap();
            categories.into_values().flatten().flatten().collect()
        };
        let (whole, vocab) = (scores(LOGITS), model.config().vocab_size);
        assert_eq!(whole.len(), 2 * scored(CONTEXT).len());
        // Four tokens at a time leave three for the last part; less than a token's logits are a token's.
        for tokens in [4, 1, 0] {
            let parts = scores(tokens * vocab + vocab / 2);
            assert_eq!(parts.len(), whole.len());
            for (i, (a, b)) in parts.iter().zip(&whole).enumerate() {
                // Another number of columns is another kernel's, and rounded otherwise.
                let apart = [a.kl - b.kl, a.nll - b.nll, a.base_nll - b.base_nll].map(f64::abs);
                let same = apart.iter().all(|d| *d < 1e-4) && a.same_top == b.same_top;
                assert!(same, "{tokens} at once, prediction {i}: {a:?} is not {b:?}");
            }
        }
    }
}
