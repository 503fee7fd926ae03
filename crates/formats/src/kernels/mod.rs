//! Matrix products on weights in any format.
//!
//! [`matmul`] is the entry, [`matmul_each`] for several matrices on the same activations. A few columns (decoding) go
//! row by row (`rows.rs`) at the speed of memory; many columns (prefill) go through tiles (`tiles.rs`), which unpack
//! rows once for all columns (`panels.rs`). Quantized weights are multiplied in integers with activations of 8 bits
//! (`activations.rs`), floating point ones in f32, and so are those of other engines' files, decoded (`decoded.rs`). [`accumulate`] is the product with the transpose, for attention.
//! [`parallel`] shares the work among threads.
//!
//! Kernels are written once over the vector operations of `isa.rs`, which `scalar.rs`, `avx2.rs`, `avx512.rs` and
//! `neon.rs` implement; `layouts/` says how a format's blocks become vectors. The instruction set is chosen at run time
//! ([`Level`]).
//!
//! To add a format: a layout in `layouts/`, and [`Product`] in the format's row. To add an instruction set: an `Isa`
//! and a [`Level`]. `examples/matmul_speed.rs` measures.

mod accumulate;
mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod decoded;
mod interleaved;
mod isa;
pub(crate) mod layouts;
#[cfg(target_arch = "aarch64")]
mod neon;
mod out;
mod panels;
pub mod parallel;
mod product;
mod rows;
mod scalar;
#[cfg(test)]
mod tests;
mod tiles;

use crate::format::{Activation, Format};
pub use accumulate::accumulate;
use activations::Activations;
use interleaved::Interleaved;
pub use isa::Level;
pub(crate) use isa::{Isa, Kernel};
use out::Out;
use panels::{PANEL, Panel};
pub use product::Product;
use product::Task;
use std::sync::Mutex;
use tiles::Starts;

/// A weight matrix where it lies: `rows` rows of `cols` weights, row-major.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// The number format of the rows.
    pub format: &'static Format,
    /// The bytes, `rows * format.bytes_of(cols)`.
    pub data: &'a [u8],
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// Buffers that [`matmul`] reuses from call to call, so that decoding allocates nothing, and the instruction set.
#[derive(Default)]
pub struct Scratch {
    level: Level,
    int8x32: Activations,
    int8x256: Activations,
    interleaved: Interleaved,
    /// Activations rounded to 8 bits token by token, as floats.
    rounded: Vec<f32>,
    starts: Starts,
    panels: Vec<Mutex<Panel>>,
}

impl Scratch {
    /// Buffers for products with the instructions of `level` instead of the best that the machine has.
    pub fn with_level(level: Level) -> Self {
        Scratch { level, ..Scratch::default() }
    }
}

/// From so many columns on, unpacking a panel pays.
const TILE_COLUMNS: usize = 5;

/// The least bytes of weights that a thread takes at a time when decoding: a few microseconds of work.
const TASK_BYTES: usize = 32 * 1024;

/// Larger matrices are taken in this many parts a thread: memory is read faster in long stretches, and the last parts must
/// still be small enough that no thread waits long for another.
const TASKS_PER_THREAD: usize = 4;

/// Computes `y[i, r] = sum_c x[i, c] * w[r, c]`: `x` is `n` rows of `w.cols`, `y` is `n` rows of `w.rows`.
///
/// Runs on the current rayon pool. Many small products belong into a [`parallel::section`], which keeps the pool's threads
/// awake. The result does not depend on the number of threads.
///
/// # Panics
/// If the lengths of `x`, `y` or `w.data` do not match the shapes.
pub fn matmul(w: &Matrix<'_>, x: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    matmul_each(&[*w], x, &mut [y], scratch);
}

