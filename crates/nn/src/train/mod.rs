//! The backend that trains: reverse-mode differentiation over the same definitions that [`run`](crate::run) executes.
//!
//! The nodes of its tape are whole layers, each with an explicit forward and backward pass: `linear.rs` (and the embedding),
//! `norm.rs`, `attention.rs`, `activation.rs`, `gated.rs`; `head.rs` joins the head with the loss. Matrix products are the `gemm` crate's
//! (`../matrix.rs`), other loops are in `vector.rs`.
//!
//! Where to start: [`Parameters`] are what is trained, [`Train`] is one step's forward and backward pass, [`Optimizer`]
//! makes the step.
//!
//! ```no_run
//! # use bantam_nn::{Model, train::{AdamW, CrossEntropy, Optimizer, Parameters, Train}};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let checkpoint = bantam_checkpoint::Checkpoint::open("student.gguf")?;
//! let model = Model::load(&checkpoint)?;
//! let mut parameters = Parameters::of(&checkpoint)?;
//! let mut optimizer = Optimizer::new(AdamW::default(), &parameters);
//! let tokens = [1, 2, 3, 4];
//! let targets = [Some(2), Some(3), Some(4), None];
//! let mut step = Train::new(&mut parameters, &[tokens.len()]);
//! let hidden = model.definition().hidden(&mut step, &tokens);
//! let loss = step.loss(model.definition().head(), &hidden, &CrossEntropy { targets: &targets }, 1.0);
//! step.backward();
//! optimizer.step(&mut parameters, 1e-3);
//! # Ok(())
//! # }
//! ```
//!
//! The numbers are f32. Sums over rows are taken in parts of a fixed size, so that the threads do not change them.

mod activation;
mod attention;
mod gated;
mod head;
mod linear;
mod norm;
mod optimizer;
mod parameters;
mod pool;
mod tape;
mod vector;

pub use activation::Dropout;
pub use head::{CrossEntropy, Objective, softmax};
pub use optimizer::{AdamW, Method, Optimizer, Sgd, clip};
pub use parameters::{Parameters, Variable};
pub use tape::Var;

use crate::Backend;
use crate::layers::{self, Activation, AttentionSpec, DropoutSite};
use crate::random::SplitMix64;
use crate::sequences::Layout;
use crate::tensor::Pool;
use bantam_checkpoint::config::Pooling;
use std::sync::Arc;
use tape::Tape;

/// Rows that a thread takes at a time in loops over rows.
const ROWS_AT_ONCE: usize = 16;

/// One forward and backward pass over a batch of sequences.
pub struct Train<'p> {
    parameters: &'p mut Parameters,
    lengths: Arc<[usize]>,
    tape: Tape,
    pool: Pool,
    dropout: Option<Dropout>,
    /// Times that values were dropped.
    drops: u64,
}

impl<'p> Train<'p> {
    /// A pass over rows that are sequences of these lengths, one after another. Gradients are added to what the parameters
    /// have: [`Parameters::clear_gradients`] begins a new sum.
    pub fn new(parameters: &'p mut Parameters, lengths: &[usize]) -> Self {
        let pool = parameters.pool.clone();
        pool.begin_pass(lengths.iter().sum());
        Self { parameters, lengths: lengths.into(), tape: Tape::default(), pool, dropout: None, drops: 0 }
    }

    /// Drops values where the definition has it.
    pub fn with_dropout(self, dropout: Dropout) -> Self {
        Self { dropout: Some(dropout), ..self }
    }

    /// Values from outside, `[rows, cols]`: a model's input that is no token.
    ///
    /// # Panics
    /// If there are not whole rows.
    pub fn input(&mut self, values: &[f32], cols: usize) -> Var {
        assert!(values.len().is_multiple_of(cols), "{} values in rows of {cols}", values.len());
        let mut x = self.pool.take(values.len() / cols, cols);
        x.copy_from_slice(values);
        self.tape.input(x)
    }

    /// The objective's mean loss over the rows that count, times `scale`, of the logits that `head` makes of `hidden`.
    /// Their gradients are taken on the way; [`backward`](Self::backward) brings them through the rest.
    pub fn loss(&mut self, head: &layers::Linear, hidden: &Var, objective: &dyn Objective, scale: f32) -> f64 {
        let (weight, bias) = (self.parameters.index(&head.path), self.bias_of(head));
        let head = head::Head { weight, bias, at_once: head::LOGITS };
        let (loss, gradient) = head.loss(hidden, objective, scale, self.parameters, &self.pool);
        self.tape.give(hidden.id, gradient, self.parameters, &self.pool);
        loss
    }

