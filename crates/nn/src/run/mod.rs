//! The backend that runs a model: weights in their formats, a key-value cache, no allocation per token.
//!
//! Where to start: [`Run`] implements [`Backend`]; `attention.rs` is attention over the cache, `cache.rs` the cache.
//! [`Session`](crate::Session) and [`Batch`](crate::Batch) run models on it.

mod attention;
mod cache;

pub use crate::tensor::Tensor;
pub use cache::KvCache;

use crate::layers::{Activation, AttentionSpec, Embedding, LayerNorm, Linear, RmsNorm};
use crate::sequences::{ByHeads, Layout};
use crate::tensor::Pool;
use crate::train::Parameters;
use crate::weights::{Parameter, Weight};
use crate::{Backend, Result};
use crate::{sequences, vector};
use attention::{Rotations, Workspace};
use bantam_checkpoint::Config;
use bantam_checkpoint::config::Pooling;
use bantam_formats::kernels::{matmul_each, parallel};
use bantam_formats::{Format, Matrix, Scratch, matmul};
use std::sync::Arc;

/// Runs sequences, each with a cache of its own, whose positions go on from where that ends; or batches of whole sequences,
/// without a cache.
pub struct Run<'w> {
    caches: Vec<KvCache>,
    /// Whose the rows are that are being processed: a sequence, and how many rows it has, one after another.
    rows: Vec<(usize, usize)>,
    /// The lengths of the whole sequences that the rows are, one after another; `None` if the rows go on with cached ones.
    whole: Option<Arc<[usize]>>,
    /// Values that stand in for the definition's own weights, found by path.
    values: Option<&'w Parameters>,
    rotations: Rotations,
    pool: Pool,
    scratch: Scratch,
    attention: Workspace,
}

impl<'w> Run<'w> {
    /// Empty sequences whose keys and values are cached in `format`. With `values` the layers are computed from those, as
    /// they are in training, instead of from the weights that were loaded.
    ///
    /// # Errors
    /// If the format cannot be written or does not divide the heads.
    pub fn new(
        config: &Config,
        sequences: usize,
        format: &'static Format,
        values: Option<&'w Parameters>,
    ) -> Result<Self> {
        Ok(Self {
            caches: (0..sequences).map(|_| KvCache::new(config, format)).collect::<Result<_>>()?,
            rows: Vec::new(),
            whole: None,
            values,
            rotations: Rotations::default(),
            pool: Pool::default(),
            scratch: Scratch::default(),
            attention: Workspace::default(),
        })
    }

    /// From now on the rows are whole sequences of these lengths, one after another: each begins at position 0 and sees no other.
    pub fn set_sequences(&mut self, lengths: &[usize]) {
        self.whole = Some(lengths.into());
    }

    /// Values from outside, `[rows, cols]`.
    pub fn input(&self, values: &[f32], cols: usize) -> Tensor {
        let mut x = self.pool.take(values.len() / cols, cols);
        x.copy_from_slice(values);
        x
    }

    /// The lengths of the sequences that the rows are.
    fn lengths(&self) -> Arc<[usize]> {
        self.whole.clone().unwrap_or_else(|| self.rows.iter().map(|(_, rows)| *rows).collect())
    }

    /// The cache of a sequence.
    pub fn cache(&self, sequence: usize) -> &KvCache {
        &self.caches[sequence]
    }

    /// Says whose the rows are that the definition is about to run on: a sequence, and how many rows it has, one after another.
    ///
    /// # Panics
    /// If a sequence is there twice.
    pub fn begin(&mut self, rows: impl Iterator<Item = (usize, usize)>) {
        self.rows.clear();
        self.rows.extend(rows);
        let twice = |i: usize| self.rows[..i].iter().any(|before| before.0 == self.rows[i].0);
        assert!(!(0..self.rows.len()).any(twice), "a sequence's rows stand together");
    }

