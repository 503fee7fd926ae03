//! Feed-forward layers.

use super::Linear;
use crate::weights::Loader;
use crate::{Backend, Result};
use bantam_checkpoint::Config;

/// A function on every value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU by its tanh approximation (Hendrycks, Gimpel 2016).
    GeluTanh,
    /// GELU itself, `x Φ(x)` with the normal distribution's Φ.
    Gelu,
}

/// `down(activation(gate(x)) * up(x))` (Shazeer 2020).
pub struct GatedMlp {
    gate: Linear,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl GatedMlp {
    /// Loads `blk.{layer}.ffn_{gate,up,down}`.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load(loader: &Loader<'_>, config: &Config, layer: usize, activation: Activation) -> Result<Self> {
        let (width, hidden) = (config.embedding_length, config.feed_forward_length);
        let stem = |name| format!("blk.{layer}.{name}");
        Ok(Self {
            gate: Linear::load(loader, &stem("ffn_gate"), hidden, width)?,
            up: Linear::load(loader, &stem("ffn_up"), hidden, width)?,
            down: Linear::load(loader, &stem("ffn_down"), width, hidden)?,
            activation,
        })
    }

    /// `[tokens, width]` to the same.
    pub fn forward<B: Backend>(&self, b: &mut B, x: &B::Tensor) -> B::Tensor {
        let [gate, up] = b.linears([&self.gate, &self.up], x);
        let hidden = b.gated(self.activation, gate, up);
        b.linear(&self.down, &hidden)
    }

    /// Its linear layers.
    pub fn linears_mut(&mut self) -> [&mut Linear; 3] {
        [&mut self.gate, &mut self.up, &mut self.down]
    }
}

/// `down(activation(up(x)))` (Vaswani et al. 2017).
pub struct Mlp {
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    /// Loads `blk.{layer}.ffn_{up,down}`.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load(loader: &Loader<'_>, config: &Config, layer: usize, activation: Activation) -> Result<Self> {
        let (width, hidden) = (config.embedding_length, config.feed_forward_length);
        Ok(Self {
            up: Linear::load(loader, &format!("blk.{layer}.ffn_up"), hidden, width)?,
            down: Linear::load(loader, &format!("blk.{layer}.ffn_down"), width, hidden)?,
            activation,
        })
    }

    /// `[tokens, width]` to the same.
    pub fn forward<B: Backend>(&self, b: &mut B, x: &B::Tensor) -> B::Tensor {
        let hidden = b.linear(&self.up, x);
        let hidden = b.activate(self.activation, hidden);
        b.linear(&self.down, &hidden)
    }
}
