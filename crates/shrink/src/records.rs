//! A file of what a model gave (a teacher's outputs, rounded layers), one record for each input: appended to, checked, and gone on with after
//! an interruption.
//!
//! Layout, little endian: 8 bytes that say the kind, 4 bytes that size a record's units, the description of what gave the records (its length in
//! 4 bytes, then UTF-8); then one record per input in the order they were captured: by what it is known (8 bytes), its units (4), half of the XXH3
//! of these two (4), the units' bytes, and XXH3 of all before (8). A file that ends within a record is cut back to whole ones and gone on with; a
//! record with a wrong checksum is an error. That the first two have one of their own tells a damaged length, behind which nothing must be cut off,
//! from a record that was not finished.

use crate::Error;
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of a record before its content.
const HEAD: u64 = 8 + 4 + 4;

/// What to do about a file of something else.
const ADVICE: &str = "give another name for the cache, or delete it";

/// Bytes of a description that are shown.
const LONGEST: u64 = 1000;

/// Bytes of a header before its description.
const FIXED: usize = 8 + 4 + 4;

/// What a file holds.
pub(crate) struct Kind {
    /// The file's first bytes.
    pub magic: [u8; 8],
    /// How a unit is sized, in numbers: tokens kept of a position, the width of an embedding.
    pub size: usize,
    /// Bytes of one of the numbers.
    pub bytes: usize,
}

impl Kind {
    /// Bytes of a record.
    fn record(&self, units: u32) -> u64 {
        HEAD + u64::from(units) * (self.size * self.bytes) as u64 + 8
    }

    /// The first bytes of a file of what this description stands for.
    fn header(&self, description: &str) -> Vec<u8> {
        let mut header = self.magic.to_vec();
        header.extend((self.size as u32).to_le_bytes());
        header.extend((description.len() as u32).to_le_bytes());
        header.extend(description.as_bytes());
        header
    }
}

/// The file.
pub(crate) struct Records {
    file: File,
    path: PathBuf,
    kind: Kind,
    /// Where each input's record begins, and its units.
    records: HashMap<u64, (u64, u32)>,
    end: u64,
    /// The file's bytes when it was opened.
    bytes: u64,
    /// Whether nothing may be written to it.
    read_only: bool,
    /// Whether the file is this run's alone.
    own: bool,
}

impl Records {
    /// Opens the file of what is described so for this run alone, or begins it.
    ///
    /// # Errors
    /// If the file cannot be read or written, another process has it, it is of another kind or description, or is damaged.
    pub fn open(path: &Path, kind: Kind, description: &str) -> Result<Self, Error> {
        Self::open_as(path, kind, description, true)
    }

