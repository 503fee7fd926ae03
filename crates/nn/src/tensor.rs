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
        self.pool.free().buffers.push(std::mem::take(&mut self.buffer));
    }
}

/// Free buffers of one sequence, or of a training run's steps.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Mutex<Free>>);

#[derive(Default)]
struct Free {
    buffers: Vec<Vec<f32>>,
    /// Of the longest pass.
    rows: usize,
}

impl Pool {
    /// Begins a pass over so many rows. What shorter ones left is too small for those of more rows: it would stay beside theirs, a little more of
    /// it with every new longest pass.
    pub(crate) fn begin_pass(&self, rows: usize) {
        let mut free = self.free();
        if rows > free.rows {
            *free = Free { buffers: Vec::new(), rows };
        }
    }

    /// A tensor with unspecified contents: of the free buffers that are large enough the smallest, or a new one.
    pub(crate) fn take(&self, rows: usize, cols: usize) -> Tensor {
        let len = rows * cols;
        let mut free = self.free();
        let fitting = free.buffers.iter().enumerate().filter(|(_, b)| b.len() >= len).min_by_key(|(_, b)| b.len());
        let buffer = match fitting.map(|(i, _)| i) {
            Some(i) => free.buffers.swap_remove(i),
            None => vec![0.0; len],
        };
        Tensor { buffer, rows, cols, pool: self.clone() }
    }

    fn free(&self) -> std::sync::MutexGuard<'_, Free> {
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

    #[test]
    fn a_longer_pass_leaves_nothing_of_shorter_ones() {
        let pool = Pool::default();
        for rows in [2, 5, 3, 9, 1] {
            pool.begin_pass(rows);
            let layers = [pool.take(rows, 4), pool.take(rows, 7)];
            drop(layers);
        }
        let held: usize = pool.free().buffers.iter().map(Vec::len).sum();
        assert_eq!(held, 9 * (4 + 7), "what the longest needs");
    }
}
