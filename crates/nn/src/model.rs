//! Loading a model and running it.

use crate::layers::{Embedding, Linear, RmsNorm};
use crate::models::Definition;
use crate::run::Run;
use crate::train::Parameters;
use crate::weights::Loader;
use crate::{Error, Result};
use bantam_checkpoint::{Checkpoint, Config};
use bantam_formats::Format;
use bantam_formats::kernels::parallel;

/// A loaded language model: its weights, mapped, and its definition. Shareable between threads and sessions.
pub struct Model {
    config: Config,
    definition: Definition,
    tokens: usize,
}

impl Model {
    /// Loads a decoder language model.
    ///
    /// # Errors
    /// If tensors are missing, superfluous, or do not have the shapes that the configuration asks for, or there are more tokens than rows of
    /// the embedding.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let config = Config::of(checkpoint)?;
        check(checkpoint, &config)?;
        let tokens = tokens(checkpoint, &config)?;
        let definition = Definition::load(Loader::new(checkpoint), &config)?;
        Ok(Self { config, definition, tokens })
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Tokens of the vocabulary. The embedding may have more rows, which stand for none and are to be predicted by no one.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The layers.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Calls `visit` with each linear layer, in the order of execution. Its path names it; its weight can be replaced.
    pub fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut Linear)) {
        self.definition.visit_linears_mut(visit);
    }

    /// Calls `visit` with each norm of the residual stream, in the order of execution. Its weight can be replaced.
    pub fn visit_norms_mut(&mut self, visit: &mut dyn FnMut(&mut RmsNorm)) {
        self.definition.visit_norms_mut(visit);
    }

    /// The embedding, whose table can be replaced. A head that is tied to it is a linear layer of the same path, with a table of its own.
    pub fn embedding_mut(&mut self) -> &mut Embedding {
        self.definition.embedding_mut()
    }

    /// Starts a session that can hold `context` tokens. Memory for them is allocated as they come.
    pub fn session(&self, context: usize) -> Session<'_> {
        let f16 = Format::f16();
        self.session_with_cache(context, f16).expect("F16 can be written and divides all heads")
    }

    /// Starts a session with its keys and values cached in `format`.
    ///
    /// # Errors
    /// If the format cannot be written or does not divide the heads.
    pub fn session_with_cache(&self, context: usize, format: &'static Format) -> Result<Session<'_>> {
        Ok(Session(Batch::new(self, 1, context, format, None)?))
    }

    /// Starts `sequences` sequences that are processed together, each of up to `context` tokens.
    pub fn batch(&self, sequences: usize, context: usize) -> Batch<'_> {
        self.batch_with(sequences, context, None)
    }

    /// As [`batch`](Self::batch), computed from the values that `trained` has by now instead of from this model's weights.
    ///
    /// # Panics
    /// When it runs, if the parameters are not those of this model.
    pub fn batch_of<'m>(&'m self, trained: &'m Parameters, sequences: usize, context: usize) -> Batch<'m> {
        self.batch_with(sequences, context, Some(trained))
    }

    fn batch_with<'m>(&'m self, sequences: usize, context: usize, values: Option<&'m Parameters>) -> Batch<'m> {
        let f16 = Format::f16();
        Batch::new(self, sequences, context, f16, values).expect("F16 can be written and divides all heads")
    }
}

/// Checks what the layers take for granted.
fn check(checkpoint: &Checkpoint, config: &Config) -> Result<()> {
    let error = |message: String| Err(Error::Hyperparameters { path: checkpoint.path().to_owned(), message });
    let Config { head_count, head_count_kv, key_length, .. } = *config;
    let rotated = config.rope.dimension_count;
    if head_count_kv == 0 || !head_count.is_multiple_of(head_count_kv) {
        return error(format!("{head_count} query heads cannot share {head_count_kv} key and value heads evenly"));
    }
    if rotated > key_length || !rotated.is_multiple_of(2) {
        return error(format!("{rotated} rotary dimensions: an even number up to the head's {key_length} is needed"));
    }
    match &config.sliding_window {
        Some(window) if window.size == 0 => error("the sliding window is 0 positions; at least 1 is needed".into()),
        Some(window) if window.layers.len() != config.block_count => {
            error(format!("the sliding window pattern covers {} of {} layers", window.layers.len(), config.block_count))
        }
        _ => Ok(()),
    }
}

/// Tokens of the vocabulary; rows of the embedding if there is no vocabulary.
fn tokens(checkpoint: &Checkpoint, config: &Config) -> Result<usize> {
    let rows = config.vocab_size;
    match checkpoint.metadata().strings("tokenizer.ggml.tokens").map_or(rows, <[_]>::len) {
        tokens if tokens > rows => {
            let message = format!("the vocabulary has {tokens} tokens, but the embedding {rows} rows");
            Err(Error::Hyperparameters { path: checkpoint.path().to_owned(), message })
        }
        tokens => Ok(tokens),
    }
}

/// Tokens that go through the layers together; bounds the memory for activations.
const CHUNK: usize = 512;

/// A sequence being processed: the model, its cache and its buffers.
pub struct Session<'m>(Batch<'m>);

