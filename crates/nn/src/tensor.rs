//! Activations whose memory returns to a pool.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Rows of f32; its memory returns to the pool when it is dropped.
pub struct Tensor {
    /// At least `rows * cols` long.
    buffer: Vec<f32>,
    rows: usize,
    cols: usize,
    pool: Pool,
}

impl Tensor {
    /// The number of rows, one per token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The width of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }
}

impl Deref for Tensor {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.buffer[..self.rows * self.cols]
    }
}

impl DerefMut for Tensor {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.rows * self.cols]
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        self.pool.free().push(std::mem::take(&mut self.buffer));
    }
}

/// Free buffers of one sequence.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Vec<Vec<f32>>>>);

impl Pool {
    /// A tensor with unspecified contents: of the free buffers that are large enough the smallest, or a new one.
    pub(crate) fn take(&self, rows: usize, cols: usize) -> Tensor {
        let len = rows * cols;
        let mut free = self.free();
        let fitting = free.iter().enumerate().filter(|(_, b)| b.len() >= len).min_by_key(|(_, b)| b.len());
        let buffer = match fitting.map(|(i, _)| i) {
            Some(i) => free.swap_remove(i),
            None => vec![0.0; len],
        };
        Tensor { buffer, rows, cols, pool: self.clone() }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Vec<Vec<f32>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_reused_smallest_first() {
        let pool = Pool::default();
        let (small, large) = (pool.take(1, 8), pool.take(4, 8));
        let (small_at, large_at) = (small.as_ptr(), large.as_ptr());
        drop((large, small));
        assert_eq!(pool.take(1, 7).as_ptr(), small_at);
        assert_eq!(pool.take(1, 9).as_ptr(), large_at);
        assert_eq!(pool.take(2, 3).len(), 6);
    }
}
