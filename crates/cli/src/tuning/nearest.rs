//! The best file of a run, kept until the run is over.

use crate::output::set_aside;
use anyhow::{Context, ensure};
use bantam_checkpoint::output::beside;
use std::path::{Path, PathBuf};

/// Where the file nearest to the base lies until the run is over.
pub(super) fn nearest_of(output: &Path) -> PathBuf {
    beside(output, "tuned")
}

/// The file nearest to the base of those that were looked at. It lies beside the output until the run is over, also while it is stopped, and
/// becomes the output then.
pub(super) struct Nearest<'a> {
    output: &'a Path,
    path: PathBuf,
    /// Its divergence; without a file that of the student.
    divergence: f64,
}

impl<'a> Nearest<'a> {
    /// None yet, or that of a run that is gone on with, which is judged again.
    pub fn of(
        output: &'a Path,
        goes_on: bool,
        before: f64,
        judge: &dyn Fn(&Path) -> anyhow::Result<f64>,
    ) -> anyhow::Result<Self> {
        let path = nearest_of(output);
        let divergence = match path.exists() {
            true if goes_on => judge(&path)?,
            true => {
                set_aside(&path);
                // Otherwise it would be delivered as this run's.
                ensure!(!path.exists(), "{}: another run left it, and it cannot be renamed; remove it", path.display());
                before
            }
            false => before,
        };
        Ok(Self { output, path, divergence })
    }

    /// Keeps this file if it is nearer.
    pub fn take(&mut self, file: &Path, divergence: f64) -> anyhow::Result<()> {
        if divergence < self.divergence {
            std::fs::rename(file, &self.path).with_context(|| format!("cannot keep {}", self.path.display()))?;
            self.divergence = divergence;
        }
        Ok(())
    }

    /// Gives the file the output's name; returns its divergence. `None` if none was nearer than the student.
    pub fn deliver(self) -> anyhow::Result<Option<f64>> {
        if !self.path.exists() {
            return Ok(None);
        }
        let to = || format!("cannot put the finished file in the place of {}", self.output.display());
        std::fs::rename(&self.path, self.output).with_context(to)?;
        Ok(Some(self.divergence))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_of_all_files_becomes_the_output() {
        let folder = tempfile::tempdir().unwrap();
        let (output, made) = (folder.path().join("out.gguf"), folder.path().join("made"));
        let never = |_: &Path| -> anyhow::Result<f64> { panic!("there is nothing to judge") };
        let take = |nearest: &mut Nearest<'_>, divergences: &[f64]| {
            for divergence in divergences {
                std::fs::write(&made, divergence.to_string()).unwrap();
                nearest.take(&made, *divergence).unwrap();
            }
        };
        let mut nearest = Nearest::of(&output, false, 0.5, &never).unwrap();
        take(&mut nearest, &[0.6, 0.5]);
        assert_eq!(nearest.deliver().unwrap(), None);
        let mut nearest = Nearest::of(&output, false, 0.5, &never).unwrap();
        take(&mut nearest, &[0.4, 0.3, 0.35]);
        drop(nearest);
        // Stopped, and gone on with.
        let mut nearest = Nearest::of(&output, true, 0.5, &|_| Ok(0.3)).unwrap();
        take(&mut nearest, &[0.45]);
        assert_eq!(nearest.deliver().unwrap(), Some(0.3));
        assert_eq!(std::fs::read_to_string(&output).unwrap(), "0.3");
        // What another run left is not taken for this one's.
        take(&mut Nearest::of(&output, false, 0.5, &never).unwrap(), &[0.1]);
        assert_eq!(Nearest::of(&output, false, 0.5, &never).unwrap().deliver().unwrap(), None);
    }
}
