//! Computed outputs kept in files, reused only when they are certainly the right ones.
//!
//! An entry carries the [`Key`] of everything it was computed from and a checksum of its bytes. An entry that is damaged,
//! cut short, or of another key is never used; [`Store::open`] says why, and its owner computes it anew. Entries are written
//! to a temporary file and renamed when complete, so that a process that is killed, or two that race, leave nothing wrong.
//! Where the cache cannot be written, an entry lives in an unnamed temporary file for as long as it is used. That a disk is full may be
//! noticed only while an entry is written: its owner then writes it again, with [`Writer::unnamed`].
//!
//! Layout: 8 bytes `MAGIC`, 16 bytes key, the payload, 8 bytes XXH3 of all before; little endian.

use crate::{Error, Result};
use bantam_checkpoint::output::OutputFile;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// The first bytes of every entry; the last one counts versions of the layout and of what is computed.
const MAGIC: [u8; 8] = *b"bantamC\x01";
const HEADER: u64 = 8 + 16;
const CHECKSUM: u64 = 8;

/// A hash of everything that an entry was computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(u128);

impl Key {
    /// The key of what `feed` gives to the hasher.
    pub fn of(feed: impl FnOnce(&mut KeyHasher)) -> Key {
        let mut hasher = KeyHasher(Xxh3::new());
        feed(&mut hasher);
        Key(hasher.0.digest128())
    }

    /// Eight hexadecimal digits, for file names.
    pub fn short(self) -> String {
        format!("{:08x}", self.0 as u32)
    }

    /// The key's bytes.
    pub fn bytes(self) -> [u8; 16] {
        self.0.to_le_bytes()
    }
}

/// Hashes fields one after another, each with its length, so that none can run into the next.
pub struct KeyHasher(Xxh3);

impl KeyHasher {
    /// Adds a field.
    pub fn field(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }

    /// Adds to what is hashed without saying how long it is; a field must follow it, or nothing.
    pub(crate) fn part(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// Text formatted into the hasher without being collected first; a field of its own must follow it.
impl std::fmt::Write for KeyHasher {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        self.0.update(s.as_bytes());
        Ok(())
    }
}

/// A directory of entries.
#[derive(Clone, Debug)]
pub struct Store {
    /// `None` if there is nowhere to keep anything.
    directory: Option<PathBuf>,
}

/// What [`Store::open`] found.
#[derive(Debug)]
pub enum Lookup {
    /// The entry.
    Found(Entry),
    /// There is none.
    Absent,
    /// There is one, which must not be used, and why.
    Unusable(String),
}

impl Store {
    /// The user's cache: `$BANTAM_CACHE`, else `$XDG_CACHE_HOME/bantam`, else `~/.cache/bantam`; its folder `base`.
    pub fn standard() -> Store {
        let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let root = variable("BANTAM_CACHE")
            .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("bantam")))
            .or_else(|| Some(std::env::home_dir()?.join(".cache/bantam")));
        Store { directory: root.map(|root| root.join("base")) }
    }

    /// A store in this directory, which is made when the first entry is written.
    pub fn at(directory: impl Into<PathBuf>) -> Store {
        Store { directory: Some(directory.into()) }
    }

    /// Looks for the entry `name` (a relative path) of this key.
    pub fn open(&self, name: &str, key: Key) -> Lookup {
        let Some(path) = self.path(name) else { return Lookup::Absent };
        match File::open(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Lookup::Absent,
            Err(e) => Lookup::Unusable(format!("{}: {e}", path.display())),
            Ok(file) => match Entry::checked(file, key) {
                Ok(entry) => Lookup::Found(entry),
                Err(why) => Lookup::Unusable(format!("{}: {why}", path.display())),
            },
        }
    }

    /// Starts the entry `name` (a relative path). If it cannot be kept in the store, it will be a temporary file, and the
    /// second value says why.
    ///
    /// # Errors
    /// If there is no place for a temporary file either.
    pub fn create(&self, name: &str, key: Key) -> Result<(Writer, Option<String>)> {
        match self.path(name).map(Target::beside) {
            Some(Ok(target)) => Ok((Writer::new(target, key)?, None)),
            Some(Err(e)) => Ok((Writer::unnamed(key)?, Some(e.to_string()))),
            None => Ok((Writer::unnamed(key)?, Some("there is no cache directory; set BANTAM_CACHE".to_owned()))),
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.as_ref()?.join(name))
    }
}

