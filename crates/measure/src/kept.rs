//! What the cache keeps of a base, by what the base is and computes: hidden states, answers and continuations are found there, or
//! computed and put there. Why these are kept, and when they are used again, says [`crate::base`].

use crate::base::BaseText;
use crate::cache::{Entry, Key, KeyHasher, Lookup, Store, Writer};
use crate::divergence::scored;
use crate::{Error, Progress, Result, Task, Text, choice, samples, summary};
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_checkpoint::{Checkpoint, TensorData};
use bantam_nn::Model;
use std::fmt::{Display, Write};
use std::path::Path;

/// What may be found in the cache, and is computed where it is not.
pub(crate) struct Kept {
    /// Of its entries in the store.
    pub folder: String,
    /// What the base is, and computes.
    identity: Key,
    pub store: Store,
}

impl Kept {
    /// That of a base, which computes `probe` here and now.
    pub fn of(checkpoint: &Checkpoint, probe: &[f32], store: Store) -> Result<Self> {
        Ok(Kept { folder: folder(checkpoint.path()), identity: identity(checkpoint, probe)?, store })
    }

    /// Of whole chunks of texts, each with the base's hidden states at the scored positions.
    pub fn hidden_states(
        &self,
        model: &Model,
        texts: Vec<(&Text, Vec<u32>)>,
        context: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<BaseText>> {
        let total = texts.iter().map(|(_, tokens)| tokens.len()).sum();
        let mut done = 0;
        let mut ready = Vec::with_capacity(texts.len());
        for (text, tokens) in texts {
            let key = self.key("hidden states", |h| {
                h.field(&(context as u64).to_le_bytes());
                h.field(bytemuck::cast_slice(&tokens));
            });
            let name = format!("{}-{}-{context}.hidden", file_name(&text.name), key.short());
            let hidden = self.entry(&name, key, progress, |writer| {
                let first = scored(context).start * model.config().embedding_length;
                let mut session = model.session(context);
                for (i, chunk) in tokens.chunks(context).enumerate() {
                    progress.update("base", done + i * context, total, "tokens");
                    session.truncate(0);
                    let hidden = session.forward(&chunk[..context - 1])?;
                    writer.write(bytemuck::cast_slice(&hidden[first..]))?;
                }
                Ok(())
            })?;
            done += tokens.len();
            ready.push(BaseText { text: text.clone(), tokens, hidden });
        }
        progress.update("base", total, total, "tokens");
        Ok(ready)
    }

    /// The options that the base chooses in a task.
    pub fn answers(
        &self,
        model: &Model,
        path: &Path,
        tokenizer: &Tokenizer,
        task: &Task,
        progress: &dyn Progress,
    ) -> Result<Vec<u32>> {
        let key = self.key("answers", |h| questions(task, h));
        let name = format!("{}-{}.answers", file_name(&task.name), key.short());
        let mut entry = self.entry(&name, key, progress, |writer| {
            writer.write(bytemuck::cast_slice(&choice::answers(model, path, tokenizer, task, progress)?))
        })?;
        let mut answers = vec![0; task.questions.len()];
        entry.read(0, bytemuck::cast_slice_mut(&mut answers))?;
        Ok(answers)
    }

    /// Prompts and the base's continuations.
    pub fn samples(
        &self,
        model: &Model,
        tokenizer: &Tokenizer,
        progress: &dyn Progress,
    ) -> Result<Vec<(String, String)>> {
        let key = self.key("samples", |h| {
            h.field(&(samples::LENGTH as u64).to_le_bytes());
            samples::PROMPTS.iter().for_each(|prompt| h.field(prompt.as_bytes()));
        });
        let mut entry = self.entry("samples.json", key, progress, |writer| {
            let samples = samples::PROMPTS.iter().map(|prompt| samples::continuation(model, tokenizer, prompt));
            let samples: Vec<String> = samples.collect::<Result<_>>()?;
            writer.write(&serde_json::to_vec(&samples).expect("strings are JSON"))
        })?;
        let mut json = vec![0; entry.len() as usize];
        entry.read(0, &mut json)?;
        let samples: Vec<String> = serde_json::from_slice(&json).expect("the checksum held");
        Ok(samples::PROMPTS.iter().map(|&prompt| prompt.to_owned()).zip(samples).collect())
    }

    /// The entry from the store, or computed by `write`: once more where what it wrote first could not be kept.
    fn entry(
        &self,
        name: &str,
        key: Key,
        progress: &dyn Progress,
        write: impl Fn(&mut Writer) -> Result<()>,
    ) -> Result<Entry> {
        let name = format!("{}/{name}", self.folder);
        match self.store.open(&name, key) {
            Lookup::Found(entry) => return Ok(entry),
            Lookup::Unusable(why) => progress.note(&format!("computing the base's outputs again: {why}")),
            Lookup::Absent => {}
        }
        let not_kept = |why: &dyn Display| {
            progress.note(&format!("the base's outputs are not kept for the next time: {why}"));
        };
        let written = |mut writer: Writer| {
            write(&mut writer)?;
            writer.finish()
        };
        let (writer, note) = self.store.create(&name, key)?;
        if let Some(why) = note {
            not_kept(&why);
        }
        match written(writer) {
            // A disk may fill up while it is written to.
            Err(why @ Error::Cache { .. }) => {
                not_kept(&why);
                written(Writer::unnamed(key)?)
            }
            done => done,
        }
    }

    /// By what an entry is known: of what it is, the base, and what `feed` says.
    pub fn key(&self, what: &str, feed: impl FnOnce(&mut KeyHasher)) -> Key {
        Key::of(|h| {
            h.field(env!("CARGO_PKG_VERSION").as_bytes());
            h.field(&self.identity.bytes());
            h.field(what.as_bytes());
            feed(h);
        })
    }
}

/// The questions of a task, but for which option is right.
pub(crate) fn questions(task: &Task, h: &mut KeyHasher) {
    for question in &task.questions {
        h.field(question.prompt.as_bytes());
        h.field(&(question.options.len() as u64).to_le_bytes());
        question.options.iter().for_each(|option| h.field(option.as_bytes()));
    }
}

/// The folder of a base's entries: by its path, so that all that was kept of it can be found, and removed, in one place.
fn folder(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("{}-{}", file_name(&name), Key::of(|h| h.field(absolute.as_os_str().as_encoded_bytes())).short())
}

/// `name` with only characters that every file system takes, and not too many.
fn file_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    name.chars().map(safe).take(64).collect()
}

