//! Attention over the cache, in tiles of positions with a running softmax (Milakov, Gimelshein 2018; Dao et al. 2022), so that
//! memory does not grow with the square of the context.

use super::cache::{LayerCache, PAGE};
use super::for_rows;
use crate::layers::{AttentionSpec, Rotary};
use crate::rotation::Rotation;
use crate::vector;
use bantam_formats::kernels::{accumulate, parallel};
use bantam_formats::{Scratch, matmul};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens whose queries are processed together: large enough that decoding a tile of keys is paid for.
const QUERY_BLOCK: usize = 32;

/// Positions that one task attends to, for each of its tokens: long contexts keep all threads busy even for one token. The
/// spans do not depend on the number of threads, and so neither does the result.
const SPAN: usize = 2 * PAGE;

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
    let q_cols = spec.heads * spec.key_length;
    let tokens = q.len() / q_cols;
    let in_block = tokens.min(QUERY_BLOCK);
    // Few tokens' tasks are short, but then many spans cost little memory.
    let span_len = SPAN * in_block;
    let spans = (position + tokens).div_ceil(span_len);
    let tasks = tokens.div_ceil(in_block) * spec.kv_heads * spans;
    if workspace.mixtures.len() < tasks {
        workspace.mixtures.resize_with(tasks, Mixture::default);
    }
    let (mixtures, buffers) = (&mut workspace.mixtures[..tasks], &workspace.buffers);
    parallel::for_each_part(mixtures, 1, |task, mixture| {
        let (block, head, span) = (task / (spec.kv_heads * spans), task / spans % spec.kv_heads, task % spans);
        let q = q.chunks(in_block * q_cols).nth(block).expect("a task belongs to a block");
        let block = HeadBlock { spec, cache, head, first: position + block * in_block };
        buffers.with(|b| block.attend(q, span * span_len..(span + 1) * span_len, &mut mixture[0], b));
    });
    for_rows(out, spec.heads * spec.value_length, |at, rows| {
        for (i, out) in (at / spec.value_length..).zip(rows.chunks_exact_mut(spec.value_length)) {
            let (token, head) = (i / spec.heads, i % spec.heads);
            let task = (token / in_block * spec.kv_heads + head / spec.group()) * spans;
            join(&mixtures[task..task + spans], token % in_block * spec.group() + head % spec.group(), out);
        }
    });
}

/// What a span of positions contributes to a block of tokens, by the query heads that share a key and value head.
#[derive(Default)]
struct Mixture {
    /// Values by their weights, which are relative to the greatest score of the row: `[tokens * group, value_length]`.
    values: Vec<f32>,
    /// The weights of each row.
    running: Vec<Running>,
}

/// The values of `row` over all spans.
fn join(spans: &[Mixture], row: usize, out: &mut [f32]) {
    let seen = || spans.iter().filter(|span| span.running[row].sum != 0.0);
    let max = seen().fold(f32::NEG_INFINITY, |max, span| max.max(span.running[row].max));
    let share = |span: &Mixture| (span.running[row].max - max).exp();
    let sum: f32 = seen().map(|span| share(span) * span.running[row].sum).sum();
    out.fill(0.0);
    for span in seen() {
        vector::add_scaled(out, &span.values[row * out.len()..][..out.len()], share(span) / sum);
    }
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
    /// Attends to the positions of `span`; `q` is all of the tokens' queries.
    fn attend(&self, q: &[f32], span: Range<usize>, mixture: &mut Mixture, b: &mut Buffers) {
        let spec = self.spec;
        let rows = q.len() / (spec.kv_heads * spec.key_length);
        let Mixture { values, running } = mixture;
        running.clear();
        running.resize(rows, Running { max: f32::NEG_INFINITY, sum: 0.0 });
        values.clear();
        values.resize(rows * spec.value_length, 0.0);
        let mut tile = self.visible(0).0.max(span.start);
        let end = self.visible(rows - 1).1.min(span.end);
        if tile < end {
            self.gather_queries(q, b);
        }
        while tile < end {
            let next = end.min((tile / PAGE + 1) * PAGE);
            self.attend_tile(tile, next, mixture, b);
            tile = next;
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

    /// Attends to the positions `start..end`, which lie in one page.
    fn attend_tile(&self, start: usize, end: usize, mixture: &mut Mixture, b: &mut Buffers) {
        let Mixture { values, running } = mixture;
        let len = end - start;
        b.scores.resize(running.len() * len, 0.0);
        let keys = self.cache.keys.rows(self.head, start..end, &mut b.decoded);
        matmul(&keys, &b.queries, &mut b.scores, &mut b.scratch);
        let rows = b.scores.chunks_exact_mut(len).zip(values.chunks_exact_mut(self.spec.value_length));
        for (row, ((scores, values), running)) in rows.zip(running).enumerate() {
            let (from, to) = self.visible(row);
            running.absorb(scores, from.clamp(start, end) - start..to.clamp(start, end) - start, values);
        }
        let rows = self.cache.values.rows(self.head, start..end, &mut b.decoded);
        accumulate(&rows, &b.scores, values, &b.scratch);
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
    fn absorb(&mut self, scores: &mut [f32], visible: Range<usize>, out: &mut [f32]) {
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
    mixtures: Vec<Mixture>,
    buffers: Free,
}

/// Buffers of one [`HeadBlock`] at work.
#[derive(Default)]
struct Buffers {
    queries: Vec<f32>,
    scores: Vec<f32>,
    decoded: Vec<f32>,
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

/// The rotations of the positions at hand, computed once for all layers that rotate alike.
#[derive(Default)]
pub(super) struct Rotations(Vec<Known>);

struct Known {
    rotary: Arc<Rotary>,
    positions: Range<usize>,
    rotation: Rotation,
}

impl Rotations {
    /// The rotation at `positions`.
    pub(super) fn at(&mut self, rotary: &Arc<Rotary>, positions: Range<usize>) -> &Rotation {
        let compute = || Known {
            rotary: rotary.clone(),
            positions: positions.clone(),
            rotation: Rotation::new(rotary, positions.clone()),
        };
        let index = match self.0.iter().position(|known| Arc::ptr_eq(&known.rotary, rotary)) {
            Some(index) if self.0[index].positions == positions => index,
            Some(index) => {
                self.0[index] = compute();
                index
            }
            None => {
                self.0.push(compute());
                self.0.len() - 1
            }
        };
        &self.0[index].rotation
    }
}

/// Rotates the heads of `x`, `[tokens, heads * width]`.
pub(super) fn rotate(rotation: &Rotation, x: &mut [f32], heads: usize, width: usize) {
    let cols = heads * width;
    for_rows(x, cols, |at, rows| {
        for (token, row) in (at / cols..).zip(rows.chunks_exact_mut(cols)) {
            row.chunks_exact_mut(width).for_each(|head| rotation.apply(token, head));
        }
    });
}
