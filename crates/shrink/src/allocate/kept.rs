//! What was measured, in a file: a run that was stopped goes on, and other budgets need no measuring.
//!
//! Lines of JSON: which model and text it is of, then a tensor each, appended as they are measured.

use super::{Choice, Measured, Sensitivity};
use crate::lines::{self, Lines};
use crate::{Error, identity};
use bantam_checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What it is of: the version, then a hash of the model and the text.
const KIND: lines::Kind = lines::Kind {
    key: "sensitivity",
    name: "sensitivities",
    other: "another model, other calibration text or another version of bantam",
    instead: "name another file, or delete it",
};

/// Changes when what is measured does.
const VERSION: u32 = 8;

/// Tensors measured, in memory and perhaps in a file.
pub struct Kept {
    tensors: Vec<Line>,
    file: Option<Lines>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    tensor: String,
    plain: Vec<Choice>,
    widened: Option<Vec<Choice>>,
}

impl Kept {
    /// Nothing measured yet, and no file.
    pub fn nothing() -> Self {
        Self { tensors: Vec::new(), file: None }
    }

    /// What the file at `path` has of this model on this text; it is begun with the first tensor if there is none.
    ///
    /// # Errors
    /// If the file cannot be read or written, is of another model or text, or is damaged.
    pub fn open(path: &Path, checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<Self, Error> {
        let of = format!("{VERSION}-{:016x}", identity::of_model_and_text(checkpoint, sequences)?);
        let (file, tensors) = Lines::open(path, &KIND, &of)?;
        Ok(Self { tensors, file: Some(file) })
    }

    /// Tensors measured.
    pub fn count(&self) -> usize {
        self.tensors.len()
    }

    /// Whether this tensor was measured.
    pub(super) fn has(&self, tensor: &str) -> bool {
        self.tensors.iter().any(|line| line.tensor == tensor)
    }

    /// Keeps a tensor, as it is and in a wider model.
    pub(super) fn keep(&mut self, plain: &Sensitivity, widened: Option<&Sensitivity>) -> Result<(), Error> {
        let line = Line {
            tensor: plain.tensor.clone(),
            plain: plain.choices.clone(),
            widened: widened.map(|s| s.choices.clone()),
        };
        if let Some(file) = &mut self.file {
            file.append(&line)?;
        }
        self.tensors.push(line);
        Ok(())
    }

    /// All that was measured.
    pub(super) fn measured(&self) -> Measured {
        let of =
            |line: &Line, choices: &[Choice]| Sensitivity { tensor: line.tensor.clone(), choices: choices.to_vec() };
        let plain = self.tensors.iter().map(|line| of(line, &line.plain)).collect();
        let widened = self.tensors.iter().map(|line| Some(of(line, line.widened.as_deref()?)));
        Measured { plain, widened: widened.collect::<Option<Vec<_>>>().filter(|all| !all.is_empty()) }
    }
}
