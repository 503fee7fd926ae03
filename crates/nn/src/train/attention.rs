//! Attention over whole sequences and its backward (Dao et al. 2022): of the softmax only each row's log-sum is kept, the
//! weights are computed again, block by block of queries.

use super::tape::{Backward, Node, Var};
use super::vector;
use crate::layers::AttentionSpec;
use crate::matrix::{Threads, View, multiply};
use crate::rotation::Rotation;
use crate::sequences::{ByHeads, Head, only, part, part_mut, rotation};
use crate::tensor::{Pool, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// What the backward pass needs.
pub(super) struct Attention {
    spec: AttentionSpec,
    /// Identities of the inputs.
    inputs: [usize; 3],
    heads: ByHeads,
    /// The logarithms of the softmax's sums: `[sequence, head, position]`.
    log_sums: Vec<f32>,
}

impl Attention {
    /// The output `[tokens, heads * value_length]`, and what its gradient will need.
    pub fn forward(spec: &AttentionSpec, lengths: Arc<[usize]>, qkv: [Var; 3], pool: &Pool) -> (Tensor, Self) {
        let inputs = qkv.each_ref().map(|x| x.id);
        let heads = ByHeads::new(spec, lengths, qkv.map(|x| x.into_value(pool)), pool);
        let (out, log_sums) = heads.attend(spec, pool);
        (out, Self { spec: spec.clone(), inputs, heads, log_sums })
    }
}

impl Node for Attention {
    fn backward(self: Box<Self>, dy: Tensor, to: &mut Backward<'_>) {
        let Attention { spec, heads: ByHeads { layout, q, k, v }, log_sums, .. } = &*self;
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
                backward(&Head { spec, q, k, v }, dy, log_sums, dq, dk, dv);
            }
        });
        let back = rotation(spec, layout).map(Rotation::transposed);
        to.give(self.inputs[0], layout.by_tokens(&dq, spec.heads, back.as_ref(), pool));
        to.give(self.inputs[1], layout.by_tokens(&dk, spec.kv_heads, back.as_ref(), pool));
        to.give(self.inputs[2], layout.by_tokens(&dv, spec.kv_heads, None, pool));
    }
}

/// With `P` the softmax and `dP = dO Vᵀ`: `dV = Pᵀ dO`, `dS = P (dP - Σ P dP) scale`, `dQ = dS K`, `dK = dSᵀ Q`.
fn backward(head: &Head<'_>, dy: &[f32], log_sums: &[f32], dq: &mut [f32], dk: &mut [f32], dv: &mut [f32]) {
    let (kd, vd) = (head.spec.key_length, head.spec.value_length);
    let (mut p, mut ds) = (Vec::new(), Vec::new());
    for (queries, keys) in head.blocks() {
        head.scores(&queries, &keys, &mut p);
        for (query, row) in queries.clone().zip(p.chunks_exact_mut(keys.len())) {
            vector::exp_minus(only(row, head.visible(query), keys.start), log_sums[query]);
        }
        let dy = View::new(part(dy, &queries, vd), vd);
        let n = keys.len();
        multiply(part_mut(dv, &keys, vd), true, 1.0, View::new(&p, n).transposed(), dy, Threads::One);
        ds.resize(p.len(), 0.0);
        let v = View::new(part(head.v, &keys, vd), vd);
        multiply(&mut ds, false, 1.0, dy, v.transposed(), Threads::One);
        for (p, ds) in p.chunks_exact(n).zip(ds.chunks_exact_mut(n)) {
            vector::softmax_backward(p, vector::inner(p, ds), head.spec.scale, ds);
        }
        let (q, k) = (View::new(part(head.q, &queries, kd), kd), View::new(part(head.k, &keys, kd), kd));
        multiply(part_mut(dq, &queries, kd), false, 1.0, View::new(&ds, n), k, Threads::One);
        multiply(part_mut(dk, &keys, kd), true, 1.0, View::new(&ds, n).transposed(), q, Threads::One);
    }
}
