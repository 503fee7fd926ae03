//! BERT (Devlin et al. 2019), as an encoder of sentences: MiniLM, BGE, E5 and what else shares its layout.

use crate::layers::{Activation, Attention, AttentionSpec, DropoutSite, Embedding, LayerNorm, Mlp};
use crate::weights::Loader;
use crate::{Backend, Result};
use bantam_checkpoint::Config;
use bantam_checkpoint::config::Encoder;

/// Embeddings of tokens, positions and token types, and blocks over whole sequences.
pub struct Bert {
    tokens: Embedding,
    positions: Embedding,
    token_types: Embedding,
    norm: LayerNorm,
    blocks: Vec<Block>,
}

/// Attention and feed-forward, each added to its input and normed after (Vaswani et al. 2017).
struct Block {
    attention: Attention,
    attention_norm: LayerNorm,
    mlp: Mlp,
    norm: LayerNorm,
}

impl Bert {
    /// Loads the layers.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load(loader: &Loader<'_>, config: &Config, encoder: &Encoder) -> Result<Self> {
        let (width, eps) = (config.embedding_length, config.norm_eps);
        let embedding = |name: &str, rows| -> Result<Embedding> {
            let path = format!("{name}.weight");
            Ok(Embedding { table: loader.matrix(&path, rows, width)?, path, scale: 1.0 })
        };
        let block = |layer: usize| -> Result<Block> {
            let norm = |name| LayerNorm::load(loader, &format!("blk.{layer}.{name}"), width, eps);
            let spec = AttentionSpec::of_whole_sequences(config, layer);
            Ok(Block {
                attention: Attention::load(loader, width, spec)?,
                attention_norm: norm("attn_output_norm")?,
                mlp: Mlp::load(loader, config, layer, Activation::Gelu)?,
                norm: norm("layer_output_norm")?,
            })
        };
        Ok(Self {
            tokens: embedding("token_embd", config.vocab_size)?,
            positions: embedding("position_embd", config.context_length)?,
            token_types: embedding("token_types", encoder.token_types)?,
            norm: LayerNorm::load(loader, "token_embd_norm", width, eps)?,
            blocks: (0..config.block_count).map(block).collect::<Result<_>>()?,
        })
    }

    /// Layers.
    pub fn layers(&self) -> usize {
        self.blocks.len()
    }

    /// The final hidden states of `tokens`, `[tokens, width]`. Shows `observe` each layer's number and its output.
    pub fn hidden<B: Backend>(
        &self,
        b: &mut B,
        tokens: &[u32],
        observe: &mut dyn FnMut(usize, &B::Tensor),
    ) -> B::Tensor {
        let x = b.embed(&self.tokens, tokens);
        let positions = b.embed_positions(&self.positions, tokens.len());
        let x = b.add(x, positions);
        // Sentences are of the first type, all of their tokens.
        let types = b.embed(&self.token_types, &vec![0; tokens.len()]);
        let x = b.add(x, types);
        let x = b.layer_norm(&self.norm, &x);
        let mut x = b.dropout(DropoutSite::Input, x);
        for (layer, block) in self.blocks.iter().enumerate() {
            x = block.forward(b, x);
            observe(layer, &x);
        }
        x
    }
}

impl Block {
    fn forward<B: Backend>(&self, b: &mut B, x: B::Tensor) -> B::Tensor {
        let y = self.attention.forward(b, &x);
        let y = b.dropout(DropoutSite::Hidden, y);
        let x = b.add(x, y);
        let x = b.layer_norm(&self.attention_norm, &x);
        let y = self.mlp.forward(b, &x);
        let y = b.dropout(DropoutSite::Hidden, y);
        let x = b.add(x, y);
        b.layer_norm(&self.norm, &x)
    }
}
