//! A few columns: each row is unpacked in registers and multiplied at once, straight from the mapped bytes.
//!
//! Here and wherever vectors are in registers there are plain loops and no closures: a closure that is not inlined
//! would be compiled without the instruction set.

use super::activations::Column;
use super::isa::{Isa, Kernel};
use super::layouts::{FloatLayout, Layout, STEP};
use super::out::Out;
use std::marker::PhantomData;

/// Rows of a matrix, the first of them row `first`, by `N` columns, the first of them column `column`.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a, X, const N: usize> {
    /// The bytes of whole rows.
    pub data: &'a [u8],
    /// Bytes per row.
    pub row_bytes: usize,
    /// The activations.
    pub x: [X; N],
    /// Where the results go.
    pub out: &'a Out<'a>,
    /// Row of the result of the first row in `data`.
    pub first: usize,
    /// Column of the result of `x[0]`.
    pub column: usize,
}

/// [`Rows`] of a quantized format.
pub(super) struct Integer<'a, L, const N: usize>(pub Rows<'a, Column<'a>, N>, pub PhantomData<L>);

impl<L: Layout, const N: usize> Kernel for Integer<'_, L, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        let rows = self.0;
        for (r, row) in rows.data.chunks_exact(rows.row_bytes).enumerate() {
            let y = dot::<S, L, N>(s, row, &rows.x);
            rows.out.set(rows.first + r, rows.column, y);
        }
    }
}

/// Sums on the way: products, and what the offsets or minimums subtract.
#[derive(Clone, Copy)]
struct Sums<F> {
    products: [F; 2],
    subtracted: F,
}

