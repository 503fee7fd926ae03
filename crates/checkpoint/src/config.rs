//! A model's hyperparameters as types, read from its metadata.

use crate::metadata::Array;
use crate::{Checkpoint, Error, Result, Value};

/// Hyperparameters of a language model or a sentence encoder. Names as in GGUF's keys, without the architecture's prefix.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `general.architecture`: `llama`, `qwen2`, `qwen3`, `gemma3`, `bert`.
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
    /// The epsilon of the norms.
    pub norm_eps: f32,
    /// Rotary position embedding of full-attention layers.
    pub rope: Rope,
    /// Sliding-window attention, if the model has it.
    pub sliding_window: Option<SlidingWindow>,
    /// What makes the model an encoder: it sees whole texts and makes an embedding of each. A language model has none.
    pub encoder: Option<Encoder>,
}

/// What an encoder has beside its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoder {
    /// Kinds of text that the model tells apart (a question and its answer); sentences are all of the first.
    pub token_types: usize,
    /// How one vector is made of the tokens'.
    pub pooling: Pooling,
}

/// How one vector is made of the hidden states of a text's tokens: `pooling_type` of GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the first token.
    First,
    /// That of the last token.
    Last,
}

impl Pooling {
    /// GGUF's number.
    pub fn code(self) -> u32 {
        match self {
            Pooling::Mean => 1,
            Pooling::First => 2,
            Pooling::Last => 3,
        }
    }

    /// The pooling of GGUF's number.
    pub fn from_code(code: u64) -> Option<Self> {
        [Pooling::Mean, Pooling::First, Pooling::Last].into_iter().find(|p| u64::from(p.code()) == code)
    }
}

/// Rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Rotated dimensions of each head; 0 where positions are learned (bert).
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
    /// Reads and checks the hyperparameters of a checkpoint. Absent keys get llama.cpp's defaults.
    ///
    /// # Errors
    /// If a key is missing, has the wrong type or a nonsensical value (named), or the architecture is unknown.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let (keys, row) = Keys::of(checkpoint)?;
        let head_count = keys.count("attention.head_count")?.required()?;
        let head_count_kv = keys.count("attention.head_count_kv")?.or(head_count);
        if !head_count.is_multiple_of(head_count_kv) {
            return Err(keys.wrong(
                "attention.head_count_kv",
                format!("is {head_count_kv}, but must divide the {head_count} query heads (attention.head_count)"),
            ));
        }
        let embedding_length = keys.count("embedding_length")?.required()?;
        let block_count = keys.count("block_count")?.required()?;
        if block_count > MAX_BLOCKS {
            return Err(keys.wrong("block_count", format!("is {block_count}; at most {MAX_BLOCKS} layers make sense")));
        }
        let key_length = keys.count("attention.key_length")?.or(embedding_length / head_count);
        let context_length = keys.count("context_length")?.required()?;
        Ok(Self {
            architecture: keys.architecture.to_owned(),
            block_count,
            embedding_length,
            feed_forward_length: keys.count("feed_forward_length")?.required()?,
            head_count,
            head_count_kv,
            key_length,
            value_length: keys.count("attention.value_length")?.or(embedding_length / head_count),
            vocab_size: vocab_size(checkpoint, &keys)?,
            context_length,
            norm_eps: keys.positive(row.norm_eps)?.required()?,
            rope: rope(&keys, row.pairing, key_length, context_length)?,
            sliding_window: sliding_window(&keys, block_count)?,
            encoder: if row.pairing.is_none() { Some(encoder(&keys)?) } else { None },
        })
    }
}

/// An architecture that [`Config::of`] knows.
struct Architecture {
    name: &'static str,
    /// Which dimensions its rotary embedding pairs; encoders have none.
    pairing: Option<RopePairing>,
    /// The key of the norms' epsilon.
    norm_eps: &'static str,
}

impl Architecture {
    const fn decoder(name: &'static str, pairing: RopePairing) -> Self {
        Self { name, pairing: Some(pairing), norm_eps: "attention.layer_norm_rms_epsilon" }
    }
}

static ARCHITECTURES: [Architecture; 5] = [
    Architecture::decoder("llama", RopePairing::Interleaved),
    Architecture::decoder("qwen2", RopePairing::Halves),
    Architecture::decoder("qwen3", RopePairing::Halves),
    Architecture::decoder("gemma3", RopePairing::Halves),
    Architecture { name: "bert", pairing: None, norm_eps: "attention.layer_norm_epsilon" },
];

