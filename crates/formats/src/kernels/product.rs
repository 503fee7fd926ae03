//! How a format's rows are multiplied: the kernels compiled for its layout.

use super::accumulate::{Accumulate, AccumulateFn};
use super::activations::Activations;
use super::decoded;
use super::interleaved::Interleaved;
use super::isa::Level;
use super::layouts::{FloatLayout, Layout};
use super::out::Out;
use super::panels::{FLOAT_BLOCK, Pack, PackFloats, Panel};
use super::rows;
use super::tiles::{self, Shape, Starts};
use crate::blocks::layout;
use crate::format::Activation;
use std::marker::PhantomData;

/// Runs `$body` for the columns of `$task` in runs of `$n`, a constant: `$column` are their numbers.
///
/// Runs that are not full repeat the last column, whose result is the same each time; so two sizes are enough.
macro_rules! each_few_columns {
    ($task:ident, $n:ident, $column:ident, $body:block) => {
        let count = $task.x.len() / $task.len;
        for first in (0..count).step_by(4) {
            if count - first == 1 {
                const $n: usize = 1;
                let $column = [first];
                $body
            } else {
                const $n: usize = 4;
                let $column = [0, 1, 2, 3].map(|n| count.min(first + n + 1) - 1);
                $body
            }
        }
    };
}

/// How a format's rows are multiplied with activations: the kernels compiled for its layout.
pub struct Product {
    /// The form that the activations must have.
    pub activation: Activation,
    pub(super) rows: fn(Level, &Task<'_>),
    pub(super) starts: fn(&mut Starts, Level, &Task<'_>),
    pub(super) tile: fn(Level, &Task<'_>, &Starts, &mut Panel),
    /// Weighted sums of rows, of floating point formats.
    pub(super) accumulate: Option<AccumulateFn>,
}

/// Some rows of a matrix, to be multiplied with all columns of activations.
pub(super) struct Task<'a> {
    /// The bytes of the rows.
    pub data: &'a [u8],
    /// Bytes per row.
    pub row_bytes: usize,
    /// Weights per row.
    pub len: usize,
    /// Row of the result of the first row in `data`.
    pub first: usize,
    /// The activations, `n` columns of `len`.
    pub x: &'a [f32],
    /// The activations in the form that the product asks for.
    pub quantized: &'a Activations,
    /// The activations as tiles of floats take them.
    pub interleaved: &'a Interleaved,
    /// Where the results go.
    pub out: &'a Out<'a>,
}

impl Product {
    /// Of a quantized layout.
    pub(crate) const fn integer<L: Layout>() -> Self {
        Product {
            activation: L::ACTIVATION,
            rows: |level, task| {
                each_few_columns!(task, N, column, {
                    let x = column.map(|i| task.quantized.column(i));
                    level.dispatch(rows::Integer(task.by::<_, N>(x, column[0]), PhantomData::<L>));
                });
            },
            starts: |starts, level, task| starts.prepare(Shape::of::<L>(), level, task.quantized, task.len),
            tile: |level, task, starts, panel| {
                level.dispatch(Pack { task, panel, layout: PhantomData::<L> });
                Shape::of::<L>().multiply(level, task, starts, panel);
            },
            accumulate: None,
        }
    }

    /// Of a floating point layout.
    pub(crate) const fn float<L: FloatLayout>() -> Self {
        Product {
            activation: Activation::F32,
            rows: |level, task| {
                each_few_columns!(task, N, column, {
                    let x = column.map(|i| &task.x[i * task.len..][..task.len]);
                    level.dispatch(rows::Float(task.by::<_, N>(x, column[0]), PhantomData::<L>));
                });
            },
            starts: |_, _, _| (),
            tile: |level, task, _, panel| {
                for start in (0..task.len).step_by(FLOAT_BLOCK) {
                    let block = start..task.len.min(start + FLOAT_BLOCK);
                    level.dispatch(PackFloats { task, block: block.clone(), panel, layout: PhantomData::<L> });
                    level.dispatch(tiles::Float { task, block, panel });
                }
            },
            accumulate: Some(|level, w, x, y| level.dispatch(Accumulate { w, x, y, layout: PhantomData::<L> })),
        }
    }

    /// Of a layout whose weights are decoded and multiplied in f32 with `activation`.
    pub(crate) const fn decoded<L: layout::Layout>(activation: Activation) -> Self {
        Product {
            activation,
            rows: |level, task| {
                each_few_columns!(task, N, column, {
                    let x = column.map(|i| &task.x[i * task.len..][..task.len]);
                    level.dispatch(decoded::Rows(task.by::<_, N>(x, column[0]), PhantomData::<L>));
                });
            },
            starts: |_, _, _| (),
            tile: |level, task, _, panel| {
                let mut weights = std::mem::take(&mut panel.decoded);
                for start in (0..task.len).step_by(FLOAT_BLOCK) {
                    let block = start..task.len.min(start + FLOAT_BLOCK);
                    let unpacked = decoded::rows::<L>(task, block.clone(), &mut weights);
                    level.dispatch(PackFloats {
                        task: &unpacked,
                        block: 0..block.len(),
                        panel,
                        layout: PhantomData::<super::layouts::F32>,
                    });
                    level.dispatch(tiles::Float { task, block, panel });
                }
                panel.decoded = weights;
            },
            accumulate: None,
        }
    }
}

impl<'a> Task<'a> {
    /// Rows in `data`.
    pub fn rows(&self) -> usize {
        self.data.len() / self.row_bytes
    }

    /// The rows by the columns `x`, the first of them `column`.
    fn by<X, const N: usize>(&self, x: [X; N], column: usize) -> rows::Rows<'a, X, N> {
        rows::Rows { data: self.data, row_bytes: self.row_bytes, x, out: self.out, first: self.first, column }
    }
}
