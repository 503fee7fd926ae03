//! What a model file is, in a few numbers.

use crate::{Error, Result, results::ModelSummary};
use bantam_checkpoint::{Checkpoint, provenance};
use std::path::Path;

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

/// The file's name without its extension, or the directory's name.
fn label(path: &Path) -> String {
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// A file of a model.
pub(crate) struct ModelFile {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// When it was last written, nanoseconds since 1970 (0 if unknown).
    pub modified: u128,
}

/// The file of a model, or the files directly in its directory, by name.
pub(crate) fn files(path: &Path) -> Result<Vec<ModelFile>> {
    let error = |source| Error::Checkpoint(bantam_checkpoint::Error::io(path, "read")(source));
    let describe = |path: &Path, metadata: std::fs::Metadata| ModelFile {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        bytes: metadata.len(),
        modified: metadata
            .modified()
            .ok()
            .and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_nanos()),
    };
    if !path.is_dir() {
        return Ok(vec![describe(path, std::fs::metadata(path).map_err(error)?)]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(error)? {
        let path = entry.map_err(error)?.path();
        let metadata = std::fs::metadata(&path).map_err(error)?;
        if metadata.is_file() {
            files.push(describe(&path, metadata));
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_counts_its_files_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model-7b");
        std::fs::create_dir_all(model.join("folder")).unwrap();
        std::fs::write(model.join("b.safetensors"), [0; 10]).unwrap();
        std::fs::write(model.join("a.json"), [0; 3]).unwrap();
        let files = files(&model).unwrap();
        let seen: Vec<_> = files.iter().map(|f| (f.name.as_str(), f.bytes)).collect();
        assert_eq!(seen, [("a.json", 3), ("b.safetensors", 10)]);
        assert!(files.iter().all(|f| f.modified > 0));
        assert_eq!(label(&model), "model-7b");
        assert_eq!(label(&dir.path().join("tiny.Q4_K.gguf")), "tiny.Q4_K");
    }
}
