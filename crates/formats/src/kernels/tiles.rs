//! Many columns: 16 rows at a time are unpacked once into a panel ([`super::panels`]), which is multiplied with all
//! columns of activations, as many at a time as the registers allow.
//!
//! Within a group that shares a scale the sums are integers, exact; groups are added in f32.

#![allow(clippy::needless_range_loop, reason = "plain loops over registers: see `rows`")]

use super::activations::{Activations, Column, SCALED};
use super::isa::{Isa, Kernel, Level};
use super::layouts::Layout;
use super::panels::Panel;
use super::parallel;
use super::product::Task;
use std::ops::Range;

/// What is done with the columns of activations tile by tile.
pub(super) trait Tiles {
    /// The `N` columns from `column`.
    fn tile<S: Isa, const N: usize>(&mut self, s: S, column: usize);
}

/// Shares `n` columns out to tiles of `most`, as many as the registers allow, and smaller ones for the rest.
#[inline(always)]
pub(super) fn each_tile<S: Isa>(s: S, most: usize, n: usize, tiles: &mut impl Tiles) {
    let mut i = 0;
    while i < n {
        match (n - i).min(most) {
            12.. => {
                tiles.tile::<S, 12>(s, i);
                i += 12;
            }
            6.. => {
                tiles.tile::<S, 6>(s, i);
                i += 6;
            }
            4.. => {
                tiles.tile::<S, 4>(s, i);
                i += 4;
            }
            3 => {
                tiles.tile::<S, 3>(s, i);
                i += 3;
            }
            2 => {
                tiles.tile::<S, 2>(s, i);
                i += 2;
            }
            _ => {
                tiles.tile::<S, 1>(s, i);
                i += 1;
            }
        }
    }
}

/// What the tile product must know of a layout.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    group: usize,
    offset: u8,
    mins: bool,
    wide: bool,
}

impl Shape {
    /// Of the layout `L`.
    pub const fn of<L: Layout>() -> Self {
        Shape { group: L::GROUP, offset: L::OFFSET, mins: L::MINS, wide: L::WIDE }
    }

    /// Computes the tile of the rows in `panel` and all columns.
    pub fn multiply(self, level: Level, task: &Task<'_>, starts: &Starts, panel: &Panel) {
        match self {
            Shape { group: 32, mins: true, .. } => level.dispatch(Integer::<8, true, false> { task, starts, panel }),
            Shape { group: 32, wide: true, .. } => level.dispatch(Integer::<8, false, true> { task, starts, panel }),
            Shape { group: 32, .. } => level.dispatch(Integer::<8, false, false> { task, starts, panel }),
            Shape { mins: true, .. } => level.dispatch(Integer::<4, true, false> { task, starts, panel }),
            Shape { wide: true, .. } => level.dispatch(Integer::<4, false, true> { task, starts, panel }),
            Shape { .. } => level.dispatch(Integer::<4, false, false> { task, starts, panel }),
        }
    }
}

/// What each column contributes to the start of each group's sum, whatever the row.
#[derive(Default)]
pub(super) struct Starts {
    /// For each column and each group: minus the offset times the sum of the activations' quants, or with minimums the
    /// bits of minus the sum of the activations.
    values: Vec<i32>,
    per_column: usize,
}

impl Starts {
    /// Computes them from all columns of `x`, of which `len` activations count.
    pub fn prepare(&mut self, shape: Shape, level: Level, x: &Activations, len: usize) {
        /// Values that a thread adds up at a time.
        const AT_ONCE: usize = 16 * 1024;
        self.per_column = len.div_ceil(shape.group);
        self.values.resize(x.n * self.per_column, 0);
        let (per_column, at_once) = (self.per_column, AT_ONCE.div_ceil(len));
        parallel::for_each_part(&mut self.values, at_once * per_column, |part, values| {
            for (i, starts) in (part * at_once..).zip(values.chunks_exact_mut(per_column)) {
                level.dispatch(Start { shape, x: x.column(i), starts });
            }
        });
    }

    fn column(&self, i: usize) -> &[i32] {
        &self.values[i * self.per_column..][..self.per_column]
    }
}

/// The starts of one column.
struct Start<'a> {
    shape: Shape,
    x: Column<'a>,
    starts: &'a mut [i32],
}