    /// As [`open`](Self::open), but other runs may read it too, also where nothing may be written, until something is to be kept.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_shared(path: &Path, kind: Kind, description: &str) -> Result<Self, Error> {
        Self::open_as(path, kind, description, false)
    }

    fn open_as(path: &Path, kind: Kind, description: &str, own: bool) -> Result<Self, Error> {
        let error = |problem: String| Error::Data { path: path.to_owned(), problem };
        let io = |e: std::io::Error| error(e.to_string());
        let to_append = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let read_only = to_append.is_err();
        let file = to_append.or_else(|e| if own { Err(e) } else { File::open(path).map_err(|_| e) }).map_err(io)?;
        // Two that append at what each takes for the end would write over each other. (Some file systems have no locks.)
        if let Err(TryLockError::WouldBlock) = if own { file.try_lock() } else { file.try_lock_shared() } {
            return Err(Error::InUse { path: path.to_owned() });
        }
        let len = file.metadata().map_err(io)?.len();
        let header = kind.header(description);
        let mut found = vec![0; len.min(header.len() as u64) as usize];
        let end = header.len() as u64;
        let path = path.to_owned();
        let mut records = Self { file, path, kind, records: HashMap::new(), end, bytes: len, read_only, own };
        records.file.read_exact(&mut found).map_err(io)?;
        if found == header {
            records.find()?;
        } else if header.starts_with(&found) {
            records.make_own()?;
            records.file.seek(SeekFrom::Start(0)).and_then(|_| records.file.write_all(&header)).map_err(io)?;
        } else {
            return Err(error(records.other(&found, description).map_err(io)?));
        }
        Ok(records)
    }

    /// Makes the file this run's alone, unless it is already.
    fn make_own(&mut self) -> Result<(), Error> {
        if self.own {
            return Ok(());
        }
        if self.read_only {
            let why = "something is to be added to it, and it may not be written; give another name, or allow writing";
            return Err(self.error(why.to_owned()));
        }
        // Not everywhere does one kind of lock become the other, so there is a moment without any.
        let _ = self.file.unlock();
        let locked = self.file.try_lock();
        let bytes = self.file.metadata().map_err(|e| self.error(e.to_string()))?.len();
        if matches!(locked, Err(TryLockError::WouldBlock)) || bytes != self.bytes {
            return Err(Error::InUse { path: self.path.clone() });
        }
        self.own = true;
        Ok(())
    }

    /// What a file that begins otherwise holds.
    fn other(&mut self, found: &[u8], description: &str) -> std::io::Result<String> {
        if !found.starts_with(&self.kind.magic) {
            return Ok(format!(
                "it is no file of a teacher's outputs of this kind, as this version of bantam keeps them; {ADVICE}"
            ));
        }
        let len = found.get(FIXED - 4..FIXED).map_or(0, |len| u32::from_le_bytes(len.try_into().expect("4 bytes")));
        let mut theirs = Vec::new();
        self.file.seek(SeekFrom::Start(FIXED as u64))?;
        (&self.file).take(u64::from(len).min(LONGEST)).read_to_end(&mut theirs)?;
        let theirs = String::from_utf8_lossy(&theirs);
        Ok(format!("it holds other outputs: those of {theirs}, not of {description}; {ADVICE}"))
    }

    /// Finds and checks all records, but for one that was not finished.
    fn find(&mut self) -> Result<(), Error> {
        let len = self.bytes;
        let io = |e: std::io::Error| Error::Data { path: self.path.clone(), problem: e.to_string() };
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut record = Vec::new();
        while self.end + HEAD <= len {
            record.resize(HEAD as usize, 0);
            reader.read_exact(&mut record).map_err(io)?;
            let (head, check) = record.split_at(12);
            if checked(head) != check {
                return Err(self.damaged(self.end));
            }
            let number = u64::from_le_bytes(head[..8].try_into().expect("8 bytes"));
            let units = u32::from_le_bytes(head[8..].try_into().expect("4 bytes"));
            let bytes = self.kind.record(units);
            if bytes > len - self.end {
                break;
            }
            record.resize(bytes as usize, 0);
            reader.read_exact(&mut record[HEAD as usize..]).map_err(io)?;
            let (content, checksum) = record.split_at(record.len() - 8);
            if xxh3_64(content).to_le_bytes() != checksum {
                return Err(self.damaged(self.end));
            }
            self.records.insert(number, (self.end, units));
            self.end += bytes;
        }
        Ok(())
    }

    fn damaged(&self, at: u64) -> Error {
        self.error(format!("the record at byte {at} is damaged; delete the file and start again"))
    }

    /// An error about the file.
    pub fn error(&self, problem: String) -> Error {
        Error::Data { path: self.path.clone(), problem }
    }

    /// Whether an input's record is there.
    pub fn has(&self, number: u64) -> bool {
        self.records.contains_key(&number)
    }

    /// How many records are there.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Appends an input's record.
    ///
    /// # Errors
    /// If the file cannot be written; what was kept before stays.
    pub fn keep(&mut self, number: u64, units: u32, content: impl IntoIterator<Item = u8>) -> Result<(), Error> {
        self.make_own()?;
        let mut record = Vec::with_capacity(self.kind.record(units) as usize);
        record.extend(number.to_le_bytes());
        record.extend(units.to_le_bytes());
        record.extend(checked(&record));
        record.extend(content);
        record.extend(xxh3_64(&record).to_le_bytes());
        debug_assert_eq!(record.len() as u64, self.kind.record(units));
        // Behind the last whole one: over what there is of one that was not finished.
        let cut = self.file.set_len(self.end).and_then(|()| self.file.seek(SeekFrom::Start(self.end)));
        let written = cut.and_then(|_| self.file.write_all(&record));
        written.map_err(|e| self.error(e.to_string()))?;
        self.records.insert(number, (self.end, units));
        self.end += record.len() as u64;
        Ok(())
    }

    /// The units of an input's record, and their bytes.
    ///
    /// # Errors
    /// If it is not there, cannot be read, or is not what was written.
    pub fn read(&mut self, number: u64) -> Result<(u32, Vec<u8>), Error> {
        let &(at, units) = self.records.get(&number).ok_or_else(|| {
            self.error("a sequence is not in it; capture the same data with `bantam teach` first".to_owned())
        })?;
        let mut record = vec![0; self.kind.record(units) as usize];
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(&mut record));
        read.map_err(|e| self.error(e.to_string()))?;
        let checksum = record.split_off(record.len() - 8);
        if record[..8] != number.to_le_bytes() || xxh3_64(&record).to_le_bytes()[..] != checksum {
            return Err(self.damaged(at));
        }
        record.drain(..HEAD as usize);
        Ok((units, record))
    }
}