impl Session<'_> {
    /// Appends `tokens` to the sequence and returns their final hidden states (after the output norm), row-major
    /// `[tokens.len(), embedding_length]`.
    ///
    /// # Errors
    /// If the context is full or a token is not in the vocabulary; the sequence is then unchanged.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<&[f32]> {
        self.0.forward(&[(0, tokens)])
    }

    /// As [`forward`](Self::forward), and shows `layer` each layer's number and the residual stream after it, `[some tokens, width]`: a
    /// long sequence goes through all layers part by part.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn observe(&mut self, tokens: &[u32], layer: &mut (dyn FnMut(usize, &[f32]) + Send)) -> Result<&[f32]> {
        self.0.observe(&[(0, tokens)], layer)
    }

    /// The logits of hidden states `[n, embedding_length]` that `forward` returned, into `logits` `[n, vocab_size]`.
    ///
    /// # Panics
    /// If the lengths do not match these shapes.
    pub fn logits(&mut self, hidden: &[f32], logits: &mut [f32]) {
        self.0.logits(hidden, logits);
    }

    /// Tokens in the sequence so far.
    pub fn position(&self) -> usize {
        self.0.position(0)
    }

    /// Tokens that the sequence can hold.
    pub fn context(&self) -> usize {
        self.0.context
    }

    /// Forgets all tokens after the first `position`.
    pub fn truncate(&mut self, position: usize) {
        self.0.truncate(0, position);
    }
}

/// Sequences that are processed together, so that reading the weights once serves one token of each.
pub struct Batch<'m> {
    model: &'m Model,
    run: Run<'m>,
    tokens: Vec<u32>,
    hidden: Vec<f32>,
    context: usize,
}

impl<'m> Batch<'m> {
    fn new(
        model: &'m Model,
        sequences: usize,
        context: usize,
        format: &'static Format,
        values: Option<&'m Parameters>,
    ) -> Result<Self> {
        let run = Run::new(&model.config, sequences, format, values)?;
        Ok(Self { model, run, tokens: Vec::new(), hidden: Vec::new(), context })
    }

    /// Appends to each sequence named its tokens; returns the final hidden states of all of them (after the output norm),
    /// row-major `[tokens, embedding_length]`, in the order given.
    ///
    /// # Errors
    /// If a context is full or a token is not in the vocabulary; the sequences are then unchanged.
    ///
    /// # Panics
    /// If a sequence does not exist or is named twice.
    pub fn forward(&mut self, parts: &[(usize, &[u32])]) -> Result<&[f32]> {
        self.observe(parts, &mut |_, _| ())
    }

    fn observe(&mut self, parts: &[(usize, &[u32])], layer: &mut (dyn FnMut(usize, &[f32]) + Send)) -> Result<&[f32]> {
        let vocab_size = self.model.config.vocab_size;
        for &(sequence, tokens) in parts {
            let wanted = self.position(sequence).saturating_add(tokens.len());
            if wanted > self.context {
                return Err(Error::ContextFull { context: self.context, wanted });
            }
            if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab_size) {
                return Err(Error::UnknownToken { token, vocab_size });
            }
        }
        self.hidden.clear();
        // Nothing to append is nothing to run.
        let parts: Vec<(usize, &[u32])> = parts.iter().copied().filter(|(_, tokens)| !tokens.is_empty()).collect();
        if parts.is_empty() {
            return Ok(&self.hidden);
        }
        parallel::section(|| {
            if parts.iter().map(|(_, tokens)| tokens.len()).sum::<usize>() <= CHUNK {
                return self.pass(&parts, layer);
            }
            for &(sequence, tokens) in &parts {
                tokens.chunks(CHUNK).for_each(|chunk| self.pass(&[(sequence, chunk)], layer));
            }
        });
        Ok(&self.hidden)
    }

    /// Once through the layers.
    fn pass(&mut self, parts: &[(usize, &[u32])], layer: &mut dyn FnMut(usize, &[f32])) {
        self.tokens.clear();
        parts.iter().for_each(|(_, tokens)| self.tokens.extend_from_slice(tokens));
        self.run.begin(parts.iter().map(|(sequence, tokens)| (*sequence, tokens.len())));
        let hidden = self.model.definition.observe(&mut self.run, &self.tokens, &mut |at, x| layer(at, x));
        self.hidden.extend_from_slice(&hidden);
        self.run.advance();
    }

    /// The logits of hidden states `[n, embedding_length]` that `forward` returned, into `logits` `[n, vocab_size]`.
    ///
    /// # Panics
    /// If the lengths do not match these shapes.
    pub fn logits(&mut self, hidden: &[f32], logits: &mut [f32]) {
        self.run.linear_into(self.model.definition.head(), hidden, logits);
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Tokens in a sequence so far.
    pub fn position(&self, sequence: usize) -> usize {
        self.run.cache(sequence).position()
    }

    /// Tokens that each sequence can hold.
    pub fn context(&self) -> usize {
        self.context
    }

    /// Forgets all tokens of a sequence after the first `position`.
    pub fn truncate(&mut self, sequence: usize, position: usize) {
        self.run.truncate(sequence, position);
    }
}
