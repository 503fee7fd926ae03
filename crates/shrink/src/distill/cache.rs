//! What a teacher said, kept in a file: captured once, used by every epoch and every student.
//!
//! Layout, little endian: 8 bytes `MAGIC`, 8 bytes XXH3 of the teacher's description and the sequences, 4 bytes k; then one
//! record per sequence in the order they were captured: its number (8 bytes), its positions (4), of each position k tokens
//! (4 bytes each) and k log-probabilities (f16), and XXH3 of the record (8). A file that ends within a record is cut back to
//! whole ones and gone on with; a record whose checksum is wrong is an error.

use super::{Said, Teacher};
use crate::Error;
use half::f16;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"bantamT\x01";
const HEADER: u64 = 8 + 8 + 4;

/// A file of what a teacher said.
pub struct Cache {
    file: File,
    path: PathBuf,
    description: String,
    k: usize,
    /// Where each sequence's record begins, and its positions.
    records: HashMap<u64, (u64, u32)>,
    end: u64,
}

impl Cache {
    /// Opens the cache of what `teacher` says of sequences with this hash, `k` tokens each, or begins it.
    ///
    /// # Errors
    /// If the file cannot be read or written, is no cache, is one of another teacher or other sequences, or is damaged.
    pub fn open(path: &Path, description: &str, sequences: u64, k: usize) -> Result<Self, Error> {
        let error = |problem: String| Error::Data { path: path.to_owned(), problem };
        let io = |e: std::io::Error| error(e.to_string());
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(io)?;
        let len = file.metadata().map_err(io)?.len();
        let mut cache = Self {
            file,
            path: path.to_owned(),
            description: description.to_owned(),
            k,
            records: HashMap::new(),
            end: HEADER,
        };
        let identity = xxh3_64(format!("{description} {sequences:016x}").as_bytes());
        let mut header = MAGIC.to_vec();
        header.extend(identity.to_le_bytes());
        header.extend((k as u32).to_le_bytes());
        if len < HEADER {
            let mut begun = vec![0; len as usize];
            cache.file.read_exact(&mut begun).map_err(io)?;
            if !header.starts_with(&begun) {
                return Err(error("it is no file of a teacher's outputs".to_owned()));
            }
            cache.file.seek(SeekFrom::Start(0)).and_then(|_| cache.file.write_all(&header)).map_err(io)?;
            return Ok(cache);
        }
        let mut found = [0; HEADER as usize];
        cache.file.read_exact(&mut found).map_err(io)?;
        if found[..8] != MAGIC {
            return Err(error("it is no file of a teacher's outputs".to_owned()));
        }
        if found[..] != header[..] {
            let problem = format!(
                "it holds the outputs of another teacher, on other text, or kept otherwise, than {description}, {k} tokens; \
                 give another name for the cache, or delete it"
            );
            return Err(error(problem));
        }
        cache.read_records(len)?;
        Ok(cache)
    }

    /// Finds and checks all records; cuts off one that was not finished.
    fn read_records(&mut self, len: u64) -> Result<(), Error> {
        let io = |e: std::io::Error| Error::Data { path: self.path.clone(), problem: e.to_string() };
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut record = Vec::new();
        while self.end + 12 <= len {
            record.resize(12, 0);
            reader.read_exact(&mut record).map_err(io)?;
            let number = u64::from_le_bytes(record[..8].try_into().expect("8 bytes"));
            let positions = u32::from_le_bytes(record[8..].try_into().expect("4 bytes"));
            let bytes = record_bytes(positions, self.k);
            if bytes > len - self.end {
                break;
            }
            record.resize(bytes as usize, 0);
            reader.read_exact(&mut record[12..]).map_err(io)?;
            let (content, checksum) = record.split_at(record.len() - 8);
            if xxh3_64(content).to_le_bytes() != checksum {
                let problem = format!("the record at byte {} is damaged; delete the file and capture again", self.end);
                return Err(Error::Data { path: self.path.clone(), problem });
            }
            self.records.insert(number, (self.end, positions));
            self.end += bytes;
        }
        self.file.set_len(self.end).map_err(io)
    }

    /// Whether a sequence is kept.
    pub fn has(&self, sequence: u64) -> bool {
        self.records.contains_key(&sequence)
    }

    /// Sequences kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Keeps what was said of a sequence.
    ///
    /// # Errors
    /// If the file cannot be written; what was kept before stays.
    pub fn keep(&mut self, sequence: u64, said: &Said) -> Result<(), Error> {
        let positions = said.positions() as u32;
        let mut record = Vec::with_capacity(record_bytes(positions, self.k) as usize);
        record.extend(sequence.to_le_bytes());
        record.extend(positions.to_le_bytes());
        record.extend(said.tokens.iter().flat_map(|t| t.to_le_bytes()));
        record.extend(said.log_probabilities.iter().flat_map(|&l| f16::from_f32(l).to_le_bytes()));
        record.extend(xxh3_64(&record).to_le_bytes());
        let written = self.file.seek(SeekFrom::Start(self.end)).and_then(|_| self.file.write_all(&record));
        written.map_err(|e| Error::Data { path: self.path.clone(), problem: e.to_string() })?;
        self.records.insert(sequence, (self.end, positions));
        self.end += record.len() as u64;
        Ok(())
    }
}