/// The checksum of a record's number and units.
fn checked(head: &[u8]) -> [u8; 4] {
    (xxh3_64(head) as u32).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Kind = Kind { magic: *b"bantam?\x01", size: 1, bytes: 1 };

    #[test]
    fn a_file_is_one_runs_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let mut records = Records::open(&path, BYTES, "T").unwrap();
        let refused = Records::open(&path, BYTES, "T").err().unwrap();
        assert!(matches!(refused, Error::InUse { .. }) && refused.to_string().contains("cache"), "{refused}");
        records.keep(3, 2, [7, 8]).unwrap();
        drop(records);
        let mut records = Records::open(&path, BYTES, "T").unwrap();
        assert_eq!(records.read(3).unwrap(), (2, vec![7, 8]));
    }

    #[test]
    fn runs_read_a_file_together_until_one_appends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        Records::open(&path, BYTES, "T").unwrap().keep(3, 2, [7, 8]).unwrap();
        let open = || Records::open_shared(&path, BYTES, "T");
        let (mut one, mut other) = (open().unwrap(), open().unwrap());
        assert_eq!((one.read(3).unwrap(), other.read(3).unwrap()), ((2, vec![7, 8]), (2, vec![7, 8])));
        assert!(matches!(one.keep(4, 1, [9]).unwrap_err(), Error::InUse { .. }), "the other reads");
        drop(one);
        other.keep(4, 1, [9]).unwrap();
        assert!(matches!(open().err().unwrap(), Error::InUse { .. }), "the other appends");
        drop(other);
        assert_eq!(open().unwrap().read(4).unwrap(), (1, vec![9]));
        // Where nothing may be written there may still be read. (To root all is permitted.)
        let mut permissions = std::fs::metadata(&path).unwrap().permissions();
        permissions.set_readonly(true);
        std::fs::set_permissions(&path, permissions).unwrap();
        let mut read_only = open().unwrap();
        assert_eq!(read_only.read(3).unwrap(), (2, vec![7, 8]));
        if OpenOptions::new().write(true).open(&path).is_err() {
            let refused = read_only.keep(5, 1, [9]).unwrap_err().to_string();
            assert!(refused.contains("may not be written"), "{refused}");
        }
    }

    #[test]
    fn what_changes_after_opening_is_found_on_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let mut records = Records::open(&path, BYTES, "T").unwrap();
        let begin = records.end;
        records.keep(3, 2, [7, 8]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in begin as usize..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = records.read(3).unwrap_err().to_string();
            assert!(error.contains(&format!("byte {begin} is damaged")), "byte {at}: {error}");
        }
    }

    #[test]
    fn damage_anywhere_is_said_and_cuts_nothing_off() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let mut records = Records::open(&path, BYTES, "T").unwrap();
        (0..3).for_each(|number| records.keep(number, 2, [7, 8]).unwrap());
        drop(records);
        let whole = std::fs::read(&path).unwrap();
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(&path, &bytes).unwrap();
            assert!(Records::open(&path, BYTES, "T").is_err(), "bit {bit}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "bit {bit}");
        }
    }

    #[test]
    fn a_file_of_something_else_says_of_what() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        drop(Records::open(&path, BYTES, "a long teacher's name").unwrap());
        let refused =
            |kind: Kind, description: &str| Records::open(&path, kind, description).err().unwrap().to_string();
        let shorter = refused(BYTES, "b");
        assert!(shorter.contains("those of a long teacher's name, not of b;"), "{shorter}");
        let longer = refused(BYTES, &"c".repeat(200));
        assert!(longer.contains("those of a long teacher's name, not of ccc"), "{longer}");
        assert!(refused(Kind { size: 2, ..BYTES }, "a long teacher's name").contains("other outputs"));
        assert!(refused(Kind { magic: *b"bantamX\x01", ..BYTES }, "a long teacher's name").contains("no file"));
    }
}
