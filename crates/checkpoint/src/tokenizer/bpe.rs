//! Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019): GPT-2's way and that of most models since.

use super::byte_level;
use super::merge::merge;
use super::pre_tokenizer::{PreTokenizer, Splitter};
use super::vocab::Vocab;
use crate::{Error, Metadata, Result};
use std::collections::HashMap;
use std::path::Path;

/// The merges of a byte-level BPE vocabulary.
pub struct Bpe {
    /// How text is cut into words.
    pub pre_tokenizer: &'static PreTokenizer,
    splitter: Splitter,
    /// The token of each byte, if it has one.
    bytes: [Option<u32>; 256],
    /// What two tokens merge into, and how early.
    merges: HashMap<(u32, u32), (u32, u32)>,
}

impl Bpe {
    /// Reads the merges and the pre-tokenizer.
    pub fn from_metadata(metadata: &Metadata, path: &Path, vocab: &Vocab) -> Result<Self> {
        let name = metadata.str("tokenizer.ggml.pre").unwrap_or("default");
        let pre_tokenizer = PreTokenizer::by_name(name, path)?;
        let lines = metadata.strings("tokenizer.ggml.merges").ok_or_else(|| {
            Error::malformed(path, "a BPE vocabulary needs the array of strings `tokenizer.ggml.merges`; there is none")
        })?;
        let mut merges = HashMap::with_capacity(lines.len());
        for (rank, line) in (0u32..).zip(lines) {
            let (pair, merged) = parse_merge(line, vocab)
                .map_err(|problem| Error::malformed(path, format!("`tokenizer.ggml.merges` line {rank}: {problem}")))?;
            merges.entry(pair).or_insert((rank, merged));
        }
        let bytes = std::array::from_fn(|byte| vocab.id(byte_level::char_of(byte as u8).encode_utf8(&mut [0; 4])));
        Ok(Bpe { pre_tokenizer, splitter: pre_tokenizer.compile(), bytes, merges })
    }

    /// Appends the tokens of `text`. Bytes that the vocabulary lacks are left out, as in the reference implementations.
    pub fn encode(&self, text: &str, vocab: &Vocab, tokens: &mut Vec<u32>) {
        let mut symbols = Vec::new();
        for word in self.splitter.split(text) {
            if self.pre_tokenizer.ignore_merges
                && let Some(id) = vocab.id(&byte_level::spell(word))
            {
                tokens.push(id);
                continue;
            }
            symbols.clear();
            symbols.extend(word.bytes().map(|byte| self.bytes[byte as usize]));
            let pair = |left: Option<u32>, right: Option<u32>| {
                let &(rank, merged) = self.merges.get(&(left?, right?))?;
                Some((rank, Some(merged)))
            };
            // A byte without a token keeps its neighbours apart until the end.
            tokens.extend(merge(&symbols, pair).flatten());
        }
    }
}

/// The two parts of a merge. The first may begin with a space, as some exports write it.
pub fn split_merge(line: &str) -> Option<(&str, &str)> {
    let (space, _) = line.char_indices().skip(1).find(|&(_, c)| c == ' ')?;
    Some((&line[..space], &line[space + 1..]))
}

/// The ids of a merge's two parts and of the token they make.
fn parse_merge(line: &str, vocab: &Vocab) -> std::result::Result<((u32, u32), u32), String> {
    let (left, right) = split_merge(line).ok_or_else(|| format!("`{line}` is not two tokens with a space between"))?;
    let id = |text: &str| vocab.id(text).ok_or_else(|| format!("`{text}` of the merge `{line}` is not a token"));
    Ok(((id(left)?, id(right)?), id(&format!("{left}{right}"))?))
}
