//! WordPiece as BERT has it (Devlin et al. 2019): text is cleaned and cut into words, each word into the longest tokens from
//! left to right.
//!
//! GGUF's vocabulary marks what begins a word (`▁play`) where Hugging Face's marks what goes on (`##ing`). Cleaning follows Hugging
//! Face's `BertNormalizer`, by which the models were trained; the tables here know some 700 characters of newer Unicode. llama.cpp does
//! nearly the same; it has no limit to a word's length.

use super::spm::SPACE;
use super::vocab::Vocab;
use crate::{Error, Metadata, Result};
use std::path::Path;
use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// Words of more characters are unknown.
pub const LONGEST_WORD: usize = 100;

/// How text is cleaned, and what stands for words that the vocabulary cannot spell.
pub struct WordPiece {
    lowercase: bool,
    strip_accents: bool,
    unknown: u32,
}

impl WordPiece {
    /// Reads how text is cleaned.
    pub fn from_metadata(metadata: &Metadata, path: &Path, vocab: &Vocab) -> Result<Self> {
        let unknown = vocab.unk.ok_or_else(|| {
            Error::malformed(path, "a WordPiece vocabulary needs an unknown token (tokenizer.ggml.unknown_token_id)")
        })?;
        let lowercase = metadata.bool("tokenizer.ggml.normalizer.lowercase").unwrap_or(true);
        let strip_accents = metadata.bool("tokenizer.ggml.normalizer.strip_accents").unwrap_or(lowercase);
        Ok(Self { lowercase, strip_accents, unknown })
    }

    /// Whether letters become small ones.
    pub fn lowercase(&self) -> bool {
        self.lowercase
    }

    /// Whether accents are taken off.
    pub fn strip_accents(&self) -> bool {
        self.strip_accents
    }

    /// Appends the tokens of `text`.
    pub fn encode(&self, text: &str, vocab: &Vocab, tokens: &mut Vec<u32>) {
        let text = self.normalize(text);
        for word in text.split(char::is_whitespace) {
            let mut rest = word;
            while let Some(first) = rest.chars().next() {
                let end = if is_punctuation(first) {
                    first.len_utf8()
                } else {
                    rest.find(is_punctuation).unwrap_or(rest.len())
                };
                self.encode_word(&rest[..end], vocab, tokens);
                rest = &rest[end..];
            }
        }
    }

    /// The longest token that begins the word, then the longest that goes on, and so on; a word of which a part is no token is
    /// unknown as a whole.
    fn encode_word(&self, word: &str, vocab: &Vocab, tokens: &mut Vec<u32>) {
        let begun = tokens.len();
        if word.chars().count() > LONGEST_WORD {
            return tokens.push(self.unknown);
        }
        let marked = format!("{SPACE}{word}");
        let mut rest = &marked[..];
        while !rest.is_empty() {
            let ends = rest.char_indices().rev().map(|(at, c)| at + c.len_utf8());
            // The mark alone begins no word.
            let mut ends = ends.filter(|&end| tokens.len() > begun || end > SPACE.len());
            match ends.find_map(|end| vocab.id(&rest[..end]).map(|id| (id, end))) {
                Some((id, end)) => {
                    tokens.push(id);
                    rest = &rest[end..];
                }
                None => {
                    tokens.truncate(begun);
                    return tokens.push(self.unknown);
                }
            }
        }
    }

    /// Control characters out, spaces around Chinese characters, accents off, letters small.
    fn normalize(&self, text: &str) -> String {
        let mut clean = String::with_capacity(text.len());
        for c in text.chars().filter(|&c| !is_control(c)) {
            match c {
                c if c.is_whitespace() => clean.push(' '),
                c if is_chinese(c) => clean.extend([' ', c, ' ']),
                c => clean.push(c),
            }
        }
        if self.strip_accents {
            clean = clean.nfd().filter(|c| c.general_category() != GeneralCategory::NonspacingMark).collect();
        }
        if self.lowercase {
            // By single characters: a sigma at a word's end is as any other.
            clean = clean.chars().flat_map(char::to_lowercase).collect();
        }
        clean
    }
}

fn is_control(c: char) -> bool {
    use GeneralCategory::{Control, Format, PrivateUse};
    match c {
        '\t' | '\n' | '\r' => false,
        '\u{fffd}' => true,
        c => matches!(c.general_category(), Control | Format | PrivateUse),
    }
}

/// Each is a word of its own.
fn is_punctuation(c: char) -> bool {
    c.is_ascii_punctuation() || c.general_category_group() == GeneralCategoryGroup::Punctuation
}

/// The blocks of ideographs that BERT separates (not Hiragana, Katakana and Hangul).
fn is_chinese(c: char) -> bool {
    matches!(
        u32::from(c),
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x20000..=0x2A6DF
            | 0x2A700..=0x2B73F
            | 0x2B740..=0x2B81F
            | 0x2B920..=0x2CEAF // BERT means 0x2B820; the implementation that the models were trained with has this.
            | 0xF900..=0xFAFF
            | 0x2F800..=0x2FA1F
    )
}
