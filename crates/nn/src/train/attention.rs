//! Causal attention over whole sequences, and its backward (Dao et al. 2022): of the softmax only each row's log-sum is
//! kept, the weights are computed again, block by block of queries.
//!
//! Inside, heads lie one after another, `[sequence, head, position, width]`, so that every product is on contiguous
//! memory. Each key and value head with the query heads that share it is a task of its own.

use super::matrix::{Threads, View, multiply};
use super::tape::{Backward, Node, Var};
use super::vector;
use crate::layers::AttentionSpec;
use crate::rotation::Rotation;
use crate::tensor::{Pool, Tensor};
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Queries processed together.
const BLOCK: usize = 64;

/// What the backward pass needs.
pub(super) struct Attention {
    spec: AttentionSpec,
    layout: Layout,
    /// Identities of the inputs.
    inputs: [usize; 3],
    /// By heads, rotated.
    q: Tensor,
    k: Tensor,
    v: Tensor,
    /// The logarithms of the softmax's sums: `[sequence, head, position]`.
    log_sums: Vec<f32>,
}

/// How the rows of a batch are grouped: the lengths of its sequences, one after another.
#[derive(Clone, Debug)]
pub(super) struct Layout(pub Arc<[usize]>);

impl Layout {
    /// Positions of the longest sequence.
    fn longest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(0)
    }

    /// The lengths of `parts` equal parts of each sequence's `[len, width]`.
    fn lengths(&self, width: usize, parts: usize) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().flat_map(move |&len| std::iter::repeat_n(len * width / parts, parts))
    }

    /// Cuts `x`, `[rows, width]`, by sequences, and each into `parts` equal parts.
    fn cut<'a>(&self, mut x: &'a [f32], width: usize, parts: usize) -> Vec<&'a [f32]> {
        self.lengths(width, parts).map(|len| x.split_off(..len).expect("x has these rows")).collect()
    }

    fn cut_mut<'a>(&self, mut x: &'a mut [f32], width: usize, parts: usize) -> Vec<&'a mut [f32]> {
        self.lengths(width, parts).map(|len| x.split_off_mut(..len).expect("x has these rows")).collect()
    }
}

impl Attention {
    /// The output `[tokens, heads * value_length]`, and what its gradient will need.
    pub fn forward(spec: &AttentionSpec, lengths: Arc<[usize]>, [q, k, v]: [Var; 3], pool: &Pool) -> (Tensor, Self) {
        let layout = Layout(lengths);
        let inputs = [q.id, k.id, v.id];
        let rotation = Rotation::new(&spec.rotary, 0..layout.longest());
        let q = layout.by_heads(&q.into_value(pool), spec.heads, Some(&rotation), pool);
        let k = layout.by_heads(&k.into_value(pool), spec.kv_heads, Some(&rotation), pool);
        let v = layout.by_heads(&v.into_value(pool), spec.kv_heads, None, pool);
        let mut by_heads = pool.take(q.rows(), spec.heads * spec.value_length);
        let mut log_sums = vec![0.0; q.rows() * spec.heads];
        let outs = layout.cut_mut(&mut by_heads, spec.heads * spec.value_length, spec.heads);
        let log_sum_parts = layout.cut_mut(&mut log_sums, spec.heads, spec.heads);
        let keys = layout.cut(&k, spec.kv_heads * spec.key_length, spec.kv_heads);
        let values = layout.cut(&v, spec.kv_heads * spec.value_length, spec.kv_heads);
        let queries = layout.cut(&q, spec.heads * spec.key_length, spec.heads);
        outs.into_par_iter().zip(log_sum_parts).zip(queries).enumerate().for_each(|(i, ((out, log_sums), q))| {
            let at = i / spec.group();
            Head { spec, q, k: keys[at], v: values[at] }.forward(out, log_sums);
        });
        let out = layout.by_tokens(&by_heads, spec.heads, None, pool);
        (out, Self { spec: spec.clone(), layout, inputs, q, k, v, log_sums })
    }
}