/// Tensors sampled, and bytes sampled of each.
const SAMPLED_TENSORS: usize = 64;
const SAMPLED_BYTES: usize = 4096;

/// A hash of what a model is, without reading all of it, and of what it computes.
fn identity(checkpoint: &Checkpoint, probe: &[f32]) -> Result<Key> {
    let files = summary::files(checkpoint.path())?;
    let tensors = checkpoint.tensors();
    let mut samples = Vec::new();
    for tensor in tensors.iter().step_by(tensors.len().div_ceil(SAMPLED_TENSORS).max(1)) {
        let data: TensorData = checkpoint.data(&tensor.name)?;
        let middle = data.len() / 2;
        samples.push(data[middle..data.len().min(middle + SAMPLED_BYTES)].to_vec());
    }
    Ok(Key::of(|h| {
        for file in files {
            h.field(file.path.file_name().unwrap_or_default().as_encoded_bytes());
            h.field(&file.bytes.to_le_bytes());
            h.field(&file.modified.to_le_bytes());
        }
        for (key, value) in checkpoint.metadata().iter() {
            let _ = write!(h, "{value:?}"); // The hasher takes all that is written.
            h.field(key.as_bytes());
        }
        for tensor in tensors {
            h.field(format!("{} {:?} {}", tensor.name, tensor.shape, tensor.format).as_bytes());
        }
        samples.iter().for_each(|sample| h.field(sample));
        h.field(bytemuck::cast_slice(probe));
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    #[test]
    fn names_of_entries_are_safe() {
        assert_eq!(file_name("../etc/päss wd"), ".._etc_p_ss_wd");
        assert_eq!(file_name(&"x".repeat(500)).len(), 64);
        let (a, b) = (folder(Path::new("a/model.gguf")), folder(Path::new("b/model.gguf")));
        assert!(a.starts_with("model.gguf-") && a != b, "two models of one name are kept apart: {a} {b}");
    }

    #[derive(Default)]
    struct Notes(RefCell<Vec<String>>);

    impl Progress for Notes {
        fn update(&self, _: &str, _: usize, _: usize, _: &str) {}

        fn note(&self, note: &str) {
            self.0.borrow_mut().push(note.to_owned());
        }
    }

    #[test]
    fn what_turns_out_not_to_be_kept_is_written_again_for_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let key = Key::of(|h| h.field(b"k"));
        let kept = Kept { folder: "base".into(), identity: key, store: Store::at(dir.path()) };
        let (times, notes) = (Cell::new(0), Notes::default());
        // The folder goes while the entry is written: noticed as late as a full disk is.
        let write = |writer: &mut Writer| {
            times.set(times.get() + 1);
            let _ = std::fs::remove_dir_all(dir.path().join("base"));
            writer.write(b"outputs")
        };
        let mut entry = kept.entry("e", key, &notes, write).unwrap();
        let mut outputs = [0; 7];
        entry.read(0, &mut outputs).unwrap();
        assert_eq!((&outputs, times.get()), (b"outputs", 2));
        let notes = notes.0.into_inner();
        assert!(notes.len() == 1 && notes[0].contains("not kept") && notes[0].contains("base/e"), "{notes:?}");
        assert!(!dir.path().join("base").exists());
        // What fails otherwise is not tried again.
        times.set(0);
        let fails = |_: &mut Writer| {
            times.set(times.get() + 1);
            Err(Error::SpeedProcess("no cache's fault".into()))
        };
        assert!(kept.entry("e", key, &(), fails).is_err() && times.get() == 1);
    }
}
