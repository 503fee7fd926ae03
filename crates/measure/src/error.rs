//! Why something cannot be measured.

use std::path::{Path, PathBuf};

/// The result of measuring.
pub type Result<T> = std::result::Result<T, Error>;

/// What was wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model file cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] bantam_checkpoint::Error),
    /// A model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] bantam_nn::Error),
    /// A text cannot be read.
    #[error("{path}: cannot read the text: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A text is not text.
    #[error("{path}: not UTF-8 text: byte {offset} is 0x{byte:02x}. Convert the file to UTF-8 first")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Offset of the first wrong byte.
        offset: usize,
        /// That byte.
        byte: u8,
    },
    /// A text holds nothing.
    #[error("{name}: the text is empty; give at least one chunk of text to measure on")]
    EmptyText {
        /// The text.
        name: String,
    },
    /// A text has fewer tokens than one chunk.
    #[error(
        "{name}: the text has {tokens} tokens, and one chunk needs {needed}. \
         Give a longer text, or a smaller context"
    )]
    ShortText {
        /// The text.
        name: String,
        /// Tokens it has.
        tokens: usize,
        /// Tokens of a chunk.
        needed: usize,
    },
    /// The chunk length makes no sense.
    #[error("a context of {context} tokens cannot be measured: {reason}")]
    Context {
        /// The context asked for.
        context: usize,
        /// What would be right.
        reason: String,
    },
    /// Base and candidate split text differently.
    #[error(
        "{candidate} and its base {base} do not have the same tokenizer ({difference}): their predictions are not about \
         the same tokens, so KL divergence and agreement mean nothing between them. Only perplexity per byte could be \
         compared"
    )]
    Tokenizers {
        /// The candidate.
        candidate: PathBuf,
        /// The base.
        base: PathBuf,
        /// The first difference found.
        difference: String,
    },
    /// A model gave a logit that is NaN or infinite.
    #[error(
        "{model} gives logits that are not finite, first after token {token} of {text}: its weights are broken, and no \
         quality can be measured. `bantam convert {model} FILE.gguf` names the first weight that is not finite, if one is"
    )]
    NotFinite {
        /// The model.
        model: PathBuf,
        /// The text.
        text: String,
        /// Token of the text (from 0) after which the prediction was broken.
        token: usize,
    },
    /// A multiple-choice task that cannot be asked.
    #[error("task {task}, question {question}: {reason}")]
    Question {
        /// The task.
        task: String,
        /// Which question, from 0.
        question: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The base's outputs cannot be kept for the next time, or read.
    #[error("{path}: cannot {action} the base's outputs: {source}")]
    Cache {
        /// The file or directory.
        path: PathBuf,
        /// What was tried: `read`, `write`.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The base's outputs cannot be kept for as long as they are used either.
    #[error(
        "{folder}: cannot write the base's outputs to a temporary file: {source}. Set BANTAM_CACHE to a folder that has room for \
         them, or TMPDIR"
    )]
    NoRoom {
        /// The system's folder of temporary files.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Scored pairs of sentences that cannot be read.
    #[error("{path}, line {line}: {problem}")]
    Pairs {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// An encoder gave an embedding that is NaN or infinite.
    #[error("{model} gives an embedding that is not finite, of {text:?}: its weights are broken")]
    Embedding {
        /// The model.
        model: PathBuf,
        /// The sentence.
        text: String,
    },
    /// The process that measures speed failed.
    #[error("measuring speed in a fresh process failed: {0}")]
    SpeedProcess(String),
}

impl Error {
    /// Why these texts could not be embedded, with the model and the text that it is about.
    pub fn of_embedding(error: bantam_nn::Error, model: &Path, texts: &[impl AsRef<str>]) -> Self {
        match error {
            bantam_nn::Error::Embedding { sequence } => {
                Error::Embedding { model: model.to_owned(), text: texts[sequence].as_ref().to_owned() }
            }
            error => error.into(),
        }
    }
}
