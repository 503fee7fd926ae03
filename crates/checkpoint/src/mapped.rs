//! Files mapped into memory.

use crate::{Error, Result};
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

/// The bytes of a file, or of all files in a directory.
pub fn size(path: &Path) -> Result<u64> {
    let read = || Error::io(path, "read");
    let metadata = std::fs::metadata(path).map_err(read())?;
    if !metadata.is_dir() {
        return Ok(metadata.len());
    }
    std::fs::read_dir(path)
        .map_err(read())?
        .map(|entry| entry.and_then(|e| e.metadata()).map_err(read()).map(|m| if m.is_file() { m.len() } else { 0 }))
        .sum()
}
