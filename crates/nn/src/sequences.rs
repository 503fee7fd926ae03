//! Whole sequences side by side: how the rows of a batch are grouped, and attention over them, which both backends share.
//!
//! Inside, heads lie one after another, `[sequence, head, position, width]`, so that every product is on contiguous
//! memory. Each key and value head with the query heads that share it is a task of its own.

use crate::layers::AttentionSpec;
use crate::matrix::{Threads, View, multiply};
use crate::rotation::Rotation;
use crate::tensor::{Pool, Tensor};
use crate::vector;
use bantam_checkpoint::config::Pooling;
use rayon::prelude::*;
use std::ops::Range;
use std::sync::Arc;

/// Queries processed together.
const BLOCK: usize = 64;

/// Sequences in their order, as many together as have up to `limit` tokens, but at least one.
pub fn together<S: AsRef<[u32]>>(sequences: &[S], limit: usize) -> impl Iterator<Item = &[S]> {
    let mut rest = sequences;
    std::iter::from_fn(move || {
        let mut tokens = 0;
        let fitting = rest.iter().take_while(|s| {
            tokens += s.as_ref().len();
            tokens <= limit
        });
        let count = fitting.count().max(1);
        rest.split_off(..count)
    })
}

/// How the rows of a batch are grouped: the lengths of its sequences, one after another.
#[derive(Clone, Debug)]
pub(crate) struct Layout(pub Arc<[usize]>);

impl Layout {
    /// Positions of the longest sequence.
    pub fn longest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(0)
    }

    /// The lengths of `parts` equal parts of each sequence's `[len, width]`.
    pub fn lengths(&self, width: usize, parts: usize) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().flat_map(move |&len| std::iter::repeat_n(len * width / parts, parts))
    }

    /// Cuts `x`, `[rows, width]`, by sequences, and each into `parts` equal parts.
    pub fn cut<'a>(&self, mut x: &'a [f32], width: usize, parts: usize) -> Vec<&'a [f32]> {
        self.lengths(width, parts).map(|len| x.split_off(..len).expect("x has these rows")).collect()
    }

    pub fn cut_mut<'a>(&self, mut x: &'a mut [f32], width: usize, parts: usize) -> Vec<&'a mut [f32]> {
        self.lengths(width, parts).map(|len| x.split_off_mut(..len).expect("x has these rows")).collect()
    }
}

/// Queries, keys and values by heads, rotated, with the grouping of their rows.
pub(crate) struct ByHeads {
    pub layout: Layout,
    pub q: Tensor,
    pub k: Tensor,
    pub v: Tensor,
}

/// The rotation of all positions of these sequences, if the model has one.
pub(crate) fn rotation(spec: &AttentionSpec, layout: &Layout) -> Option<Rotation> {
    spec.rotary.as_ref().map(|rotary| Rotation::new(rotary, 0..layout.longest()))
}

/// Attention over whole sequences of these lengths: `[tokens, heads * value_length]`.
pub(crate) fn attend(spec: &AttentionSpec, lengths: Arc<[usize]>, qkv: [Tensor; 3], pool: &Pool) -> Tensor {
    ByHeads::new(spec, lengths, qkv, pool).attend(spec, pool).0
}

impl ByHeads {
    pub fn new(spec: &AttentionSpec, lengths: Arc<[usize]>, [q, k, v]: [Tensor; 3], pool: &Pool) -> Self {
        let layout = Layout(lengths);
        let rotation = rotation(spec, &layout);
        let q = layout.by_heads(&q, spec.heads, rotation.as_ref(), pool);
        let k = layout.by_heads(&k, spec.kv_heads, rotation.as_ref(), pool);
        let v = layout.by_heads(&v, spec.kv_heads, None, pool);
        Self { layout, q, k, v }
    }

    /// The output, `[tokens, heads * value_length]`, and the logarithms of the softmax's sums, `[sequence, head, position]`.
    pub fn attend(&self, spec: &AttentionSpec, pool: &Pool) -> (Tensor, Vec<f32>) {
        let Self { layout, q, k, v } = self;
        let mut by_heads = pool.take(q.rows(), spec.heads * spec.value_length);
        let mut log_sums = vec![0.0; q.rows() * spec.heads];
        let outs = layout.cut_mut(&mut by_heads, spec.heads * spec.value_length, spec.heads);
        let log_sum_parts = layout.cut_mut(&mut log_sums, spec.heads, spec.heads);
        let keys = layout.cut(k, spec.kv_heads * spec.key_length, spec.kv_heads);
        let values = layout.cut(v, spec.kv_heads * spec.value_length, spec.kv_heads);
        let queries = layout.cut(q, spec.heads * spec.key_length, spec.heads);
        outs.into_par_iter().zip(log_sum_parts).zip(queries).enumerate().for_each(|(i, ((out, log_sums), q))| {
            let at = i / spec.group();
            Head { spec, q, k: keys[at], v: values[at] }.forward(out, log_sums);
        });
        (layout.by_tokens(&by_heads, spec.heads, None, pool), log_sums)
    }