/// One row by `N` columns.
#[inline(always)]
fn dot<S: Isa, L: Layout, const N: usize>(s: S, row: &[u8], x: &[Column<'_>; N]) -> [f32; N] {
    let zero = s.splat_f(0.0);
    let mut sums = [Sums { products: [zero; 2], subtracted: zero }; N];
    let mut steps = row.chunks_exact(L::STEP_BYTES);
    for (i, step) in steps.by_ref().enumerate() {
        let scales = scales::<S, L, N>(s, step, i, x, &mut sums);
        // Spelled out, so that the chunk's number is a constant in each.
        chunk::<S, L, N>(s, step, i, 0, x, &scales, &mut sums);
        chunk::<S, L, N>(s, step, i, 1, x, &scales, &mut sums);
        chunk::<S, L, N>(s, step, i, 2, x, &scales, &mut sums);
        chunk::<S, L, N>(s, step, i, 3, x, &scales, &mut sums);
    }
    let i = row.len() / L::STEP_BYTES;
    let tail = steps.remainder();
    if !tail.is_empty() {
        let mut padded = [0; MAX_STEP_BYTES];
        let tail = whole_pieces::<L>(tail, &mut padded);
        let scales = scales::<S, L, N>(s, tail, i, x, &mut sums);
        let chunks = tail.len() / L::PIECE_BYTES * L::CHUNKS;
        chunk::<S, L, N>(s, tail, i, 0, x, &scales, &mut sums);
        if chunks > 1 {
            chunk::<S, L, N>(s, tail, i, 1, x, &scales, &mut sums);
        }
        if chunks > 2 {
            chunk::<S, L, N>(s, tail, i, 2, x, &scales, &mut sums);
        }
        if chunks > 3 {
            chunk::<S, L, N>(s, tail, i, 3, x, &scales, &mut sums);
        }
    }
    let offset = if L::MINS { 1.0 } else { offset::<S, L>() };
    let mut y = [0.0; N];
    for n in 0..N {
        y[n] = s.sum(s.add(sums[n].products[0], sums[n].products[1])) - offset * s.sum(sums[n].subtracted);
    }
    y
}

/// The most that a layout's step takes.
pub(super) const MAX_STEP_BYTES: usize = 8 * 34;

/// `tail`, or where it ends amid a piece (an odd block of 32) its copy with a block of zeros.
#[inline(always)]
pub(super) fn whole_pieces<'a, L: Layout>(tail: &'a [u8], padded: &'a mut [u8; MAX_STEP_BYTES]) -> &'a [u8] {
    if tail.len().is_multiple_of(L::PIECE_BYTES) {
        return tail;
    }
    padded[..tail.len()].copy_from_slice(tail);
    &padded[..tail.len().next_multiple_of(L::PIECE_BYTES)]
}

/// What the integer products still have to subtract for each quant.
#[inline(always)]
pub(super) fn offset<S: Isa, L: Layout>() -> f32 {
    if S::CENTERED && L::WIDE { 0.0 } else { f32::from(L::OFFSET) }
}

/// The scales of step `i`, those of the weights times those of each column; adds what is subtracted to `sums`.
#[inline(always)]
fn scales<S: Isa, L: Layout, const N: usize>(
    s: S,
    step: &[u8],
    i: usize,
    x: &[Column<'_>; N],
    sums: &mut [Sums<S::F>; N],
) -> [S::F; N] {
    let (scales, mins) = L::scales(s, step);
    let mut products = [scales; N];
    for n in 0..N {
        if L::MINS || offset::<S, L>() != 0.0 {
            let subtracted = if L::MINS { mins } else { scales };
            sums[n].subtracted = s.fma(subtracted, s.load_f(&x[n].sums[i]), sums[n].subtracted);
        }
        products[n] = s.mul(scales, s.load_f(&x[n].scales[i]));
    }
    products
}

/// Adds the products of chunk `c` of step `i`.
#[inline(always)]
fn chunk<S: Isa, L: Layout, const N: usize>(
    s: S,
    step: &[u8],
    i: usize,
    c: usize,
    x: &[Column<'_>; N],
    scales: &[S::F; N],
    sums: &mut [Sums<S::F>; N],
) {
    let quants = L::quants(s, step, c);
    for n in 0..N {
        let products = match L::WIDE {
            true => s.dot::<true>(s.splat_i(0), quants, &x[n].quants[4 * i + c]),
            false => s.dot::<false>(s.splat_i(0), quants, &x[n].quants[4 * i + c]),
        };
        let sum = &mut sums[n].products[c % 2];
        *sum = s.fma(s.to_f(products), s.spread(scales[n], c), *sum);
    }
}

/// [`Rows`] of a floating point format.
pub(super) struct Float<'a, L, const N: usize>(pub Rows<'a, &'a [f32], N>, pub PhantomData<L>);

impl<L: FloatLayout, const N: usize> Kernel for Float<'_, L, N> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        let rows = self.0;
        for (r, row) in rows.data.chunks_exact(rows.row_bytes).enumerate() {
            let y = float_dot::<S, L, N>(s, row, &rows.x);
            rows.out.set(rows.first + r, rows.column, y);
        }
    }
}

/// One row of floats by `N` columns.
#[inline(always)]
pub(super) fn float_dot<S: Isa, L: FloatLayout, const N: usize>(s: S, row: &[u8], x: &[&[f32]; N]) -> [f32; N] {
    let mut sums = [[s.splat_f(0.0); 4]; N];
    let x = x.map(|x| x.as_chunks::<16>());
    let mut steps = row.chunks_exact(4 * 16 * L::BYTES);
    for (i, step) in steps.by_ref().enumerate() {
        for u in 0..4 {
            let w = L::load(s, &step[u * 16 * L::BYTES..][..16 * L::BYTES]);
            for n in 0..N {
                sums[n][u] = s.fma(w, s.load_f(&x[n].0[4 * i + u]), sums[n][u]);
            }
        }
    }
    let done = row.len() / (64 * L::BYTES) * 4;
    for (i, step) in steps.remainder().chunks(16 * L::BYTES).enumerate() {
        let w = L::load_some(s, step);
        for n in 0..N {
            let (whole, rest) = x[n];
            let mut padded = [0.0; 16];
            let x = whole.get(done + i).unwrap_or_else(|| {
                padded[..rest.len()].copy_from_slice(rest);
                &padded
            });
            sums[n][i] = s.fma(w, s.load_f(x), sums[n][i]);
        }
    }
    let mut y = [0.0; N];
    for n in 0..N {
        let [a, b, c, d] = sums[n];
        y[n] = s.sum(s.add(s.add(a, b), s.add(c, d)));
    }
    y
}

const _: () = assert!(STEP == 4 * super::layouts::CHUNK);
