//! The vocabulary: every token's text, type and score, and the tokens with a role.

use crate::metadata::Array;
use crate::{Error, Metadata, Result, Value};
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

/// What a token is for: the values of `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// A piece of text.
    Normal,
    /// Stands for text that the vocabulary cannot spell.
    Unknown,
    /// Steers the model (`<|im_end|>`) and is no text.
    Control,
    /// A string that is always one token, matched before everything else.
    UserDefined,
    /// A placeholder that no text maps to.
    Unused,
    /// One byte of text, `<0x0A>`.
    Byte,
}

impl TokenType {
    /// The GGUF value.
    pub fn code(self) -> i32 {
        match self {
            TokenType::Normal => 1,
            TokenType::Unknown => 2,
            TokenType::Control => 3,
            TokenType::UserDefined => 4,
            TokenType::Unused => 5,
            TokenType::Byte => 6,
        }
    }

    /// The type of a GGUF value. Undefined ones are unused, as in llama.cpp.
    fn from_code(code: i64) -> Self {
        match code {
            1 => TokenType::Normal,
            2 => TokenType::Unknown,
            3 => TokenType::Control,
            4 => TokenType::UserDefined,
            6 => TokenType::Byte,
            _ => TokenType::Unused,
        }
    }
}

/// Tokens that end a model's turn, by the texts under which models in the wild have them. (GGUF names only one `eos`; chat
/// models end with another token as often as not.) The list is llama.cpp's.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    // Of fill-in-the-middle code models: padding, the next repository, the next file.
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Of [`ENDS`], those that end a turn of a conversation, likeliest first.
const TURN_ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "<｜end▁of▁sentence｜>",
    "<end_of_utterance>",
];

/// All tokens of a model.
pub struct Vocab {
    texts: Vec<String>,
    types: Vec<TokenType>,
    ids: HashMap<String, u32>,
    /// Beginning of sequence.
    pub bos: Option<u32>,
    /// End of sequence.
    pub eos: Option<u32>,
    /// End of turn.
    pub eot: Option<u32>,
    /// Unknown.
    pub unk: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    ends: BTreeSet<u32>,
}

impl Vocab {
    /// Reads the vocabulary. `defaults` are the ids of BOS, EOS and UNK where the metadata has none.
    pub fn from_metadata(metadata: &Metadata, path: &Path, defaults: [Option<u32>; 3]) -> Result<Self> {
        let tokens = metadata.strings("tokenizer.ggml.tokens").ok_or_else(|| {
            Error::malformed(path, "no array of strings `tokenizer.ggml.tokens`: the file has no vocabulary")
        })?;
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(Error::malformed(path, format!("`tokenizer.ggml.tokens` has {} tokens", tokens.len())));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut texts = Vec::with_capacity(tokens.len());
        for (id, text) in (0u32..).zip(tokens) {
            let text = if text.is_empty() { format!("[EMPTY_{id}]") } else { text.clone() };
            if let Some(first) = ids.insert(text.clone(), id) {
                return Err(Error::malformed(path, format!("tokens {first} and {id} are both `{text}`")));
            }
            texts.push(text);
        }
        let types = match ints(metadata, "tokenizer.ggml.token_type") {
            None => vec![TokenType::Normal; texts.len()],
            Some(codes) if codes.len() >= texts.len() => {
                codes.into_iter().take(texts.len()).map(TokenType::from_code).collect()
            }
            Some(codes) => {
                return Err(Error::malformed(
                    path,
                    format!("`tokenizer.ggml.token_type` has {} entries for {} tokens", codes.len(), texts.len()),
                ));
            }
        };
        let mut vocab =
            Vocab { texts, types, ids, bos: None, eos: None, eot: None, unk: None, pad: None, ends: BTreeSet::new() };
        vocab.find_roles(metadata, path, defaults)?;
        Ok(vocab)
    }

