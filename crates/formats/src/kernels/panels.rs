//! Panels: 16 rows unpacked side by side, so that one vector holds the same four columns (of floats, the same column)
//! of all of them.

use super::isa::{Isa, Kernel};
use super::layouts::{FloatLayout, Layout, STEP};
use super::product::Task;
use super::rows::{MAX_STEP_BYTES, whole_pieces};
use std::marker::PhantomData;
use std::ops::Range;

/// Rows of a panel: the lanes of a vector.
pub(super) const PANEL: usize = 16;

/// Weights along a row that a panel of floats holds at a time, so that it stays in the level 2 cache.
pub(super) const FLOAT_BLOCK: usize = 2048;

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line<T, const N: usize>(pub [T; N]);

/// Up to 16 rows of a matrix, unpacked. Rows that are missing are zero.
#[derive(Default)]
pub(super) struct Panel {
    quants: Vec<Line<u8, 64>>,
    scales: Vec<Line<f32, PANEL>>,
    /// Rows decoded on the way to lines.
    pub decoded: Vec<f32>,
}

impl Panel {
    /// Line `k`: the quants `4 k .. 4 k + 4` of each row; of floats, the weights `k` as bits.
    pub fn quants(&self) -> &[Line<u8, 64>] {
        &self.quants
    }

    /// Line `2 g`: the scale of the weights `16 g .. 16 g + 16` of each row; line `2 g + 1`: their minimum.
    pub fn scales(&self) -> &[Line<f32, PANEL>] {
        &self.scales
    }
}

/// Unpacks the rows of a task.
pub(super) struct Pack<'a, L> {
    /// The rows.
    pub task: &'a Task<'a>,
    /// Where to.
    pub panel: &'a mut Panel,
    /// Their format.
    pub layout: PhantomData<L>,
}

impl<L: Layout> Kernel for Pack<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        let (row_bytes, count) = (self.task.row_bytes, self.task.rows());
        let steps = row_bytes.div_ceil(L::STEP_BYTES);
        self.panel.quants.resize(steps * STEP / 4, Line([0; 64]));
        self.panel.scales.resize(steps * STEP / 8, Line([0.0; PANEL]));
        let lines = self.panel.quants.chunks_exact_mut(STEP / 4).zip(self.panel.scales.as_chunks_mut::<32>().0);
        for (i, (quants, scales)) in lines.enumerate() {
            let bytes = i * L::STEP_BYTES..row_bytes.min((i + 1) * L::STEP_BYTES);
            let mut padded = [[0; MAX_STEP_BYTES]; PANEL];
            let mut steps: [&[u8]; PANEL] = [&[]; PANEL];
            let rows = self.task.data.chunks_exact(row_bytes);
            for ((row, step), padded) in rows.zip(&mut steps).zip(&mut padded) {
                *step = whole_pieces::<L>(&row[bytes.clone()], padded);
            }
            pack_step::<S, L>(s, &steps[..count], quants, scales);
        }
    }
}

/// Unpacks one step of each row.
#[inline(always)]
fn pack_step<S: Isa, L: Layout>(s: S, steps: &[&[u8]], quants: &mut [Line<u8, 64>], scales: &mut [Line<f32, 16>; 32]) {
    let zero = s.to_bits(s.splat_f(0.0));
    let (mut scale, mut min) = ([zero; PANEL], [zero; PANEL]);
    for (r, step) in steps.iter().enumerate() {
        let (scales, mins) = L::scales(s, step);
        (scale[r], min[r]) = (s.to_bits(scales), s.to_bits(mins));
    }
    for (lines, scale) in scales.chunks_exact_mut(2).zip(s.transpose(scale)) {
        s.store_f(s.from_bits(scale), &mut lines[0].0);
    }
    if L::MINS {
        for (lines, min) in scales.chunks_exact_mut(2).zip(s.transpose(min)) {
            s.store_f(s.from_bits(min), &mut lines[1].0);
        }
    }
    let chunks = steps[0].len() / L::PIECE_BYTES * L::CHUNKS;
    for (c, quants) in quants.chunks_exact_mut(16).enumerate().take(chunks) {
        let mut rows = [s.splat(0); PANEL];
        for (row, step) in rows.iter_mut().zip(steps) {
            *row = L::quants(s, step, c);
        }
        for (line, v) in quants.iter_mut().zip(s.transpose(rows)) {
            s.store(v, &mut line.0);
        }
    }
}

/// Unpacks the weights `block` of the rows of a task in a floating point format.
pub(super) struct PackFloats<'a, L> {
    /// The rows.
    pub task: &'a Task<'a>,
    /// At most [`FLOAT_BLOCK`] weights.
    pub block: Range<usize>,
    /// Where to.
    pub panel: &'a mut Panel,
    /// Their format.
    pub layout: PhantomData<L>,
}

impl<L: FloatLayout> Kernel for PackFloats<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        self.panel.quants.resize(self.block.len(), Line([0; 64]));
        for (i, lines) in self.panel.quants.chunks_mut(16).enumerate() {
            let mut weights = [s.splat(0); PANEL];
            for (weights, row) in weights.iter_mut().zip(self.task.data.chunks_exact(self.task.row_bytes)) {
                let bytes = &row[(self.block.start + 16 * i) * L::BYTES..][..lines.len() * L::BYTES];
                *weights = s.to_bits(L::load_some(s, bytes));
            }
            for (line, v) in lines.iter_mut().zip(s.transpose(weights)) {
                s.store(v, &mut line.0);
            }
        }
    }
}
