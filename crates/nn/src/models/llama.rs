//! Llama (Touvron et al. 2023), and all that shares its layout: Mistral, SmolLM, TinyLlama, Llama 3.

use crate::Result;
use crate::layers::{Activation, Attention, AttentionSpec, Decoder, GatedMlp, PreNormBlock, Rotary};
use crate::weights::Loader;
use bantam_checkpoint::Config;
use std::sync::Arc;

pub(super) fn load(loader: &Loader<'_>, config: &Config) -> Result<Decoder<PreNormBlock>> {
    // Llama 3.1 and later stretch the rotary frequencies one by one.
    let factors = loader.optional_vector(bantam_checkpoint::ROPE_FREQS, config.rope.dimension_count / 2)?;
    let rotary = Arc::new(Rotary::new(&config.rope, factors.as_ref().map(|f| &f.values[..])));
    Decoder::load(loader, config, |layer| {
        let spec = AttentionSpec::causal(config, layer, rotary.clone(), None);
        let attention = Attention::load(loader, config.embedding_length, spec)?;
        let mlp = GatedMlp::load(loader, config, layer, Activation::Silu)?;
        PreNormBlock::load(loader, config, layer, attention, mlp)
    })
}
