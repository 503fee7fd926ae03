//! Matrix products for training and calibration: views with strides over f32, multiplied by the `gemm` crate.

use crate::vector::simd;
use gemm::Parallelism;
use std::ops::Range;

/// A matrix to read, whose element `(row, col)` lies at `row * row_stride + col * col_stride`.
#[derive(Clone, Copy)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// All of `data`, row by row.
    ///
    /// # Panics
    /// If `data` is not whole rows of `cols`.
    pub fn new(data: &'a [f32], cols: usize) -> Self {
        assert!(cols > 0 && data.len().is_multiple_of(cols), "{} elements in rows of {cols}", data.len());
        View { data, rows: data.len() / cols, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transposed matrix, without moving anything.
    pub fn transposed(self) -> Self {
        let View { data, rows, cols, row_stride, col_stride } = self;
        View { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }

    /// The elements in these rows and columns.
    ///
    /// # Panics
    /// If there are not as many.
    pub fn part(self, rows: Range<usize>, cols: Range<usize>) -> Self {
        assert!(rows.start <= rows.end && rows.end <= self.rows && cols.start <= cols.end && cols.end <= self.cols);
        let first = rows.start * self.row_stride + cols.start * self.col_stride;
        View { data: &self.data[first.min(self.data.len())..], rows: rows.len(), cols: cols.len(), ..self }
    }

    fn end(&self) -> usize {
        match self.rows * self.cols {
            0 => 0,
            _ => (self.rows - 1) * self.row_stride + (self.cols - 1) * self.col_stride + 1,
        }
    }
}

/// On how many threads to multiply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// On the calling thread: within a loop that is parallel itself.
    One,
    /// On all of the current rayon pool.
    All,
}

/// `c = alpha a b`, or `c += alpha a b` if `add`; `c` is `[a.rows, b.cols]` row by row.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn multiply(c: &mut [f32], add: bool, alpha: f32, a: View<'_>, b: View<'_>, threads: Threads) {
    let (m, n, k) = (a.rows, b.cols, a.cols);
    assert_eq!(k, b.rows, "the inner dimensions of a product are equal");
    assert_eq!(c.len(), m * n, "the output of a product is [{m}, {n}]");
    assert!(a.end() <= a.data.len() && b.end() <= b.data.len());
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    let stride = |s: usize| s as isize;
    // SAFETY: each pointer with its strides stays inside its slice (asserted above), and `c` is borrowed for writing, so
    // that it overlaps neither `a` nor `b`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            1,
            stride(n),
            add,
            a.data.as_ptr(),
            stride(a.col_stride),
            stride(a.row_stride),
            b.data.as_ptr(),
            stride(b.col_stride),
            stride(b.row_stride),
            1.0,
            alpha,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `y += x m`: of `m` only the first `x.len()` rows, each `stride` after the other, and the first `y.len()` columns. For products too small for
/// [`multiply`].
pub fn add_product(y: &mut [f32], x: &[f32], m: &[f32], stride: usize) {
    simd(
        #[inline(always)]
        || {
            for (i, x) in x.iter().enumerate() {
                for (y, m) in y.iter_mut().zip(&m[i * stride..]) {
                    *y += x * m;
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_matrix_is_multiplied_and_added() {
        let (m, x) = ((0..12).map(|i| i as f32).collect::<Vec<f32>>(), [2.0, -1.0]); // [3, 4]
        let mut y = [1.0, 1.0, 1.0];
        add_product(&mut y, &x, &m[1..], 4);
        let mut product = [0.0; 3];
        multiply(&mut product, false, 1.0, View::new(&x, 2), View::new(&m, 4).part(0..2, 1..4), Threads::One);
        assert_eq!(y, product.map(|v| v + 1.0));
        add_product(&mut [], &x, &m[8..], 4);
    }

    #[test]
    fn products_of_transposed_views_accumulate() {
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]; // [2, 3]
        let b = [1.0, 0.0, 2.0, -1.0, 1.0, 1.0]; // [2, 3]
        let mut c = [10.0; 4];
        multiply(&mut c, true, 2.0, View::new(&a, 3), View::new(&b, 3).transposed(), Threads::One);
        assert_eq!(c, [10.0 + 14.0, 10.0 + 8.0, 10.0 + 32.0, 10.0 + 14.0]);
        let mut c = [f32::NAN; 9];
        multiply(&mut c, false, 1.0, View::new(&a, 3).transposed(), View::new(&b, 3), Threads::All);
        assert_eq!(c, [-3.0, 4.0, 6.0, -3.0, 5.0, 9.0, -3.0, 6.0, 12.0]);
    }

    #[test]
    fn parts_of_matrices_are_multiplied_in_place() {
        let a: Vec<f32> = (0..12).map(|v| v as f32).collect(); // [3, 4]
        let part = View::new(&a, 4).part(1..3, 2..4); // [[6, 7], [10, 11]]
        let mut c = [0.0; 4];
        multiply(&mut c, false, 1.0, part, part.transposed(), Threads::One);
        assert_eq!(c, [36.0 + 49.0, 60.0 + 77.0, 60.0 + 77.0, 100.0 + 121.0]);
        let mut c = [7.0; 2];
        multiply(&mut c, true, 1.0, View::new(&a, 4).part(0..2, 1..1), View::new(&a, 4).part(0..0, 0..1), Threads::One);
        assert_eq!(c, [7.0; 2], "an empty inner dimension adds nothing");
    }

    #[test]
    #[should_panic(expected = "inner dimensions")]
    fn shapes_that_do_not_fit_are_refused() {
        multiply(&mut [0.0; 4], false, 1.0, View::new(&[0.0; 6], 3), View::new(&[0.0; 4], 2), Threads::One);
    }
}
