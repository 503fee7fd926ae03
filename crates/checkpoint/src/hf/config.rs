//! `config.json`, to GGUF's metadata keys and back.

use super::family::Family;
use crate::config::RopeScaling;
use crate::metadata::Array;
use crate::{Config, Metadata, Value};
use serde::Deserialize;
use serde_json::json;

/// The most tokens of a vocabulary, and channels of a head, that are believed: memory is taken for them before the weights are looked at.
const LARGEST_VOCAB: u32 = 1 << 24;
const LARGEST_HEAD: u32 = 1 << 16;

/// What `config.json` says, as far as bantam needs it. Names are transformers'.
#[derive(Debug, Deserialize)]
pub struct ConfigJson {
    pub model_type: String,
    pub hidden_size: u32,
    pub intermediate_size: u32,
    pub num_hidden_layers: u32,
    pub num_attention_heads: u32,
    pub num_key_value_heads: Option<u32>,
    pub head_dim: Option<u32>,
    pub vocab_size: u32,
    pub max_position_embeddings: u32,
    rms_norm_eps: Option<f32>,
    layer_norm_eps: Option<f32>,
    type_vocab_size: Option<u32>,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
    #[serde(default, alias = "hidden_activation")]
    pub hidden_act: Option<String>,
    pub tie_word_embeddings: Option<bool>,
    rope_theta: Option<f32>,
    rope_local_base_freq: Option<f32>,
    rope_scaling: Option<RopeJson>,
    rope_parameters: Option<RopeParameters>,
    sliding_window: Option<u32>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<u32>,
    layer_types: Option<Vec<String>>,
    #[serde(default)]
    use_sliding_window: bool,
    query_pre_attn_scalar: Option<f32>,
    attn_logit_softcapping: Option<f32>,
    final_logit_softcapping: Option<f32>,
    pub quantization_config: Option<serde_json::Value>,
}

/// Rotary parameters: one set (transformers 5 calls it `rope_parameters`, 4 `rope_scaling`).
#[derive(Clone, Debug, Default, Deserialize)]
struct RopeJson {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f32>,
    factor: Option<f32>,
    low_freq_factor: Option<f32>,
    high_freq_factor: Option<f32>,
    original_max_position_embeddings: Option<u32>,
}

/// `rope_parameters`, one set or one for each kind of layer.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum RopeParameters {
    ByLayer { full_attention: RopeJson, sliding_attention: RopeJson },
    One(RopeJson),
}