/// [`matmul`] of several matrices with the same activations: `ys[m]` receives the product of `ws[m]` and `x`.
///
/// The activations are quantized once, and for a few columns the threads are brought together once.
///
/// # Panics
/// If the lengths do not match the shapes, or the matrices differ in their columns.
pub fn matmul_each(ws: &[Matrix<'_>], x: &[f32], ys: &mut [&mut [f32]], scratch: &mut Scratch) {
    assert_eq!(ws.len(), ys.len(), "one result for each matrix");
    let Some(cols) = ws.first().map(|w| w.cols) else { return };
    let n = x.len().checked_div(cols).unwrap_or(0);
    for (w, y) in ws.iter().zip(&*ys) {
        assert_eq!(w.cols, cols, "the matrices share their activations");
        assert_eq!(x.len(), n * w.cols, "x is not a whole number of rows");
        assert_eq!(y.len(), n * w.rows, "y does not match x and the matrix");
        let bytes = w.format.bytes_of(w.cols).expect("the format divides the row") * w.rows;
        assert_eq!(w.data.len(), bytes, "the data does not match the shape");
    }
    if n == 0 {
        return;
    }
    let by_token = |w: &Matrix<'_>| w.format.product.activation == Activation::Int8Token;
    if !ws.iter().any(by_token) {
        return multiply_each(ws, x, ys, scratch);
    }
    let mut rounded = std::mem::take(&mut scratch.rounded);
    decoded::round_tokens(x, cols, &mut rounded);
    for (w, y) in ws.iter().zip(ys) {
        multiply_each(&[*w], if by_token(w) { &rounded } else { x }, &mut [y], scratch);
    }
    scratch.rounded = rounded;
}

/// [`matmul_each`] of activations that are as the matrices want them, but for ggml's integers.
fn multiply_each(ws: &[Matrix<'_>], x: &[f32], ys: &mut [&mut [f32]], scratch: &mut Scratch) {
    let cols = ws[0].cols;
    let n = x.len() / cols;
    for kind in [Activation::Int8x32, Activation::Int8x256] {
        if ws.iter().any(|w| w.format.product.activation == kind) {
            let level = scratch.level;
            scratch.activations(kind).quantize(level, kind, x, cols);
        }
    }
    if n < TILE_COLUMNS {
        by_rows(ws, x, ys, scratch);
    } else {
        if ws.iter().any(|w| matches!(w.format.product.activation, Activation::F32 | Activation::Int8Token)) {
            scratch.interleaved.prepare(scratch.level, x, cols);
        }
        for (w, y) in ws.iter().zip(ys) {
            by_tiles(w, x, y, scratch);
        }
    }
}

/// Row by row, all matrices in one parallel section.
fn by_rows(ws: &[Matrix<'_>], x: &[f32], ys: &mut [&mut [f32]], scratch: &Scratch) {
    const AT_ONCE: usize = 4;
    for (ws, ys) in ws.chunks(AT_ONCE).zip(ys.chunks_mut(AT_ONCE)) {
        let mut ys = ys.iter_mut();
        // SAFETY: each task below has rows of its own, and each task is worked once.
        let outs: [_; AT_ONCE] = std::array::from_fn(|m| ys.next().map(|y| unsafe { Out::new(y, ws[m].rows) }));
        let tasks = ws.iter().map(|w| w.rows.div_ceil(w.rows_per_task())).sum();
        parallel::for_each(tasks, |_, mut i| {
            for (w, out) in ws.iter().zip(&outs) {
                let tasks = w.rows.div_ceil(w.rows_per_task());
                if let (true, Some(out)) = (i < tasks, out) {
                    let product = &w.format.product;
                    let task = w.task(i * w.rows_per_task(), w.rows_per_task(), x, scratch, out);
                    return (product.rows)(scratch.level, &task);
                }
                i -= tasks;
            }
        });
    }
}

/// Panel by panel.
fn by_tiles(w: &Matrix<'_>, x: &[f32], y: &mut [f32], scratch: &mut Scratch) {
    let product = &w.format.product;
    // SAFETY: each task below has rows of its own, and each task is worked once.
    let out = unsafe { Out::new(y, w.rows) };
    let mut starts = std::mem::take(&mut scratch.starts);
    (product.starts)(&mut starts, scratch.level, &w.task(0, w.rows, x, scratch, &out));
    scratch.starts = starts;
    let threads = rayon::current_num_threads();
    if scratch.panels.len() < threads {
        scratch.panels.resize_with(threads, Mutex::default);
    }
    let scratch = &*scratch;
    parallel::for_each(w.rows.div_ceil(PANEL), |slot, i| {
        let mut panel = scratch.panels[slot].lock().unwrap_or_else(|e| e.into_inner());
        let task = w.task(i * PANEL, PANEL, x, scratch, &out);
        (product.tile)(scratch.level, &task, &scratch.starts, &mut panel);
    });
}

impl<'a> Matrix<'a> {
    /// Decodes one row into `dst`, `cols` long.
    pub fn decode_row(&self, row: usize, dst: &mut [f32]) {
        let bytes = self.data.len() / self.rows;
        (self.format.decode)(&self.data[row * bytes..(row + 1) * bytes], dst);
    }

    /// Rows that a thread takes at a time when decoding.
    fn rows_per_task(&self) -> usize {
        let bytes = (self.data.len() / (TASKS_PER_THREAD * rayon::current_num_threads())).max(TASK_BYTES);
        (bytes * self.rows / self.data.len().max(1)).max(1)
    }

    /// Up to `count` rows from `first` with the activations in `scratch`.
    fn task<'t>(&self, first: usize, count: usize, x: &'t [f32], scratch: &'t Scratch, out: &'t Out<'t>) -> Task<'t>
    where
        'a: 't,
    {
        let row_bytes = self.data.len() / self.rows;
        let data = &self.data[first * row_bytes..(first + count).min(self.rows) * row_bytes];
        let quantized = match self.format.product.activation {
            Activation::Int8x256 => &scratch.int8x256,
            _ => &scratch.int8x32,
        };
        Task { data, row_bytes, len: self.cols, first, x, quantized, interleaved: &scratch.interleaved, out }
    }
}

impl Scratch {
    /// The buffer for this form.
    fn activations(&mut self, kind: Activation) -> &mut Activations {
        match kind {
            Activation::Int8x256 => &mut self.int8x256,
            _ => &mut self.int8x32,
        }
    }
}