    /// The attention that each token gets from all queries, in the mean over heads: `[tokens]`. `log_sums` are what [`attend`](Self::attend) gave.
    pub fn received(&self, spec: &AttentionSpec, log_sums: &[f32]) -> Vec<f32> {
        let Self { layout, q, k, v } = self;
        let keys = layout.cut(k, spec.kv_heads * spec.key_length, spec.kv_heads);
        let values = layout.cut(v, spec.kv_heads * spec.value_length, spec.kv_heads);
        let queries = layout.cut(q, spec.heads * spec.key_length, spec.heads);
        let heads = queries.into_par_iter().zip(layout.cut(log_sums, spec.heads, spec.heads)).enumerate();
        let by_heads = heads.map(|(i, (q, log_sums))| {
            let at = i / spec.group();
            Head { spec, q, k: keys[at], v: values[at] }.received(log_sums)
        });
        let by_heads: Vec<Vec<f32>> = by_heads.collect();
        let mean = |heads: &[Vec<f32>], token: usize| heads.iter().map(|h| h[token]).sum::<f32>() / spec.heads as f32;
        by_heads.chunks_exact(spec.heads).flat_map(|heads| (0..heads[0].len()).map(|t| mean(heads, t))).collect()
    }
}

/// One query head of one sequence: `q` `[len, key_length]`, `k` the same, `v` `[len, value_length]`.
pub(crate) struct Head<'a> {
    pub spec: &'a AttentionSpec,
    pub q: &'a [f32],
    pub k: &'a [f32],
    pub v: &'a [f32],
}

impl Head<'_> {
    fn len(&self) -> usize {
        self.k.len() / self.spec.key_length
    }

    /// The keys that a query sees.
    pub fn visible(&self, query: usize) -> Range<usize> {
        match (self.spec.causal, self.spec.window) {
            (false, _) => 0..self.len(),
            (true, window) => window.map_or(0, |window| (query + 1).saturating_sub(window))..query + 1,
        }
    }

    /// The blocks of queries, each with all keys that any of its queries sees.
    pub fn blocks(&self) -> impl Iterator<Item = (Range<usize>, Range<usize>)> + '_ {
        (0..self.len()).step_by(BLOCK).map(|first| {
            let queries = first..self.len().min(first + BLOCK);
            (queries.clone(), self.visible(first).start..self.visible(queries.end - 1).end)
        })
    }

    /// The scaled scores of a block, `[queries, keys]`.
    pub fn scores(&self, queries: &Range<usize>, keys: &Range<usize>, scores: &mut Vec<f32>) {
        let d = self.spec.key_length;
        scores.resize(queries.len() * keys.len(), 0.0);
        let (q, k) = (View::new(part(self.q, queries, d), d), View::new(part(self.k, keys, d), d));
        multiply(scores, false, self.spec.scale, q, k.transposed(), Threads::One);
    }

    /// The attention that each key gets from all queries, whose softmax has these sums.
    fn received(&self, log_sums: &[f32]) -> Vec<f32> {
        let (mut received, mut scores) = (vec![0.0; self.len()], Vec::new());
        for (queries, keys) in self.blocks() {
            self.scores(&queries, &keys, &mut scores);
            for (query, row) in queries.zip(scores.chunks_exact_mut(keys.len())) {
                let visible = self.visible(query);
                let row = only(row, visible.clone(), keys.start);
                vector::exp_minus(row, log_sums[query]);
                vector::add_rows(&mut received[visible], row);
            }
        }
        received
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
}

/// The visible part of a row of scores that begins with key `first`; the others become 0.
pub(crate) fn only(row: &mut [f32], visible: Range<usize>, first: usize) -> &mut [f32] {
    let visible = visible.start - first..visible.end - first;
    row[..visible.start].fill(0.0);
    row[visible.end..].fill(0.0);
    &mut row[visible]
}

pub(crate) fn part<'a>(x: &'a [f32], rows: &Range<usize>, cols: usize) -> &'a [f32] {
    &x[rows.start * cols..rows.end * cols]
}

