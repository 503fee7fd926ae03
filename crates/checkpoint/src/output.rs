//! Output that appears whole or not at all.
//!
//! Files and directories are written under a temporary name beside their target and renamed when complete. Dropped
//! before that, they leave nothing. A process that ends without dropping them (a signal) calls [`abandon_all`] first.

use crate::{Error, Result};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tempfile::{NamedTempFile, TempDir};

/// A file that appears under its name when [finished](Self::finish).
pub struct OutputFile {
    file: BufWriter<NamedTempFile>,
    // Fields are dropped in this order: the file goes first, then its entry among the unfinished.
    unfinished: Unfinished,
    target: PathBuf,
}

impl OutputFile {
    /// Opens a temporary file beside `target`.
    ///
    /// # Errors
    /// If the target is there and is not a regular file, or its directory cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        if target.as_os_str().to_string_lossy().ends_with(std::path::is_separator) {
            return Err(Error::target(
                target,
                "the output cannot go here: this is a directory's name. Give a file name.",
            ));
        }
        if let Ok(there) = fs::metadata(target)
            && !there.is_file()
        {
            let kind = if there.is_dir() { "a directory" } else { "not a regular file" };
            return Err(Error::target(target, format!("the output cannot go here: this is {kind}. Give a file name.")));
        }
        let (file, unfinished) = Unfinished::make(target, parent(target), |parent| {
            let file = builder(0o666).tempfile_in(parent)?;
            let path = file.path().to_owned();
            Ok((file, path))
        })?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), unfinished, target: target.to_owned() })
    }

    /// Syncs the file to the disk and gives it its name, replacing a file that is there.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<()> {
        let Self { file, unfinished, target } = self;
        let file = file.into_inner().map_err(|e| Error::io(&target, "write")(e.into_error()))?;
        file.as_file().sync_all().map_err(Error::io(&target, "write"))?;
        let renamed = unfinished.finish(|| file.persist(&target).map(drop).map_err(|e| e.error));
        renamed.map_err(Error::io(&target, "rename the finished output"))?;
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

impl Seek for OutputFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

/// Where a model's tensors are written, in any order: the file or the directory appears when it is finished.
pub trait TensorWriter: Send {
    /// Goes to a tensor, whose bytes are then written.
    ///
    /// # Errors
    /// If there is no such tensor, it is written already, or the one before is not complete.
    fn begin(&mut self, name: &str) -> Result<()>;

    /// Appends bytes of the current tensor, in the format that was announced, which may come in several pieces.
    ///
    /// # Errors
    /// If the disk refuses (full), or the bytes are more than the current tensor has left.
    fn write(&mut self, bytes: &[u8]) -> Result<()>;

    /// Checks that every tensor is complete, and gives the output its name.
    ///
    /// # Errors
    /// If a tensor is missing bytes, or the disk refuses.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// A directory that appears under its name when [finished](Self::finish).
pub struct OutputDir {
    dir: ScratchDir,
    target: PathBuf,
}

impl OutputDir {
    /// Creates a temporary directory beside `target`.
    ///
    /// # Errors
    /// If something other than an empty directory that can be replaced has the target's name, or its parent cannot be written.
    pub fn create(target: &Path) -> Result<Self> {
        if target.is_symlink() {
            return Err(Error::target(
                target,
                "it is a link, in whose place no directory can be put. Give another name.",
            ));
        }
        let empty = fs::read_dir(target).map(|mut entries| entries.next().is_none());
        if target.exists() && !matches!(empty, Ok(true)) {
            let message = "the output directory is there and not empty. Remove it, or give another name.";
            return Err(Error::target(target, message));
        }
        // A place where a volume is mounted is a directory that stays, which would be found out when all is done.
        if target.exists() {
            let replaced = fs::remove_dir(target).and_then(|()| fs::create_dir(target));
            replaced.map_err(Error::io(target, "replace the empty directory (name one inside of it instead)"))?;
        }
        Ok(Self { dir: ScratchDir::in_parent(target, parent(target))?, target: target.to_owned() })
    }

    /// Where to write the files.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The name that it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// An error about a file in here, named as if the file were in the target already.
    pub fn renamed(&self, error: Error) -> Error {
        match error {
            Error::Io { path, action, source } => {
                let path = path.strip_prefix(self.path()).map_or(path.clone(), |name| self.target.join(name));
                Error::Io { path, action, source }
            }
            other => other,
        }
    }

    /// Gives the directory its name.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn finish(self) -> Result<()> {
        let Self { dir: ScratchDir { dir, unfinished }, target } = self;
        sync_directory(dir.path());
        // Renaming onto an empty directory replaces it on Unix; elsewhere it has to go first.
        #[cfg(not(unix))]
        let _ = fs::remove_dir(&target);
        let renamed = unfinished.finish(|| fs::rename(dir.path(), &target));
        renamed.map_err(Error::io(&target, "rename the finished output"))?;
        let _ = dir.keep();
        sync_directory(parent(&target));
        Ok(())
    }
}

/// A temporary directory for what is tried on the way to an output; removed with all that is in it when dropped.
pub struct ScratchDir {
    dir: TempDir,
    unfinished: Unfinished,
}

impl ScratchDir {
    /// A directory from which files can be renamed into the directory `target`, which need not exist: in the target, or in
    /// the nearest of its parents that is there.
    ///
    /// # Errors
    /// If that is not a directory that can be written.
    pub fn near(target: &Path) -> Result<Self> {
        let there = target.ancestors().find(|a| a.exists()).unwrap_or(Path::new("."));
        Self::in_parent(target, there)
    }