/// Bytes of a record.
fn record_bytes(positions: u32, k: usize) -> u64 {
    8 + 4 + u64::from(positions) * k as u64 * (4 + 2) + 8
}

impl Teacher for Cache {
    fn says(&mut self, sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        let error = |problem: String| Error::Data { path: self.path.clone(), problem };
        let &(at, positions) = self.records.get(&sequence).ok_or_else(|| {
            error(format!("sequence {sequence} is not in it; capture the same data with `bantam teach` first"))
        })?;
        if positions as usize != tokens.len() {
            return Err(error(format!("sequence {sequence} has {positions} positions in it, not {}", tokens.len())));
        }
        let mut record = vec![0; record_bytes(positions, self.k) as usize];
        let read = self.file.seek(SeekFrom::Start(at)).and_then(|_| self.file.read_exact(&mut record));
        read.map_err(|e| Error::Data { path: self.path.clone(), problem: e.to_string() })?;
        let (said_tokens, rest) = record[12..].split_at(positions as usize * self.k * 4);
        let log = &rest[..positions as usize * self.k * 2];
        Ok(Said {
            k: self.k,
            tokens: said_tokens.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect(),
            log_probabilities: log.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect(),
        })
    }

    fn description(&self) -> String {
        self.description.clone()
    }
}

/// A teacher whose word is kept: asked once for each sequence.
pub struct Kept<T> {
    /// The teacher.
    pub teacher: T,
    /// Where its word is kept.
    pub cache: Cache,
}

impl<T: Teacher> Teacher for Kept<T> {
    fn says(&mut self, sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        if !self.cache.has(sequence) {
            let said = self.teacher.says(sequence, tokens)?;
            self.cache.keep(sequence, &said)?;
        }
        // Read back in any case, so that a resumed run learns from the same rounded numbers.
        self.cache.says(sequence, tokens)
    }

    fn description(&self) -> String {
        self.teacher.description()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(positions: usize, seed: u32) -> Said {
        let tokens = (0..positions as u32 * 2).map(|i| i * 7 + seed).collect();
        let log_probabilities = (0..positions * 2).map(|i| -(i as f32) / 4.0).collect();
        Said { k: 2, tokens, log_probabilities }
    }

    fn filled(path: &Path) {
        let mut cache = Cache::open(path, "T", 1, 2).unwrap();
        for (number, positions) in [(5, 3), (0, 4), (9, 1)] {
            cache.keep(number, &said(positions, number as u32)).unwrap();
        }
    }

    #[test]
    fn what_was_kept_is_read_and_added_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        filled(&path);
        let mut cache = Cache::open(&path, "T", 1, 2).unwrap();
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.says(0, &[0; 4]).unwrap(), said(4, 0));
        cache.keep(2, &said(2, 2)).unwrap();
        let mut cache = Cache::open(&path, "T", 1, 2).unwrap();
        assert_eq!(cache.says(2, &[0; 2]).unwrap(), said(2, 2));
        assert!(cache.says(3, &[0]).unwrap_err().to_string().contains("sequence 3"));
        assert!(cache.says(2, &[0]).unwrap_err().to_string().contains("positions"));
    }

    #[test]
    fn a_file_cut_short_anywhere_keeps_its_whole_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        filled(&path);
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let mut cache = Cache::open(&path, "T", 1, 2).unwrap();
            for (number, positions) in [(5, 3), (0, 4), (9, 1)] {
                if cache.has(number) {
                    assert_eq!(cache.says(number, &vec![0; positions]).unwrap(), said(positions, number as u32));
                } else {
                    cache.keep(number, &said(positions, number as u32)).unwrap();
                }
            }
            assert_eq!(std::fs::read(&path).unwrap(), bytes, "cut to {len}");
        }
    }

    #[test]
    fn damage_and_other_teachers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        filled(&path);
        let refused = |description: &str, sequences, k| {
            Cache::open(&path, description, sequences, k).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused("U", 1, 2).contains("another teacher"));
        assert!(refused("T", 2, 2).contains("another teacher"));
        assert!(refused("T", 1, 3).contains("another teacher"));
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEADER as usize + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(refused("T", 1, 2).contains("byte 20 is damaged"), "{}", refused("T", 1, 2));
        std::fs::write(&path, b"something else altogether").unwrap();
        assert!(refused("T", 1, 2).contains("no file of a teacher"));
    }
}