    fn find_roles(&mut self, metadata: &Metadata, path: &Path, defaults: [Option<u32>; 3]) -> Result<()> {
        let role = |name: &str, default: Option<u32>| self.role(metadata, path, name, default);
        let (bos, eos, unk, pad) = (
            role("bos", defaults[0])?,
            role("eos", defaults[1])?,
            role("unknown", defaults[2])?,
            role("padding", None)?,
        );
        let eom = role("eom", None)?;
        let eot = role("eot", TURN_ENDS.iter().find_map(|text| self.id(text)))?;
        (self.bos, self.eos, self.unk, self.pad, self.eot) = (bos, eos, unk, pad, eot);

        for text in ENDS {
            if let Some(id) = self.id(text) {
                self.types[id as usize] = TokenType::Control;
                self.ends.insert(id);
            }
        }
        self.ends.extend([self.eos, self.eot, eom].into_iter().flatten());
        // gpt-oss marks the parts of a turn with these, and `<|end|>` ends a part, not the turn.
        for text in ["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"] {
            if let Some(id) = self.id(text) {
                self.types[id as usize] = TokenType::UserDefined;
            }
        }
        let has = |text| self.ids.contains_key(text);
        let ends_otherwise =
            (has("<|return|>") && (has("<|call|>") || has("<|calls|>"))) || (has("<|calls|>") && has("<|flush|>"));
        if let Some(end) = self.id("<|end|>").filter(|_| ends_otherwise) {
            self.ends.remove(&end);
            self.types[end as usize] = TokenType::UserDefined;
        }
        Ok(())
    }

    /// The token of a role, `tokenizer.ggml.{name}_token_id`; `default` where the metadata has none.
    pub fn role(&self, metadata: &Metadata, path: &Path, name: &str, default: Option<u32>) -> Result<Option<u32>> {
        let (key, len) = (format!("tokenizer.ggml.{name}_token_id"), self.len());
        let Some(id) = metadata.uint(&key) else {
            return Ok(default.filter(|&id| (id as usize) < len));
        };
        match u32::try_from(id) {
            Ok(id) if (id as usize) < len => Ok(Some(id)),
            // Converters write -1 as u32::MAX where a model has no such token.
            Ok(u32::MAX) => Ok(None),
            _ => Err(Error::malformed(path, format!("`{key}` is {id}, but there are {len} tokens"))),
        }
    }

    /// The number of tokens.
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// The token with this text.
    pub fn id(&self, text: &str) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// A token's text as the vocabulary spells it, `None` beyond the vocabulary.
    pub fn text(&self, id: u32) -> Option<&str> {
        self.texts.get(id as usize).map(String::as_str)
    }

    /// A token's type, `None` beyond the vocabulary.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.types.get(id as usize).copied()
    }

    /// All tokens in order of their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &str, TokenType)> {
        (0u32..).zip(&self.texts).zip(&self.types).map(|((id, text), &kind)| (id, text.as_str(), kind))
    }

    /// Whether a model that produced this token has finished.
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }
}

/// The integers at `key`, of whatever width.
pub fn ints(metadata: &Metadata, key: &str) -> Option<Vec<i64>> {
    match metadata.get(key)? {
        Value::Array(Array::I32(v)) => Some(v.iter().map(|&v| v.into()).collect()),
        Value::Array(Array::U32(v)) => Some(v.iter().map(|&v| v.into()).collect()),
        Value::Array(Array::I8(v)) => Some(v.iter().map(|&v| v.into()).collect()),
        Value::Array(Array::U8(v)) => Some(v.iter().map(|&v| v.into()).collect()),
        Value::Array(Array::I16(v)) => Some(v.iter().map(|&v| v.into()).collect()),
        Value::Array(Array::U16(v)) => Some(v.iter().map(|&v| v.into()).collect()),
        Value::Array(Array::I64(v)) => Some(v.clone()),
        _ => None,
    }
}
