//! A model's hyperparameters as types, read from its metadata.

use crate::{Checkpoint, Result};

/// Hyperparameters of a decoder language model. Names as in GGUF's keys, without the architecture's prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`: `llama`, `qwen2`, `qwen3`, `gemma3`.
    pub architecture: String,
    /// Number of layers.
    pub block_count: usize,
    /// Width of the residual stream.
    pub embedding_length: usize,
    /// Width of the feed-forward layers.
    pub feed_forward_length: usize,
    /// Query heads.
    pub head_count: usize,
    /// Key and value heads.
    pub head_count_kv: usize,
    /// Width of a query or key head.
    pub key_length: usize,
    /// Width of a value head.
    pub value_length: usize,
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// The longest context the model was trained for.
    pub context_length: usize,
    /// The epsilon of the RMS norms.
    pub rms_norm_eps: f32,
    /// Rotary position embedding of full-attention layers.
    pub rope: Rope,
    /// Sliding-window attention, if the model has it.
    pub sliding_window: Option<SlidingWindow>,
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Rotated dimensions of each head.
    pub dimension_count: usize,
    /// Base of the frequencies.
    pub freq_base: f32,
    /// Which dimensions are rotated together.
    pub pairing: RopePairing,
    /// How the frequencies are stretched for contexts longer than the original.
    pub scaling: RopeScaling,
}

/// Which dimensions of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// Neighbours `2i, 2i + 1` (llama in GGUF).
    Interleaved,
    /// Halves `i, i + n/2` (Hugging Face, and NeoX, qwen and gemma in GGUF).
    Halves,
}

/// Stretching of rotary frequencies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// None.
    None,
    /// All frequencies divided by the factor.
    Linear {
        /// The factor.
        factor: f32,
    },
    /// YaRN (Peng et al. 2023).
    Yarn {
        /// The factor.
        factor: f32,
        /// The context length before stretching.
        original_context: usize,
    },
    // Llama 3's per-frequency factors come as a tensor, `rope_freqs.weight`, and need no case here.
}

/// Sliding-window attention: most layers see only the last `size` positions.
#[derive(Clone, Debug, PartialEq)]
pub struct SlidingWindow {
    /// Positions a windowed layer sees, itself included.
    pub size: usize,
    /// For each layer whether it is windowed.
    pub layers: Vec<bool>,
    /// Base of the rotary frequencies in windowed layers (they are not stretched).
    pub freq_base: f32,
}

impl Config {
    /// Reads and checks the hyperparameters of a checkpoint.
    ///
    /// # Errors
    /// If a key is missing, has the wrong type or a nonsensical value (named), or the architecture is unknown.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let _ = checkpoint;
        todo!()
    }
}