impl Node for Attention {
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        let Attention { spec, layout, q, k, v, log_sums, .. } = &*self;
        let pool = to.pool;
        let dy = layout.by_heads(&dy, spec.heads, None, pool);
        let [mut dq, mut dk, mut dv] = [q, k, v].map(|like| pool.take(like.rows(), like.cols()));
        dk.fill(0.0);
        dv.fill(0.0);
        let (q_width, k_width, v_width) = (q.cols(), k.cols(), v.cols());
        let tasks = layout
            .cut_mut(&mut dk, k_width, spec.kv_heads)
            .into_par_iter()
            .zip(layout.cut_mut(&mut dv, v_width, spec.kv_heads))
            .zip(layout.cut_mut(&mut dq, q_width, spec.kv_heads))
            .zip(layout.cut(q, q_width, spec.kv_heads))
            .zip(layout.cut(k, k_width, spec.kv_heads))
            .zip(layout.cut(v, v_width, spec.kv_heads))
            .zip(layout.cut(&dy, dy.cols(), spec.kv_heads))
            .zip(layout.cut(log_sums, spec.heads, spec.kv_heads));
        tasks.for_each(|(((((((dk, dv), dq), q), k), v), dy), log_sums)| {
            let len = k.len() / spec.key_length;
            let heads = q.chunks_exact(len * spec.key_length).zip(dq.chunks_exact_mut(len * spec.key_length));
            let outs = dy.chunks_exact(len * spec.value_length).zip(log_sums.chunks_exact(len));
            for ((q, dq), (dy, log_sums)) in heads.zip(outs) {
                Head { spec, q, k, v }.backward(dy, log_sums, dq, dk, dv);
            }
        });
        let back = Rotation::new(&spec.rotary, 0..layout.longest()).transposed();
        to.give(self.inputs[0], layout.by_tokens(&dq, spec.heads, Some(&back), pool));
        to.give(self.inputs[1], layout.by_tokens(&dk, spec.kv_heads, Some(&back), pool));
        to.give(self.inputs[2], layout.by_tokens(&dv, spec.kv_heads, None, pool));
    }
}

/// One query head of one sequence: `q` `[len, key_length]`, `k` the same, `v` `[len, value_length]`.
struct Head<'a> {
    spec: &'a AttentionSpec,
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
}

impl Head<'_> {
    fn len(&self) -> usize {
        self.k.len() / self.spec.key_length
    }

    /// The keys that a query sees.
    fn visible(&self, query: usize) -> Range<usize> {
        self.spec.window.map_or(0, |window| (query + 1).saturating_sub(window))..query + 1
    }

    /// The blocks of queries, each with all keys that any of its queries sees.
    fn blocks(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        (0..self.len()).step_by(BLOCK).map(|first| {
            let queries = first..self.len().min(first + BLOCK);
            (queries.clone(), self.visible(first).start..queries.end)
        })
    }

    /// The scaled scores of a block, `[queries, keys]`.
    fn scores(&self, queries: &Range<usize>, keys: &Range<usize>, scores: &mut Vec<f32>) {
        let d = self.spec.key_length;
        scores.resize(queries.len() * keys.len(), 0.0);
        let (q, k) = (View::new(part(self.q, queries, d), d), View::new(part(self.k, keys, d), d));
        multiply(scores, false, self.spec.scale, q, k.transposed(), Threads::One);
    }

    fn forward(&self, out: &mut [f32], log_sums: &mut [f32]) {
        let d = self.spec.value_length;
        let mut scores = Vec::new();
        for (queries, keys) in self.blocks() {
            self.scores(&queries, &keys, &mut scores);
            for (query, row) in queries.clone().zip(scores.chunks_exact_mut(keys.len())) {
                let row = only(row, self.visible(query), keys.start);
                let max = vector::max(row);
                let sum = vector::exp_minus(row, max);
                vector::scale(row, 1.0 / sum);
                log_sums[query] = max + sum.ln();
            }
            let (p, v) = (View::new(&scores, keys.len()), View::new(part(self.v, &keys, d), d));
            multiply(part_mut(out, &queries, d), false, 1.0, p, v, Threads::One);
        }
    }

    /// With `P` the softmax and `dP = dO Vᵀ`: `dV = Pᵀ dO`, `dS = P (dP - Σ P dP) scale`, `dQ = dS K`, `dK = dSᵀ Q`.
    fn backward(&self, dy: &[f32], log_sums: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
        let (kd, vd) = (self.spec.key_length, self.spec.value_length);
        let (mut p, mut ds) = (Vec::new(), Vec::new());
        for (queries, keys) in self.blocks() {
            self.scores(&queries, &keys, &mut p);
            for (query, row) in queries.clone().zip(p.chunks_exact_mut(keys.len())) {
                vector::exp_minus(only(row, self.visible(query), keys.start), log_sums[query]);
            }
            let dy = View::new(part(dy, &queries, vd), vd);
            let n = keys.len();
            multiply(part_mut(dv, &keys, vd), true, 1.0, View::new(&p, n).transposed(), dy, Threads::One);
            ds.resize(p.len(), 0.0);
            let v = View::new(part(self.v, &keys, vd), vd);
            multiply(&mut ds, false, 1.0, dy, v.transposed(), Threads::One);
            for (p, ds) in p.chunks_exact(n).zip(ds.chunks_exact_mut(n)) {
                vector::softmax_backward(p, vector::inner(p, ds), self.spec.scale, ds);
            }
            let (q, k) = (View::new(part(self.q, &queries, kd), kd), View::new(part(self.k, &keys, kd), kd));
            multiply(part_mut(dq, &queries, kd), false, 1.0, View::new(&ds, n), k, Threads::One);
            multiply(part_mut(dk, &keys, kd), true, 1.0, View::new(&ds, n).transposed(), q, Threads::One);
        }
    }
}

