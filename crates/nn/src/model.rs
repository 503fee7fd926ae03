//! Loading a model and running it.

use bantam_checkpoint::{Checkpoint, Config};

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The checkpoint cannot be read, or its hyperparameters make no sense.
    #[error(transparent)]
    Checkpoint(#[from] bantam_checkpoint::Error),
    /// The session's context is full.
    #[error("the context of {context} tokens is full: {wanted} are needed")]
    ContextFull {
        /// Capacity of the session.
        context: usize,
        /// Tokens wanted in all.
        wanted: usize,
    },
}

/// A loaded language model: its weights, mapped, and its definition. Shareable between threads and sessions.
pub struct Model {
    config: Config,
}

impl Model {
    /// Loads a decoder language model.
    ///
    /// # Errors
    /// If tensors are missing or do not have the shapes that the configuration asks for.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self, Error> {
        let _ = checkpoint;
        todo!()
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Starts a session that can hold `context` tokens.
    pub fn session(&self, context: usize) -> Session<'_> {
        let _ = context;
        todo!()
    }
}

/// A sequence being processed: the model, its cache and its buffers.
pub struct Session<'m> {
    model: &'m Model,
}

impl Session<'_> {
    /// Appends `tokens` to the sequence and returns their final hidden states (after the output norm), row-major
    /// `[tokens.len(), embedding_length]`.
    ///
    /// # Errors
    /// If the context is full.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        let _ = (tokens, self.model);
        todo!()
    }

    /// The logits of hidden states `[n, embedding_length]` that `forward` returned, into `logits` `[n, vocab_size]`.
    pub fn logits(&mut self, hidden: &[f32], logits: &mut [f32]) {
        let _ = (hidden, logits);
        todo!()
    }

    /// Tokens in the sequence so far.
    pub fn position(&self) -> usize {
        todo!()
    }

    /// Forgets all tokens after the first `position`.
    pub fn truncate(&mut self, position: usize) {
        let _ = position;
        todo!()
    }
}
