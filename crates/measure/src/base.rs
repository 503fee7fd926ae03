//! The base's side of every comparison, computed once and kept.
//!
//! # What is kept, and why
//!
//! Comparing distributions needs the base's logits at every scored token: 49,152 numbers each for SmolLM2, 262,144 for
//! Gemma 3; llama.cpp keeps them in 16 bits, 128 MB to half a gigabyte for each thousand tokens. What is kept here is the base's
//! final hidden state (576 or 640 numbers): its logits are one matrix product away, through the base's own head. That is
//! exact, a few hundred times smaller, and the product costs a candidate's evaluation about as much as its own head does. The
//! base's layers are never run twice on the same text, and its answers to multiple-choice questions and its sample
//! continuations are kept beside.
//!
//! # When it is reused
//!
//! An entry's key hashes the base (file names, lengths, times of writing, all metadata, names, shapes and formats of all
//! tensors, and samples of their bytes), the tokens or questions, the context, bantam's version, and a probe: the hidden
//! states of the first chunk, computed anew each time. Whatever changes what the base computes (a kernel, another
//! processor's instructions, the model's definition) changes their bits, so nobody has to remember to say so; it costs one
//! chunk of the hundred or so that the candidate is about to read. See [`crate::cache`].
//!
//! What was measured of a candidate is kept beside, by its base, what it was measured on, all bytes of its files, and a probe of its own: a
//! comparison that was stopped goes on, and a candidate is measured once, whatever its file is called.

use crate::cache::{Entry, Key, KeyHasher, Lookup, Store};
use crate::kept::{Kept, questions};
use crate::results::{Evaluation, ModelSummary, TextSource};
use crate::{Error, Progress, Result, Suite, Task, Text, samples, summary};
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_checkpoint::{Checkpoint, Config};
use bantam_nn::Model;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Tokens per chunk of text.
    pub context: usize,
    /// Chunks read of each text, from its beginning; all if `None`.
    pub chunks: Option<usize>,
    /// Whether sample continuations are made.
    pub samples: bool,
    /// Where the base's outputs are kept.
    pub store: Store,
}

impl Default for Options {
    fn default() -> Self {
        Options { context: 512, chunks: None, samples: true, store: Store::standard() }
    }
}

/// A base with its outputs on a suite: what candidates are compared with.
pub struct Base {
    pub(crate) path: PathBuf,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) model: Model,
    pub(crate) texts: Vec<BaseText>,
    pub(crate) tasks: Vec<(Task, Vec<u32>)>,
    /// Prompts and continuations.
    pub(crate) samples: Vec<(String, String)>,
    context: usize,
    summary: ModelSummary,
    kept: Kept,
}

/// A text in tokens, with the base's hidden states.
pub(crate) struct BaseText {
    pub text: Text,
    /// Whole chunks.
    pub tokens: Vec<u32>,
    pub(crate) hidden: Entry,
}

impl Base {
    /// Refuses what [`prepare`](Self::prepare) would refuse for the text or the context, without running the model.
    ///
    /// # Errors
    /// If a text is shorter than a chunk, or the context makes no sense.
    pub fn check(checkpoint: &Checkpoint, suite: &Suite, options: &Options) -> Result<()> {
        let tokenizer = Tokenizer::of(checkpoint)?;
        check_context(checkpoint.path(), options.context, Config::of(checkpoint)?.context_length)?;
        suite.texts.iter().try_for_each(|text| chunks(text, &tokenizer, options).map(drop))
    }

