//! How a tensor's numbers differ between Hugging Face and GGUF.

use super::family::Family;
use crate::{Config, TensorInfo};
use bantam_formats::Format;
use std::sync::Arc;

/// What is done to a tensor's stored numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Translation {
    /// Rows of each head are reordered between rotary pairs in halves (`i, i + n/2`) and neighbours (`2i, 2i + 1`).
    pub heads: Option<usize>,
    /// Added to each number.
    pub add: f32,
}

impl Translation {
    /// The translation of the tensor with this GGUF name, from Hugging Face to GGUF.
    pub fn to_gguf(family: &Family, name: &str, head_count: usize, head_count_kv: usize) -> Self {
        let is = |part: &str| name.starts_with("blk.") && name.contains(part);
        let heads = match (is(".attn_q."), is(".attn_k.")) {
            _ if !family.halves_to_neighbours => None,
            (true, _) => Some(head_count),
            (_, true) => Some(head_count_kv),
            _ => None,
        };
        let add = if family.norms_without_one && name.ends_with("norm.weight") { 1.0 } else { 0.0 };
        Self { heads, add }
    }

    /// The translation of the tensor with this GGUF name, from GGUF to Hugging Face, except that `heads` is applied with
    /// [`to_halves`].
    pub fn to_hf(family: &Family, name: &str, config: &Config) -> Self {
        let there = Self::to_gguf(family, name, config.head_count, config.head_count_kv);
        Self { heads: there.heads, add: -there.add }
    }

    /// Whether it changes nothing.
    pub fn is_identity(&self) -> bool {
        self.heads.is_none() && self.add == 0.0
    }

    /// The bytes that GGUF has, in `format`, for a tensor that is stored so. `format` is that of `stored`, or F32.
    pub fn apply(&self, stored: &TensorInfo, bytes: &[u8], format: &'static Format) -> Arc<[u8]> {
        let rows = stored.shape.first().copied().unwrap_or(1);
        let bytes = match self.heads {
            Some(heads) => permute(bytes, rows, |row| to_neighbours(row, rows / heads)).into(),
            None => std::borrow::Cow::Borrowed(bytes),
        };
        if format == stored.format && self.add == 0.0 {
            return bytes.as_ref().into();
        }
        let mut numbers = vec![0f32; stored.len()];
        (stored.format.decode)(&bytes, &mut numbers);
        numbers.iter_mut().for_each(|n| *n += self.add);
        let bytes: Vec<u8> = numbers.iter().flat_map(|n| n.to_le_bytes()).collect();
        bytes.into()
    }
}

/// The row in halves order that is row `row` in neighbours order, for heads of `n` rows.
pub fn to_neighbours(row: usize, n: usize) -> usize {
    let (head, i) = (row / n, row % n);
    head * n + (i % 2) * (n / 2) + i / 2
}

/// The row in neighbours order that is row `row` in halves order, for heads of `n` rows.
pub fn to_halves(row: usize, n: usize) -> usize {
    let (head, i) = (row / n, row % n);
    head * n + 2 * (i % (n / 2)) + i / (n / 2)
}

/// Rows in another order: row `r` of the result is row `source(r)`.
fn permute(bytes: &[u8], rows: usize, source: impl Fn(usize) -> usize) -> Vec<u8> {
    let size = bytes.len() / rows;
    (0..rows).flat_map(|row| &bytes[source(row) * size..][..size]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_and_neighbours_are_inverse() {
        // A head of 6: pairs (0, 3), (1, 4), (2, 5) become neighbours.
        let order: Vec<usize> = (0..6).map(|r| to_neighbours(r, 6)).collect();
        assert_eq!(order, [0, 3, 1, 4, 2, 5]);
        for row in 0..24 {
            assert_eq!(to_halves(to_neighbours(row, 8), 8), row);
        }
    }
}
