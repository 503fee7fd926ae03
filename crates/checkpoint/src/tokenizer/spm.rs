//! SentencePiece's BPE (Kudo and Richardson 2018): merges by the score of the token they make, with no words.

use super::merge::merge;
use super::vocab::{TokenType, Vocab};
use crate::metadata::Array;
use crate::{Error, Metadata, Result, Value};
use std::cmp::Reverse;
use std::path::Path;

/// SentencePiece's mark for a space.
pub const SPACE: &str = "▁";

/// The scores of a SentencePiece vocabulary.
pub struct Spm {
    /// Each token's score as an integer that sorts in the same order.
    scores: Vec<i32>,
    /// The token of each byte, for characters that the vocabulary lacks.
    bytes: [Option<u32>; 256],
    /// Whether text starts with a space that is not written.
    pub add_space_prefix: bool,
}

impl Spm {
    /// Reads the scores.
    pub fn from_metadata(metadata: &Metadata, path: &Path, vocab: &Vocab) -> Result<Self> {
        let scores = match metadata.get("tokenizer.ggml.scores") {
            Some(Value::Array(Array::F32(scores))) => scores,
            _ => {
                return Err(Error::malformed(
                    path,
                    "a SentencePiece vocabulary needs the array of f32 `tokenizer.ggml.scores`; there is none",
                ));
            }
        };
        if scores.len() < vocab.len() {
            return Err(Error::malformed(
                path,
                format!("`tokenizer.ggml.scores` has {} entries for {} tokens", scores.len(), vocab.len()),
            ));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(Error::malformed(
                path,
                format!("`tokenizer.ggml.scores`: the score of token {id} is not a number"),
            ));
        }
        let bytes = std::array::from_fn(|byte| vocab.id(&byte_token(byte as u8)));
        let add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix").unwrap_or(true);
        Ok(Spm { scores: scores.iter().map(|&score| sortable(score)).collect(), bytes, add_space_prefix })
    }

    /// A token's score as an integer that sorts in the same order.
    pub fn score(&self, id: u32) -> i32 {
        self.scores[id as usize]
    }

    /// Appends the tokens of `text`, in which spaces are already written as [`SPACE`].
    pub fn encode(&self, text: &str, vocab: &Vocab, tokens: &mut Vec<u32>) {
        let symbols: Vec<(u32, u32)> =
            text.char_indices().map(|(start, c)| (start as u32, (start + c.len_utf8()) as u32)).collect();
        let piece = |(start, end): (u32, u32)| &text[start as usize..end as usize];
        let pair = |left: (u32, u32), right: (u32, u32)| {
            let merged = (left.0, right.1);
            let id = vocab.id(piece(merged))?;
            Some((Reverse(self.scores[id as usize]), merged))
        };
        for symbol in merge(&symbols, pair) {
            match vocab.id(piece(symbol)) {
                Some(id) => tokens.push(id),
                None => tokens.extend(piece(symbol).bytes().filter_map(|byte| self.bytes[byte as usize].or(vocab.unk))),
            }
        }
    }
}

/// The text of a byte's token.
fn byte_token(byte: u8) -> String {
    format!("<0x{byte:02X}>")
}

/// The byte of a byte's token.
pub fn byte_of(text: &str, kind: TokenType) -> Option<u8> {
    let hex = text.strip_prefix("<0x")?.strip_suffix('>')?;
    if kind != TokenType::Byte || hex.len() != 2 {
        return None;
    }
    u8::from_str_radix(hex, 16).ok()
}

/// An integer that sorts as the number does.
fn sortable(score: f32) -> i32 {
    // Adding zero turns -0 into 0. Negative floats are stored by magnitude: turn their order around.
    let bits = (score + 0.0).to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sortable_scores_keep_their_order() {
        let scores = [f32::NEG_INFINITY, -1000.0, -1.5, -1e-30, 0.0, 1e-30, 2.0, f32::INFINITY];
        assert!(scores.map(sortable).is_sorted());
        assert_eq!(sortable(-0.0), sortable(0.0));
    }
}