    /// Loads the base and has its outputs ready, from the cache where they are there.
    ///
    /// # Errors
    /// If the base cannot be loaded or run, a text is shorter than a chunk, a question cannot be asked, the context makes no sense, or
    /// there is no room for a temporary file. A cache that is damaged, cannot be written or is full is no error but a note.
    pub fn prepare(checkpoint: &Checkpoint, suite: &Suite, options: &Options, progress: &dyn Progress) -> Result<Base> {
        let path = checkpoint.path().to_owned();
        let tokenizer = Tokenizer::of(checkpoint)?;
        let model = Model::load(checkpoint)?;
        check_context(&path, options.context, model.config().context_length)?;
        let texts: Vec<(&Text, Vec<u32>)> =
            suite.texts.iter().map(|text| Ok((text, chunks(text, &tokenizer, options)?))).collect::<Result<_>>()?;
        let probe = probe(&model, &texts, options.context)?;
        let kept = Kept::of(checkpoint, &probe, options.store.clone())?;
        Ok(Base {
            texts: kept.hidden_states(&model, texts, options.context, progress)?,
            tasks: suite
                .tasks
                .iter()
                .map(|task| Ok((task.clone(), kept.answers(&model, &path, &tokenizer, task, progress)?)))
                .collect::<Result<_>>()?,
            samples: if options.samples { kept.samples(&model, &tokenizer, progress)? } else { Vec::new() },
            context: options.context,
            summary: summary::of(checkpoint)?,
            path,
            tokenizer,
            model,
            kept,
        })
    }

    /// What was measured of this candidate before, or what `measure` does now.
    ///
    /// # Errors
    /// Those of `measure`, and if the candidate cannot be read. What cannot be kept is no error but a note.
    pub(crate) fn evaluation(
        &mut self,
        candidate: &Checkpoint,
        model: &Model,
        progress: &dyn Progress,
        measure: impl FnOnce(&mut Base) -> Result<Evaluation>,
    ) -> Result<Evaluation> {
        let (files, probe) = (content(candidate.path())?, self.probe(model)?);
        let key = self.kept.key("evaluation", |h| {
            h.field(&EVALUATION.to_le_bytes());
            h.field(&files.bytes());
            h.field(bytemuck::cast_slice(&probe));
            self.measured_on(h);
        });
        let name = format!("{}/{}.evaluation", self.kept.folder, key.short());
        if let Lookup::Found(mut entry) = self.kept.store.open(&name, key) {
            let mut json = vec![0; entry.len() as usize];
            entry.read(0, &mut json)?;
            if let Ok(evaluation) = serde_json::from_slice::<Evaluation>(&json) {
                let name = candidate.path().file_name().unwrap_or_default().to_string_lossy();
                progress.note(&format!("{name}: as measured before, since neither it nor its base has changed"));
                return Ok(Evaluation { candidate: summary::of(candidate)?, ..evaluation });
            }
        }
        let evaluation = measure(self)?;
        let json = serde_json::to_vec(&evaluation).expect("plain data is JSON");
        let keep = || {
            let (mut writer, note) = self.kept.store.create(&name, key)?;
            writer.write(&json)?;
            writer.finish().map(|_| note)
        };
        match keep() {
            Ok(None) => {}
            Ok(Some(why)) => progress.note(&format!("what was measured is not kept for the next time: {why}")),
            Err(e) => progress.note(&format!("what was measured is not kept for the next time: {e}")),
        }
        Ok(evaluation)
    }

    /// The hidden states of a candidate on the first chunk of all texts.
    fn probe(&self, candidate: &Model) -> Result<Vec<f32>> {
        let Some(text) = self.texts.first() else { return Ok(Vec::new()) };
        Ok(candidate.session(self.context).forward(&text.tokens[..self.context - 1])?.to_vec())
    }

    /// Everything that candidates are measured on.
    fn measured_on(&self, h: &mut KeyHasher) {
        h.field(&(self.context as u64).to_le_bytes());
        h.field(&(samples::LENGTH as u64).to_le_bytes());
        for BaseText { text, tokens, .. } in &self.texts {
            h.field(text.category.name().as_bytes());
            h.field(bytemuck::cast_slice(tokens));
        }
        for (task, _) in &self.tasks {
            [task.name.as_str(), task.category.name()].iter().for_each(|part| h.field(part.as_bytes()));
            questions(task, h);
            task.questions.iter().for_each(|question| h.field(&(question.answer as u64).to_le_bytes()));
        }
        self.samples.iter().for_each(|(prompt, _)| h.field(prompt.as_bytes()));
    }

