//! The files of a command, looked at before anything takes time: what it writes must not be what it reads, and must have a folder to go to.

use anyhow::{bail, ensure};
use bantam_checkpoint::hf;
use bantam_checkpoint::output::parent;
use std::path::{Path, PathBuf};

/// What a command reads and writes, by the names of its options.
#[derive(Default)]
pub struct Places<'a> {
    read: Vec<(&'static str, &'a Path)>,
    written: Vec<(&'static str, &'a Path, Kind)>,
}

/// What is written.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    File,
    /// A GGUF file or a directory of Hugging Face's.
    Model,
}

impl<'a> Places<'a> {
    /// It reads these.
    pub fn reads(mut self, option: &'static str, paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        self.read.extend(paths.into_iter().map(|path| (option, path.as_path())));
        self
    }

    /// It writes these files.
    pub fn writes(mut self, option: &'static str, paths: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        self.written.extend(paths.into_iter().map(|path| (option, path.as_path(), Kind::File)));
        self
    }

    /// It writes a model there, in a file or a directory.
    pub fn writes_model(mut self, option: &'static str, path: &'a Path) -> Self {
        self.written.push((option, path, Kind::Model));
        self
    }

    /// Refuses to write over what is read (a model's files in its directory among them) or over another output, files in the
    /// place of directories, and into folders that are not there or, unless the output is there already, cannot be written.
    pub fn check(&self) -> anyhow::Result<()> {
        for (i, (option, path, kind)) in self.written.iter().enumerate() {
            if *kind == Kind::File && (path.is_dir() || path.as_os_str().to_string_lossy().ends_with('/')) {
                bail!("{option} {}: this is a directory; give a file's name", path.display());
            }
            let parent = parent(path);
            if !parent.is_dir() {
                let problem = if parent.exists() { "is not a directory" } else { "does not exist; create it first" };
                bail!("{option} {}: {} {problem}", path.display(), parent.display());
            }
            if let (Err(e), false) = (tempfile::tempfile_in(parent), path.exists()) {
                bail!("{option} {}: cannot write in {}: {e}", path.display(), parent.display());
            }
            let whole = whole(path);
            for (source, read) in &self.read {
                ensure!(
                    !replaces(&whole, &self::whole(read)),
                    "{option} {}: this would replace what is read as {source}; give another name",
                    path.display()
                );
            }
            if let Some((other, ..)) = self.written[..i].iter().find(|(_, other, _)| self::whole(other) == whole) {
                bail!("{option} {}: {other} is to be written there too; give another name", path.display());
            }
        }
        Ok(())
    }
}

/// Whether writing there would replace what is read: the file itself, or one of a model's in its directory. (New files may go there.)
fn replaces(written: &Path, read: &Path) -> bool {
    written == read || written.starts_with(read) && written.exists() && hf::is_a_models(written)
}

/// The path without links and dots, of a file that may not be there yet.
fn whole(path: &Path) -> PathBuf {
    let of_parent = || Some(parent(path).canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize().ok().or_else(of_parent).unwrap_or_else(|| path.to_owned())
}
