//! What a teacher said, kept in a file: captured once, used by every epoch and every student. A sequence is known by its tokens, so that text can be
//! added, left out, and come in another order.
//!
//! The records ([`Records`]) have a unit per position: k tokens (4 bytes each) of all positions, then k log-probabilities (f16), then the logarithms of
//! what is left to all other tokens (f16), then, where they were asked for, the hidden states (f16), layer by layer.

use super::{Said, Teacher};
use crate::Error;
use crate::records::{Kind, Records};
use half::f16;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"bantamT\x03";
const WITH_HIDDEN: [u8; 8] = *b"bantamH\x03";

/// A file of what a teacher said.
pub struct Cache {
    records: Records,
    description: String,
    k: usize,
}

impl Cache {
    /// Opens the cache of what a teacher of this description says, `k` tokens and `hidden` numbers of hidden states each position, or begins it.
    ///
    /// # Errors
    /// If the file cannot be read or written, is no cache, is one of another teacher, or is damaged.
    pub fn open(path: &Path, description: &str, k: usize, hidden: usize) -> Result<Self, Error> {
        let magic = if hidden == 0 { MAGIC } else { WITH_HIDDEN };
        let kind = Kind { magic, size: 3 * k + 1 + hidden, bytes: 2 };
        let records = Records::open_shared(path, kind, description)?;
        Ok(Self { records, description: description.to_owned(), k })
    }

    /// Whether what was said of these tokens is kept.
    pub fn has(&self, tokens: &[u32]) -> bool {
        self.records.has(key(tokens))
    }

    /// Sequences kept.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps what was said of these tokens.
    ///
    /// # Errors
    /// If a hidden state is too large for f16, or the file cannot be written; what was kept before stays.
    pub fn keep(&mut self, tokens: &[u32], said: &Said) -> Result<(), Error> {
        if let Some(value) = said.hidden.iter().find(|v| !f16::from_f32(**v).is_finite()) {
            let problem = format!(
                "a hidden state is {value}, which half precision cannot hold; match hidden states without a cache, or \
                 those of other layers"
            );
            return Err(self.records.error(problem));
        }
        let likeliest = said.tokens.iter().flat_map(|t| t.to_le_bytes());
        let numbers = said.log_probabilities.iter().chain(&said.log_rests).chain(&said.hidden);
        let numbers = numbers.flat_map(|&v| f16::from_f32(v).to_le_bytes());
        self.records.keep(key(tokens), said.positions() as u32, likeliest.chain(numbers))
    }
}

impl Teacher for Cache {
    fn says(&mut self, _sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        let (positions, content) = self.records.read(key(tokens))?;
        if positions as usize != tokens.len() {
            let problem = format!("a sequence has {positions} positions in it, not {}", tokens.len());
            return Err(self.records.error(problem));
        }
        let (k, positions) = (self.k, positions as usize);
        let (said_tokens, rest) = content.split_at(positions * k * 4);
        let (log, rest) = rest.split_at(positions * k * 2);
        let (log_rests, hidden) = rest.split_at(positions * 2);
        let numbers = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect();
        Ok(Said {
            k,
            tokens: said_tokens.as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect(),
            log_probabilities: numbers(log),
            log_rests: numbers(log_rests),
            hidden: numbers(hidden),
        })
    }

    fn description(&self) -> String {
        self.description.clone()
    }
}

/// By what a sequence is known.
fn key(tokens: &[u32]) -> u64 {
    xxh3_64(bytemuck::cast_slice(tokens))
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
        if !self.cache.has(tokens) {
            let said = self.teacher.says(sequence, tokens)?;
            self.cache.keep(tokens, &said)?;
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
        let log_rests = (0..positions).map(|i| -9.0 - i as f32).collect();
        Said { k: 2, tokens, log_probabilities, log_rests, hidden: Vec::new() }
    }

    /// Sequence `number`, of so many tokens.
    fn sequence(number: u32, positions: usize) -> Vec<u32> {
        vec![number; positions]
    }

    const KEPT: [(u32, usize); 3] = [(5, 3), (0, 4), (9, 1)];

    fn filled(path: &Path) {
        let mut cache = Cache::open(path, "T", 2, 0).unwrap();
        for (number, positions) in KEPT {
            cache.keep(&sequence(number, positions), &said(positions, number)).unwrap();
        }
    }

    #[test]
    fn what_was_kept_is_read_and_added_to() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        filled(&path);
        let mut cache = Cache::open(&path, "T", 2, 0).unwrap();
        assert_eq!(cache.len(), 3);
        assert_eq!(cache.says(7, &[0; 4]).unwrap(), said(4, 0), "whatever its number");
        cache.keep(&[2; 2], &said(2, 2)).unwrap();
        drop(cache);
        let mut cache = Cache::open(&path, "T", 2, 0).unwrap();
        assert_eq!(cache.says(0, &[2; 2]).unwrap(), said(2, 2));
        for other in [vec![2], vec![2; 3], vec![]] {
            assert!(!cache.has(&other) && cache.says(0, &other).unwrap_err().to_string().contains("is not in it"));
        }
    }

    #[test]
    fn hidden_states_are_kept_in_half_precision() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        let hidden: Vec<f32> = (0..3 * 5).map(|i| i as f32 / 4.0 - 1.0).collect();
        let said = Said { hidden, ..said(3, 1) };
        let mut cache = Cache::open(&path, "T", 2, 5).unwrap();
        cache.keep(&[4; 3], &said).unwrap();
        cache.keep(&[5; 3], &said).unwrap();
        for value in [7e4, f32::NEG_INFINITY, f32::NAN] {
            let hidden = said.hidden.iter().copied().skip(1).chain([value]).collect();
            let error = cache.keep(&[6; 3], &Said { hidden, ..said.clone() }).unwrap_err().to_string();
            assert!(error.contains(&value.to_string()) && !cache.has(&[6; 3]), "{error}");
        }
        drop(cache);
        let mut cache = Cache::open(&path, "T", 2, 5).unwrap();
        assert_eq!(cache.says(0, &[5; 3]).unwrap(), said);
        drop(cache);
        assert!(Cache::open(&path, "T", 2, 0).is_err() && Cache::open(&path, "T", 2, 6).is_err());
    }

    #[test]
    fn a_file_cut_short_anywhere_keeps_its_whole_records() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache");
        filled(&path);
        let bytes = std::fs::read(&path).unwrap();
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let mut cache = Cache::open(&path, "T", 2, 0).unwrap();
            for (number, positions) in KEPT {
                let tokens = sequence(number, positions);
                if cache.has(&tokens) {
                    assert_eq!(cache.says(0, &tokens).unwrap(), said(positions, number));
                } else {
                    cache.keep(&tokens, &said(positions, number)).unwrap();
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
        let refused = |description: &str, k| {
            Cache::open(&path, description, k, 0).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused("U", 2).contains("those of T, not of U"));
        assert!(refused("T", 3).contains("other outputs"));
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(refused("T", 2).contains("is damaged"), "{}", refused("T", 2));
        std::fs::write(&path, b"something else altogether").unwrap();
        assert!(refused("T", 2).contains("no file of a teacher"));
    }
}
