//! By what files that are gone on with know their model and their text.

use crate::Error;
use bantam_checkpoint::{Checkpoint, provenance};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// A model's file name with a hash of what it computes: a file of the same name may hold another model by now.
///
/// # Errors
/// If the checkpoint cannot be read any more.
pub fn name(checkpoint: &Checkpoint) -> Result<String, Error> {
    let path = checkpoint.path();
    // A folder may be named by dots alone.
    let whole = path.file_name().is_none().then(|| path.canonicalize().ok()).flatten();
    let name = whole.as_deref().unwrap_or(path).file_name().unwrap_or_default();
    Ok(format!("{} ({:016x})", Path::new(name).display(), of_model_and_text(checkpoint, &[])?))
}

/// As [`name`], for what is known by its text instead of its tokens: the tokenizer and the chat template count too.
///
/// # Errors
/// If the checkpoint cannot be read any more.
pub fn name_with_tokenizer(checkpoint: &Checkpoint) -> Result<String, Error> {
    let mut hash = Xxh3::new();
    for (key, value) in checkpoint.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
        hash.update(format!("{key} {value:?} ").as_bytes());
    }
    Ok(format!("{}, tokenizer {:016x}", name(checkpoint)?, hash.digest()))
}

/// Bytes of each tensor that are looked at, from its middle.
const LOOKED_AT: usize = 4096;

/// A hash of a model and of sequences of tokens. Of the model it takes the metadata, as far as it says what is computed, its tensors' names, shapes
/// and formats, and some of each one's bytes, since models that were trained further may keep their vectors.
pub(crate) fn of_model_and_text(checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<u64, Error> {
    let mut hash = Xxh3::new();
    let computes = |key: &str| key != provenance::KEY && !key.starts_with("tokenizer.");
    for (key, value) in checkpoint.metadata().iter().filter(|(key, _)| computes(key)) {
        hash.update(format!("{key} {value:?} ").as_bytes());
    }
    for tensor in checkpoint.tensors() {
        hash.update(format!("{} {:?} {}", tensor.name, tensor.shape, tensor.format).as_bytes());
        let data = checkpoint.data(&tensor.name)?;
        let middle = &data[data.len() / 2..];
        hash.update(&middle[..middle.len().min(LOOKED_AT)]);
    }
    for sequence in sequences {
        hash.update(&(sequence.len() as u64).to_le_bytes());
        sequence.iter().for_each(|token| hash.update(&token.to_le_bytes()));
    }
    Ok(hash.digest())
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_checkpoint::{GgufWriter, Metadata, TensorInfo, Value};
    use bantam_formats::Format;

    #[test]
    fn models_of_one_file_name_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let written = |weight: f32, rope: f32, remark: &str| {
            let mut metadata = Metadata::default();
            metadata.set("general.architecture", Value::String("llama".to_owned()));
            metadata.set("llama.rope.freq_base", Value::F32(rope));
            metadata.set(provenance::KEY, Value::String(remark.to_owned()));
            let format = Format::f32();
            let tensor = TensorInfo { name: "output.weight".to_owned(), shape: vec![2, 2], format };
            let mut writer = GgufWriter::create(&path, &metadata, &[tensor]).unwrap();
            [1.0, 2.0, 3.0, weight].into_iter().for_each(|v: f32| writer.write(&v.to_le_bytes()).unwrap());
            writer.finish().unwrap();
            name(&Checkpoint::open(&path).unwrap()).unwrap()
        };
        let same = written(4.0, 1e4, "[]");
        assert!(same.starts_with("model.gguf ("), "{same}");
        assert_eq!(same, written(4.0, 1e4, "[1]"), "what was done to it is not what it computes");
        assert_ne!(same, written(4.5, 1e4, "[]"));
        assert_ne!(same, written(4.0, 5e5, "[]"));
    }
}
