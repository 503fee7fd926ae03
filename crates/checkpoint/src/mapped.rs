//! Files mapped into memory.

use crate::{Error, Result, hf};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Bytes of the largest JSON file that is read.
const MAX_TEXT: usize = 1 << 28;

/// Maps a regular file for reading.
pub fn map(path: &Path) -> Result<Arc<memmap2::Mmap>> {
    let read = || Error::io(path, "read");
    if !path.exists() {
        return Err(Error::malformed(path, "there is no such file."));
    }
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path).map_err(read())?.is_file() {
        return Err(Error::malformed(path, "this is not a regular file, so it cannot be a model file."));
    }
    let file = File::open(path).map_err(read())?;
    // SAFETY: the map is only read, and as plain bytes that are checked before use. Like every program that maps
    // models, this relies on nobody changing the file in place while it is open; bantam itself replaces files by
    // renaming, which leaves maps of the old content intact.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(read())?;
    Ok(Arc::new(map))
}

/// The text of a JSON file. The limit keeps a file that is something else from being read into memory.
pub fn read_text(path: &Path) -> Result<String> {
    let map = map(path)?;
    if map.len() > MAX_TEXT {
        return Err(Error::malformed(
            path,
            format!("this file of {} bytes is too large for what it should be.", map.len()),
        ));
    }
    match std::str::from_utf8(&map) {
        Ok(text) => Ok(text.to_owned()),
        Err(e) => Err(Error::malformed(path, format!("at byte {}: this is not UTF-8 text.", e.valid_up_to()))),
    }
}

/// The bytes of a file, or of a model's files in its directory.
///
/// # Errors
/// If one of them, or the directory, cannot be looked at.
pub fn size(path: &Path) -> Result<u64> {
    let of_file = |path: &Path| std::fs::metadata(path).map_err(Error::io(path, "read"));
    match of_file(path)? {
        metadata if metadata.is_dir() => hf::files(path)?.iter().map(|file| Ok(of_file(file)?.len())).sum(),
        metadata => Ok(metadata.len()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::size;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_is_as_large_as_its_models_files_wherever_they_lie() {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, snapshot) = (dir.path().join("blobs"), dir.path().join("snapshot"));
        for folder in [&blobs, &snapshot] {
            fs::create_dir(folder).unwrap();
        }
        for (name, bytes) in [("config.json", 20), ("model.safetensors", 1000)] {
            fs::write(blobs.join(name), vec![0; bytes]).unwrap();
            symlink(blobs.join(name), snapshot.join(name)).unwrap();
        }
        assert_eq!(size(&snapshot).unwrap(), 1020, "links count as what they lead to");
        for name in ["pytorch_model.bin", "q4.gguf", "README.md", "consolidated.safetensors"] {
            fs::write(snapshot.join(name), [0; 7]).unwrap();
        }
        fs::create_dir(snapshot.join("folder.json")).unwrap();
        symlink("nowhere", snapshot.join("vocab.txt")).unwrap();
        assert_eq!(size(&snapshot).unwrap(), 1020, "what is not the model's does not count");
        assert_eq!(size(&snapshot.join("q4.gguf")).unwrap(), 7);
        assert!(size(&dir.path().join("absent")).is_err());
    }

    #[test]
    fn the_shards_that_the_index_names_count() {
        let dir = tempfile::tempdir().unwrap();
        let index = r#"{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}"#;
        fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
        for name in ["model-1.safetensors", "model-2.safetensors", "model.safetensors"] {
            fs::write(dir.path().join(name), [0; 100]).unwrap();
        }
        assert_eq!(size(dir.path()).unwrap(), 200 + index.len() as u64);
    }
}
