//! llama.cpp's importance matrices: how strongly each input channel of each linear layer is used on some text.
//!
//! For every weight tensor an [`Entry`] holds the sum, over the tokens that came by, of the square of each input channel.
//! An error in a weight counts as much as its channel's mean square; that is what importance-weighted rounding minimizes.
//! In a mixture of experts each expert sees other tokens, so each has sums and a count of its own.
//!
//! Two kinds of file hold them: the GGUF form (`llama-imatrix` since July 2025) and the older binary one (`.dat`). Where to
//! start: [`Imatrix::read`], which tells them apart by their content; [`Imatrix::write`] and [`Imatrix::write_legacy`].
//! The semantics are those of llama.cpp's `tools/imatrix/imatrix.cpp`, `common/imatrix-loader.cpp` and
//! `tools/quantize/quantize.cpp`.

mod gguf;
mod legacy;

use crate::{Error, Result, TensorInfo, mapped};
use std::collections::BTreeMap;
use std::path::Path;

/// An importance matrix: one [`Entry`] for each weight tensor that was observed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The texts that it was computed from, as their user named them. The older form holds the last one only.
    pub datasets: Vec<String>,
    /// Tokens in a chunk. `None` where the file does not say, as the older form never does: counts are then in chunks.
    pub chunk_tokens: Option<usize>,
    /// Chunks of text that were seen.
    pub chunks: usize,
    /// By the name of the weight tensor, for example `blk.0.attn_q.weight`.
    pub entries: BTreeMap<String, Entry>,
}

/// What one weight tensor's inputs were.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    sums: Vec<f32>,
    counts: Vec<u64>,
}

impl Entry {
    /// The `sums` of squares of each input channel, `[experts, cols]` row-major, and the `counts` of tokens that they were
    /// taken over: one for each expert, or one for all. (Chunks in place of tokens, if the matrix does not know
    /// [how long a chunk is](Imatrix::chunk_tokens).)
    ///
    /// # Panics
    /// If there are no counts, or the sums do not divide among them.
    pub fn new(sums: Vec<f32>, counts: Vec<u64>) -> Self {
        assert!(!sums.is_empty() && !counts.is_empty() && sums.len().is_multiple_of(counts.len()));
        Self { sums, counts }
    }

    /// The sums of squares, `[experts, cols]`; `experts` is 1 but for experts (or other matrices) merged in one tensor.
    pub fn sums(&self) -> &[f32] {
        &self.sums
    }

    /// The tokens that each expert saw; one number if all saw the same.
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// The mean square of each input channel, `[experts, cols]`. Of an expert that no token reached nothing is known: as
    /// in llama.cpp, all its channels count the same, 1.
    pub fn mean_squares(&self) -> Vec<f32> {
        let parts = self.parts();
        parts.flat_map(|(sums, n)| sums.iter().map(move |&s| if n == 0 { 1.0 } else { s / n as f32 })).collect()
    }

    /// Whether the entry can be of this weight tensor, `[.., rows, cols]`: one number for each input channel of each of its
    /// matrices.
    pub fn fits(&self, tensor: &TensorInfo) -> bool {
        let matrices: usize = tensor.shape.iter().rev().skip(2).product();
        matrices * tensor.cols() == self.sums.len()
    }

    /// The sums that each count is about.
    fn parts(&self) -> impl Iterator<Item = (&[f32], u64)> {
        self.sums.chunks_exact(self.sums.len() / self.counts.len()).zip(self.counts.iter().copied())
    }

    /// Whether no token reached it.
    fn is_unseen(&self) -> bool {
        self.counts.iter().all(|&n| n == 0)
    }
}

impl Imatrix {
    /// Reads a file of either form.
    ///
    /// # Errors
    /// If it cannot be read, is something else (a model, say), is truncated or malformed, holds numbers that cannot be sums
    /// of squares (negative, infinite, not numbers), or says nothing of any tensor.
    pub fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &mapped::map(path)?)
    }

    /// [`read`](Self::read) of a file's bytes; `path` only names it in errors. Memory use is bounded by a small multiple of
    /// the bytes given.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let imatrix = if bytes.starts_with(&crate::gguf::MAGIC) {
            gguf::parse(path, bytes)?
        } else {
            legacy::parse(path, bytes)?
        };
        if imatrix.is_empty() {
            let message = "this importance matrix is empty: no tensor saw a token. Make it from more text.";
            return Err(Error::malformed(path, message));
        }
        Ok(imatrix)
    }

    /// Writes the GGUF form, whole or not at all. Counts are stored as 32-bit floats, exact up to 2²⁴.
    ///
    /// # Errors
    /// If there is nothing to write, a number is larger than the form can hold, or the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.refuse_empty(path)?;
        gguf::write(self, path)
    }

    /// Writes the older binary form, whole or not at all, for tools that read nothing else. It keeps one count, in chunks,
    /// for a whole tensor: sums are scaled so that their means stay, experts that saw nothing get a mean of 1, tensors that
    /// saw nothing are left out, and of the datasets only the last is named.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_legacy(&self, path: &Path) -> Result<()> {
        self.refuse_empty(path)?;
        legacy::write(self, path)
    }

    fn is_empty(&self) -> bool {
        self.entries.values().all(Entry::is_unseen)
    }

    fn refuse_empty(&self, path: &Path) -> Result<()> {
        if self.is_empty() {
            let message = "there is no importance matrix to write: no tensor saw a token. Observe more text.";
            return Err(Error::target(path, message));
        }
        Ok(())
    }
}

/// The sums of tensor `name`, if they can be sums of squares.
fn checked_sums(path: &Path, name: &str, bytes: &[u8]) -> Result<Vec<f32>> {
    let sums: Vec<f32> = bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    match sums.iter().position(|s| !s.is_finite() || *s < 0.0) {
        None => Ok(sums),
        Some(i) => Err(Error::malformed(
            path,
            format!(
                "the sum of squares {i} of {name} is {}; it must be a finite number, and not negative. The model that \
                 the matrix was computed with overflowed, or the file is corrupt: make it again.",
                sums[i]
            ),
        )),
    }
}

/// A number as an integer type of the form being written.
fn fitting<T: TryFrom<u64>>(path: &Path, value: u64, what: impl std::fmt::Display) -> Result<T> {
    T::try_from(value).map_err(|_| {
        let message = format!("{what} is {value}, which is more than this form of importance matrix can hold.");
        Error::target(path, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_formats::Format;

    #[test]
    fn means_are_per_expert_and_one_where_nothing_is_known() {
        let entry = Entry::new(vec![2.0, 4.0, 7.0, 9.0, 0.0, 3.0], vec![2, 0, 3]);
        assert_eq!(entry.mean_squares(), [1.0, 2.0, 1.0, 1.0, 0.0, 1.0]);
        let one_count_for_all = Entry::new(vec![2.0, 4.0, 6.0, 8.0], vec![2]);
        assert_eq!(one_count_for_all.mean_squares(), [1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn an_entry_fits_tensors_with_its_channels() {
        let tensor = |shape: &[usize]| TensorInfo { name: "t".into(), shape: shape.into(), format: Format::f32() };
        let entry = Entry::new(vec![1.0; 12], vec![1]);
        assert!(entry.fits(&tensor(&[5, 12])) && entry.fits(&tensor(&[3, 5, 4])));
        assert!(!entry.fits(&tensor(&[12, 5])) && !entry.fits(&tensor(&[2, 5, 4])) && !entry.fits(&tensor(&[3, 4])));
    }
}
