//! A file of what a model gave (a teacher's outputs, rounded layers), one record for each input: appended to, checked, and gone on with after
//! an interruption.
//!
//! Layout, little endian: 8 bytes that say the kind, 8 bytes of the identity of model and inputs, 4 bytes that size a
//! record's units; then one record per input in the order they were captured: its number (8 bytes), its units (4), their
//! bytes, and XXH3 of the record (8). A file that ends within a record is cut back to whole ones and gone on with; a record
//! whose checksum is wrong is an error.

use crate::Error;
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const HEADER: u64 = 8 + 8 + 4;

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
        8 + 4 + u64::from(units) * (self.size * self.bytes) as u64 + 8
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
}

impl Records {
    /// Opens the file of what a teacher of this description gave for inputs with this hash, or begins it.
    ///
    /// # Errors
    /// If the file cannot be read or written, another process has it, it is of another kind, teacher or inputs, or is damaged.
    pub fn open(path: &Path, kind: Kind, description: &str, inputs: u64) -> Result<Self, Error> {
        let error = |problem: String| Error::Data { path: path.to_owned(), problem };
        let io = |e: std::io::Error| error(e.to_string());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        // Two that append at what each takes for the end would write over each other. (Some file systems have no locks.)
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            return Err(Error::InUse { path: path.to_owned() });
        }
        let len = file.metadata().map_err(io)?.len();
        let mut header = kind.magic.to_vec();
        header.extend(xxh3_64(format!("{description} {inputs:016x}").as_bytes()).to_le_bytes());
        header.extend((kind.size as u32).to_le_bytes());
        let mut records = Self { file, path: path.to_owned(), kind, records: HashMap::new(), end: HEADER };
        let mut found = vec![0; len.min(HEADER) as usize];
        records.file.read_exact(&mut found).map_err(io)?;
        let begun = found.len().min(8);
        if found[..begun] != header[..begun] || len < HEADER && !header.starts_with(&found) {
            return Err(error("it is no file of a teacher's outputs of this kind".to_owned()));
        }
        if len < HEADER {
            records.file.seek(SeekFrom::Start(0)).and_then(|_| records.file.write_all(&header)).map_err(io)?;
            return Ok(records);
        }
        if found != header {
            let problem = format!(
                "it holds the outputs of another teacher, on other text, or kept otherwise, than {description}; give another \
                 name for the cache, or delete it"
            );
            return Err(error(problem));
        }
        records.find(len)?;
        Ok(records)
    }

    /// Finds and checks all records; cuts off one that was not finished.
    fn find(&mut self, len: u64) -> Result<(), Error> {
        let io = |e: std::io::Error| Error::Data { path: self.path.clone(), problem: e.to_string() };
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut record = Vec::new();
        while self.end + 12 <= len {
            record.resize(12, 0);
            reader.read_exact(&mut record).map_err(io)?;
            let number = u64::from_le_bytes(record[..8].try_into().expect("8 bytes"));
            let units = u32::from_le_bytes(record[8..].try_into().expect("4 bytes"));
            let bytes = self.kind.record(units);
            if bytes > len - self.end {
                break;
            }
            record.resize(bytes as usize, 0);
            reader.read_exact(&mut record[12..]).map_err(io)?;
            let (content, checksum) = record.split_at(record.len() - 8);
            if xxh3_64(content).to_le_bytes() != checksum {
                return Err(self.damaged(self.end));
            }
            self.records.insert(number, (self.end, units));
            self.end += bytes;
        }
        self.file.set_len(self.end).map_err(io)
    }

    fn damaged(&self, at: u64) -> Error {
        self.error(format!("the record at byte {at} is damaged; delete the file and capture again"))
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
        let mut record = Vec::with_capacity(self.kind.record(units) as usize);
        record.extend(number.to_le_bytes());
        record.extend(units.to_le_bytes());
        record.extend(content);
        record.extend(xxh3_64(&record).to_le_bytes());
        debug_assert_eq!(record.len() as u64, self.kind.record(units));
        let written = self.file.seek(SeekFrom::Start(self.end)).and_then(|_| self.file.write_all(&record));
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
            self.error(format!("sequence {number} is not in it; capture the same data with `bantam teach` first"))
        })?;
        let mut record = vec![0; self.kind.record(units) as usize];
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(&mut record));
        read.map_err(|e| self.error(e.to_string()))?;
        let checksum = record.split_off(record.len() - 8);
        if record[..8] != number.to_le_bytes() || xxh3_64(&record).to_le_bytes()[..] != checksum {
            return Err(self.damaged(at));
        }
        record.drain(..12);
        Ok((units, record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: Kind = Kind { magic: *b"bantam?\x01", size: 1, bytes: 1 };

    #[test]
    fn a_file_is_one_runs_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let mut records = Records::open(&path, BYTES, "T", 1).unwrap();
        let refused = Records::open(&path, BYTES, "T", 1).err().unwrap();
        assert!(matches!(refused, Error::InUse { .. }) && refused.to_string().contains("cache"), "{refused}");
        records.keep(3, 2, [7, 8]).unwrap();
        drop(records);
        let mut records = Records::open(&path, BYTES, "T", 1).unwrap();
        assert_eq!(records.read(3).unwrap(), (2, vec![7, 8]));
    }

    #[test]
    fn what_changes_after_opening_is_found_on_reading() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let mut records = Records::open(&path, BYTES, "T", 1).unwrap();
        records.keep(3, 2, [7, 8]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in HEADER as usize..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let error = records.read(3).unwrap_err().to_string();
            assert!(error.contains("byte 20 is damaged"), "byte {at}: {error}");
        }
    }
}
