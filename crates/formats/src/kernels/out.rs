//! The result of a product, written by several threads at once.

use super::isa::Isa;
use std::marker::PhantomData;

/// `y[column * rows + row]`, of which each thread writes rows of its own.
pub(super) struct Out<'a> {
    y: *mut f32,
    len: usize,
    rows: usize,
    columns: usize,
    lifetime: PhantomData<&'a mut [f32]>,
}

// SAFETY: threads share an `Out` only as `Out::new` demands, and so never touch the same element.
unsafe impl Sync for Out<'_> {}

impl<'a> Out<'a> {
    /// The result of `rows` rows in `y`.
    ///
    /// # Safety
    /// No two threads may write the same row at the same time.
    pub unsafe fn new(y: &'a mut [f32], rows: usize) -> Self {
        Out { rows, columns: y.len() / rows.max(1), len: y.len(), y: y.as_mut_ptr(), lifetime: PhantomData }
    }

    /// The elements of `count` rows from `row` in `column`.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "`Out::new` demands that rows are not shared")]
    fn elements(&self, row: usize, column: usize, count: usize) -> &mut [f32] {
        let at = column * self.rows + row;
        assert!(row + count <= self.rows && at + count <= self.len);
        // SAFETY: within `y` by the assertion; no other thread has these rows, and each caller below is done with its
        // slice before it returns.
        unsafe { std::slice::from_raw_parts_mut(self.y.add(at), count) }
    }

    /// Sets `row` in the columns from `column` on, those that there are.
    #[inline(always)]
    pub fn set<const N: usize>(&self, row: usize, column: usize, values: [f32; N]) {
        for (n, v) in values.into_iter().enumerate().take(self.columns - column) {
            self.elements(row, column + n, 1)[0] = v;
        }
    }

    /// Sets `count` rows from `row` in `column` to the lanes of `values`, or adds them.
    #[inline(always)]
    pub fn put<S: Isa>(&self, s: S, row: usize, count: usize, column: usize, values: S::F, add: bool) {
        let y = self.elements(row, column, count);
        let mut lanes = [0.0; 16];
        if let Ok(y) = <&mut [f32; 16]>::try_from(&mut *y) {
            let values = if add { s.add(s.load_f(y), values) } else { values };
            return s.store_f(values, y);
        }
        s.store_f(values, &mut lanes);
        for (y, lane) in y.iter_mut().zip(lanes) {
            *y = if add { *y + lane } else { lane };
        }
    }
}