/// An entry being written.
pub struct Writer {
    target: Target,
    hash: Xxh3,
    payload: u64,
}

enum Target {
    Named { file: OutputFile, path: PathBuf },
    Unnamed(File),
}

impl Target {
    fn beside(path: PathBuf) -> bantam_checkpoint::Result<Target> {
        let parent = path.parent().expect("an entry has a name in a directory");
        std::fs::create_dir_all(parent).map_err(bantam_checkpoint::Error::io(parent, "make"))?;
        Ok(Target::Named { file: OutputFile::create(&path)?, path })
    }

    fn unnamed() -> Result<Target> {
        tempfile::tempfile().map(Target::Unnamed).map_err(no_room)
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Target::Named { file, path } => file.write_all(bytes).map_err(cache_error(path, "write")),
            Target::Unnamed(file) => file.write_all(bytes).map_err(no_room),
        }
    }
}

impl Writer {
    /// Starts an entry that is not kept in a store.
    ///
    /// # Errors
    /// [`Error::NoRoom`] if there is no place for a temporary file.
    pub fn unnamed(key: Key) -> Result<Writer> {
        Self::new(Target::unnamed()?, key)
    }

    fn new(target: Target, key: Key) -> Result<Writer> {
        let mut writer = Writer { target, hash: Xxh3::new(), payload: 0 };
        writer.put(&MAGIC)?;
        writer.put(&key.bytes())?;
        Ok(writer)
    }

    /// Appends to the payload.
    ///
    /// # Errors
    /// If the file cannot be written: [`Error::Cache`] if it is in a store, else [`Error::NoRoom`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.payload += bytes.len() as u64;
        self.put(bytes)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.target.write_all(bytes)
    }

    /// Completes the entry, gives it its name, and opens it.
    ///
    /// # Errors
    /// Those of [`write`](Self::write).
    pub fn finish(mut self) -> Result<Entry> {
        let checksum = self.hash.digest();
        self.target.write_all(&checksum.to_le_bytes())?;
        let (file, path) = match self.target {
            Target::Named { file, path } => {
                file.finish().map_err(of_cache)?;
                (File::open(&path).map_err(cache_error(&path, "read"))?, path)
            }
            Target::Unnamed(file) => (file, std::env::temp_dir()),
        };
        Ok(Entry { file, path, payload: self.payload })
    }
}

/// A complete entry.
#[derive(Debug)]
pub struct Entry {
    file: File,
    path: PathBuf,
    payload: u64,
}

impl Entry {
    /// Checks a whole file; the reason if it cannot be used.
    fn checked(mut file: File, key: Key) -> std::result::Result<Entry, String> {
        let io = |e: io::Error| format!("cannot be read: {e}");
        let bytes = file.metadata().map_err(io)?.len();
        let payload = bytes.checked_sub(HEADER + CHECKSUM).ok_or("is cut short")?;
        let mut header = [0; HEADER as usize];
        file.read_exact(&mut header).map_err(io)?;
        if header[..8] != MAGIC {
            return Err("was not written by this version of bantam".to_owned());
        }
        if header[8..] != key.bytes() {
            return Err("belongs to another model or text, or to another version of it".to_owned());
        }
        let mut hash = Xxh3::new();
        hash.update(&header);
        let mut left = payload;
        let mut buffer = vec![0; 1 << 16];
        while left > 0 {
            let part = &mut buffer[..left.min(1 << 16) as usize];
            file.read_exact(part).map_err(io)?;
            hash.update(part);
            left -= part.len() as u64;
        }
        let mut checksum = [0; CHECKSUM as usize];
        file.read_exact(&mut checksum).map_err(io)?;
        if u64::from_le_bytes(checksum) != hash.digest() {
            return Err("is damaged: its checksum does not match".to_owned());
        }
        Ok(Entry { file, path: PathBuf::new(), payload })
    }