pub(crate) fn part_mut<'a>(x: &'a mut [f32], rows: &Range<usize>, cols: usize) -> &'a mut [f32] {
    &mut x[rows.start * cols..rows.end * cols]
}

impl Layout {
    /// From `[sequence, position, head, width]` to `[sequence, head, position, width]`, rotating on the way.
    pub fn by_heads(&self, x: &[f32], heads: usize, rotation: Option<&Rotation>, pool: &Pool) -> Tensor {
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

    /// One row of each sequence.
    pub fn pool(&self, pooling: Pooling, x: &Tensor, pool: &Pool) -> Tensor {
        let width = x.cols();
        let mut y = pool.take(self.0.len(), width);
        for (y, x) in y.chunks_exact_mut(width).zip(self.cut(x, width, 1)) {
            match pooling {
                Pooling::First => y.copy_from_slice(&x[..width]),
                Pooling::Last => y.copy_from_slice(&x[x.len() - width..]),
                Pooling::Mean => {
                    y.fill(0.0);
                    x.chunks_exact(width).for_each(|row| vector::add_rows(y, row));
                    vector::scale(y, width as f32 / x.len() as f32);
                }
            }
        }
        y
    }

    /// The gradient of [`pool`](Self::pool)'s input.
    pub fn pool_backward(&self, pooling: Pooling, dy: &Tensor, pool: &Pool) -> Tensor {
        let width = dy.cols();
        let mut dx = pool.take(self.0.iter().sum(), width);
        dx.fill(0.0);
        for (dy, dx) in dy.chunks_exact(width).zip(self.cut_mut(&mut dx, width, 1)) {
            let len = dx.len();
            match pooling {
                Pooling::First => dx[..width].copy_from_slice(dy),
                Pooling::Last => dx[len - width..].copy_from_slice(dy),
                Pooling::Mean => {
                    let share = width as f32 / len as f32;
                    dx.chunks_exact_mut(width).for_each(|row| vector::add_scaled(row, dy, share));
                }
            }
        }
        dx
    }

    /// The way back.
    pub fn by_tokens(&self, x: &[f32], heads: usize, rotation: Option<&Rotation>, pool: &Pool) -> Tensor {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix64;

    /// Two query heads on one key and value head.
    fn spec(causal: bool, window: Option<usize>) -> AttentionSpec {
        let (heads, kv_heads, key_length, value_length) = (2, 1, 4, 4);
        AttentionSpec { layer: 0, heads, kv_heads, key_length, value_length, scale: 0.7, rotary: None, causal, window }
    }

    #[test]
    fn what_tokens_receive_is_the_softmax_summed_over_queries() {
        let (pool, mut random) = (Pool::default(), SplitMix64::new(8));
        let lengths = [70, 3];
        let rows: usize = lengths.iter().sum();
        let mut normal = |cols: usize| (0..rows * cols).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        let [q, k, v] = [normal(8), normal(4), normal(4)];
        let tensor = |values: &[f32]| {
            let mut tensor = pool.take(rows, values.len() / rows);
            tensor.copy_from_slice(values);
            tensor
        };
        for spec in [spec(true, None), spec(true, Some(5)), spec(false, None)] {
            let by_heads = ByHeads::new(&spec, lengths.into(), [tensor(&q), tensor(&k), tensor(&v)], &pool);
            let (_, log_sums) = by_heads.attend(&spec, &pool);
            let received = by_heads.received(&spec, &log_sums);
            let mut expected = vec![0.0; rows];
            for (first, len) in [(0, lengths[0]), (lengths[0], lengths[1])] {
                for (query, head) in (0..len).flat_map(|query| [(query, 0), (query, 1)]) {
                    let seen =
                        |key: usize| (!spec.causal || key <= query) && spec.window.is_none_or(|w| key + w > query);
                    let score = |key: usize| {
                        let (q, k) = (&q[(first + query) * 8 + head * 4..][..4], &k[(first + key) * 4..][..4]);
                        f64::from(q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>() * spec.scale).exp()
                    };
                    let sum: f64 = (0..len).filter(|&key| seen(key)).map(score).sum();
                    (0..len).filter(|&key| seen(key)).for_each(|key| expected[first + key] += score(key) / sum / 2.0);
                }
            }
            for (token, (found, expected)) in received.iter().zip(&expected).enumerate() {
                assert!((f64::from(*found) - expected).abs() < 1e-4, "token {token}: {found} is not {expected}");
            }
        }
    }
}
