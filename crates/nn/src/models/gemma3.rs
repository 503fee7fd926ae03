//! Gemma 3 (Gemma Team 2025): norms before and after each layer, windowed layers between full ones, scaled embeddings.

use crate::layers::{
    Activation, Attention, AttentionSpec, Block, Decoder, DropoutSite, GatedMlp, Linear, RmsNorm, Rotary,
};
use crate::weights::Loader;
use crate::{Backend, Result};
use bantam_checkpoint::Config;
use bantam_checkpoint::config::{Rope, RopeScaling};
use std::sync::Arc;

/// Attention and feed-forward, each between two norms. (GGUF's norm weights have Gemma's added one.)
pub struct SandwichBlock {
    attention_norm: RmsNorm,
    attention: Attention,
    post_attention_norm: RmsNorm,
    mlp_norm: RmsNorm,
    mlp: GatedMlp,
    post_mlp_norm: RmsNorm,
}

pub(super) fn load(loader: &Loader<'_>, config: &Config) -> Result<Decoder<SandwichBlock>> {
    let (full, windowed) = rotaries(config);
    let width = config.embedding_length;
    let decoder = Decoder::load(loader, config, |layer| {
        let window = config.sliding_window.as_ref().filter(|w| w.layers[layer]).map(|w| w.size);
        let rotary = if window.is_some() { &windowed } else { &full };
        let mut spec = AttentionSpec::causal(config, layer, rotary.clone(), window);
        spec.scale = attention_scale(config);
        let norm = |name| RmsNorm::load(loader, &format!("blk.{layer}.{name}"), width, config.norm_eps);
        Ok(SandwichBlock {
            attention_norm: norm("attn_norm")?,
            attention: Attention::load(loader, width, spec)?.with_norms(loader, config.norm_eps)?,
            post_attention_norm: norm("post_attention_norm")?,
            mlp_norm: norm("ffn_norm")?,
            mlp: GatedMlp::load(loader, config, layer, Activation::GeluTanh)?,
            post_mlp_norm: norm("post_ffw_norm")?,
        })
    })?;
    Ok(decoder.with_embedding_scale((width as f32).sqrt()))
}

/// The rotations of full and of windowed layers; only the former are stretched for long contexts.
fn rotaries(config: &Config) -> (Arc<Rotary>, Arc<Rotary>) {
    let freq_base = config.sliding_window.as_ref().map_or(config.rope.freq_base, |w| w.freq_base);
    let windowed = Rope { freq_base, scaling: RopeScaling::None, ..config.rope };
    (Arc::new(Rotary::new(&config.rope, None)), Arc::new(Rotary::new(&windowed, None)))
}

/// Scores are scaled by the root of the key length, but in the 27B model by that of the width per query head
/// (`query_pre_attn_scalar`, which GGUF does not carry; its 62 layers tell it apart).
pub(super) fn attention_scale(config: &Config) -> f32 {
    let divisor =
        if config.block_count == 62 { config.embedding_length / config.head_count } else { config.key_length };
    1.0 / (divisor as f32).sqrt()
}

impl Block for SandwichBlock {
    fn forward<B: Backend>(&self, b: &mut B, x: B::Tensor) -> B::Tensor {
        let y = b.rms_norm(&self.attention_norm, &x);
        let y = self.attention.forward(b, &y);
        let y = b.rms_norm(&self.post_attention_norm, &y);
        let y = b.dropout(DropoutSite::Hidden, y);
        let x = b.add(x, y);
        let y = b.rms_norm(&self.mlp_norm, &x);
        let y = self.mlp.forward(b, &y);
        let y = b.rms_norm(&self.post_mlp_norm, &y);
        let y = b.dropout(DropoutSite::Hidden, y);
        b.add(x, y)
    }

    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut Linear)) {
        self.attention.linears_mut().into_iter().chain(self.mlp.linears_mut()).for_each(visit);
    }

    fn visit_norms_mut(&mut self, visit: &mut dyn FnMut(&mut RmsNorm)) {
        let Self { attention_norm, post_attention_norm, mlp_norm, post_mlp_norm, .. } = self;
        [attention_norm, post_attention_norm, mlp_norm, post_mlp_norm].into_iter().for_each(visit);
    }
}
