//! The backend that shows what a model computes on the way: it runs whole sequences as [`run`](crate::run) does, and shows a
//! listener the input of every linear layer.
//!
//! Where to start: [`Observe`]. Together with [`Definition::layer`](crate::models::Definition::layer) a model is gone through layer by
//! layer, so that memory is needed for one layer's statistics only.

use crate::layers::{Activation, AttentionSpec, Embedding, LayerNorm, Linear, RmsNorm};
use crate::run::{Run, Tensor};
use crate::{Backend, Result};
use bantam_checkpoint::Config;
use bantam_checkpoint::config::Pooling;
use bantam_formats::Format;

/// What is shown an input: the linear layers that take it, and its rows, `[tokens, inputs]`.
pub type Listener<'l> = dyn FnMut(&[&Linear], &[f32]) + 'l;

/// Runs whole sequences, side by side, and shows what goes into linear layers.
pub struct Observe<'l> {
    run: Run<'static>,
    listener: &'l mut Listener<'l>,
}

impl<'l> Observe<'l> {
    /// For rows that are sequences of these lengths, one after another; `listener` is called in the order of execution.
    ///
    /// # Errors
    /// If the model's heads are none that can be cached.
    pub fn new(config: &Config, lengths: &[usize], listener: &'l mut Listener<'l>) -> Result<Self> {
        let mut run = Run::new(config, 0, Format::by_name("F16").expect("F16 is a format"), None)?;
        run.set_sequences(lengths);
        Ok(Self { run, listener })
    }

    /// Values from outside, `[rows, cols]`: a residual stream that was kept.
    pub fn input(&self, values: &[f32], cols: usize) -> Tensor {
        self.run.input(values, cols)
    }
}

impl Backend for Observe<'_> {
    type Tensor = Tensor;

    fn embed(&mut self, embedding: &Embedding, tokens: &[u32]) -> Tensor {
        self.run.embed(embedding, tokens)
    }

    fn embed_positions(&mut self, embedding: &Embedding, tokens: usize) -> Tensor {
        self.run.embed_positions(embedding, tokens)
    }

    fn linear(&mut self, layer: &Linear, x: &Tensor) -> Tensor {
        (self.listener)(&[layer], x);
        self.run.linear(layer, x)
    }

    fn linears<const N: usize>(&mut self, layers: [&Linear; N], x: &Tensor) -> [Tensor; N] {
        (self.listener)(&layers, x);
        self.run.linears(layers, x)
    }

    fn rms_norm(&mut self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        self.run.rms_norm(norm, x)
    }

    fn layer_norm(&mut self, norm: &LayerNorm, x: &Tensor) -> Tensor {
        self.run.layer_norm(norm, x)
    }

    fn attention(&mut self, spec: &AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor {
        self.run.attention(spec, q, k, v)
    }

    fn pool(&mut self, pooling: Pooling, x: &Tensor) -> Tensor {
        self.run.pool(pooling, x)
    }

    fn activate(&mut self, activation: Activation, x: Tensor) -> Tensor {
        self.run.activate(activation, x)
    }

    fn gated(&mut self, activation: Activation, gate: Tensor, up: Tensor) -> Tensor {
        self.run.gated(activation, gate, up)
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Tensor {
        self.run.add(x, y)
    }
}
