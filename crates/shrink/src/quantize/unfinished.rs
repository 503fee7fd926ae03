//! Layers that are rounded, in a file beside the output until that is finished: a run that was stopped goes on after them.

use crate::records::{Kind, Records};
use crate::{Error, identity};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::{beside, put_aside};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Bytes, and how many there are.
const KIND: Kind = Kind { magic: *b"bantamL\x02", size: 1, bytes: 1 };

/// The blocks of a layer's tensors, by their names.
pub(super) type Layer = BTreeMap<String, Vec<u8>>;

/// The file beside an output that is being made with error feedback.
pub fn unfinished(output: &Path) -> PathBuf {
    beside(output, "rounding")
}

/// The rounded layers.
pub(super) struct Rounded {
    path: PathBuf,
    records: Records,
}

impl Rounded {
    /// Those of an earlier run of the same `description` on this model and text, if there was one. A file that is of anything else, or damaged, is
    /// kept beside, with `.other` (or `.other2`) after its name.
    ///
    /// # Errors
    /// If the file cannot be read or written, another run is writing it, or it is of something else and cannot be renamed.
    pub fn open(
        output: &Path,
        description: &str,
        checkpoint: &Checkpoint,
        sequences: &[Vec<u32>],
    ) -> Result<Self, Error> {
        let path = unfinished(output);
        let inputs = identity::of_model_and_text(checkpoint, sequences)?;
        let description = &format!("{description}, of model and text {inputs:016x}");
        let records = Records::open(&path, KIND, description).or_else(|e| match e {
            Error::InUse { .. } => Err(e),
            _ if put_aside(&path).is_some() => Records::open(&path, KIND, description),
            _ if path.exists() => Err(in_the_way(&path)),
            e => Err(e),
        })?;
        Ok(Self { path, records })
    }

    /// A layer that was rounded. `None` if it was not.
    pub fn layer(&mut self, layer: usize) -> Result<Option<Layer>, Error> {
        if !self.records.has(layer as u64) {
            return Ok(None);
        }
        let (_, bytes) = self.records.read(layer as u64)?;
        let mut rest = &bytes[..];
        let mut part = || {
            let (len, after) = rest.split_first_chunk().expect("records are checked");
            let (part, after) = after.split_at(u64::from_le_bytes(*len) as usize);
            rest = after;
            (part.to_vec(), rest.is_empty())
        };
        let mut tensors = Layer::new();
        loop {
            let (name, _) = part();
            let (blocks, last) = part();
            tensors.insert(String::from_utf8(name).expect("records are checked"), blocks);
            if last {
                return Ok(Some(tensors));
            }
        }
    }

    /// Keeps a layer.
    pub fn keep(&mut self, layer: usize, tensors: &Layer) -> Result<(), Error> {
        let parts = tensors.iter().flat_map(|(name, blocks)| [name.as_bytes(), blocks]);
        let bytes =
            || parts.clone().flat_map(|part| (part.len() as u64).to_le_bytes().into_iter().chain(part.iter().copied()));
        let len: usize = parts.clone().map(|part| 8 + part.len()).sum();
        // A layer beyond what a record holds is not kept, and rounded again.
        let Ok(len) = u32::try_from(len) else { return Ok(()) };
        self.records.keep(layer as u64, len, bytes())
    }

    /// The output is finished, or never will be.
    pub fn remove(self) {
        drop(self.records);
        // A file that stays is begun anew.
        drop(std::fs::remove_file(self.path));
    }
}

/// What stays under the name that rounded layers are to have.
fn in_the_way(path: &Path) -> Error {
    let problem = "it holds no layers of this run, as far as can be read, and cannot be renamed; remove it, or give the output another name";
    Error::Data { path: path.to_owned(), problem: problem.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_be_put_aside_is_said_to_be_in_the_way() {
        /// Bytes of the longest name that file systems take: with `.other` behind it there is none.
        const LONGEST: usize = 255;
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
        let (checkpoint, folder) = (Checkpoint::open(fixture).unwrap(), tempfile::tempdir().unwrap());
        let output = folder.path().join("a".repeat(LONGEST - ".rounding".len()));
        std::fs::write(unfinished(&output), "notes").unwrap();
        let error = Rounded::open(&output, "layers", &checkpoint, &[]).err().unwrap().to_string();
        assert!(error.contains("aa.rounding: ") && error.contains("remove it"), "{error}");
        assert!(!error.contains("teacher") && !error.contains("cache"), "{error}");
        assert_eq!(std::fs::read_to_string(unfinished(&output)).unwrap(), "notes");
    }

    #[test]
    fn the_file_lies_beside_files_and_directories() {
        for (output, beside) in [("a/b.gguf", "a/b.gguf.rounding"), ("a/b/", "a/b.rounding"), ("b", "b.rounding")] {
            assert_eq!(unfinished(Path::new(output)), Path::new(beside));
        }
    }
}