    fn in_parent(target: &Path, parent: &Path) -> Result<Self> {
        let (dir, unfinished) = Unfinished::make(target, parent, |parent| {
            let dir = builder(0o777).tempdir_in(parent)?;
            let path = dir.path().to_owned();
            Ok((dir, path))
        })?;
        Ok(Self { dir, unfinished })
    }

    /// Moves the files in it into the directory `target`, which is made if it is not there. They replace files of their
    /// names.
    ///
    /// # Errors
    /// If a directory has one of the names, or the disk refuses.
    pub fn deliver(self, target: &Path) -> Result<()> {
        let read = |dir| fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let files = read(self.path()).map_err(Error::io(target, "write there"))?;
        if let Some(file) = files.iter().find(|file| target.join(file.file_name()).is_dir()) {
            let message = "the output cannot go here: this is a directory. Remove it, or give another directory.";
            return Err(Error::target(&target.join(file.file_name()), message));
        }
        let renamed = self.unfinished.finish(|| {
            fs::create_dir_all(target)?;
            files.iter().try_for_each(|file| fs::rename(file.path(), target.join(file.file_name())))
        });
        renamed.map_err(Error::io(target, "move the finished output there"))?;
        sync_directory(target);
        Ok(())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// Everything under way: what a process that ends at once has to remove.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn unfinished() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all output under way, for a process that is about to end without dropping it, and answers whether there was any.
/// Afterwards no output can be begun or finished: threads that try wait for the end.
pub fn abandon_all() -> bool {
    let all = unfinished();
    let any = !all.is_empty();
    for path in all.iter() {
        // Other threads may still put files into a directory while it is being emptied.
        const TRIES: usize = 10;
        let remove = || if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        let gone = |result: io::Result<()>| result.is_ok() || !path.exists();
        let _ = (0..TRIES).any(|_| gone(remove()));
    }
    std::mem::forget(all);
    any
}

/// The entry of a temporary path among what is unfinished.
struct Unfinished(PathBuf);

impl Unfinished {
    /// Makes something temporary in `parent`, on the way to `target`; `make` also says where it is.
    fn make<T>(
        target: &Path,
        parent: &Path,
        make: impl FnOnce(&Path) -> io::Result<(T, PathBuf)>,
    ) -> Result<(T, Unfinished)> {
        if !parent.is_dir() {
            let what = if parent.exists() { "is not a directory" } else { "does not exist" };
            let message =
                format!("the output cannot go here: {} {what}. Give a path in a directory.", parent.display());
            return Err(Error::target(target, message));
        }
        let mut all = unfinished();
        // The error of `tempfile` names the temporary path, which means nothing to the user; its kind is enough.
        let plain = |e: io::Error| Error::io(target, "write there")(e.kind().into());
        let (made, path) = make(parent).map_err(plain)?;
        all.insert(path.clone());
        Ok((made, Unfinished(path)))
    }

    /// Renames it to its target, which cannot happen during or after [`abandon_all`].
    fn finish(self, rename: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let all = unfinished();
        let renamed = rename();
        drop(all); // before `self`, which takes the lock
        renamed
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        unfinished().remove(&self.0);
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

/// The name of a file that belongs to an output while it is made: beside it, with `.suffix` after its name.
pub fn beside(output: &Path, suffix: &str) -> PathBuf {
    // Not inside a directory whose name was given with a slash at its end.
    let mut name = output.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(suffix);
    output.with_file_name(name)
}

/// Gives a file that is in the way another name, with `.other` after its own: it may be hours of another run. Returns that name; `None` where it
/// could not be renamed, and is in the way still.
pub fn put_aside(path: &Path) -> Option<PathBuf> {
    let named = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(if number > 1 { format!(".other{number}") } else { ".other".to_owned() });
        PathBuf::from(name)
    };
    let other = (1..).map(named).find(|path| !path.exists()).expect("some number is free");
    fs::rename(path, &other).is_ok().then_some(other)
}

/// The directory of a path, `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a rename durable, where the system can.
fn sync_directory(path: &Path) {
    if let Ok(dir) = File::open(path) {
        let _ = dir.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(unix)]
    fn a_directory_that_cannot_be_replaced_is_refused_before_there_is_one_to_lose() {
        let folder = tempfile::tempdir().unwrap();
        let [empty, link, dangling] = ["empty", "link", "dangling"].map(|name| folder.path().join(name));
        fs::create_dir(&empty).unwrap();
        std::os::unix::fs::symlink(&empty, &link).unwrap();
        std::os::unix::fs::symlink(folder.path().join("nowhere"), &dangling).unwrap();
        for link in [link, dangling] {
            let refused = OutputDir::create(&link).err().unwrap().to_string();
            assert!(refused.contains("link"), "{refused}");
        }
        let output = OutputDir::create(&empty).unwrap();
        fs::write(output.path().join("file"), "x").unwrap();
        output.finish().unwrap();
        assert!(empty.join("file").exists());
    }

    #[test]
    fn what_is_put_aside_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.rounding");
        let names = ["b.rounding.other", "b.rounding.other2", "b.rounding.other3"];
        for name in names {
            fs::write(&path, name).unwrap();
            assert_eq!(put_aside(&path), Some(folder.path().join(name)));
        }
        assert!(names.iter().all(|name| fs::read_to_string(folder.path().join(name)).unwrap() == *name));
        assert_eq!(put_aside(&path), None, "there is nothing");
    }
}
