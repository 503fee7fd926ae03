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

/// What is shown the inputs of linear layers. A closure that takes inputs is one.
pub trait Listener {
    /// The linear layers that take an input, and its rows, `[tokens, inputs]`.
    fn input(&mut self, layers: &[&Linear], x: &[f32]);

    /// Tokens attended to each other, by keys and values of the input that came last. `received` computes how much of the attention of all
    /// queries each token got, in the mean over heads: over a sequence it sums to the sequence's length.
    fn attended(&mut self, received: &dyn Fn() -> Vec<f32>) {
        let _ = received;
    }

    /// The output of the layer whose input came last was added to the residual stream. `counts[t]` is what a squared error of token `t`
    /// counts from there on: what follows is normalized, so that errors are felt by their share of what they are added to.
    fn added(&mut self, counts: &[f32]) {
        let _ = counts;
    }
}

impl<F: FnMut(&[&Linear], &[f32])> Listener for F {
    fn input(&mut self, layers: &[&Linear], x: &[f32]) {
        self(layers, x);
    }
}

/// Runs whole sequences, side by side, and shows what goes into linear layers.
pub struct Observe<'l> {
    run: Run<'static>,
    listener: &'l mut dyn Listener,
    /// If the last operation's result is a linear layer's output, or that normalized: what a squared error of each of its rows counts.
    output: Option<Vec<f32>>,
}

impl<'l> Observe<'l> {
    /// For rows that are sequences of these lengths, one after another; `listener` is called in the order of execution.
    ///
    /// # Errors
    /// If the model's heads are none that can be cached.
    pub fn new(config: &Config, lengths: &[usize], listener: &'l mut dyn Listener) -> Result<Self> {
        let mut run = Run::new(config, 0, Format::f16(), None)?;
        run.set_sequences(lengths);
        Ok(Self { run, listener, output: None })
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
        self.listener.input(&[layer], x);
        self.output = Some(vec![1.0; x.rows()]);
        self.run.linear(layer, x)
    }

    fn linears<const N: usize>(&mut self, layers: [&Linear; N], x: &Tensor) -> [Tensor; N] {
        self.listener.input(&layers, x);
        self.output = None;
        self.run.linears(layers, x)
    }

    fn rms_norm(&mut self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        if let Some(counts) = &mut self.output {
            by_share(counts, x, norm.eps);
        }
        self.run.rms_norm(norm, x)
    }

    fn layer_norm(&mut self, norm: &LayerNorm, x: &Tensor) -> Tensor {
        self.output = None;
        self.run.layer_norm(norm, x)
    }

    fn attention(&mut self, spec: &AttentionSpec, q: Tensor, k: Tensor, v: Tensor) -> Tensor {
        self.output = None;
        let (out, received) = self.run.attention_observed(spec, [q, k, v]);
        self.listener.attended(&received);
        out
    }

    fn pool(&mut self, pooling: Pooling, x: &Tensor) -> Tensor {
        self.output = None;
        self.run.pool(pooling, x)
    }

    fn activate(&mut self, activation: Activation, x: Tensor) -> Tensor {
        self.output = None;
        self.run.activate(activation, x)
    }

    fn gated(&mut self, activation: Activation, gate: Tensor, up: Tensor) -> Tensor {
        self.output = None;
        self.run.gated(activation, gate, up)
    }

    fn add(&mut self, x: Tensor, y: Tensor) -> Tensor {
        let sum = self.run.add(x, y);
        if let Some(mut counts) = self.output.take() {
            by_share(&mut counts, &sum, EPS);
            self.listener.added(&counts);
        }
        sum
    }
}

/// What norms add to a mean square: that of the next one is not known where the stream is added to, and matters to rows of zeros only.
const EPS: f32 = 1e-6;

/// Counts errors of each row as shares of the row: by the inverse of its mean square.
fn by_share(counts: &mut [f32], rows: &Tensor, eps: f32) {
    for (count, row) in counts.iter_mut().zip(rows.chunks_exact(rows.cols())) {
        let squares: f32 = row.iter().map(|v| v * v).sum();
        let mean = squares / row.len() as f32 + eps;
        // No share of what overflows is known: zero would hide that the model is broken.
        *count = if mean.is_finite() { *count / mean } else { f32::NAN };
    }
}
