//! Sharing work among the threads of the current rayon pool, at the cost of one `join`.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls `work(slot, i)` once for each `i < count`, from up to `threads` threads at a time.
///
/// Every thread takes the next `i` as it gets free, so that a thread that comes late (it slept, or another process has
/// its core) delays nobody: the caller does the rest itself and does not wait for it. `slot < threads` is different for
/// calls that overlap in time: an index for buffers of a thread's own.
pub(crate) fn for_each(threads: usize, count: usize, work: &(impl Fn(usize, usize) + Sync)) {
    let next = AtomicUsize::new(0);
    let run = |slot: usize| {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            work(slot, i);
        }
    };
    fork(0, threads.min(count).max(1), &run);
}

/// Calls `run` for the slots `from..to`, in parallel where threads are free.
fn fork(from: usize, to: usize, run: &(impl Fn(usize) + Sync)) {
    if to - from == 1 {
        return run(from);
    }
    let middle = (from + to).div_ceil(2);
    rayon::join(|| fork(from, middle, run), || fork(middle, to, run));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_item_is_worked_once_whatever_the_threads() {
        for (threads, count) in [(1, 0), (1, 5), (2, 1), (3, 100), (8, 17)] {
            let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                for_each(threads, count, &|slot, i| {
                    assert!(slot < threads);
                    seen[i].fetch_add(1, Ordering::Relaxed);
                })
            });
            assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} threads, {count} items");
        }
    }
}