/// More layers than any model has, so that no lying header makes anybody allocate for them.
const MAX_BLOCKS: usize = 10_000;

/// In gemma3 every sixth layer sees everything.
const GEMMA3_WINDOW_PATTERN: usize = 6;

/// The largest vocabulary, dimension or context that a file may claim.
const MAX_COUNT: u64 = 1 << 31;

fn rope(keys: &Keys<'_>, pairing: Option<RopePairing>, key_length: usize, context_length: usize) -> Result<Rope> {
    let Some(pairing) = pairing else {
        let (pairing, scaling) = (RopePairing::Halves, RopeScaling::None);
        return Ok(Rope { dimension_count: 0, freq_base: 10_000.0, pairing, scaling });
    };
    let dimension_count = keys.count("rope.dimension_count")?.or(key_length);
    if !dimension_count.is_multiple_of(2) || dimension_count > key_length {
        return Err(keys.wrong(
            "rope.dimension_count",
            format!("is {dimension_count}, but must be even and at most the head width {key_length}"),
        ));
    }
    let factor = match keys.positive("rope.scaling.factor")?.value {
        Some(factor) => Some(factor),
        None => keys.positive("rope.scale_linear")?.value,
    };
    let scaling = match (keys.str("rope.scaling.type")?.unwrap_or("linear"), factor) {
        ("none", _) | ("linear" | "yarn", None) => RopeScaling::None,
        ("linear", Some(factor)) => RopeScaling::Linear { factor },
        ("yarn", Some(factor)) => RopeScaling::Yarn {
            factor,
            original_context: keys.count("rope.scaling.original_context_length")?.or(context_length),
        },
        (other, _) => {
            let message =
                format!("{}.rope.scaling.type is {other:?}; bantam supports none, linear and yarn.", keys.architecture);
            return Err(Error::unsupported(keys.checkpoint.path(), message));
        }
    };
    Ok(Rope { dimension_count, freq_base: keys.positive("rope.freq_base")?.or(10_000.0), pairing, scaling })
}

/// The sliding window; of these architectures only gemma3 has one (llama.cpp ignores the key in others).
fn sliding_window(keys: &Keys<'_>, block_count: usize) -> Result<Option<SlidingWindow>> {
    const PATTERN: &str = "attention.sliding_window_pattern";
    if keys.architecture != "gemma3" || keys.uint("attention.sliding_window")?.unwrap_or(0) == 0 {
        return Ok(None);
    }
    let size = keys.count("attention.sliding_window")?.required()?;
    let layers = match keys.get(PATTERN) {
        Some(Value::Array(Array::Bool(layers))) if layers.len() >= block_count => layers[..block_count].to_vec(),
        Some(Value::Array(_)) => {
            return Err(keys.wrong(PATTERN, format!("must hold a boolean for each of the {block_count} layers")));
        }
        _ => {
            let period = keys.uint(PATTERN)?.unwrap_or(GEMMA3_WINDOW_PATTERN as u64);
            (0..block_count as u64).map(|i| period == 0 || i % period < period - 1).collect()
        }
    };
    Ok(Some(SlidingWindow { size, layers, freq_base: keys.positive("rope.freq_base_swa")?.or(10_000.0) }))
}

/// What makes the model an encoder. Where the file does not say, texts are pooled to their mean.
fn encoder(keys: &Keys<'_>) -> Result<Encoder> {
    const TOKEN_TYPES: &str = "tokenizer.ggml.token_type_count";
    if keys.get("attention.causal") == Some(&Value::Bool(true)) {
        let message = format!("{}.attention.causal is true; encoders see the whole text.", keys.architecture);
        return Err(Error::unsupported(keys.checkpoint.path(), message));
    }
    let pooling = match keys.uint("pooling_type")? {
        None => Pooling::Mean,
        Some(code) => Pooling::from_code(code).ok_or_else(|| {
            keys.wrong("pooling_type", format!("is {code}; bantam has 1 (mean), 2 (first token) and 3 (last token)"))
        })?,
    };
    let token_types = keys.checkpoint.metadata().uint(TOKEN_TYPES).filter(|n| (1..MAX_COUNT).contains(n));
    let token_types = token_types.ok_or_else(|| {
        Error::malformed(keys.checkpoint.path(), format!("{TOKEN_TYPES} must be a count of at least 1."))
    })?;
    Ok(Encoder { token_types: token_types as usize, pooling })
}

