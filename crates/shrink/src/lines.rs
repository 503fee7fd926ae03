//! A file of JSON lines that is appended to: a first line that says what the others are of, then one for each thing that is done. A run that
//! was stopped goes on after the last whole line.

use crate::Error;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What a file holds: for its first line, `{"KEY":"WHAT IT IS OF"}`, and for messages.
pub(crate) struct Kind {
    pub key: &'static str,
    /// As in "it is no file of answers".
    pub name: &'static str,
    /// What may differ, as in "it is of another run".
    pub other: &'static str,
    /// What to do about a file of something else.
    pub instead: &'static str,
}

/// The file.
pub(crate) struct Lines {
    path: PathBuf,
    first: Vec<u8>,
    /// Once there is something.
    file: Option<File>,
    /// Bytes of all that was written whole.
    whole: u64,
}

impl Lines {
    /// Opens the file at `path` that is of this, and gives the lines that it has; nothing is written yet. A line that was not finished goes.
    ///
    /// # Errors
    /// If the file cannot be read, is of anything else (then it stays as it is), or is damaged.
    pub fn open<T: DeserializeOwned>(path: &Path, kind: &Kind, of: &str) -> Result<(Self, Vec<T>), Error> {
        let first = line(&BTreeMap::from([(kind.key, of)]));
        let mut lines = Self { path: path.to_owned(), first, file: None, whole: 0 };
        let mut bytes = match std::fs::read(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(lines.error(e.to_string())),
            read => read.unwrap_or_default(),
        };
        // Nothing else is cut, or written to.
        let beginning = format!("{{\"{}\":", kind.key);
        let begun = beginning.len().min(bytes.len());
        if bytes[..begun] != beginning.as_bytes()[..begun] {
            return Err(lines.error(format!("it is no file of {}; {}", kind.name, kind.instead)));
        }
        bytes.truncate(bytes.iter().rposition(|&b| b == b'\n').map_or(0, |at| at + 1));
        let mut there = bytes.split_inclusive(|&b| b == b'\n').enumerate();
        let Some((_, header)) = there.next() else { return Ok((lines, Vec::new())) };
        let found: BTreeMap<String, String> = lines.read(0, header)?;
        let found = found.get(kind.key).map_or("", |found| found);
        if found != of {
            let Kind { name, other, instead, .. } = kind;
            return Err(lines.error(format!("it holds {name} of {other} ({found}; this one is {of}); {instead}")));
        }
        let kept = there.map(|(at, line)| lines.read(at, line)).collect::<Result<_, _>>()?;
        let file = OpenOptions::new().append(true).open(path).map_err(|e| lines.error(e.to_string()))?;
        lock(&file, path)?;
        lines.whole = bytes.len() as u64;
        file.set_len(lines.whole).map_err(|e| lines.error(e.to_string()))?;
        lines.file = Some(file);
        Ok((lines, kept))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn append(&mut self, content: &impl Serialize) -> Result<(), Error> {
        self.write(&line(content))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.file.is_none() {
            let file = OpenOptions::new().append(true).create(true).open(&self.path);
            let file = file.map_err(|e| self.error(e.to_string()))?;
            lock(&file, &self.path)?;
            self.file = Some(file);
        }
        self.try_write(bytes).map_err(|e| self.error(e.to_string()))
    }

    fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        let file = self.file.as_mut().expect("it was opened");
        if self.whole == 0 {
            file.set_len(0)?; // it may hold a part of the first line
        }
        let first = if self.whole == 0 { &self.first[..] } else { &[] };
        let bytes = [first, bytes].concat();
        // On a full disk a part may be there: what is written next would stand behind it.
        file.write_all(&bytes).inspect_err(|_| drop(file.set_len(self.whole)))?;
        self.whole += bytes.len() as u64;
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self, at: usize, line: &[u8]) -> Result<T, Error> {
        let damaged = |e| self.error(format!("line {} is damaged ({e}); delete the file and start again", at + 1));
        serde_json::from_slice(line).map_err(damaged)
    }

    fn error(&self, problem: String) -> Error {
        Error::Data { path: self.path.clone(), problem }
    }
}

/// Two that append would write between each other's lines. (Some file systems have no locks.)
fn lock(file: &File, path: &Path) -> Result<(), Error> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        _ => Ok(()),
    }
}

fn line(content: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(content).expect("it can be written as JSON");
    line.push(b'\n');
    line
}
