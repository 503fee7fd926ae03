//! Writing a GGUF file, streamed.

use crate::{Metadata, Result, TensorInfo};
use std::path::Path;

/// Writes a GGUF v3 file tensor by tensor. Nothing appears under the target's name before [`finish`](Self::finish);
/// dropping an unfinished writer removes the temporary file beside the target.
pub struct GgufWriter {}

impl GgufWriter {
    /// Writes the header for these tensors (in this order) to a temporary file beside `path`.
    ///
    /// # Errors
    /// If the target is a directory or cannot be written.
    pub fn create(path: &Path, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Self> {
        let _ = (path, metadata, tensors);
        todo!()
    }

    /// Appends bytes of the current tensor; tensors follow each other in the order given to `create`, and a tensor may
    /// come in several pieces. Padding between tensors is added when the current one is complete.
    ///
    /// # Errors
    /// If the disk refuses (full).
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let _ = bytes;
        todo!()
    }

    /// Checks that every tensor is complete, syncs, and renames the file to its target.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<()> {
        todo!()
    }
}