/// The rows of the embedding, else what the metadata says.
fn vocab_size(checkpoint: &Checkpoint, keys: &Keys<'_>) -> Result<usize> {
    if let Some(embedding) = checkpoint.tensor("token_embd.weight") {
        return Ok(embedding.rows());
    }
    let tokens = checkpoint.metadata().strings("tokenizer.ggml.tokens").map(<[_]>::len);
    match keys.count("vocab_size")?.value.or(tokens) {
        Some(n) => Ok(n),
        None => Err(keys.wrong("vocab_size", "is missing, and so are token_embd.weight and tokenizer.ggml.tokens")),
    }
}

/// Reads one architecture's keys.
struct Keys<'a> {
    checkpoint: &'a Checkpoint,
    architecture: &'a str,
}

/// A key's value, if it is there.
struct Entry<'a, T> {
    keys: &'a Keys<'a>,
    key: &'static str,
    value: Option<T>,
}

impl<T> Entry<'_, T> {
    fn or(self, default: T) -> T {
        self.value.unwrap_or(default)
    }

    fn required(self) -> Result<T> {
        self.value.ok_or_else(|| self.keys.wrong(self.key, "is missing"))
    }
}

impl<'a> Keys<'a> {
    /// The keys, and the row of the architecture.
    fn of(checkpoint: &'a Checkpoint) -> Result<(Self, &'static Architecture)> {
        let known = ARCHITECTURES.iter().map(|row| row.name).collect::<Vec<_>>().join(", ");
        match checkpoint.metadata().get("general.architecture") {
            Some(Value::String(name)) => match ARCHITECTURES.iter().find(|row| row.name == name) {
                Some(row) => Ok((Self { checkpoint, architecture: name }, row)),
                None => Err(Error::unsupported(
                    checkpoint.path(),
                    format!("the architecture is {name:?} (general.architecture); bantam runs {known}."),
                )),
            },
            _ => Err(Error::malformed(
                checkpoint.path(),
                format!("the metadata has no string general.architecture; it must name one of {known}."),
            )),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.checkpoint.metadata().get(&format!("{}.{key}", self.architecture))
    }

    /// A non-negative integer. A per-layer array is refused unless all its elements are equal.
    fn uint(&self, key: &'static str) -> Result<Option<u64>> {
        let number = |value: &Value| match value {
            Value::Array(array) => uniform(array),
            scalar => scalar.as_uint(),
        };
        match self.get(key).map(number) {
            None => Ok(None),
            Some(Some(n)) => Ok(Some(n)),
            Some(None) => Err(self.wrong(key, "must be one non-negative integer, the same in all layers")),
        }
    }

    /// A count: at least 1.
    fn count(&self, key: &'static str) -> Result<Entry<'_, usize>> {
        let value = match self.uint(key)? {
            Some(n) if !(1..MAX_COUNT).contains(&n) => {
                return Err(self.wrong(key, format!("is {n}; it must be between 1 and {MAX_COUNT}")));
            }
            n => n.map(|n| n as usize),
        };
        Ok(Entry { keys: self, key, value })
    }

    /// A positive finite number.
    fn positive(&self, key: &'static str) -> Result<Entry<'_, f32>> {
        let number = |value: &Value| match *value {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        };
        let value = match self.get(key).map(number) {
            None => None,
            Some(Some(n)) if n.is_finite() && n > 0.0 => Some(n),
            Some(Some(n)) => return Err(self.wrong(key, format!("is {n}; it must be positive and finite"))),
            Some(None) => return Err(self.wrong(key, "must be a floating-point number")),
        };
        Ok(Entry { keys: self, key, value })
    }

    fn str(&self, key: &'static str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(_) => Err(self.wrong(key, "must be a string")),
        }
    }

    fn wrong(&self, key: &str, message: impl std::fmt::Display) -> Error {
        Error::malformed(self.checkpoint.path(), format!("the metadata key {}.{key} {message}.", self.architecture))
    }
}

/// The value of all elements of an integer array, `None` if it is empty or they differ.
fn uniform(array: &Array) -> Option<u64> {
    let all: Vec<u64> = match array {
        Array::U32(v) => v.iter().map(|&v| v.into()).collect(),
        Array::I32(v) => v.iter().map(|&v| v.try_into().ok()).collect::<Option<_>>()?,
        _ => return None,
    };
    let first = *all.first()?;
    all.iter().all(|&v| v == first).then_some(first)
}
