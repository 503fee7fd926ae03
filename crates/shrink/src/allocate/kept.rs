//! What was measured, in a file: a run that was stopped goes on, and other budgets need no measuring.
//!
//! Lines of JSON: which model and text it is of, then a tensor each, appended as they are measured.

use super::{Choice, Measured, Sensitivity};
use crate::{Error, identity};
use bantam_checkpoint::Checkpoint;
use bantam_formats::Format;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// How such a file begins.
const BEGINNING: &[u8] = b"{\"sensitivity\":";

/// Changes when what is measured does.
const VERSION: u32 = 1;

/// Tensors measured, in memory and perhaps in a file.
pub struct Kept {
    tensors: Vec<Line>,
    file: Option<(PathBuf, File)>,
}

/// The first line.
#[derive(PartialEq, Serialize, Deserialize)]
struct Header {
    /// Of the model, the text and the version.
    sensitivity: String,
}

#[derive(Serialize, Deserialize)]
struct Line {
    tensor: String,
    plain: Vec<Entry>,
    widened: Option<Vec<Entry>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    format: String,
    bytes: u64,
    divergence: f64,
}

impl Kept {
    /// Nothing measured yet, and no file.
    pub fn nothing() -> Self {
        Self { tensors: Vec::new(), file: None }
    }

    /// What the file at `path` has of this model on this text; it is begun if there is none.
    ///
    /// # Errors
    /// If the file cannot be read or written, is of another model or text, or is damaged.
    pub fn open(path: &Path, checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<Self, Error> {
        let error = |problem: String| Error::Sensitivity { path: path.to_owned(), problem };
        let io = |e: std::io::Error| error(e.to_string());
        let header =
            Header { sensitivity: format!("{VERSION}-{:016x}", identity::of_model_and_text(checkpoint, sequences)?) };
        let mut bytes = match std::fs::read(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(io(e)),
            read => read.unwrap_or_default(),
        };
        // Nothing else is cut, or written to.
        let begins = BEGINNING.len().min(bytes.len());
        if bytes[..begins] != BEGINNING[..begins] {
            return Err(error("it is no file of sensitivities; name another file, or delete it".to_owned()));
        }
        // A line that was not finished goes; its tensor is measured again.
        bytes.truncate(bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1));
        let mut lines = bytes.split_inclusive(|&b| b == b'\n');
        let mut tensors = Vec::new();
        let first = lines.next();
        match first.map(serde_json::from_slice::<Header>) {
            None => {}
            Some(Ok(found)) if found == header => {}
            Some(Ok(_)) => {
                let problem = "it is of another model, other calibration text or another version of bantam";
                return Err(error(format!("{problem}; name another file, or delete it")));
            }
            Some(Err(e)) => return Err(error(format!("line 1 is damaged ({e}); delete the file"))),
        }
        for (at, line) in lines.enumerate() {
            let damaged = |what: String| error(format!("line {} is damaged ({what}); delete the file", at + 2));
            let line: Line = serde_json::from_slice(line).map_err(|e| damaged(e.to_string()))?;
            if let Some(name) = line.unknown() {
                return Err(damaged(format!("there is no format {name}")));
            }
            tensors.push(line);
        }
        let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(io)?;
        file.set_len(bytes.len() as u64).map_err(io)?;
        if first.is_none() {
            write(&mut file, &header).map_err(io)?;
        }
        Ok(Self { tensors, file: Some((path.to_owned(), file)) })
    }

    /// Whether this tensor was measured.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensors.iter().any(|line| line.tensor == tensor)
    }

    /// Keeps a tensor, as it is and in a wider model.
    pub(super) fn keep(&mut self, plain: &Sensitivity, widened: Option<&Sensitivity>) -> Result<(), Error> {
        let line = Line {
            tensor: plain.tensor.clone(),
            plain: entries(&plain.choices),
            widened: widened.map(|s| entries(&s.choices)),
        };
        if let Some((path, file)) = &mut self.file {
            let error = |e: std::io::Error| Error::Sensitivity { path: path.clone(), problem: e.to_string() };
            write(file, &line).map_err(error)?;
        }
        self.tensors.push(line);
        Ok(())
    }

    /// All that was measured.
    pub(super) fn measured(&self) -> Measured {
        let sensitivity = |tensor: &str, entries: &[Entry]| Sensitivity {
            tensor: tensor.to_owned(),
            choices: entries.iter().map(Entry::choice).collect(),
        };
        let plain = self.tensors.iter().map(|line| sensitivity(&line.tensor, &line.plain)).collect();
        let widened = self.tensors.iter().map(|line| Some(sensitivity(&line.tensor, line.widened.as_deref()?)));
        Measured { plain, widened: widened.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()) }
    }
}

impl Line {
    /// A format that bantam does not have.
    fn unknown(&self) -> Option<&str> {
        let mut entries = self.plain.iter().chain(self.widened.iter().flatten());
        entries.find(|e| Format::by_name(&e.format).is_none()).map(|e| &e.format[..])
    }
}

impl Entry {
    fn choice(&self) -> Choice {
        let format = Format::by_name(&self.format).expect("checked when it was read");
        Choice { format, bytes: self.bytes, divergence: self.divergence }
    }
}

fn entries(choices: &[Choice]) -> Vec<Entry> {
    let entry = |c: &Choice| Entry { format: c.format.name.to_owned(), bytes: c.bytes, divergence: c.divergence };
    choices.iter().map(entry).collect()
}

fn write(file: &mut File, line: &impl Serialize) -> std::io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    file.write_all(&text)
}
