//! Activations in f32 in the order in which tiles take them.

#![allow(clippy::needless_range_loop, reason = "plain loops over registers: see `rows`")]

use super::isa::{Isa, Kernel, Level};
use super::parallel;
use super::tiles::{Tiles, each_tile};

/// Columns of activations, the `N` columns of each tile interleaved: a tile reads them as one stream of memory, where
/// columns of their own would be `N` streams and, if their length is a power of two, fight for the same lines of the cache.
#[derive(Default)]
pub(super) struct Interleaved(Vec<f32>);

impl Interleaved {
    /// Interleaves the columns of `x`, each of `len` values.
    pub fn prepare(&mut self, level: Level, x: &[f32], len: usize) {
        /// A multiple of the columns of every tile but the last ones.
        const AT_ONCE: usize = 12;
        self.0.resize(x.len(), 0.0);
        parallel::for_each_part(&mut self.0, AT_ONCE * len, |i, interleaved| {
            let x = &x[i * AT_ONCE * len..][..interleaved.len()];
            level.dispatch(Interleave { x, len, interleaved });
        });
    }

    /// The `N` columns of the tile that starts with `column`, value by value.
    #[inline(always)]
    pub fn tile<const N: usize>(&self, column: usize, len: usize) -> &[[f32; N]] {
        self.0[column * len..][..N * len].as_chunks().0
    }
}

/// Interleaves some columns.
struct Interleave<'a> {
    x: &'a [f32],
    len: usize,
    interleaved: &'a mut [f32],
}

impl Kernel for Interleave<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(mut self, s: S) {
        each_tile(s, S::FLOAT_COLUMNS, self.x.len() / self.len, &mut self);
    }
}

impl Tiles for Interleave<'_> {
    #[inline(always)]
    fn tile<S: Isa, const N: usize>(&mut self, _: S, column: usize) {
        let x: [_; N] = std::array::from_fn(|n| &self.x[(column + n) * self.len..][..self.len]);
        let tile: &mut [[_; N]] = self.interleaved[column * self.len..].as_chunks_mut().0;
        for (k, values) in tile[..self.len].iter_mut().enumerate() {
            for n in 0..N {
                values[n] = x[n][k];
            }
        }
    }
}
