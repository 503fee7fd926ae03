//! What a teacher said, kept in a file: captured once, used by every epoch and every student.
//!
//! The records ([`Records`]) have a unit per position: k tokens (4 bytes each) of all positions, then k log-probabilities (f16),
//! then, where they were asked for, the hidden states (f16), layer by layer.

use super::{Said, Teacher};
use crate::Error;
use crate::records::{Kind, Records};
use half::f16;
use std::path::Path;

const MAGIC: [u8; 8] = *b"bantamT\x02";
const WITH_HIDDEN: [u8; 8] = *b"bantamH\x02";

/// A file of what a teacher said.
pub struct Cache {
    records: Records,
    description: String,
    k: usize,
}

impl Cache {
    /// Opens the cache of what a teacher of this description says of sequences with this hash, `k` tokens and `hidden` numbers of
    /// hidden states each position, or begins it.
    ///
    /// # Errors
    /// If the file cannot be read or written, is no cache, is one of another teacher or other sequences, or is damaged.
    pub fn open(path: &Path, description: &str, sequences: u64, k: usize, hidden: usize) -> Result<Self, Error> {
        let kind = match hidden {
            0 => Kind { magic: MAGIC, size: k, bytes: 4 + 2 },
            _ => Kind { magic: WITH_HIDDEN, size: 3 * k + hidden, bytes: 2 },
        };
        let records = Records::open(path, kind, description, sequences)?;
        Ok(Self { records, description: description.to_owned(), k })
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
    /// If a hidden state is too large for f16, or the file cannot be written; what was kept before stays.
    pub fn keep(&mut self, sequence: u64, said: &Said) -> Result<(), Error> {
        if let Some(value) = said.hidden.iter().find(|v| !f16::from_f32(**v).is_finite()) {
            let problem = format!(
                "a hidden state of sequence {sequence} is {value}, which half precision cannot hold; match hidden states without a cache, or \
                 those of other layers"
            );
            return Err(self.records.error(problem));
        }
        let tokens = said.tokens.iter().flat_map(|t| t.to_le_bytes());
        let rest = said.log_probabilities.iter().chain(&said.hidden).flat_map(|&v| f16::from_f32(v).to_le_bytes());
        self.records.keep(sequence, said.positions() as u32, tokens.chain(rest))
    }
}

impl Teacher for Cache {
    fn says(&mut self, sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        let (positions, content) = self.records.read(sequence)?;
        if positions as usize != tokens.len() {
            let problem = format!("sequence {sequence} has {positions} positions in it, not {}", tokens.len());
            return Err(self.records.error(problem));
        }
        let k = self.k;
        let (said_tokens, rest) = content.split_at(positions as usize * k * 4);
        let (log, hidden) = rest.split_at(positions as usize * k * 2);
        let numbers = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect();
        Ok(Said {
            k,
            tokens: said_tokens.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect(),
            log_probabilities: numbers(log),
            hidden: numbers(hidden),
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
        Said { k: 2, tokens, log_probabilities, hidden: Vec::new() }
    }

    fn filled(path: &Path) {
        let mut cache = Cache::open(path, "T", 1, 2, 0).unwrap();
        for (number, positions) in [(5, 3), (0, 4), (9, 1)] {
            cache.keep(number, &said(positions, number as u32)).unwrap();
        }
    }

    #[test]
    fn what_was_kept_is_read_and_added_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        filled(&path);
        let mut cache = Cache::open(&path, "T", 1, 2, 0).unwrap();
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.says(0, &[0; 4]).unwrap(), said(4, 0));
        cache.keep(2, &said(2, 2)).unwrap();
        drop(cache);
        let mut cache = Cache::open(&path, "T", 1, 2, 0).unwrap();
        assert_eq!(cache.says(2, &[0; 2]).unwrap(), said(2, 2));
        assert!(cache.says(3, &[0]).unwrap_err().to_string().contains("sequence 3"));
        assert!(cache.says(2, &[0]).unwrap_err().to_string().contains("positions"));
    }

    #[test]
    fn hidden_states_are_kept_in_half_precision() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let hidden: Vec<f32> = (0..3 * 5).map(|i| i as f32 / 4.0 - 1.0).collect();
        let said = Said { hidden, ..said(3, 1) };
        let mut cache = Cache::open(&path, "T", 1, 2, 5).unwrap();
        cache.keep(4, &said).unwrap();
        cache.keep(5, &said).unwrap();
        for value in [7e4, f32::NEG_INFINITY, f32::NAN] {
            let hidden = said.hidden.iter().copied().skip(1).chain([value]).collect();
            let error = cache.keep(6, &Said { hidden, ..said.clone() }).unwrap_err().to_string();
            assert!(error.contains(&value.to_string()) && !cache.has(6), "{error}");
        }
        drop(cache);
        let mut cache = Cache::open(&path, "T", 1, 2, 5).unwrap();
        assert_eq!(cache.says(5, &[0; 3]).unwrap(), said);
        drop(cache);
        assert!(Cache::open(&path, "T", 1, 2, 0).is_err() && Cache::open(&path, "T", 1, 2, 6).is_err());
    }

    #[test]
    fn a_file_cut_short_anywhere_keeps_its_whole_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        filled(&path);
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let mut cache = Cache::open(&path, "T", 1, 2, 0).unwrap();
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
            Cache::open(&path, description, sequences, k, 0).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused("U", 1, 2).contains("those of T, not of U"));
        assert!(refused("T", 2, 2).contains("on other text"));
        assert!(refused("T", 1, 3).contains("other outputs"));
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(refused("T", 1, 2).contains("is damaged"), "{}", refused("T", 1, 2));
        std::fs::write(&path, b"something else altogether").unwrap();
        assert!(refused("T", 1, 2).contains("no file of a teacher"));
    }
}
