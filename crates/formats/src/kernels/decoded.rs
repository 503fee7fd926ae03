//! Weights that are decoded and multiplied in f32: those whose engines multiply them with activations that are not rounded, or
//! rounded token by token.

#![allow(clippy::needless_range_loop, reason = "plain loops over registers: see `rows`")]

use super::isa::{Isa, Kernel};
use super::panels::{FLOAT_BLOCK, PANEL};
use super::product::Task;
use super::rows::{self, float_dot};
use super::{layouts, parallel};
use crate::blocks::layout::{Layout, decode};
use std::marker::PhantomData;
use std::ops::Range;

/// A few columns: some weights of a row at a time are decoded and multiplied.
pub(super) struct Rows<'a, L, const N: usize>(pub rows::Rows<'a, &'a [f32], N>, pub PhantomData<L>);

impl<L: Layout, const N: usize> Kernel for Rows<'_, L, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        /// Weights at a time: whole blocks, and few enough to stay in the level 1 cache.
        const AT_ONCE: usize = 1024;
        let rows = self.0;
        let mut weights = [0f32; AT_ONCE];
        for (r, row) in rows.data.chunks_exact(rows.row_bytes).enumerate() {
            let mut y = [0.0; N];
            for (i, blocks) in row.chunks(AT_ONCE / L::BLOCK * L::BYTES).enumerate() {
                let weights = &mut weights[..blocks.len() / L::BYTES * L::BLOCK];
                decode::<L>(blocks, weights);
                let mut x = [&[][..]; N];
                for n in 0..N {
                    x[n] = &rows.x[n][i * AT_ONCE..][..weights.len()];
                }
                let part = float_dot::<S, layouts::F32, N>(s, bytemuck::cast_slice(weights), &x);
                for n in 0..N {
                    y[n] += part[n];
                }
            }
            rows.out.set(rows.first + r, rows.column, y);
        }
    }
}

/// The weights `block` of the rows of a task, decoded into `weights`: a task in F32.
pub(super) fn rows<'a, L: Layout>(task: &Task<'a>, block: Range<usize>, weights: &'a mut Vec<f32>) -> Task<'a> {
    weights.resize(PANEL * FLOAT_BLOCK, 0.0);
    let bytes = block.start / L::BLOCK * L::BYTES..block.end / L::BLOCK * L::BYTES;
    let decoded = weights.chunks_exact_mut(block.len());
    for (row, weights) in task.data.chunks_exact(task.row_bytes).zip(decoded) {
        decode::<L>(&row[bytes.clone()], weights);
    }
    let data = bytemuck::cast_slice(&weights[..task.rows() * block.len()]);
    Task { data, row_bytes: size_of::<f32>() * block.len(), len: block.len(), ..*task }
}

/// Rounds each token of `x`, `cols` values, to 127 steps of its largest magnitude: vLLM's dynamic quantization to 8 bits
/// (`scaled_int8_quant`). A token that holds NaN or infinity becomes NaN, so that the product shows it.
pub(super) fn round_tokens(x: &[f32], cols: usize, rounded: &mut Vec<f32>) {
    rounded.resize(x.len(), 0.0);
    parallel::for_each_part(rounded, cols, |i, rounded| {
        let x = &x[i * cols..][..cols];
        let largest = x.iter().fold(0f32, |m, v| m.max(v.abs()));
        let poison: f32 = x.iter().map(|v| v * 0.0).sum();
        let (scale, inverse) = if largest == 0.0 { (0.0, 0.0) } else { (largest / 127.0 + poison, 127.0 / largest) };
        for (rounded, x) in rounded.iter_mut().zip(x) {
            *rounded = (x * inverse).round_ties_even() * scale;
        }
    });
}
