//! Qwen2 and Qwen2.5 (Yang et al. 2024): llama's blocks, with biases on queries, keys and values.

use crate::Result;
use crate::layers::{Activation, Attention, AttentionSpec, Decoder, GatedMlp, PreNormBlock, Rotary};
use crate::weights::Loader;
use bantam_checkpoint::Config;
use std::sync::Arc;

pub(super) fn load(loader: &Loader<'_>, config: &Config) -> Result<Decoder<PreNormBlock>> {
    let rotary = Arc::new(Rotary::new(&config.rope, None));
    Decoder::load(loader, config, |layer| {
        let spec = AttentionSpec::causal(config, layer, rotary.clone(), None);
        let attention = Attention::load_biased(loader, config.embedding_length, spec)?;
        let mlp = GatedMlp::load(loader, config, layer, Activation::Silu)?;
        PreNormBlock::load(loader, config, layer, attention, mlp)
    })
}
