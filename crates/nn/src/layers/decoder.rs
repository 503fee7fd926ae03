//! The decoder: an embedding, a stack of blocks, a norm, a head.

use super::{Attention, DropoutSite, Embedding, GatedMlp, Linear, RmsNorm};
use crate::weights::Loader;
use crate::{Backend, Result};
use bantam_checkpoint::Config;

/// A block of a decoder: one layer of the model.
pub trait Block {
    /// The residual stream after this block.
    fn forward<B: Backend>(&self, b: &mut B, x: B::Tensor) -> B::Tensor;

    /// Calls `visit` with each linear layer.
    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut Linear));

    /// Calls `visit` with each norm of the residual stream.
    fn visit_norms_mut(&mut self, visit: &mut dyn FnMut(&mut RmsNorm));
}

/// A decoder of blocks of one kind.
pub struct Decoder<L> {
    embedding: Embedding,
    blocks: Vec<L>,
    output_norm: RmsNorm,
    head: Linear,
}

impl<L: Block> Decoder<L> {
    /// Loads `token_embd`, the blocks by `load_block`, `output_norm` and `output`; without the latter the head is tied to the embedding.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load(loader: &Loader<'_>, config: &Config, load_block: impl FnMut(usize) -> Result<L>) -> Result<Self> {
        let (vocabulary, width) = (config.vocab_size, config.embedding_length);
        let table = || loader.matrix("token_embd.weight", vocabulary, width);
        let head = match loader.has("output.weight") {
            true => Linear::load(loader, "output", vocabulary, width)?,
            false => Linear { path: "token_embd.weight".into(), weight: table()?, bias: None },
        };
        Ok(Self {
            embedding: Embedding { path: "token_embd.weight".into(), table: table()?, scale: 1.0 },
            blocks: (0..config.block_count).map(load_block).collect::<Result<_>>()?,
            output_norm: RmsNorm::load(loader, "output_norm", width, config.norm_eps)?,
            head,
        })
    }

    /// Scales the embeddings.
    pub fn with_embedding_scale(mut self, scale: f32) -> Self {
        self.embedding.scale = scale;
        self
    }

    /// The final hidden states of `tokens`, normed: `[tokens, width]`. Shows `observe` each layer's number and its output.
    pub fn hidden<B: Backend>(
        &self,
        b: &mut B,
        tokens: &[u32],
        observe: &mut dyn FnMut(usize, &B::Tensor),
    ) -> B::Tensor {
        let mut x = self.embed(b, tokens);
        for layer in 0..self.blocks.len() {
            x = self.layer(b, layer, x);
            observe(layer, &x);
        }
        self.norm(b, &x)
    }

    /// The residual stream before the first layer, `[tokens, width]`.
    pub fn embed<B: Backend>(&self, b: &mut B, tokens: &[u32]) -> B::Tensor {
        let x = b.embed(&self.embedding, tokens);
        b.dropout(DropoutSite::Input, x)
    }

    /// The residual stream after a layer, of that before it.
    pub fn layer<B: Backend>(&self, b: &mut B, layer: usize, x: B::Tensor) -> B::Tensor {
        self.blocks[layer].forward(b, x)
    }

    /// What the head sees of the residual stream after the last layer.
    pub fn norm<B: Backend>(&self, b: &mut B, x: &B::Tensor) -> B::Tensor {
        b.rms_norm(&self.output_norm, x)
    }

    /// The embedding, whose table can be replaced.
    pub fn embedding_mut(&mut self) -> &mut Embedding {
        &mut self.embedding
    }

    /// The layer from hidden states to logits.
    pub fn head(&self) -> &Linear {
        &self.head
    }

    /// Calls `visit` with each linear layer, the head last.
    pub fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut Linear)) {
        self.blocks.iter_mut().for_each(|block| block.visit_linears_mut(visit));
        visit(&mut self.head);
    }

    /// Calls `visit` with each norm of the residual stream, that before the head last.
    pub fn visit_norms_mut(&mut self, visit: &mut dyn FnMut(&mut RmsNorm)) {
        self.blocks.iter_mut().for_each(|block| block.visit_norms_mut(visit));
        visit(&mut self.output_norm);
    }
}

/// Attention and feed-forward, each on the normed residual stream and added to it.
pub struct PreNormBlock {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: GatedMlp,
}

impl PreNormBlock {
    /// Loads the norms `blk.{layer}.{attn,ffn}_norm` around these layers.
    ///
    /// # Errors
    /// If a norm is missing or has the wrong length.
    pub fn load(
        loader: &Loader<'_>,
        config: &Config,
        layer: usize,
        attention: Attention,
        mlp: GatedMlp,
    ) -> Result<Self> {
        let norm =
            |name| RmsNorm::load(loader, &format!("blk.{layer}.{name}"), config.embedding_length, config.norm_eps);
        Ok(Self { attention_norm: norm("attn_norm")?, attention, mlp_norm: norm("ffn_norm")?, mlp })
    }
}

impl Block for PreNormBlock {
    fn forward<B: Backend>(&self, b: &mut B, x: B::Tensor) -> B::Tensor {
        let y = b.rms_norm(&self.attention_norm, &x);
        let y = self.attention.forward(b, &y);
        let y = b.dropout(DropoutSite::Hidden, y);
        let x = b.add(x, y);
        let y = b.rms_norm(&self.mlp_norm, &x);
        let y = self.mlp.forward(b, &y);
        let y = b.dropout(DropoutSite::Hidden, y);
        b.add(x, y)
    }

    fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut Linear)) {
        self.attention.linears_mut().into_iter().chain(self.mlp.linears_mut()).for_each(visit);
    }

    fn visit_norms_mut(&mut self, visit: &mut dyn FnMut(&mut RmsNorm)) {
        [&mut self.attention_norm, &mut self.mlp_norm].into_iter().for_each(visit);
    }
}