    /// Counts those rows' positions as done, once the definition has run on them.
    pub fn advance(&mut self) {
        self.rows.iter().for_each(|&(sequence, rows)| self.caches[sequence].advance(rows));
    }

    /// Forgets the positions of a sequence from `position` on.
    pub fn truncate(&mut self, sequence: usize, position: usize) {
        self.caches[sequence].truncate(position);
    }

    /// A linear layer between slices: `x` is `[tokens, inputs]`, `y` is `[tokens, outputs]`.
    pub fn linear_into(&mut self, layer: &Linear, x: &[f32], y: &mut [f32]) {
        matmul(&matrix(self.values, &layer.path, &layer.weight), x, y, &mut self.scratch);
        add_bias(self.values, layer, y);
    }
}

/// A weight as it is executed: the values of its path, where there are such.
fn matrix<'a>(values: Option<&'a Parameters>, path: &str, weight: &'a Weight) -> Matrix<'a> {
    match values {
        Some(values) => {
            Matrix { format: Format::f32(), data: bytemuck::cast_slice(values.values(path)), ..weight.matrix() }
        }
        None => weight.matrix(),
    }
}

/// A vector of parameters as it is executed.
fn vector<'a>(values: Option<&'a Parameters>, parameter: &'a Parameter) -> &'a [f32] {
    values.map_or(&parameter.values, |values| values.values(&parameter.path))
}

impl Run<'_> {
    /// Attention over whole sequences, and a way to compute what of it each token [receives](ByHeads::received).
    pub(crate) fn attention_observed<'s>(
        &mut self,
        spec: &'s AttentionSpec,
        qkv: [Tensor; 3],
    ) -> (Tensor, impl Fn() -> Vec<f32> + use<'s>) {
        let by_heads = ByHeads::new(spec, self.lengths(), qkv, &self.pool);
        let (out, log_sums) = by_heads.attend(spec, &self.pool);
        (out, move || by_heads.received(spec, &log_sums))
    }
}