impl ConfigJson {
    /// What bantam does not support in this model, if anything.
    pub fn unsupported(&self, family: &Family) -> Option<String> {
        let rope = self.rope();
        let rope_type = rope.rope_type.as_deref().unwrap_or("default");
        if let Some(activation) = self.hidden_act.as_deref().filter(|&a| a != family.activation) {
            return Some(format!(
                "its activation is {activation:?}; {} models have {:?}",
                family.architecture, family.activation
            ));
        }
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|&kind| kind != "absolute") {
            return Some(format!(
                "its position_embedding_type is {kind:?}; {} models have absolute",
                family.architecture
            ));
        }
        if self.is_decoder {
            return Some(format!("is_decoder is true; {} models are encoders", family.architecture));
        }
        if !["default", "linear", "yarn", "llama3"].contains(&rope_type) {
            return Some(format!("its rope_type is {rope_type:?}; bantam supports default, linear, yarn and llama3"));
        }
        if self.attn_logit_softcapping.is_some() || self.final_logit_softcapping.is_some() {
            return Some("it caps its logits (attn_logit_softcapping or final_logit_softcapping)".into());
        }
        if family.architecture != "gemma3"
            && (self.use_sliding_window || self.model_type == "mistral" && self.sliding_window.is_some())
        {
            return Some("it uses a sliding window, which GGUF's architecture of this name does not have".into());
        }
        if self.query_pre_attn_scalar.is_some_and(|scalar| scalar != self.head_dim() as f32) {
            return Some("its query_pre_attn_scalar differs from its head_dim".into());
        }
        None
    }

    /// What makes no sense, if anything.
    pub fn malformed(&self, family: &Family) -> Option<String> {
        if !family.is_encoder() && self.rms_norm_eps.is_none() {
            return Some("there is no rms_norm_eps".to_owned());
        }
        let (heads, kv) = (self.num_attention_heads, self.head_count_kv());
        if heads == 0 || kv == 0 || !heads.is_multiple_of(kv) {
            return Some(format!(
                "num_attention_heads is {heads} and num_key_value_heads {kv}; the second must divide the first"
            ));
        }
        if self.head_dim() == 0 || !self.head_dim().is_multiple_of(2) || self.head_dim() > LARGEST_HEAD {
            return Some(format!(
                "head_dim is {}; it must be even, positive and at most {LARGEST_HEAD}",
                self.head_dim()
            ));
        }
        if self.vocab_size > LARGEST_VOCAB {
            return Some(format!("vocab_size is {}; at most {LARGEST_VOCAB} tokens are read", self.vocab_size));
        }
        if let Some(types) = &self.layer_types
            && types.len() != self.num_hidden_layers as usize
        {
            return Some(format!("layer_types has {} entries for {} layers", types.len(), self.num_hidden_layers));
        }
        None
    }

    /// Width of a head. Only called once `num_attention_heads` is known to be positive, or for comparison.
    pub fn head_dim(&self) -> u32 {
        self.head_dim.unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    /// Key and value heads.
    pub fn head_count_kv(&self) -> u32 {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    /// Whether the output is the embedding again; gemma's always is.
    pub fn tied(&self) -> bool {
        self.tie_word_embeddings.unwrap_or(self.model_type == "gemma3_text")
    }

    fn rope(&self) -> RopeJson {
        let mut rope = match &self.rope_parameters {
            Some(RopeParameters::ByLayer { full_attention, .. }) => full_attention.clone(),
            Some(RopeParameters::One(rope)) => rope.clone(),
            None => self.rope_scaling.clone().unwrap_or_default(),
        };
        rope.rope_theta = rope.rope_theta.or(self.rope_theta);
        rope
    }

    /// The metadata that llama.cpp's converter writes for this model, tokenizer and general keys excepted.
    pub fn metadata(&self, family: &Family) -> Metadata {
        if family.is_encoder() {
            return self.encoder_metadata(family);
        }
        let mut metadata = Metadata::default();
        let mut set = |key: &str, value: Value| metadata.set(&format!("{}.{key}", family.architecture), value);
        set("block_count", Value::U32(self.num_hidden_layers));
        set("context_length", Value::U32(self.max_position_embeddings));
        set("embedding_length", Value::U32(self.hidden_size));
        set("feed_forward_length", Value::U32(self.intermediate_size));
        set("attention.head_count", Value::U32(self.num_attention_heads));
        set("attention.head_count_kv", Value::U32(self.head_count_kv()));
        set("attention.layer_norm_rms_epsilon", Value::F32(self.rms_norm_eps.unwrap_or(1e-6)));
        set("attention.key_length", Value::U32(self.head_dim()));
        set("attention.value_length", Value::U32(self.head_dim()));
        set("vocab_size", Value::U32(self.vocab_size));
        set("rope.dimension_count", Value::U32(self.head_dim()));
        let rope = self.rope();
        let default_base = if family.architecture == "gemma3" { 1e6 } else { 1e4 };
        set("rope.freq_base", Value::F32(rope.rope_theta.unwrap_or(default_base)));
        if let (Some(kind @ ("linear" | "yarn")), Some(factor)) = (rope.rope_type.as_deref(), rope.factor) {
            set("rope.scaling.type", Value::String(kind.into()));
            set("rope.scaling.factor", Value::F32(factor));
            if let Some(context) = rope.original_max_position_embeddings.filter(|_| kind == "yarn") {
                set("rope.scaling.original_context_length", Value::U32(context));
            }
        }
        if family.architecture == "gemma3" {
            self.window_metadata(&mut set);
        }
        metadata
    }

    /// The same of an encoder; how its hidden states are pooled is said elsewhere.
    fn encoder_metadata(&self, family: &Family) -> Metadata {
        let mut metadata = Metadata::default();
        let mut set = |key: &str, value: Value| metadata.set(&format!("{}.{key}", family.architecture), value);
        set("block_count", Value::U32(self.num_hidden_layers));
        set("context_length", Value::U32(self.max_position_embeddings));
        set("embedding_length", Value::U32(self.hidden_size));
        set("feed_forward_length", Value::U32(self.intermediate_size));
        set("attention.head_count", Value::U32(self.num_attention_heads));
        set("attention.layer_norm_epsilon", Value::F32(self.layer_norm_eps.unwrap_or(1e-12)));
        set("attention.causal", Value::Bool(false));
        metadata.set("tokenizer.ggml.token_type_count", Value::U32(self.type_vocab_size.unwrap_or(2)));
        metadata
    }

    /// The keys of gemma3's sliding window. The pattern is left out where it is every sixth layer, which is the default.
    fn window_metadata(&self, set: &mut impl FnMut(&str, Value)) {
        let Some(window) = self.sliding_window.filter(|_| self.sliding_window_pattern != Some(1)) else { return };
        set("attention.sliding_window", Value::U32(window));
        let base = match &self.rope_parameters {
            Some(RopeParameters::ByLayer { sliding_attention, .. }) => sliding_attention.rope_theta,
            _ => self.rope_local_base_freq,
        };
        set("rope.freq_base_swa", Value::F32(base.unwrap_or(1e4)));
        let every = |period: u32| (0..self.num_hidden_layers).map(move |i| (i + 1) % period != 0);
        match (&self.layer_types, self.sliding_window_pattern.unwrap_or(6)) {
            (Some(types), _) => {
                let windowed: Vec<bool> = types.iter().map(|t| t == "sliding_attention").collect();
                if !every(6).eq(windowed.iter().copied()) {
                    set("attention.sliding_window_pattern", Value::Array(Array::Bool(windowed)));
                }
            }
            (None, 6) => {}
            (None, period) => set("attention.sliding_window_pattern", Value::U32(period)),
        }
    }

    /// Llama 3's factors, by which each rotary frequency is divided (`rope_freqs.weight`).
    pub fn rope_factors(&self) -> Option<Vec<f32>> {
        let rope = self.rope();
        if rope.rope_type.as_deref() != Some("llama3") {
            return None;
        }
        Some(llama3_factors(&rope, self.head_dim()))
    }
}

/// The factors of Llama 3's rope scaling for heads of width `dim`.
fn llama3_factors(rope: &RopeJson, dim: u32) -> Vec<f32> {
    let (base, factor) = (rope.rope_theta.unwrap_or(1e4), rope.factor.unwrap_or(8.0));
    let (low, high) = (rope.low_freq_factor.unwrap_or(1.0), rope.high_freq_factor.unwrap_or(4.0));
    let context = rope.original_max_position_embeddings.unwrap_or(8192) as f32;
    let factors = (0..dim).step_by(2).map(|i| {
        let wavelength = 2.0 * std::f32::consts::PI * base.powf(i as f32 / dim as f32);
        if wavelength < context / high {
            1.0
        } else if wavelength > context / low {
            factor
        } else {
            let smooth = (context / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    });
    factors.collect()
}

/// The `config.json` of a GGUF model, with weights in `dtype` (`float16`, `bfloat16`, `float32`).
///
/// `rope_factors` are the contents of `rope_freqs.weight`, if the model has it.
///
/// # Errors
/// A message if transformers has no way to say it.
pub fn config_json(
    family: &Family,
    config: &Config,
    metadata: &Metadata,
    tied: bool,
    biases: bool,
    rope_factors: Option<&[f32]>,
    dtype: &str,
) -> Result<serde_json::Value, String> {
    let token = |name: &str| metadata.uint(&format!("tokenizer.ggml.{name}_token_id"));
    let mut json = json!({
        "architectures": [family.class],
        "model_type": family.model_types[0],
        "dtype": dtype,
        "torch_dtype": dtype,
        "hidden_size": config.embedding_length,
        "intermediate_size": config.feed_forward_length,
        "num_hidden_layers": config.block_count,
        "num_attention_heads": config.head_count,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_act": family.activation,
    });
    if let Some(encoder) = &config.encoder {
        extend(
            &mut json,
            json!({
                "type_vocab_size": encoder.token_types,
                "position_embedding_type": "absolute",
                "layer_norm_eps": short(config.norm_eps),
                "pad_token_id": token("padding").unwrap_or(0),
            }),
        );
        return Ok(json);
    }
    extend(
        &mut json,
        json!({
            "num_key_value_heads": config.head_count_kv,
            "head_dim": config.key_length,
            "rms_norm_eps": short(config.norm_eps),
            "tie_word_embeddings": tied,
            "bos_token_id": token("bos"),
            "eos_token_id": token("eos"),
            "rope_theta": short(config.rope.freq_base),
            "rope_scaling": rope_json(config, rope_factors)?,
        }),
    );
    match family.architecture {
        "llama" | "qwen3" => json["attention_bias"] = biases.into(),
        "gemma3" => gemma3_json(config, &mut json),
        _ => {}
    }
    Ok(json)
}

/// Adds the fields of another object.
fn extend(json: &mut serde_json::Value, other: serde_json::Value) {
    let (Some(json), serde_json::Value::Object(other)) = (json.as_object_mut(), other) else {
        unreachable!("both are objects")
    };
    json.extend(other);
}

fn gemma3_json(config: &Config, json: &mut serde_json::Value) {
    json["hidden_activation"] = json["hidden_act"].take();
    json.as_object_mut().expect("built as an object").remove("hidden_act");
    json["query_pre_attn_scalar"] = config.key_length.into();
    let kind = |windowed: bool| if windowed { "sliding_attention" } else { "full_attention" };
    let windowed = |i: usize| config.sliding_window.as_ref().is_some_and(|w| w.layers[i]);
    json["layer_types"] = (0..config.block_count).map(|i| kind(windowed(i))).collect();
    // Transformers wants a window even where no layer uses it.
    json["sliding_window"] = config.sliding_window.as_ref().map_or(config.context_length, |w| w.size).into();
    json["rope_local_base_freq"] = short(config.sliding_window.as_ref().map_or(1e4, |w| w.freq_base));
}

fn rope_json(config: &Config, rope_factors: Option<&[f32]>) -> Result<serde_json::Value, String> {
    match (config.rope.scaling, rope_factors) {
        (RopeScaling::None, Some(factors)) => llama3_json(config, factors),
        (_, Some(_)) => Err("it has both rope_freqs.weight and another rope scaling".into()),
        (RopeScaling::None, None) => Ok(serde_json::Value::Null),
        (RopeScaling::Linear { factor }, None) => Ok(json!({ "rope_type": "linear", "factor": short(factor) })),
        (RopeScaling::Yarn { factor, original_context }, None) => Ok(json!({
            "rope_type": "yarn", "factor": short(factor), "original_max_position_embeddings": original_context,
        })),
    }
}

/// The parameters of Llama 3's rope scaling from its factors: the frequency factors and original contexts that released
/// models have are tried, since factors alone do not say them.
fn llama3_json(config: &Config, factors: &[f32]) -> Result<serde_json::Value, String> {
    let factor = factors.iter().copied().fold(1.0, f32::max);
    for context in (5..18).map(|log2| 1u32 << log2) {
        let rope = RopeJson {
            rope_type: Some("llama3".into()),
            rope_theta: Some(config.rope.freq_base),
            factor: Some(factor),
            low_freq_factor: Some(1.0),
            high_freq_factor: Some(4.0),
            original_max_position_embeddings: Some(context),
        };
        let close = |ours: &f32, theirs: &f32| (ours - theirs).abs() <= 1e-4 * theirs.abs();
        let candidate = llama3_factors(&rope, config.key_length as u32);
        if candidate.len() == factors.len() && candidate.iter().zip(factors).all(|(a, b)| close(a, b)) {
            return Ok(json!({
                "rope_type": "llama3", "factor": short(factor), "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": context,
            }));
        }
    }
    Err("its rope_freqs.weight is not what Llama 3's rope scaling gives for any usual parameters".into())
}

/// A number as short as it can be said: 1e-5 and not 9.999999747378752e-6.
fn short(number: f32) -> serde_json::Value {
    number.to_string().parse::<f64>().map_or(serde_json::Value::Null, Into::into)
}
