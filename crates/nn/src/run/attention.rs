//! Attention over the cache, in tiles of positions with a running softmax (Milakov, Gimelshein 2018; Dao et al. 2022), so that
//! memory does not grow with the square of the context.

use super::cache::{LayerCache, PAGE};
use super::{for_rows, vector};
use crate::layers::{AttentionSpec, Rotary};
use bantam_checkpoint::config::RopePairing;
use bantam_formats::kernels::{accumulate, parallel};
use bantam_formats::{Scratch, matmul};
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens whose queries are processed together: large enough that decoding a tile of keys is paid for.
const QUERY_BLOCK: usize = 32;

/// Attends from `q`, `[tokens, heads * key_length]` rotated, at `position` on, to all positions up to each token's own,
/// which the cache holds already, into `out`, `[tokens, heads * value_length]`.
pub(super) fn attend(
    spec: &AttentionSpec,
    cache: &LayerCache<'_>,
    position: usize,
    q: &[f32],
    out: &mut [f32],
    workspace: &mut Workspace,
) {
    let (q_cols, out_cols) = (spec.heads * spec.key_length, spec.heads * spec.value_length);
    let tokens = q.len() / q_cols;
    let in_block = tokens.min(QUERY_BLOCK);
    // [blocks, kv_heads, tokens of a block, group, value_length]
    let task_len = in_block * spec.group() * spec.value_length;
    let grouped = &mut workspace.grouped;
    grouped.resize(tokens.div_ceil(in_block) * spec.kv_heads * task_len, 0.0);
    let buffers = &workspace.buffers;
    parallel::for_each_part(grouped, task_len, |task, out| {
        let (block, head) = (task / spec.kv_heads, task % spec.kv_heads);
        let q = q.chunks(in_block * q_cols).nth(block).expect("a task belongs to a block");
        let out = &mut out[..q.len() / q_cols * spec.group() * spec.value_length];
        buffers.with(|b| HeadBlock { spec, cache, head, first: position + block * in_block }.attend(q, out, b));
    });
    let width = spec.group() * spec.value_length;
    for_rows(out, out_cols, |at, rows| {
        for (i, row) in (at / width..).zip(rows.chunks_exact_mut(width)) {
            let (token, head) = (i / spec.kv_heads, i % spec.kv_heads);
            let task = token / in_block * spec.kv_heads + head;
            row.copy_from_slice(&grouped[task * task_len + token % in_block * width..][..width]);
        }
    });
}

/// A block of tokens, and the query heads that share one key and value head.
struct HeadBlock<'a> {
    spec: &'a AttentionSpec,
    cache: &'a LayerCache<'a>,
    head: usize,
    /// Position of the first token.
    first: usize,
}

impl HeadBlock<'_> {
    /// `out` is `[tokens * group, value_length]`; `q` is all of the tokens' queries.
    fn attend(&self, q: &[f32], out: &mut [f32], b: &mut Buffers) {
        let spec = self.spec;
        let rows = out.len() / spec.value_length;
        self.gather_queries(q, b);
        b.running.clear();
        b.running.resize(rows, Running { max: f32::NEG_INFINITY, sum: 0.0 });
        out.fill(0.0);
        let (start, end) = (self.visible(0).0, self.visible(rows - 1).1);
        let mut tile = start;
        while tile < end {
            let next = end.min((tile / PAGE + 1) * PAGE);
            self.attend_tile(tile, next, rows, out, b);
            tile = next;
        }
        for (out, running) in out.chunks_exact_mut(spec.value_length).zip(&b.running) {
            vector::scale(out, 1.0 / running.sum);
        }
    }

    /// The positions `start..end` that a row sees.
    fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.first + row / self.spec.group() + 1;
        (self.spec.window.map_or(0, |window| end.saturating_sub(window)), end)
    }

    /// The queries of this block's heads, scaled: `[tokens * group, key_length]`.
    fn gather_queries(&self, q: &[f32], b: &mut Buffers) {
        let width = self.spec.group() * self.spec.key_length;
        b.queries.clear();
        for token in q.chunks_exact(self.spec.heads * self.spec.key_length) {
            b.queries.extend_from_slice(&token[self.head * width..(self.head + 1) * width]);
        }
        vector::scale(&mut b.queries, self.spec.scale);
    }

    fn attend_tile(&self, start: usize, end: usize, rows: usize, out: &mut [f32], b: &mut Buffers) {
        let len = end - start;
        b.scores.resize(rows * len, 0.0);
        let keys = self.cache.keys.rows(self.head, start..end, &mut b.decoded);
        matmul(&keys, &b.queries, &mut b.scores, &mut b.scratch);
        let outs = out.chunks_exact_mut(self.spec.value_length);
        for (row, (scores, out)) in b.scores.chunks_exact_mut(len).zip(outs).enumerate() {
            let (from, to) = self.visible(row);
            let visible = from.clamp(start, end) - start..to.clamp(start, end) - start;
            b.running[row].absorb(scores, visible, out);
        }
        let values = self.cache.values.rows(self.head, start..end, &mut b.decoded);
        accumulate(&values, &b.scores, out, &b.scratch);
    }
}