impl Kernel for Start<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, _: S) {
        let offset = if S::CENTERED && self.shape.wide { 0 } else { i32::from(self.shape.offset) };
        let quants = self.x.quants.as_flattened().chunks_exact(self.shape.group);
        let sums = self.x.sums.as_flattened().chunks_exact(self.shape.group / SCALED);
        for ((start, quants), sums) in self.starts.iter_mut().zip(quants).zip(sums) {
            *start = if self.shape.mins {
                (-sums.iter().sum::<f32>()).to_bits().cast_signed()
            } else {
                -offset * quants.iter().map(|&q| i32::from(q)).sum::<i32>()
            };
        }
    }
}

/// The product of a panel with groups of `4 * G` weights and all columns.
struct Integer<'a, const G: usize, const MINS: bool, const WIDE: bool> {
    task: &'a Task<'a>,
    starts: &'a Starts,
    panel: &'a Panel,
}

impl<const G: usize, const MINS: bool, const WIDE: bool> Kernel for Integer<'_, G, MINS, WIDE> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(mut self, s: S) {
        each_tile(s, S::COLUMNS, self.task.quantized.n, &mut self);
    }
}

impl<const G: usize, const MINS: bool, const WIDE: bool> Tiles for Integer<'_, G, MINS, WIDE> {
    #[inline(always)]
    fn tile<S: Isa, const N: usize>(&mut self, s: S, column: usize) {
        let quants = self.panel.quants().as_chunks::<G>().0;
        let scales = self.panel.scales().as_chunks::<2>().0;
        let x: [_; N] = std::array::from_fn(|n| {
            let x = self.task.quantized.column(column + n);
            let quants = x.quants.as_flattened().as_chunks::<4>().0.as_chunks::<G>().0;
            (quants, x.scales.as_flattened(), self.starts.column(column + n))
        });

        let mut sums = [s.splat_f(0.0); N];
        for g in 0..self.starts.per_column {
            let mut products = [s.splat_i(0); N];
            if !MINS {
                for n in 0..N {
                    products[n] = s.splat_i(x[n].2[g]);
                }
            }
            for k in 0..G {
                let w = s.load(&quants[g][k].0);
                for n in 0..N {
                    products[n] = s.dot_splat::<WIDE>(products[n], w, x[n].0[g][k]);
                }
            }
            // Scales come for every 16 weights, with their minimums.
            let at = g * G * 4 / SCALED;
            let (scale, min) = (s.load_f(&scales[at][0].0), s.load_f(&scales[at][1].0));
            for n in 0..N {
                let scale = s.mul(scale, s.splat_f(x[n].1[at]));
                sums[n] = s.fma(s.to_f(products[n]), scale, sums[n]);
                if MINS {
                    let x = s.splat_f(f32::from_bits(x[n].2[g].cast_unsigned()));
                    sums[n] = s.fma(min, x, sums[n]);
                }
            }
        }
        let rows = self.task.rows();
        for n in 0..N {
            self.task.out.put(s, self.task.first, rows, column + n, sums[n], false);
        }
    }
}

/// The product of a panel of floats, which holds the weights `block` of the rows, with all columns.
pub(super) struct Float<'a> {
    /// The rows and columns.
    pub task: &'a Task<'a>,
    /// The weights `block` of each row.
    pub block: Range<usize>,
    /// The rows, unpacked.
    pub panel: &'a Panel,
}

impl Kernel for Float<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(mut self, s: S) {
        each_tile(s, S::FLOAT_COLUMNS, self.task.x.len() / self.task.len, &mut self);
    }
}

impl Tiles for Float<'_> {
    #[inline(always)]
    fn tile<S: Isa, const N: usize>(&mut self, s: S, column: usize) {
        let len = self.block.len();
        let lines = &self.panel.quants()[..len];
        let x = &self.task.interleaved.tile::<N>(column, self.task.len)[self.block.clone()][..len];
        let mut sums = [s.splat_f(0.0); N];
        for k in 0..len {
            let w = s.from_bits(s.load(&lines[k].0));
            for n in 0..N {
                sums[n] = s.fma(w, s.splat_f(x[k][n]), sums[n]);
            }
        }
        let rows = self.task.rows();
        for n in 0..N {
            self.task.out.put(s, self.task.first, rows, column + n, sums[n], self.block.start > 0);
        }
    }
}
