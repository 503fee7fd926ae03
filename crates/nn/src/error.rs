//! Why a model cannot be loaded or run.

use bantam_formats::Format;
use std::path::PathBuf;

/// The result of loading or running a model.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be read, or its hyperparameters make no sense.
    #[error(transparent)]
    Checkpoint(#[from] bantam_checkpoint::Error),
    /// No definition executes this architecture.
    #[error("{path}: architecture `{architecture}` is not one that bantam executes: {known}")]
    UnknownArchitecture {
        /// The file.
        path: PathBuf,
        /// What the file says it is.
        architecture: String,
        /// The architectures with a definition.
        known: String,
    },
    /// An encoder where a language model is wanted.
    #[error(
        "{path}: a {architecture} model is an encoder: it makes embeddings of texts (`bantam embed`) and predicts no tokens; \
         give a language model"
    )]
    IsEncoder {
        /// The file.
        path: PathBuf,
        /// The architecture.
        architecture: String,
    },
    /// A language model where an encoder is wanted.
    #[error("{path}: a {architecture} model is no encoder of texts; give a bert model")]
    NoEncoder {
        /// The file.
        path: PathBuf,
        /// The architecture.
        architecture: String,
    },
    /// The definition needs a tensor that the checkpoint lacks.
    #[error("{path}: tensor `{tensor}` of shape {expected:?} is missing")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The missing tensor.
        tensor: String,
        /// The shape it should have, outermost first.
        expected: Vec<usize>,
    },
    /// A tensor has another shape than the hyperparameters ask for.
    #[error("{path}: tensor `{tensor}` has shape {found:?}, but the hyperparameters ask for {expected:?}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its shape, outermost first.
        found: Vec<usize>,
        /// The shape it should have.
        expected: Vec<usize>,
    },
    /// The checkpoint has a tensor that the definition does not know: executing without it would give wrong results.
    #[error("{path}: tensor `{tensor}` is not part of a {architecture} model as bantam knows it")]
    UnknownTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The architecture.
        architecture: String,
    },
    /// A weight is NaN or infinite.
    #[error("{path}: tensor `{tensor}` holds {value} at index {index}; weights must be finite numbers")]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Position in the tensor.
        index: usize,
        /// What is there.
        value: f32,
    },
    /// Hyperparameters that contradict each other.
    #[error("{path}: {message}")]
    Hyperparameters {
        /// The file.
        path: PathBuf,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The session's context is full.
    #[error("the context of {context} tokens is full: {wanted} are needed")]
    ContextFull {
        /// Capacity of the session.
        context: usize,
        /// Tokens wanted in all.
        wanted: usize,
    },
    /// A text with no tokens, or more than the encoder can see.
    #[error("a sequence of {len} tokens cannot be embedded; the encoder sees from 1 to {context}")]
    SequenceLength {
        /// Its tokens.
        len: usize,
        /// The most that the encoder sees.
        context: usize,
    },
    /// An embedding that is NaN or infinite.
    #[error("the embedding of sequence {sequence} is not finite; the encoder's weights are broken")]
    Embedding {
        /// Which sequence, from 0.
        sequence: usize,
    },
    /// A token id beyond the vocabulary.
    #[error("token {token} is not in the vocabulary of {vocab_size} tokens; is the text tokenized for another model?")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Tokens in the vocabulary.
        vocab_size: usize,
    },
    /// A number format that cannot hold this model's keys and values.
    #[error("a cache in {format} is not possible: {reason}")]
    CacheFormat {
        /// The format asked for.
        format: &'static Format,
        /// Why not, and what would be right.
        reason: String,
    },
    /// The model computed something that is not a number.
    #[error("the model's logits are not numbers (NaN at token {token}); its weights are damaged or overflow")]
    NotANumber {
        /// The first token whose logit is NaN.
        token: usize,
    },
    /// Sampling settings that make no sense.
    #[error("sampling: {message}")]
    Sampling {
        /// What is wrong and what would be right.
        message: String,
    },
}
