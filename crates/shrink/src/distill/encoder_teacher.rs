//! An encoder as a teacher: its embeddings, kept in a file, and its hidden states.

use crate::records::{Kind, Records};
use crate::{Error, identity};
use bantam_checkpoint::Checkpoint;
use bantam_nn::Encoder;
use half::f16;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: [u8; 8] = *b"bantamE\x02";

/// A file of a teacher's embeddings, before they become unit vectors, in f16.
pub struct EmbeddingCache(Records);

impl EmbeddingCache {
    /// Opens the cache of what a teacher of this description makes of sentences, or begins it.
    ///
    /// # Errors
    /// If the file cannot be read or written, is no such cache, is one of another teacher, or is damaged.
    pub fn open(path: &Path, description: &str, width: usize) -> Result<Self, Error> {
        Ok(Self(Records::open_shared(path, Kind { magic: MAGIC, size: width, bytes: 2 }, description)?))
    }

    /// Sentences kept.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether a sentence's embedding is kept.
    pub fn has(&self, sentence: &str) -> bool {
        self.0.has(key(sentence))
    }

    fn keep(&mut self, sentence: &str, embedding: &[f32]) -> Result<(), Error> {
        if let Some(value) = embedding.iter().find(|v| !f16::from_f32(**v).is_finite()) {
            let problem = format!("an embedding holds {value}, which half precision cannot; distil without a cache");
            return Err(self.0.error(problem));
        }
        self.0.keep(key(sentence), 1, embedding.iter().flat_map(|&v| f16::from_f32(v).to_le_bytes()))
    }

    /// Keeps those of `[sentences, width]` embeddings that are not kept yet; a sentence may be there twice.
    fn keep_new(&mut self, sentences: &[&str], embeddings: &[f32], width: usize) -> Result<(), Error> {
        for (text, embedding) in sentences.iter().zip(embeddings.chunks_exact(width)) {
            if !self.has(text) {
                self.keep(text, embedding)?;
            }
        }
        Ok(())
    }

    fn read(&mut self, sentence: &str, embedding: &mut Vec<f32>) -> Result<(), Error> {
        let (_, content) = self.0.read(key(sentence))?;
        embedding.extend(content.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()));
        Ok(())
    }
}

/// By what a sentence is known.
fn key(sentence: &str) -> u64 {
    xxh3_64(sentence.as_bytes())
}

/// A teacher of embeddings.
pub struct EncoderTeacher<'m> {
    encoder: &'m Encoder,
    name: String,
    length: usize,
    cache: Option<EmbeddingCache>,
}

/// Why this teacher could not embed; a broken one is named.
fn cause(name: &str, error: bantam_nn::Error) -> Error {
    match error {
        bantam_nn::Error::Embedding { .. } => Error::Predictions { model: name.to_owned() },
        error => error.into(),
    }
}

/// What a teacher makes of a batch of sentences.
pub(super) struct Taught {
    /// Before they become unit vectors, `[sentences, width]`.
    pub embeddings: Vec<f32>,
    /// The hidden states of the layers asked for, each `[tokens, width]`.
    pub hidden: Vec<Vec<f32>>,
}

impl<'m> EncoderTeacher<'m> {
    /// A teacher of this checkpoint that sees the first `length` tokens of a sentence, or as many as it can.
    ///
    /// # Errors
    /// If the checkpoint cannot be read any more.
    pub fn new(encoder: &'m Encoder, checkpoint: &Checkpoint, length: usize) -> Result<Self, Error> {
        let length = length.min(encoder.config().context_length);
        Ok(Self { encoder, name: identity::name_with_tokenizer(checkpoint)?, length, cache: None })
    }

    /// Keeps its embeddings of sentences in a file, or reads them from there.
    ///
    /// # Errors
    /// As [`EmbeddingCache::open`].
    pub fn with_cache(self, path: &Path) -> Result<Self, Error> {
        let cache = EmbeddingCache::open(path, &self.description(), self.encoder.width())?;
        Ok(Self { cache: Some(cache), ..self })
    }

    /// Its cache.
    pub fn cache(&self) -> Option<&EmbeddingCache> {
        self.cache.as_ref()
    }

    /// The encoder.
    pub fn encoder(&self) -> &'m Encoder {
        self.encoder
    }

    /// Who the teacher is, and how much it sees.
    pub fn description(&self) -> String {
        format!("{}, {} tokens a sentence", self.name, self.length)
    }

    /// Makes and keeps the embeddings of these sentences that are not kept yet; returns the tokens gone through.
    ///
    /// # Errors
    /// If a sentence cannot be embedded or the cache not be written.
    pub fn capture(&mut self, sentences: &[&str]) -> Result<usize, Error> {
        let Some(cache) = &mut self.cache else { return Ok(0) };
        let missing: Vec<&str> = sentences.iter().copied().filter(|text| !cache.has(text)).collect();
        let tokens = |text: &&str| self.encoder.tokens(text, self.length);
        let sequences = missing.iter().map(tokens).collect::<Result<Vec<_>, _>>()?;
        let embeddings = self.encoder.pooled(&sequences).map_err(|e| cause(&self.name, e))?;
        cache.keep_new(&missing, &embeddings, self.encoder.width())?;
        Ok(sequences.iter().map(Vec::len).sum())
    }

    /// Embeddings, and the hidden states of `layers`.
    pub(super) fn teaches(&mut self, sentences: &[&str], layers: &[usize]) -> Result<Taught, Error> {
        let mut taught = Taught { embeddings: Vec::new(), hidden: vec![Vec::new(); layers.len()] };
        if layers.is_empty() && self.cache.is_some() {
            self.capture(sentences)?;
        } else {
            let tokens = |text: &&str| self.encoder.tokens(text, self.length);
            let sequences = sentences.iter().map(tokens).collect::<Result<Vec<_>, _>>()?;
            let Taught { embeddings, hidden } = &mut taught;
            let mut layer = |at: usize, x: &[f32]| {
                let asked = layers.iter().zip(&mut *hidden).filter(|(layer, _)| **layer == at);
                asked.for_each(|(_, kept)| kept.extend_from_slice(x));
            };
            let mut pooled = |x: &[f32]| embeddings.extend_from_slice(x);
            self.encoder.observe(&sequences, &mut layer, &mut pooled).map_err(|e| cause(&self.name, e))?;
        }
        if let Some(cache) = &mut self.cache {
            let mut fresh = std::mem::take(&mut taught.embeddings);
            cache.keep_new(sentences, &fresh, self.encoder.width())?;
            // Read back in any case, so that a resumed run learns from the same rounded numbers.
            fresh.clear();
            sentences.iter().try_for_each(|text| cache.read(text, &mut fresh))?;
            taught.embeddings = fresh;
        }
        Ok(taught)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_halves_cannot_hold_is_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let mut cache = EmbeddingCache::open(&folder.path().join("cache"), "T", 2).unwrap();
        let error = cache.keep("a", &[1.0, 7e4]).unwrap_err().to_string();
        assert!(error.contains("70000") && error.contains("without a cache"), "{error}");
        cache.keep("a", &[1.0, 6e4]).unwrap();
        assert_eq!(cache.len(), 1);
    }
}