    /// Sets off a gradient at a value: what a loss has that was computed outside. [`backward`](Self::backward) brings it through the
    /// rest. `x` is something that was computed in this pass, and the gradient as long.
    pub fn set_off(&mut self, x: &Var, gradient: &[f32]) {
        let mut values = self.pool.take(x.rows(), x.cols());
        values.copy_from_slice(gradient);
        self.tape.give(x.id, values, self.parameters, &self.pool);
    }

    /// `y = x Wᵀ` with the parameter at `path`: a layer that trains beside a model and is no part of it.
    pub fn project(&mut self, path: &str, x: &Var) -> Var {
        let node = linear::Linear { x: x.clone(), weight: self.parameters.index(path), bias: None };
        self.tape.push(node.forward(self.parameters, &self.pool), node)
    }

    /// Brings all gradients back to the parameters.
    pub fn backward(mut self) {
        self.tape.backward(self.parameters, &self.pool);
    }

    fn bias_of(&self, layer: &layers::Linear) -> Option<usize> {
        layer.bias.as_ref().map(|bias| self.parameters.index(&bias.path))
    }
}

impl Backend for Train<'_> {
    type Tensor = Var;

    fn embed(&mut self, embedding: &layers::Embedding, tokens: &[u32]) -> Var {
        let table = self.parameters.index(&embedding.path);
        let node = linear::Embedding { tokens: tokens.to_vec(), table, scale: embedding.scale };
        self.tape.push(node.forward(self.parameters, &self.pool), node)
    }

    fn embed_positions(&mut self, embedding: &layers::Embedding, _tokens: usize) -> Var {
        let positions: Vec<u32> = self.lengths.iter().flat_map(|&len| 0..len as u32).collect();
        self.embed(embedding, &positions)
    }

    fn linear(&mut self, layer: &layers::Linear, x: &Var) -> Var {
        let weight = self.parameters.index(&layer.path);
        let node = linear::Linear { x: x.clone(), weight, bias: self.bias_of(layer) };
        self.tape.push(node.forward(self.parameters, &self.pool), node)
    }

    fn rms_norm(&mut self, norm: &layers::RmsNorm, x: &Var) -> Var {
        let weight = self.parameters.index(&norm.weight.path);
        let node = norm::RmsNorm { x: x.clone(), weight, eps: norm.eps };
        self.tape.push(node.forward(self.parameters, &self.pool), node)
    }

    fn layer_norm(&mut self, norm: &layers::LayerNorm, x: &Var) -> Var {
        let [weight, bias] = [&norm.weight, &norm.bias].map(|p| self.parameters.index(&p.path));
        let node = norm::LayerNorm { x: x.clone(), weight, bias, eps: norm.eps };
        self.tape.push(node.forward(self.parameters, &self.pool), node)
    }

    fn attention(&mut self, spec: &AttentionSpec, q: Var, k: Var, v: Var) -> Var {
        let (out, node) = attention::Attention::forward(spec, self.lengths.clone(), [q, k, v], &self.pool);
        self.tape.push(out, node)
    }

    fn pool(&mut self, pooling: Pooling, x: &Var) -> Var {
        let node = pool::PoolRows { pooling, x: x.id, layout: Layout(self.lengths.clone()) };
        self.tape.push(node.layout.pool(pooling, x, &self.pool), node)
    }

    fn activate(&mut self, activation: Activation, x: Var) -> Var {
        let node = activation::Activate { activation, x };
        self.tape.push(node.forward(&self.pool), node)
    }

    fn dropout(&mut self, site: DropoutSite, x: Var) -> Var {
        let Some(dropout) = self.dropout.filter(|d| d.share(site) > 0.0) else { return x };
        let seed = SplitMix64::child(dropout.seed, self.drops).next();
        self.drops += 1;
        let node = activation::Drop { x: x.id, share: dropout.share(site), seed };
        let mut y = x.into_value(&self.pool);
        node.apply(&mut y);
        if self.tape.wants(node.x) { self.tape.push(y, node) } else { self.tape.input(y) }
    }

    fn gated(&mut self, activation: Activation, gate: Var, up: Var) -> Var {
        let node = gated::Gated { activation, gate, up };
        self.tape.push(node.forward(&self.pool), node)
    }

    fn add(&mut self, x: Var, y: Var) -> Var {
        let node = gated::Add { x: x.id, y: y.id };
        let mut sum = x.into_value(&self.pool);
        vector::add_rows(&mut sum, &y);
        self.tape.push(sum, node)
    }
}
