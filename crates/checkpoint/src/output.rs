//! Output that appears whole or not at all.
//!
//! Files and directories are written under a temporary name beside their target and renamed when complete. Dropped
//! before that, they leave nothing.

use crate::{Error, Result};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::{NamedTempFile, TempDir};

/// A file that appears under its name when [finished](Self::finish).
pub struct OutputFile {
    file: BufWriter<NamedTempFile>,
    target: PathBuf,
}

impl OutputFile {
    /// Opens a temporary file beside `target`.
    ///
    /// # Errors
    /// If the target is there and is not a regular file, or its directory cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        if let Ok(there) = fs::metadata(target)
            && !there.is_file()
        {
            let kind = if there.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::target(target, format!("the output cannot go here: this is {kind}. Give a file name.")));
        }
        let file = builder(0o666).tempfile_in(parent(target)).map_err(Error::io(target, "create"))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), target: target.to_owned() })
    }

    /// Syncs the file to the disk and gives it its name, replacing a file that is there.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<()> {
        let Self { file, target } = self;
        let file = file.into_inner().map_err(|e| Error::io(&target, "write")(e.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(&target, "write"))?;
        file.persist(&target).map_err(|e| Error::io(&target, "rename the finished output")(e.error))?;
        sync_directory(parent(&target));
        Ok(())
    }
}

impl Write for OutputFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A directory that appears under its name when [finished](Self::finish).
pub struct OutputDir {
    dir: TempDir,
    target: PathBuf,
}

impl OutputDir {
    /// Creates a temporary directory beside `target`.
    ///
    /// # Errors
    /// If something other than an empty directory has the target's name, or its parent cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        let empty = fs::read_dir(target).map(|mut entries| entries.next().is_none());
        if target.exists() && !matches!(empty, Ok(true)) {
            let message = "the output directory is there and not empty. Remove it, or give another name.";
            return Err(Error::target(target, message));
        }
        let dir = builder(0o777).tempdir_in(parent(target)).map_err(Error::io(target, "create"))?;
        Ok(Self { dir, target: target.to_owned() })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Gives the directory its name.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<()> {
        let Self { dir, target } = self;
        sync_directory(dir.path());
        // Renaming onto an empty directory replaces it on Unix; elsewhere it has to go first.
        #[cfg(not(unix))]
        let _ = fs::remove_dir(&target);
        fs::rename(dir.path(), &target).map_err(Error::io(&target, "rename the finished output"))?;
        let _ = dir.keep();
        sync_directory(parent(&target));
        Ok(())
    }
}

/// Temporary names that say whose they are; `mode` is the Unix permissions before the umask.
fn builder(mode: u32) -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bantam-").suffix(".tmp");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(mode));
    #[cfg(not(unix))]
    let _ = mode;
    builder
}

/// The directory of a path, `.` for a bare name.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename durable, where the system can.
fn sync_directory(path: &Path) {
    if let Ok(dir) = File::open(path) {
        let _ = dir.sync_all();
    }
}