/// The softmax of one row so far: weights are `exp(score - max) / sum`.
#[derive(Clone, Copy)]
struct Running {
    max: f32,
    sum: f32,
}

impl Running {
    /// Turns the visible `scores` of a tile into weights and the others into zero; rescales the output when the maximum rises.
    fn absorb(&mut self, scores: &mut [f32], visible: std::ops::Range<usize>, out: &mut [f32]) {
        scores[..visible.start].fill(0.0);
        scores[visible.end..].fill(0.0);
        if visible.is_empty() {
            return;
        }
        let scores = &mut scores[visible];
        let max = vector::max(scores);
        if max > self.max {
            let shrink = (self.max - max).exp();
            vector::scale(out, shrink);
            self.sum *= shrink;
            self.max = max;
        }
        self.sum += vector::exp_minus(scores, self.max);
    }
}

/// Memory that [`attend`] uses again and again.
#[derive(Default)]
pub(super) struct Workspace {
    grouped: Vec<f32>,
    buffers: Free,
}

/// Buffers of one [`HeadBlock`] at work.
#[derive(Default)]
struct Buffers {
    queries: Vec<f32>,
    scores: Vec<f32>,
    decoded: Vec<f32>,
    running: Vec<Running>,
    scratch: Scratch,
}

/// Free buffers, as many as threads have worked at once.
#[derive(Default)]
struct Free(Mutex<Vec<Buffers>>);

impl Free {
    fn with(&self, f: impl FnOnce(&mut Buffers)) {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = free().pop().unwrap_or_default();
        f(&mut buffers);
        free().push(buffers);
    }
}

/// The cosines and sines of a stretch of positions, computed once for all layers that rotate alike.
#[derive(Default)]
pub(super) struct Rotations(Vec<Rotation>);

/// The cosines and sines of a stretch of positions.
pub(super) struct Rotation {
    rotary: Arc<Rotary>,
    position: usize,
    tokens: usize,
    /// `[tokens, pairs]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotations {
    /// The rotation of `tokens` positions from `position` on.
    pub(super) fn at(&mut self, rotary: &Arc<Rotary>, position: usize, tokens: usize) -> &Rotation {
        let known = self.0.iter().position(|r| Arc::ptr_eq(&r.rotary, rotary));
        let index = known.unwrap_or_else(|| {
            self.0.push(Rotation { rotary: rotary.clone(), position: 0, tokens: 0, cos: vec![], sin: vec![] });
            self.0.len() - 1
        });
        let rotation = &mut self.0[index];
        if (rotation.position, rotation.tokens) != (position, tokens) {
            rotation.compute(position, tokens);
        }
        rotation
    }
}

impl Rotation {
    fn compute(&mut self, position: usize, tokens: usize) {
        (self.position, self.tokens) = (position, tokens);
        self.cos.clear();
        self.sin.clear();
        for at in position..position + tokens {
            for frequency in &self.rotary.frequencies {
                let (sin, cos) = (at as f32 * frequency).sin_cos();
                self.cos.push(cos * self.rotary.amplitude);
                self.sin.push(sin * self.rotary.amplitude);
            }
        }
    }

    /// Rotates the heads of `x`, `[tokens, heads * width]`.
    pub(super) fn apply(&self, x: &mut [f32], heads: usize, width: usize) {
        let pairs = self.rotary.pairs();
        let rotate = match self.rotary.pairing {
            RopePairing::Interleaved => vector::rotate_neighbours,
            RopePairing::Halves => vector::rotate_halves,
        };
        let cols = heads * width;
        for_rows(x, cols, |at, rows| {
            for (token, row) in (at / cols..).zip(rows.chunks_exact_mut(cols)) {
                let angles = token * pairs..(token + 1) * pairs;
                let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
                row.chunks_exact_mut(width).for_each(|head| rotate(&mut head[..2 * pairs], cos, sin));
            }
        });
    }
}
