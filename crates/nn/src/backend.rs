//! What executes a model definition.

use crate::layers::{Activation, AttentionSpec, DropoutSite, Embedding, LayerNorm, Linear, RmsNorm};
use bantam_checkpoint::config::Pooling;

/// Executes the layers of a model definition.
///
/// The operations are whole layers, so that each backend can do its best inside them: `run` keeps a cache and fuses loops,
/// `train` records one tape node each, with its own backward. A definition only passes tensors from one to the next;
/// it never sees positions, caches, gradients or how rows are grouped into sequences. Parameters come as layers,
/// which know their checkpoint paths.
///
/// Operations that replace their input take it by value; a backend that must keep it (for a gradient) does.
pub trait Backend {
    /// Activations: rows of f32, `[tokens, width]`.
    type Tensor;

    /// The embeddings of `tokens`, times the embedding's scale: `[tokens, width]`.
    fn embed(&mut self, embedding: &Embedding, tokens: &[u32]) -> Self::Tensor;

    /// The embeddings of the positions that `tokens` rows have in their sequences: `[tokens, width]`.
    fn embed_positions(&mut self, embedding: &Embedding, tokens: usize) -> Self::Tensor;

    /// `y = x Wᵀ + b`: `[tokens, inputs]` to `[tokens, outputs]`.
    fn linear(&mut self, layer: &Linear, x: &Self::Tensor) -> Self::Tensor;

    /// Several linear layers on the same input. Backends that bring the input into another form do it once.
    fn linears<const N: usize>(&mut self, layers: [&Linear; N], x: &Self::Tensor) -> [Self::Tensor; N] {
        layers.map(|layer| self.linear(layer, x))
    }

    /// Root mean square norm over groups of the norm's width: of whole rows, or of every head in a row.
    fn rms_norm(&mut self, norm: &RmsNorm, x: &Self::Tensor) -> Self::Tensor;

    /// Mean and variance norm of whole rows.
    fn layer_norm(&mut self, norm: &LayerNorm, x: &Self::Tensor) -> Self::Tensor;

    /// Attention, as the specification has it: queries `[tokens, heads * key_length]`, keys `[tokens, kv_heads * key_length]`
    /// and values `[tokens, kv_heads * value_length]`, before rotation, to `[tokens, heads * value_length]`. Where it
    /// is causal, a backend with a cache attends to the cached positions too.
    fn attention(&mut self, spec: &AttentionSpec, q: Self::Tensor, k: Self::Tensor, v: Self::Tensor) -> Self::Tensor;

    /// One row of each sequence: `[tokens, width]` to `[sequences, width]`.
    fn pool(&mut self, pooling: Pooling, x: &Self::Tensor) -> Self::Tensor;

    /// `activation(x)`, element by element.
    fn activate(&mut self, activation: Activation, x: Self::Tensor) -> Self::Tensor;

    /// In training, where the run asks for it, a random share of the values becomes 0 and the others grow to keep the mean
    /// (Srivastava et al. 2014); otherwise nothing.
    fn dropout(&mut self, _site: DropoutSite, x: Self::Tensor) -> Self::Tensor {
        x
    }

    /// `activation(gate) * up`, element by element.
    fn gated(&mut self, activation: Activation, gate: Self::Tensor, up: Self::Tensor) -> Self::Tensor;

    /// `x + y`.
    fn add(&mut self, x: Self::Tensor, y: Self::Tensor) -> Self::Tensor;
}
