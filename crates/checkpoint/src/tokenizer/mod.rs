//! Text to tokens and back, exactly as llama.cpp does it.
//!
//! A tokenizer is always built from GGUF's `tokenizer.ggml.*` metadata. Hugging Face directories come with a
//! `tokenizer.json`, which [`gguf_metadata_from_hf`] translates on opening and [`write_hf_tokenizer`] back on writing, so that
//! one path serves both.
//!
//! Text passes these files in order: `partition` takes out the tokens that are found whole (`<|im_end|>`); what is left is
//! cut into words by `pre_tokenizer` (BPE only) and spelled in tokens by `bpe` or `spm`, which share the algorithm in
//! `merge`, or by `wordpiece`. `vocab` holds the tokens, `stream` turns them back into text as they come.

mod bpe;
mod byte_level;
mod from_hf;
mod merge;
mod partition;
mod pre_tokenizer;
mod spm;
mod stream;
mod to_hf;
mod vocab;
mod wordpiece;

pub use from_hf::gguf_metadata_from_hf;
pub use stream::DecodeStream;
pub use to_hf::write_hf_tokenizer;
pub use vocab::TokenType;

use crate::{Checkpoint, Error, Metadata, Result};
use bpe::Bpe;
use partition::{Part, Whole};
use spm::Spm;
use std::path::Path;
use vocab::Vocab;
use wordpiece::WordPiece;

/// What becomes of tokens that are not text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Special {
    /// Text that spells a control token (`<|im_end|>`) becomes it. Never for text that others write.
    pub parse: bool,
    /// BOS is put before, if the model asks for it, unless `parse` finds it there already.
    pub begin: bool,
    /// EOS is put after, if the model asks for it, unless `parse` finds it there already.
    pub end: bool,
}

impl Special {
    /// A piece of text and nothing else.
    pub const TEXT: Special = Special { parse: false, begin: false, end: false };
    /// A document: what a model is measured on.
    pub const DOCUMENT: Special = Special { parse: false, begin: true, end: true };
    /// The beginning of a text that is to be continued: never with an end.
    pub const OPENING: Special = Special { parse: false, begin: true, end: false };
    /// A prompt with control tokens in it, such as a rendered chat template; it is to be continued too.
    pub const PROMPT: Special = Special { parse: true, begin: true, end: false };
}

/// Text to tokens and back.
///
/// ```no_run
/// use bantam_checkpoint::{Checkpoint, tokenizer::{Special, Tokenizer}};
///
/// let tokenizer = Tokenizer::of(&Checkpoint::open("model.gguf")?)?;
/// let tokens = tokenizer.encode("Hello, world", Special::DOCUMENT)?;
/// assert_eq!(tokenizer.decode(&tokens), "Hello, world");
/// # Ok::<(), bantam_checkpoint::Error>(())
/// ```
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    /// The tokens found whole where control tokens are text, and where they are parsed.
    whole: Whole,
    whole_special: Whole,
    add_bos: bool,
    add_eos: bool,
}

enum Model {
    Bpe(Box<Bpe>),
    Spm(Box<Spm>),
    WordPiece(WordPiece),
}