    /// What the base is.
    pub fn summary(&self) -> &ModelSummary {
        &self.summary
    }

    /// Tokens per chunk.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The texts that were read.
    pub fn texts(&self) -> Vec<TextSource> {
        let source = |t: &BaseText| TextSource {
            category: t.text.category,
            name: t.text.name.clone(),
            source: t.text.source.clone(),
            tokens: t.tokens.len(),
        };
        self.texts.iter().map(source).collect()
    }
}

impl BaseText {
    /// The base's hidden states at the scored positions of a chunk, `[scored, embedding_length]`, into `hidden`.
    pub fn hidden(&mut self, chunk: usize, hidden: &mut [f32]) -> Result<()> {
        let offset = chunk * std::mem::size_of_val(hidden);
        self.hidden.read(offset as u64, bytemuck::cast_slice_mut(hidden))
    }
}

/// The shortest chunk worth reading.
const SHORTEST_CONTEXT: usize = 16;

/// Refuses chunks that a model cannot see whole, or that are too short to measure on.
///
/// # Errors
/// If it is so.
pub fn check_context(model: &Path, context: usize, trained: usize) -> Result<()> {
    let reason = if context < SHORTEST_CONTEXT {
        format!("at least {SHORTEST_CONTEXT} are needed")
    } else if context > trained {
        format!("{} was trained for {trained} at most. Choose a smaller context", model.display())
    } else {
        return Ok(());
    };
    Err(Error::Context { context, reason })
}

/// The tokens of the whole chunks of a text, each chunk beginning with BOS if the model wants it.
pub(crate) fn chunks(text: &Text, tokenizer: &Tokenizer, options: &Options) -> Result<Vec<u32>> {
    if text.text.trim().is_empty() {
        return Err(Error::EmptyText { name: text.name.clone() });
    }
    let mut tokens = tokenizer.encode(&text.text, Special::DOCUMENT)?;
    let context = options.context;
    if tokens.len() < context {
        return Err(Error::ShortText { name: text.name.clone(), tokens: tokens.len(), needed: context });
    }
    let count = (tokens.len() / context).min(options.chunks.unwrap_or(usize::MAX).max(1));
    tokens.truncate(count * context);
    if let Some(bos) = tokenizer.bos().filter(|_| tokenizer.add_bos()) {
        tokens.chunks_mut(context).for_each(|chunk| chunk[0] = bos);
    }
    Ok(tokens)
}

/// Changes when what is measured of a candidate does, or how: what was kept before is measured again then.
const EVALUATION: u32 = 2;

/// A hash of all bytes of a model's file, or of a model's files in its directory.
fn content(path: &Path) -> Result<Key> {
    let files = summary::files(path)?;
    let error = |source| Error::Checkpoint(bantam_checkpoint::Error::io(path, "read")(source));
    let mut failed = None;
    let key = Key::of(|h| {
        let mut part = vec![0; 1 << 20];
        for file in files {
            h.field(&[]); // where one begins
            let read = File::open(&file.path).and_then(|mut file| {
                loop {
                    match file.read(&mut part)? {
                        0 => return Ok(()),
                        read => h.part(&part[..read]),
                    }
                }
            });
            failed = failed.take().or(read.err());
        }
    });
    failed.map_or(Ok(key), |e| Err(error(e)))
}

/// The hidden states of the first chunk of all texts: what the base computes here and now.
fn probe(model: &Model, texts: &[(&Text, Vec<u32>)], context: usize) -> Result<Vec<f32>> {
    let Some((_, tokens)) = texts.first() else { return Ok(Vec::new()) };
    Ok(model.session(context).forward(&tokens[..context - 1])?.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_that_make_no_sense_are_refused() {
        assert!(check_context(Path::new("m"), 512, 2048).is_ok());
        assert!(check_context(Path::new("m"), 2, 2048).unwrap_err().to_string().contains("at least 16"));
        assert!(check_context(Path::new("m"), 4096, 2048).unwrap_err().to_string().contains("m was trained for 2048"));
    }
}
