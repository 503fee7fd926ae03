//! Weighted sums of a matrix's rows: the product with the transpose, on the calling thread alone.

#![allow(clippy::needless_range_loop, reason = "plain loops over registers: see `rows`")]

use super::isa::{Isa, Kernel, Level};
use super::layouts::FloatLayout;
use super::{Matrix, Scratch};
use std::marker::PhantomData;

/// Computes `y[i, c] += sum_r x[i, r] * w[r, c]`: `x` is `n` rows of `w.rows`, `y` is `n` rows of `w.cols`.
///
/// It is for small matrices that one of many threads works on, and runs on the calling thread.
///
/// # Panics
/// If the lengths of `x`, `y` or `w.data` do not match the shapes, or the format is not floating point.
pub fn accumulate(w: &Matrix<'_>, x: &[f32], y: &mut [f32], scratch: &Scratch) {
    assert_eq!(w.format.bytes_of(w.cols).map(|bytes| bytes * w.rows), Some(w.data.len()), "the data has another shape");
    assert_eq!(x.len() * w.cols, y.len() * w.rows, "x and y differ in their rows");
    let accumulate = w.format.product.accumulate.expect("weighted sums are of floating point formats");
    if !w.data.is_empty() {
        accumulate(scratch.level, w, x, y);
    }
}

/// [`accumulate`] compiled for a format.
pub(super) type AccumulateFn = fn(Level, &Matrix<'_>, &[f32], &mut [f32]);

/// The sums over the rows of a matrix in the layout `L`.
pub(super) struct Accumulate<'a, L> {
    pub w: &'a Matrix<'a>,
    pub x: &'a [f32],
    pub y: &'a mut [f32],
    pub layout: PhantomData<L>,
}

impl<L: FloatLayout> Kernel for Accumulate<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(mut self, s: S) {
        let n = self.x.len() / self.w.rows;
        let mut i = 0;
        while i < n {
            i += match (n - i).min(S::COLUMNS) {
                12.. => self.sums::<S, 12, 1>(s, i),
                4.. => self.sums::<S, 4, 2>(s, i),
                3 => self.sums::<S, 3, 2>(s, i),
                _ => self.sums::<S, 1, 2>(s, i),
            };
        }
    }
}

impl<L: FloatLayout> Accumulate<'_, L> {
    /// The `N` sums from `i`, `W` vectors of columns at a time. Returns `N`.
    #[inline(always)]
    fn sums<S: Isa, const N: usize, const W: usize>(&mut self, s: S, i: usize) -> usize {
        let mut c = 0;
        while c < self.w.cols {
            if c + 16 * W <= self.w.cols {
                self.tile::<S, N, W>(s, i, c);
                c += 16 * W;
            } else {
                self.tile::<S, N, 1>(s, i, c);
                c += 16;
            }
        }
        N
    }

    /// The columns from `c` of the `N` sums from `i`.
    #[inline(always)]
    fn tile<S: Isa, const N: usize, const W: usize>(&mut self, s: S, i: usize, c: usize) {
        let Matrix { data, rows, cols, .. } = *self.w;
        let x: [_; N] = std::array::from_fn(|n| &self.x[(i + n) * rows..][..rows]);
        let bytes = c * L::BYTES..(c + 16 * W).min(cols) * L::BYTES;
        let mut sums = [[s.splat_f(0.0); W]; N];
        for (r, row) in data.chunks_exact(cols * L::BYTES).enumerate() {
            let row = &row[bytes.clone()];
            for v in 0..W {
                let w = L::load_some(s, &row[v * 16 * L::BYTES..]);
                for n in 0..N {
                    sums[n][v] = s.fma(w, s.splat_f(x[n][r]), sums[n][v]);
                }
            }
        }
        for n in 0..N {
            for v in 0..W {
                let mut lanes = [0.0; 16];
                s.store_f(sums[n][v], &mut lanes);
                let at = (i + n) * cols + c + 16 * v;
                for (y, lane) in self.y[at..(i + n + 1) * cols].iter_mut().zip(&lanes) {
                    *y += lane;
                }
            }
        }
    }
}
