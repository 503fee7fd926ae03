//! Attention over the cache, in tiles of positions with a running softmax (Milakov, Gimelshein 2018; Dao et al. 2022), so that
//! memory does not grow with the square of the context.

use super::cache::{LayerCache, PAGE};
use super::{for_rows, vector};
use crate::layers::{AttentionSpec, Rotary};
use bantam_checkpoint::config::RopePairing;
use rayon::prelude::*;
use std::sync::{Arc, Mutex, PoisonError};

/// Tokens whose queries are processed together: large enough that decoding a tile of keys is paid for.
const QUERY_BLOCK: usize = 32;

/// Attends from `q`, `[tokens, heads * key_length]` rotated, at `position` on, to all positions up to each token's own,
/// which the cache holds already. `grouped` is a work buffer of the size of `out`, `[tokens, heads * value_length]`.
pub(super) fn attend(
    spec: &AttentionSpec,
    cache: &LayerCache<'_>,
    position: usize,
    q: &[f32],
    grouped: &mut [f32],
    out: &mut [f32],
    workspaces: &Workspaces,
) {
    let (q_cols, out_cols) = (spec.heads * spec.key_length, spec.heads * spec.value_length);
    let blocks = q.par_chunks(QUERY_BLOCK * q_cols).zip(grouped.par_chunks_mut(QUERY_BLOCK * out_cols));
    blocks.zip(out.par_chunks_mut(QUERY_BLOCK * out_cols)).enumerate().for_each(|(i, ((q, grouped), out))| {
        let first = position + i * QUERY_BLOCK;
        let head_len = grouped.len() / spec.kv_heads;
        grouped.par_chunks_mut(head_len).enumerate().for_each(|(head, grouped)| {
            workspaces.with(|w| HeadBlock { spec, cache, head, first }.attend(q, grouped, w));
        });
        ungroup(spec, grouped, out);
    });
}

/// From `[kv_heads, tokens, group, value_length]` to `[tokens, kv_heads, group, value_length]`.
fn ungroup(spec: &AttentionSpec, grouped: &[f32], out: &mut [f32]) {
    let width = spec.group() * spec.value_length;
    let tokens = out.len() / (spec.kv_heads * width);
    for (i, dst) in out.chunks_exact_mut(width).enumerate() {
        let (token, head) = (i / spec.kv_heads, i % spec.kv_heads);
        dst.copy_from_slice(&grouped[(head * tokens + token) * width..][..width]);
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
    /// `out` is `[tokens * group, value_length]`; `q` is all of the tokens' queries.
    fn attend(&self, q: &[f32], out: &mut [f32], w: &mut Workspace) {
        let spec = self.spec;
        let rows = out.len() / spec.value_length;
        self.gather_queries(q, w);
        w.running.clear();
        w.running.resize(rows, Running { max: f32::NEG_INFINITY, sum: 0.0 });
        out.fill(0.0);
        let (start, end) = (self.visible(0).0, self.visible(rows - 1).1);
        let mut tile = start;
        while tile < end {
            let next = end.min((tile / PAGE + 1) * PAGE);
            self.attend_tile(tile, next, rows, out, w);
            tile = next;
        }
        for (out, running) in out.chunks_exact_mut(spec.value_length).zip(&w.running) {
            vector::scale(out, 1.0 / running.sum);
        }
    }

    /// The positions `start..end` that a row sees.
    fn visible(&self, row: usize) -> (usize, usize) {
        let end = self.first + row / self.spec.group() + 1;
        (self.spec.window.map_or(0, |window| end.saturating_sub(window)), end)
    }

    /// The queries of this block's heads, scaled: `[tokens * group, key_length]`.
    fn gather_queries(&self, q: &[f32], w: &mut Workspace) {
        let width = self.spec.group() * self.spec.key_length;
        w.queries.clear();
        for token in q.chunks_exact(self.spec.heads * self.spec.key_length) {
            w.queries.extend_from_slice(&token[self.head * width..(self.head + 1) * width]);
        }
        vector::scale(&mut w.queries, self.spec.scale);
    }

    fn attend_tile(&self, start: usize, end: usize, rows: usize, out: &mut [f32], w: &mut Workspace) {
        let (key_length, value_length, len) = (self.spec.key_length, self.spec.value_length, end - start);
        w.tile.resize(PAGE * key_length.max(value_length), 0.0);
        w.scores.resize(rows * len, 0.0);
        self.cache.keys.read(self.head, start..end, &mut w.tile);
        vector::products(&w.queries, &w.tile[..len * key_length], key_length, &mut w.transposed, &mut w.scores);
        for (row, scores) in w.scores.chunks_exact_mut(len).enumerate() {
            let (from, to) = self.visible(row);
            let visible = from.clamp(start, end) - start..to.clamp(start, end) - start;
            let out = &mut out[row * value_length..(row + 1) * value_length];
            w.running[row].absorb(scores, visible, out);
        }
        self.cache.values.read(self.head, start..end, &mut w.tile);
        vector::accumulate(&w.scores, &w.tile[..len * value_length], value_length, out);
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

/// Buffers of one [`HeadBlock`] at work.
#[derive(Default)]
struct Workspace {
    queries: Vec<f32>,
    scores: Vec<f32>,
    tile: Vec<f32>,
    transposed: Vec<f32>,
    running: Vec<Running>,
}

/// Free workspaces, as many as threads have worked at once.
#[derive(Default)]
pub(super) struct Workspaces(Mutex<Vec<Workspace>>);

impl Workspaces {
    fn with(&self, f: impl FnOnce(&mut Workspace)) {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workspace = free().pop().unwrap_or_default();
        f(&mut workspace);
        free().push(workspace);
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