impl Tokenizer {
    /// The tokenizer of a model.
    ///
    /// # Errors
    /// If the checkpoint's vocabulary is missing or inconsistent, or of a kind that bantam does not have.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        Self::from_metadata(checkpoint.metadata(), checkpoint.path())
    }

    /// The tokenizer that `tokenizer.ggml.*` describes. `path` is for messages.
    ///
    /// # Errors
    /// As [`Tokenizer::of`].
    pub fn from_metadata(metadata: &Metadata, path: &Path) -> Result<Self> {
        let (vocab, model, bos_by_default) = match metadata.str("tokenizer.ggml.model") {
            Some("gpt2") => {
                let vocab = Vocab::from_metadata(metadata, path, [None, None, None])?;
                let bpe = Bpe::from_metadata(metadata, path, &vocab)?;
                let add_bos = bpe.pre_tokenizer.add_bos;
                (vocab, Model::Bpe(Box::new(bpe)), add_bos)
            }
            Some("llama") => {
                let vocab = Vocab::from_metadata(metadata, path, [Some(1), Some(2), Some(0)])?;
                let spm = Spm::from_metadata(metadata, path, &vocab)?;
                (vocab, Model::Spm(Box::new(spm)), true)
            }
            Some("bert") => {
                let mut vocab = Vocab::from_metadata(metadata, path, [Some(101), None, Some(100)])?;
                vocab.eos = vocab.role(metadata, path, "seperator", vocab.eos.or(Some(102)))?;
                if vocab.bos.is_none() || vocab.eos.is_none() {
                    let message = "a WordPiece vocabulary needs tokens that begin and end a text (bos, seperator)";
                    return Err(Error::malformed(path, message));
                }
                let wordpiece = WordPiece::from_metadata(metadata, path, &vocab)?;
                (vocab, Model::WordPiece(wordpiece), true)
            }
            Some(other) => {
                return Err(Error::unsupported(
                    path,
                    format!(
                        "unknown tokenizer `{other}` (tokenizer.ggml.model); known are gpt2 (BPE), llama (SentencePiece) and bert \
                         (WordPiece)"
                    ),
                ));
            }
            None => return Err(Error::malformed(path, "no string `tokenizer.ggml.model`: the file has no tokenizer")),
        };
        // Encoders are given no text without its first and last token, whatever the file says; so does llama.cpp.
        let is_wordpiece = matches!(model, Model::WordPiece(_));
        let adds = |end: &str, default: bool| {
            is_wordpiece || metadata.bool(&format!("tokenizer.ggml.add_{end}_token")).unwrap_or(default)
        };
        Ok(Tokenizer {
            whole: Whole::new(&vocab, false),
            whole_special: Whole::new(&vocab, true),
            add_bos: adds("bos", bos_by_default) && vocab.bos.is_some(),
            add_eos: adds("eos", false) && vocab.eos.is_some(),
            vocab,
            model,
        })
    }

    /// The tokens of `text`. An empty text has none, or BOS alone if it is asked for.
    ///
    /// # Errors
    /// If the text is too long to be one text: 1 GiB or more.
    pub fn encode(&self, text: &str, special: Special) -> Result<Vec<u32>> {
        if text.len() >= 1 << 30 {
            return Err(Error::unsupported(Path::new("text"), "a text to tokenize must be shorter than 1 GiB"));
        }
        let mut tokens = Vec::with_capacity(text.len() / 3 + 2);
        let whole = if special.parse { &self.whole_special } else { &self.whole };
        let parts = whole.partition(text);
        if special.begin && self.add_bos && !parts.first().is_some_and(|part| self.is_bos(part)) {
            tokens.extend(self.vocab.bos);
        }
        let mut after_token = true;
        for part in &parts {
            match *part {
                Part::Token(id) => tokens.push(id),
                Part::Text(text) => self.encode_text(text, after_token, &mut tokens),
            }
            after_token = matches!(part, Part::Token(_));
        }
        if special.end && self.add_eos && !(parts.len() > 1 && tokens.last() == self.vocab.eos.as_ref()) {
            tokens.extend(self.vocab.eos);
        }
        Ok(tokens)
    }

    /// The tokens of text that goes on after the token `before`: what `encode` gives, without anything put before. `parse` says whether the names
    /// of control tokens in it are these tokens.
    pub fn encode_continuation(&self, before: Option<u32>, text: &str, parse: bool) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(text.len() / 3 + 2);
        let whole = if parse { &self.whole_special } else { &self.whole };
        let apart = |id| matches!(self.vocab.token_type(id), Some(TokenType::Control | TokenType::UserDefined));
        let mut after_token = before.is_some_and(apart);
        for part in whole.partition(text) {
            match part {
                Part::Token(id) => tokens.push(id),
                Part::Text(text) => self.encode_text(text, after_token, &mut tokens),
            }
            after_token = matches!(part, Part::Token(_));
        }
        tokens
    }

    fn is_bos(&self, part: &Part) -> bool {
        matches!(part, Part::Token(id) if Some(*id) == self.vocab.bos)
    }

    fn encode_text(&self, text: &str, after_token: bool, tokens: &mut Vec<u32>) {
        match &self.model {
            Model::Bpe(bpe) => bpe.encode(text, &self.vocab, tokens),
            Model::WordPiece(wordpiece) => wordpiece.encode(text, &self.vocab, tokens),
            Model::Spm(spm) => {
                let prefix = if spm.add_space_prefix && after_token { spm::SPACE } else { "" };
                spm.encode(&(prefix.to_owned() + &text.replace(' ', spm::SPACE)), &self.vocab, tokens);
            }
        }
    }

    /// The text of tokens. Control tokens have none; tokens that break off inside a character give U+FFFD.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let tokens = tokens.iter().filter(|&&id| !self.is_control(id));
        let bytes: Vec<u8> = tokens.flat_map(|&id| self.token_bytes(id)).collect();
        let text = String::from_utf8_lossy(&bytes);
        match (&self.model, text.strip_prefix(' ')) {
            (Model::Spm(spm), Some(rest)) if spm.add_space_prefix => rest.to_owned(),
            (Model::WordPiece(_), Some(rest)) => rest.to_owned(),
            _ => text.into_owned(),
        }
    }

    /// Decodes tokens one at a time, for showing text while it is generated.
    pub fn decode_stream(&self) -> DecodeStream<'_> {
        DecodeStream::new(self)
    }

    /// The bytes a token stands for; a control token's are its name. Empty for unused tokens and beyond the vocabulary.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let (Some(text), Some(kind)) = (self.vocab.text(id), self.vocab.token_type(id)) else { return Vec::new() };
        match (kind, &self.model) {
            (TokenType::Control | TokenType::Unknown | TokenType::UserDefined, _) => text.into(),
            (TokenType::Normal, Model::Bpe(_)) => byte_level::bytes_of(text),
            (TokenType::Normal, Model::Spm(_) | Model::WordPiece(_)) => text.replace(spm::SPACE, " ").into(),
            (TokenType::Byte, _) => spm::byte_of(text, kind).into_iter().collect(),
            (TokenType::Unused, _) => Vec::new(),
        }
    }

    /// A token's text as the vocabulary spells it (`Ġthe`), `None` beyond the vocabulary.
    pub fn token_text(&self, id: u32) -> Option<&str> {
        self.vocab.text(id)
    }

    /// The token that the vocabulary spells so.
    pub fn token_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text)
    }

    /// What a token is for, `None` beyond the vocabulary.
    pub fn token_type(&self, id: u32) -> Option<TokenType> {
        self.vocab.token_type(id)
    }

    /// Whether a token steers the model and is not text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.token_type(id) == Some(TokenType::Control)
    }

    /// Whether a model that produced this token has finished: the end of the sequence, of the turn, of the file.
    pub fn is_end(&self, id: u32) -> bool {
        self.vocab.is_end(id)
    }

    /// The number of tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos
    }

    /// The token that ends a turn of a conversation.
    pub fn eot(&self) -> Option<u32> {
        self.vocab.eot
    }

    /// Whether the model wants BOS before a document.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }
}

#[cfg(test)]
mod tests;