/// The visible part of a row of scores that begins with key `first`; the others become 0.
fn only(row: &mut [f32], visible: Range<usize>, first: usize) -> &mut [f32] {
    let visible = visible.start - first..visible.end - first;
    row[..visible.start].fill(0.0);
    row[visible.end..].fill(0.0);
    &mut row[visible]
}

fn part<'a>(x: &'a [f32], rows: &Range<usize>, cols: usize) -> &'a [f32] {
    &x[rows.start * cols..rows.end * cols]
}

fn part_mut<'a>(x: &'a mut [f32], rows: &Range<usize>, cols: usize) -> &'a mut [f32] {
    &mut x[rows.start * cols..rows.end * cols]
}

impl Layout {
    /// From `[sequence, position, head, width]` to `[sequence, head, position, width]`, rotating on the way.
    fn by_heads(&self, x: &[f32], heads: usize, rotation: Option<&Rotation>, pool: &Pool) -> Tensor {
        let rows: usize = self.0.iter().sum();
        let cols = x.len() / rows;
        let width = cols / heads;
        let mut y = pool.take(rows, cols);
        let sequences = self.cut(x, cols, 1);
        self.cut_mut(&mut y, cols, heads).into_par_iter().enumerate().for_each(|(i, out)| {
            let (sequence, head) = (sequences[i / heads], i % heads);
            let from = sequence.chunks_exact(cols).map(|row| &row[head * width..(head + 1) * width]);
            for (position, (out, from)) in out.chunks_exact_mut(width).zip(from).enumerate() {
                out.copy_from_slice(from);
                rotation.into_iter().for_each(|rotation| rotation.apply(position, out));
            }
        });
        y
    }

    /// The way back.
    fn by_tokens(&self, x: &[f32], heads: usize, rotation: Option<&Rotation>, pool: &Pool) -> Tensor {
        let rows: usize = self.0.iter().sum();
        let cols = x.len() / rows;
        let width = cols / heads;
        let mut y = pool.take(rows, cols);
        let sequences = self.cut(x, cols, 1);
        self.cut_mut(&mut y, cols, 1).into_par_iter().zip(sequences).for_each(|(out, from)| {
            let len = out.len() / cols;
            for (position, row) in out.chunks_exact_mut(cols).enumerate() {
                for (head, out) in row.chunks_exact_mut(width).enumerate() {
                    out.copy_from_slice(&from[(head * len + position) * width..][..width]);
                    rotation.into_iter().for_each(|rotation| rotation.apply(position, out));
                }
            }
        });
        y
    }
}