impl Backend for Run<'_> {
    type Tensor = Tensor;

    fn embed(&mut self, embedding: &Embedding, tokens: &[u32]) -> Tensor {
        let table = matrix(self.values, &embedding.path, &embedding.table);
        let mut x = self.pool.take(tokens.len(), table.cols);
        for (row, &token) in x.chunks_exact_mut(table.cols).zip(tokens) {
            table.decode_row(token as usize, row);
            row.iter_mut().for_each(|v| *v *= embedding.scale);
        }
        x
    }

    fn embed_positions(&mut self, embedding: &Embedding, _tokens: usize) -> Tensor {
        let begins = |sequence: usize| self.caches[sequence].position() as u32;
        let positions: Vec<u32> = match &self.whole {
            Some(lengths) => lengths.iter().flat_map(|&len| 0..len as u32).collect(),
            None => self.rows.iter().flat_map(|&(s, rows)| (begins(s)..).take(rows)).collect(),
        };
        self.embed(embedding, &positions)
    }

    fn linear(&mut self, layer: &Linear, x: &Tensor) -> Tensor {
        let mut y = self.pool.take(x.rows(), layer.weight.rows);
        self.linear_into(layer, x, &mut y);
        y
    }

    fn linears<const N: usize>(&mut self, layers: [&Linear; N], x: &Tensor) -> [Tensor; N] {
        let mut ys = layers.map(|layer| self.pool.take(x.rows(), layer.weight.rows));
        let matrices = layers.map(|layer| matrix(self.values, &layer.path, &layer.weight));
        matmul_each(&matrices, x, &mut ys.each_mut().map(|y| &mut y[..]), &mut self.scratch);
        layers.iter().zip(&mut ys).for_each(|(layer, y)| add_bias(self.values, layer, y));
        ys
    }

    fn rms_norm(&mut self, norm: &RmsNorm, x: &Tensor) -> Tensor {
        let mut y = self.pool.take(x.rows(), x.cols());
        let weight = vector(self.values, &norm.weight);
        for_rows(&mut y, x.cols(), |at, y| vector::rms_norm(&x[at..at + y.len()], weight, norm.eps, y));
        y
    }

    fn layer_norm(&mut self, norm: &LayerNorm, x: &Tensor) -> Tensor {
        let mut y = self.pool.take(x.rows(), x.cols());
        let (weight, bias) = (vector(self.values, &norm.weight), vector(self.values, &norm.bias));
        for_rows(&mut y, x.cols(), |at, y| vector::layer_norm(&x[at..at + y.len()], weight, bias, norm.eps, y));
        y
    }

    fn attention(&mut self, spec: &AttentionSpec, mut q: Tensor, mut k: Tensor, v: Tensor) -> Tensor {
        if self.whole.is_some() || !spec.causal {
            return sequences::attend(spec, self.lengths(), [q, k, v], &self.pool);
        }
        let (q_cols, out_cols) = (q.cols(), spec.heads * spec.value_length);
        let mut out = self.pool.take(q.rows(), out_cols);
        let (mut q, mut k, mut v, mut rest) = (&mut q[..], &mut k[..], &v[..], &mut out[..]);
        for &(sequence, tokens) in &self.rows {
            let (q, k) = (first(&mut q, tokens * q_cols), first(&mut k, tokens * spec.kv_heads * spec.key_length));
            let out = first(&mut rest, tokens * out_cols);
            let values;
            (values, v) = v.split_at(tokens * spec.kv_heads * spec.value_length);
            let cache = &mut self.caches[sequence];
            let position = cache.position();
            if let Some(rotary) = &spec.rotary {
                let rotation = self.rotations.at(rotary, position..position + tokens);
                attention::rotate(rotation, q, spec.heads, spec.key_length);
                attention::rotate(rotation, k, spec.kv_heads, spec.key_length);
            }
            cache.write(spec.layer, k, values);
            attention::attend(spec, &cache.layer(spec.layer), position, q, out, &mut self.attention);
        }
        out
    }

    fn pool(&mut self, pooling: Pooling, x: &Tensor) -> Tensor {
        Layout(self.lengths()).pool(pooling, x, &self.pool)
    }

    fn activate(&mut self, activation: Activation, mut x: Tensor) -> Tensor {
        let cols = x.cols();
        for_rows(&mut x, cols, |_, x| vector::activate(activation, x));
        x
    }

    fn gated(&mut self, activation: Activation, mut gate: Tensor, up: Tensor) -> Tensor {
        let cols = gate.cols();
        for_rows(&mut gate, cols, |at, gate| vector::gate(activation, gate, &up[at..at + gate.len()]));
        gate
    }

    fn add(&mut self, mut x: Tensor, y: Tensor) -> Tensor {
        let cols = x.cols();
        for_rows(&mut x, cols, |at, x| vector::add_rows(x, &y[at..at + x.len()]));
        x
    }
}

fn add_bias(values: Option<&Parameters>, layer: &Linear, y: &mut [f32]) {
    if let Some(bias) = &layer.bias {
        let bias = vector(values, bias);
        for_rows(y, bias.len(), |_, rows| vector::add_rows(rows, bias));
    }
}

/// Takes the first `len` elements off a slice.
fn first<'a>(slice: &mut &'a mut [f32], len: usize) -> &'a mut [f32] {
    slice.split_off_mut(..len).expect("the rows of all sequences are the tensor's")
}

/// Elements that a thread takes at a time.
const AT_ONCE: usize = 8 * 1024;

/// Calls `f` with groups of whole rows of `x` and the index of their first element, in parallel if there are many.
fn for_rows(x: &mut [f32], cols: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    let group = AT_ONCE.div_ceil(cols) * cols;
    parallel::for_each_part(x, group, |i, rows| f(i * group, rows));
}