    /// Bytes of the payload.
    pub fn len(&self) -> u64 {
        self.payload
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.payload == 0
    }

    /// Fills `bytes` from the payload at `offset`.
    ///
    /// # Errors
    /// If the file cannot be read or ends before.
    pub fn read(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.file
            .seek(SeekFrom::Start(HEADER + offset))
            .and_then(|_| self.file.read_exact(bytes))
            .map_err(cache_error(&self.path, "read"))
    }
}

fn cache_error(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Cache { path, action, source }
}

/// What the system refused about completing a file of the store.
fn of_cache(error: bantam_checkpoint::Error) -> Error {
    match error {
        bantam_checkpoint::Error::Io { path, source, .. } => cache_error(&path, "write")(source),
        other => other.into(),
    }
}

fn no_room(source: io::Error) -> Error {
    Error::NoRoom { folder: std::env::temp_dir(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key::of(|h| h.field(text.as_bytes()))
    }

    fn write(store: &Store, name: &str, key: Key, payload: &[u8]) -> Entry {
        let (mut writer, note) = store.create(name, key).unwrap();
        assert_eq!(note, None);
        let (head, tail) = payload.split_at(payload.len() / 2);
        writer.write(head).unwrap();
        writer.write(tail).unwrap();
        writer.finish().unwrap()
    }

    fn payload(mut entry: Entry) -> Vec<u8> {
        let mut bytes = vec![0; entry.len() as usize];
        entry.read(0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_written_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("deep"));
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        assert!(matches!(store.open("a/b", key("k")), Lookup::Absent));
        assert_eq!(payload(write(&store, "a/b", key("k"), &bytes)), bytes);
        let Lookup::Found(mut entry) = store.open("a/b", key("k")) else { panic!() };
        let mut part = [0; 3];
        entry.read(150_000, &mut part).unwrap();
        assert_eq!(part, bytes[150_000..150_003]);
        assert!(entry.read(199_999, &mut [0; 100]).is_err(), "reading past the end fails");
    }

    #[test]
    fn every_damaged_byte_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        write(&store, "e", key("k"), b"sixteen bytes of");
        let path = dir.path().join("e");
        let good = std::fs::read(&path).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(store.open("e", key("k")), Lookup::Unusable(_)), "byte {i}");
            std::fs::write(&path, &good[..i]).unwrap();
            assert!(matches!(store.open("e", key("k")), Lookup::Unusable(_)), "cut at {i}");
        }
        std::fs::write(&path, [good.as_slice(), b"more"].concat()).unwrap();
        assert!(matches!(store.open("e", key("k")), Lookup::Unusable(_)));
        std::fs::write(&path, &good).unwrap();
        assert!(matches!(store.open("e", key("k")), Lookup::Found(_)));
    }

    #[test]
    fn another_key_is_refused_and_rewriting_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        write(&store, "e", key("old"), b"old");
        let Lookup::Unusable(why) = store.open("e", key("new")) else { panic!() };
        assert!(why.contains("another model or text"), "{why}");
        write(&store, "e", key("new"), b"new");
        assert!(matches!(store.open("e", key("new")), Lookup::Found(_)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn an_unfinished_entry_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path());
        let (mut writer, _) = store.create("e", key("k")).unwrap();
        writer.write(b"half").unwrap();
        drop(writer);
        assert!(matches!(store.open("e", key("k")), Lookup::Absent));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn without_a_writable_directory_entries_live_for_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let (mut writer, note) = Store::at(&file).create("e", key("k")).unwrap();
        let note = note.unwrap();
        assert!(note.contains("cannot make"), "{note}");
        writer.write(b"kept").unwrap();
        assert_eq!(payload(writer.finish().unwrap()), b"kept");
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let two = |a: &str, b: &str| {
            Key::of(|h| {
                h.field(a.as_bytes());
                h.field(b.as_bytes());
            })
        };
        assert_ne!(two("ab", "c"), two("a", "bc"));
        assert_eq!(two("ab", "c"), two("ab", "c"));
    }
}
