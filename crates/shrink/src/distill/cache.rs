//! What a teacher said, kept in a file: captured once, used by every epoch and every student.
//!
//! The records ([`Records`]) have a unit per position: k tokens (4 bytes each) of all positions, then k log-probabilities (f16).

use super::records::{Kind, Records};
use super::{Said, Teacher};
use crate::Error;
use half::f16;
use std::path::Path;

const MAGIC: [u8; 8] = *b"bantamT\x01";

/// A file of what a teacher said.
pub struct Cache {
    records: Records,
    description: String,
}

impl Cache {
    /// Opens the cache of what `teacher` says of sequences with this hash, `k` tokens each, or begins it.
    ///
    /// # Errors
    /// If the file cannot be read or written, is no cache, is one of another teacher or other sequences, or is damaged.
    pub fn open(path: &Path, description: &str, sequences: u64, k: usize) -> Result<Self, Error> {
        let kind = Kind { magic: MAGIC, size: k, bytes: 4 + 2 };
        let records = Records::open(path, kind, description, sequences)?;
        Ok(Self { records, description: description.to_owned() })
    }

    /// Whether a sequence is kept.
    pub fn has(&self, sequence: u64) -> bool {
        self.records.has(sequence)
    }

    /// Sequences kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps what was said of a sequence.
    ///
    /// # Errors
    /// If the file cannot be written; what was kept before stays.
    pub fn keep(&mut self, sequence: u64, said: &Said) -> Result<(), Error> {
        let tokens = said.tokens.iter().flat_map(|t| t.to_le_bytes());
        let log_probabilities = said.log_probabilities.iter().flat_map(|&l| f16::from_f32(l).to_le_bytes());
        self.records.keep(sequence, said.positions() as u32, tokens.chain(log_probabilities))
    }
}

impl Teacher for Cache {
    fn says(&mut self, sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        let (positions, content) = self.records.read(sequence)?;
        if positions as usize != tokens.len() {
            let problem = format!("sequence {sequence} has {positions} positions in it, not {}", tokens.len());
            return Err(self.records.error(problem));
        }
        let k = self.records.size();
        let (said_tokens, log) = content.split_at(positions as usize * k * 4);
        Ok(Said {
            k,
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
        bytes[20 + 20] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(refused("T", 1, 2).contains("byte 20 is damaged"), "{}", refused("T", 1, 2));
        std::fs::write(&path, b"something else altogether").unwrap();
        assert!(refused("T", 1, 2).contains("no file of a teacher"));
    }
}
