//! Sentence encoders: texts to embeddings.

use crate::models::bert::Bert;
use crate::run::Run;
use crate::sequences::together;
use crate::weights::Loader;
use crate::{Backend, Error, Result, vector};
use bantam_checkpoint::config::Pooling;
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_checkpoint::{Checkpoint, Config};
use bantam_formats::Format;

/// A loaded sentence encoder: tokenizer, layers, pooling. Embeddings are unit vectors, so that their inner product is their
/// cosine.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let encoder = bantam_nn::Encoder::load(&bantam_checkpoint::Checkpoint::open("all-minilm-l6-v2.gguf")?)?;
/// let embeddings = encoder.embed_texts(&["A cat sleeps.", "A dog barks."])?; // [2, width]
/// let (cat, dog) = embeddings.split_at(encoder.width());
/// let cosine: f32 = cat.iter().zip(dog).map(|(a, b)| a * b).sum();
/// # Ok(())
/// # }
/// ```
pub struct Encoder {
    config: Config,
    pooling: Pooling,
    tokenizer: Tokenizer,
    definition: Bert,
}

/// Tokens that go through the layers together; bounds the memory for activations.
const TOGETHER: usize = 2048;

impl Encoder {
    /// Whether a checkpoint is an encoder.
    ///
    /// # Errors
    /// If its hyperparameters are missing or make no sense.
    pub fn is(checkpoint: &Checkpoint) -> Result<bool> {
        Ok(Config::of(checkpoint)?.encoder.is_some())
    }

    /// Loads an encoder.
    ///
    /// # Errors
    /// If the model is no encoder, its tokenizer is missing, or its tensors are not those that the configuration asks for.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let config = Config::of(checkpoint)?;
        let Some(encoder) = config.encoder else {
            return Err(Error::NoEncoder { path: checkpoint.path().to_owned(), architecture: config.architecture });
        };
        let error = |message: String| Err(Error::Hyperparameters { path: checkpoint.path().to_owned(), message });
        let Config { embedding_length, head_count, key_length, value_length, .. } = config;
        if key_length * head_count != embedding_length || value_length * head_count != embedding_length {
            return error(format!("{head_count} heads do not divide the width {embedding_length}"));
        }
        let tokenizer = Tokenizer::of(checkpoint)?;
        if tokenizer.vocab_size() > config.vocab_size {
            let (tokens, rows) = (tokenizer.vocab_size(), config.vocab_size);
            return error(format!("the vocabulary has {tokens} tokens, but the embedding {rows} rows"));
        }
        let loader = Loader::new(checkpoint);
        let definition = Bert::load(&loader, &config, &encoder)?;
        loader.finish()?;
        Ok(Self { pooling: encoder.pooling, tokenizer, definition, config })
    }

    /// The hyperparameters.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The layers.
    pub fn definition(&self) -> &Bert {
        &self.definition
    }

    /// How one row is made of a text's.
    pub fn pooling(&self) -> Pooling {
        self.pooling
    }

    /// Width of an embedding.
    pub fn width(&self) -> usize {
        self.config.embedding_length
    }

    /// The tokens of a text, at most `limit` or as many as the model can see; a longer one keeps its last token, which ends it.
    ///
    /// # Errors
    /// If the text is 1 GiB or longer.
    pub fn tokens(&self, text: &str, limit: usize) -> Result<Vec<u32>> {
        let mut tokens = self.tokenizer.encode(text, Special::DOCUMENT)?;
        let limit = limit.min(self.config.context_length).max(1);
        if let Some(&last) = tokens.last().filter(|_| tokens.len() > limit) {
            tokens.truncate(limit - 1);
            tokens.push(last);
        }
        Ok(tokens)
    }

    /// The embeddings of texts, `[texts, width]`.
    ///
    /// # Errors
    /// If a text is 1 GiB or longer, or its embedding is not finite.
    pub fn embed_texts(&self, texts: &[impl AsRef<str>]) -> Result<Vec<f32>> {
        let tokens = |text| self.tokens(text, self.config.context_length);
        let sequences = texts.iter().map(|text| tokens(text.as_ref())).collect::<Result<Vec<_>>>()?;
        self.embed(&sequences)
    }

    /// The embeddings of tokenized texts, `[sequences, width]`.
    ///
    /// # Errors
    /// If a sequence is empty or longer than the model can see, a token is not in the vocabulary, or an embedding is not finite.
    pub fn embed(&self, sequences: &[impl AsRef<[u32]>]) -> Result<Vec<f32>> {
        let mut all = self.pooled(sequences)?;
        all.chunks_exact_mut(self.width()).for_each(normalize);
        Ok(all)
    }

    /// The embeddings before they become unit vectors, `[sequences, width]`.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn pooled(&self, sequences: &[impl AsRef<[u32]>]) -> Result<Vec<f32>> {
        let mut all = Vec::with_capacity(sequences.len() * self.width());
        self.observe(sequences, &mut |_, _| (), &mut |pooled| all.extend_from_slice(pooled))?;
        Ok(all)
    }

    /// Shows `pooled` what [`pooled`](Self::pooled) gives, of as many sequences as go through the layers together, and before that
    /// `layer` each layer's number and its hidden states, `[tokens, width]`.
    ///
    /// # Errors
    /// As [`embed`](Self::embed).
    pub fn observe(
        &self,
        sequences: &[impl AsRef<[u32]>],
        layer: &mut dyn FnMut(usize, &[f32]),
        pooled: &mut dyn FnMut(&[f32]),
    ) -> Result<()> {
        sequences.iter().try_for_each(|sequence| self.check(sequence.as_ref()))?;
        let f16 = Format::f16();
        let mut run = Run::new(&self.config, 0, f16, None)?;
        let mut before = 0;
        for batch in together(sequences, TOGETHER) {
            let tokens: Vec<u32> = batch.iter().flat_map(|s| s.as_ref()).copied().collect();
            let lengths: Vec<usize> = batch.iter().map(|s| s.as_ref().len()).collect();
            run.set_sequences(&lengths);
            let hidden = self.definition.hidden(&mut run, &tokens, &mut |at, x| layer(at, x));
            let rows = run.pool(self.pooling, &hidden);
            if let Some(at) = rows.iter().position(|v| !v.is_finite()) {
                return Err(Error::Embedding { sequence: before + at / self.width() });
            }
            pooled(&rows);
            before += batch.len();
        }
        Ok(())
    }

    fn check(&self, sequence: &[u32]) -> Result<()> {
        let (context, vocab_size) = (self.config.context_length, self.config.vocab_size);
        if sequence.is_empty() || sequence.len() > context {
            return Err(Error::SequenceLength { len: sequence.len(), context });
        }
        match sequence.iter().find(|&&t| t as usize >= vocab_size) {
            Some(&token) => Err(Error::UnknownToken { token, vocab_size }),
            None => Ok(()),
        }
    }
}

/// Scales a vector to length 1; one of zeros stays.
fn normalize(x: &mut [f32]) {
    let norm = vector::dot(x, x).sqrt();
    if norm > 0.0 {
        vector::scale(x, 1.0 / norm);
    }
}
