//! Checkpoints on the way to an output.

use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::ScratchDir;
use std::path::Path;

/// A checkpoint that one step wrote for the next: it lies beside the output and goes with this value.
pub struct Intermediate {
    /// The checkpoint, by the name of the model that it was made of, so that records name that.
    pub checkpoint: Checkpoint,
    _dir: ScratchDir,
}

impl Intermediate {
    /// What `write` makes of the model `of`.
    pub fn make(
        of: &Checkpoint,
        output: &Path,
        write: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let dir = ScratchDir::near(output.parent().unwrap_or(".".as_ref()))?;
        let path = dir.path().join(of.path().file_name().unwrap_or("model".as_ref()));
        write(&path)?;
        Ok(Self { checkpoint: Checkpoint::open(&path)?, _dir: dir })
    }
}
