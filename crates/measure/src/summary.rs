//! What a model file is, in a few numbers.

use crate::{Result, results::ModelSummary};
use bantam_checkpoint::{Checkpoint, hf, provenance};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Sums up a model. Reads no weights.
///
/// # Errors
/// If the size of the file, or of the files of the directory, cannot be read.
pub fn of(checkpoint: &Checkpoint) -> Result<ModelSummary> {
    let path = checkpoint.path();
    let bytes_by_format = checkpoint.by_format().iter().map(|s| (s.format.name.to_owned(), s.bytes)).collect();
    let parameters = checkpoint.weights();
    let steps = provenance::of(checkpoint.metadata()).into_iter();
    Ok(ModelSummary {
        label: label(path),
        path: path.display().to_string(),
        architecture: checkpoint.metadata().str("general.architecture").unwrap_or("unknown").to_owned(),
        file_bytes: checkpoint.file_bytes()?,
        parameters,
        bits_per_weight: checkpoint.bytes() as f64 * 8.0 / parameters.max(1) as f64,
        bytes_by_format,
        quantized_as: checkpoint.quantized_as(),
        training: steps.filter_map(|step| step.training.map(|training| (step.step, training))).collect(),
    })
}

/// What a model is called: the file's name without its extension, or the directory's name, which may have dots. Of `.` and the like the name
/// of the directory it stands for; `model` where there is none.
pub fn label(path: &Path) -> String {
    let named = match path.file_name() {
        Some(_) => path.to_owned(),
        None => path.canonicalize().unwrap_or_default(),
    };
    let name = if named.is_dir() { named.file_name() } else { named.file_stem() };
    name.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
}

/// A file of a model.
pub(crate) struct ModelFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its length.
    pub bytes: u64,
    /// When it was last written, nanoseconds since 1970 (0 if unknown).
    pub modified: u128,
}

/// The file of a model, or its files in its directory, by name. What else lies there is not the model.
pub(crate) fn files(path: &Path) -> Result<Vec<ModelFile>> {
    let paths = if path.is_dir() { hf::files(path)? } else { vec![path.to_owned()] };
    let describe = |path: PathBuf| {
        let metadata = std::fs::metadata(&path).map_err(bantam_checkpoint::Error::io(&path, "read"))?;
        let since = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Ok(ModelFile { path, bytes: metadata.len(), modified: since.map_or(0, |since| since.as_nanos()) })
    };
    paths.into_iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_counts_its_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model-7b");
        std::fs::create_dir_all(model.join("folder")).unwrap();
        std::fs::write(model.join("model.safetensors"), [0; 10]).unwrap();
        std::fs::write(model.join("config.json"), [0; 3]).unwrap();
        std::fs::write(model.join("README.md"), [0; 5]).unwrap();
        let files = files(&model).unwrap();
        let seen: Vec<_> = files.iter().map(|f| (f.path.file_name().unwrap().to_str().unwrap(), f.bytes)).collect();
        assert_eq!(seen, [("config.json", 3), ("model.safetensors", 10)]);
        assert!(files.iter().all(|f| f.modified > 0));
    }

    #[test]
    fn models_are_called_by_all_of_their_directorys_name() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("Qwen2.5-0.5B");
        std::fs::create_dir_all(model.join("folder")).unwrap();
        assert_eq!(label(&model), "Qwen2.5-0.5B");
        assert_eq!(label(&model.join("folder/..")), "Qwen2.5-0.5B");
        assert_eq!(label(&dir.path().join("tiny.Q4_K.gguf")), "tiny.Q4_K");
        assert_eq!(label(Path::new("/")), "model");
    }
}
