//! Grouped-query self-attention.

use super::{Linear, RmsNorm, Rotary};
use crate::weights::Loader;
use crate::{Backend, Result};
use bantam_checkpoint::Config;
use std::sync::Arc;

/// Self-attention in which groups of query heads share key and value heads (Ainslie et al. 2023).
pub struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    output: Linear,
    /// Norms of each query and key head, before rotation.
    norms: Option<[RmsNorm; 2]>,
    spec: AttentionSpec,
}

/// What a backend must know to attend.
#[derive(Clone, Debug)]
pub struct AttentionSpec {
    /// The layer, counted from 0: its place in a cache.
    pub layer: usize,
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a query or key head.
    pub key_length: usize,
    /// Width of a value head.
    pub value_length: usize,
    /// What scores are multiplied with before the softmax.
    pub scale: f32,
    /// Rotation of queries and keys, if they are rotated.
    pub rotary: Option<Arc<Rotary>>,
    /// Whether a query sees only what comes before it, and itself.
    pub causal: bool,
    /// Positions that a causal query sees, itself included; all when `None`.
    pub window: Option<usize>,
}

impl AttentionSpec {
    /// Causal attention of layer `layer` as the hyperparameters have it, scaled by the root of the key length.
    pub fn causal(config: &Config, layer: usize, rotary: Arc<Rotary>, window: Option<usize>) -> Self {
        Self { rotary: Some(rotary), causal: true, window, ..Self::of_whole_sequences(config, layer) }
    }

    /// The same of an encoder, in which every position sees all of its sequence.
    pub fn of_whole_sequences(config: &Config, layer: usize) -> Self {
        Self {
            layer,
            heads: config.head_count,
            kv_heads: config.head_count_kv,
            key_length: config.key_length,
            value_length: config.value_length,
            scale: 1.0 / (config.key_length as f32).sqrt(),
            rotary: None,
            causal: false,
            window: None,
        }
    }

    /// Query heads that share a key and value head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
}

/// How to load a linear layer: [`Linear::load`] or [`Linear::load_biased`].
type LoadLinear = fn(&Loader<'_>, &str, usize, usize) -> Result<Linear>;

impl Attention {
    /// Loads the projections `blk.{layer}.attn_{q,k,v,output}`.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load(loader: &Loader<'_>, width: usize, spec: AttentionSpec) -> Result<Self> {
        Self::load_with(loader, width, spec, Linear::load)
    }

    /// As [`load`](Self::load), with biases on Q, K and V.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load_biased(loader: &Loader<'_>, width: usize, spec: AttentionSpec) -> Result<Self> {
        Self::load_with(loader, width, spec, Linear::load_biased)
    }

    /// Adds the norms of query and key heads, `blk.{layer}.attn_{q,k}_norm`.
    ///
    /// # Errors
    /// If a norm is missing or has the wrong length.
    pub fn with_norms(self, loader: &Loader<'_>, eps: f32) -> Result<Self> {
        let load = |name| RmsNorm::load(loader, &format!("blk.{}.{name}", self.spec.layer), self.spec.key_length, eps);
        Ok(Self { norms: Some([load("attn_q_norm")?, load("attn_k_norm")?]), ..self })
    }

    fn load_with(loader: &Loader<'_>, width: usize, spec: AttentionSpec, projection: LoadLinear) -> Result<Self> {
        let stem = |name| format!("blk.{}.{name}", spec.layer);
        Ok(Self {
            q: projection(loader, &stem("attn_q"), spec.heads * spec.key_length, width)?,
            k: projection(loader, &stem("attn_k"), spec.kv_heads * spec.key_length, width)?,
            v: projection(loader, &stem("attn_v"), spec.kv_heads * spec.value_length, width)?,
            output: Linear::load(loader, &stem("attn_output"), width, spec.heads * spec.value_length)?,
            norms: None,
            spec,
        })
    }

    /// `[tokens, width]` to the same.
    pub fn forward<B: Backend>(&self, b: &mut B, x: &B::Tensor) -> B::Tensor {
        let [mut q, mut k, v] = b.linears([&self.q, &self.k, &self.v], x);
        if let Some([q_norm, k_norm]) = &self.norms {
            q = b.rms_norm(q_norm, &q);
            k = b.rms_norm(k_norm, &k);
        }
        let mixed = b.attention(&self.spec, q, k, v);
        b.linear(&self.output, &mixed)
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> [&mut Linear; 4] {
        [&mut self.q, &mut self.k, &mut self.v, &mut self.output]
    }
}
