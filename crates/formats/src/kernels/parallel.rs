//! Sharing work among the threads of the current rayon pool.
//!
//! A model's step is hundreds of short loops, each of which needs the result of the one before. Rayon's threads fall asleep
//! between them, and waking one takes longer than many of the loops. So the threads are borrowed for a whole stretch of
//! work: within [`section`] they wait for the next [`for_each`] awake, which then costs a fraction of a microsecond.

use std::cell::{RefCell, UnsafeCell};
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Runs `lead` on the calling thread, while the other threads of the pool stand by for each [`for_each`] in it.
///
/// They take a processor each for as long as it lasts. Call it from a thread of the pool; otherwise the pool runs `lead`.
pub fn section<R: Send>(lead: impl FnOnce() -> R + Send) -> R {
    let threads = rayon::current_num_threads();
    if threads == 1 || ROLE.with_borrow(|role| !matches!(role, Role::Free)) {
        return lead();
    }
    let team = Arc::new(Team::default());
    let lead = || {
        ROLE.set(Role::Leader(team.clone()));
        let _end = OnDrop(|| {
            ROLE.set(Role::Free);
            team.ended.store(true, Ordering::Release);
        });
        lead()
    };
    rayon::join(lead, || fork(1, threads, &|slot| team.serve(slot))).0
}

/// Calls `work(slot, i)` once for each `i < count`, on all threads of the pool that are free.
///
/// Every thread takes the next `i` as it gets free, so that a thread that comes late (it slept, or another process has
/// its core) delays nobody: the caller does the rest itself. `slot` is below the number of the pool's threads and
/// different for calls that overlap in time: an index for buffers of a thread's own. Within `work` a further `for_each`
/// has the calling thread alone.
pub fn for_each(count: usize, work: impl Fn(usize, usize) + Sync) {
    if count <= 1 || rayon::current_num_threads() == 1 {
        return (0..count).for_each(|i| work(0, i));
    }
    let together = || match ROLE.replace(Role::Working) {
        Role::Leader(team) => {
            team.work_together(count, &work);
            ROLE.set(Role::Leader(team));
        }
        _ => (0..count).for_each(|i| work(0, i)),
    };
    section(together);
}

/// [`for_each`] of the parts of `x` that are `len` long (the last may be shorter): `work` takes a part's number and it.
pub fn for_each_part<T: Send>(x: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    let parts = Parts::of(x, len);
    // SAFETY: `for_each` gives each number once.
    for_each(parts.count(), |_, i| work(i, unsafe { parts.take(i) }));
}

/// A slice in parts that several threads take at the same time.
pub(super) struct Parts<'a, T> {
    start: *mut T,
    all: usize,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: threads get parts of their own, as `Parts::take` demands; so this is a slice sent to them in parts.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    /// `x` in parts of `len`, the last perhaps shorter.
    pub fn of(x: &'a mut [T], len: usize) -> Self {
        assert!(len > 0, "parts have a length");
        Parts { start: x.as_mut_ptr(), all: x.len(), len, lifetime: PhantomData }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all.div_ceil(self.len)
    }

    /// Part `i`.
    ///
    /// # Safety
    /// Nobody may have taken part `i` before.
    #[allow(clippy::mut_from_ref, reason = "each part is taken once")]
    pub unsafe fn take(&self, i: usize) -> &'a mut [T] {
        assert!(i < self.count(), "there are {} parts", self.count());
        let start = i * self.len;
        // SAFETY: within `x` by the assertion, and the caller has this part alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), self.len.min(self.all - start)) }
    }
}

thread_local! {
    static ROLE: RefCell<Role> = const { RefCell::new(Role::Free) };
}

/// What a thread is to the loops that it comes to.
enum Role {
    /// Outside of sections.
    Free,
    /// It leads a section.
    Leader(Arc<Team>),
    /// It works on an item of a loop.
    Working,
}

/// The leader of a [`section`] and the threads that stand by.
#[derive(Default)]
struct Team {
    /// How many jobs there have been: those who stand by watch it.
    jobs: Line<AtomicUsize>,
    /// [`OPEN`] while threads may join the job, and [`JOINED`] for each one that has.
    state: Line<AtomicUsize>,
    /// The next item of the job.
    next: Line<AtomicUsize>,
    job: UnsafeCell<Option<Job>>,
    ended: AtomicBool,
}

/// A cache line of its own, so that the threads do not take each other's.
#[derive(Default)]
#[repr(align(64))]
struct Line<T>(T);

/// A closure without its type and lifetime.
#[derive(Clone, Copy)]
struct Job {
    count: usize,
    work: *const (),
    call: unsafe fn(*const (), usize, usize),
}

const OPEN: usize = 1;
const JOINED: usize = 2;

// SAFETY: `job` is written by the leader alone, while the job is closed and nobody has joined it; it is read by those
// who have joined it while it was open, and by the leader.
unsafe impl Sync for Team {}
// SAFETY: as above; a `Team` moves as part of an `Arc` only.
unsafe impl Send for Team {}

impl Team {
    /// The leader's part of a [`for_each`].
    fn work_together<W: Fn(usize, usize) + Sync>(&self, count: usize, work: &W) {
        /// # Safety
        /// `work` must point to a `W`.
        unsafe fn call<W: Fn(usize, usize)>(work: *const (), slot: usize, i: usize) {
            // SAFETY: the caller's promise.
            unsafe { (*work.cast::<W>())(slot, i) }
        }
        let job = Job { count, work: std::ptr::from_ref(work).cast(), call: call::<W> };
        // SAFETY: the last job was closed and left by all, see below.
        unsafe { *self.job.get() = Some(job) };
        self.next.0.store(0, Ordering::Relaxed);
        self.state.0.fetch_or(OPEN, Ordering::Release);
        self.jobs.0.fetch_add(1, Ordering::Release);
        // Also where the work panics: nobody may have it when it is gone.
        let _close = OnDrop(|| {
            self.state.0.fetch_and(!OPEN, Ordering::AcqRel);
            wait_until(|| self.state.0.load(Ordering::Acquire) < JOINED);
        });
        self.work(0, job);
    }

    /// Works on every job until the section ends.
    fn serve(&self, slot: usize) {
        let mut done = 0;
        ROLE.set(Role::Working);
        let _free = OnDrop(|| ROLE.set(Role::Free));
        loop {
            wait_until(|| self.jobs.0.load(Ordering::Acquire) != done || self.ended.load(Ordering::Acquire));
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            done = self.jobs.0.load(Ordering::Acquire);
            let joined = self.state.0.fetch_add(JOINED, Ordering::AcqRel) & OPEN != 0;
            let _leave = OnDrop(|| {
                self.state.0.fetch_sub(JOINED, Ordering::AcqRel);
            });
            if joined {
                // SAFETY: joined while it was open, so that the leader waits for this thread to leave.
                let job = unsafe { *self.job.get() };
                self.work(slot, job.expect("an open job"));
            }
        }
    }

    /// Takes items until none is left.
    fn work(&self, slot: usize, job: Job) {
        loop {
            let i = self.next.0.fetch_add(1, Ordering::Relaxed);
            if i >= job.count {
                return;
            }
            // SAFETY: `work_together` made `call` for the type of `work`, and waits for all who have joined.
            unsafe { (job.call)(job.work, slot, i) };
        }
    }
}

/// Waits awake, but leaves the processor to others if it takes long.
fn wait_until(done: impl Fn() -> bool) {
    const SPINS: usize = 4096;
    let mut spins = 0;
    while !done() {
        if spins < SPINS {
            spins += 1;
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Calls `run` for the slots `from..to`, in parallel where threads are free.
fn fork(from: usize, to: usize, run: &(impl Fn(usize) + Sync)) {
    if to - from == 1 {
        return run(from);
    }
    let middle = (from + to).div_ceil(2);
    rayon::join(|| fork(from, middle, run), || fork(middle, to, run));
}

/// Calls the function when it goes out of scope, by a panic too.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn in_pool<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
    }

    /// Works `count` items and checks that each was worked once.
    fn check(threads: usize, count: usize) {
        let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        for_each(count, |slot, i| {
            assert!(slot < threads);
            seen[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(seen.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{threads} threads, {count} items");
    }

    #[test]
    fn each_item_is_worked_once_whatever_the_threads() {
        for (threads, count) in [(1, 0), (1, 5), (2, 1), (3, 100), (8, 17)] {
            in_pool(threads, || check(threads, count));
            in_pool(threads, || section(|| (0..300).for_each(|i| check(threads, count + i % 3))));
        }
    }

    #[test]
    fn slots_of_overlapping_calls_differ() {
        let busy: [AtomicBool; 3] = Default::default();
        in_pool(3, || {
            section(|| {
                for _ in 0..200 {
                    for_each(20, |slot, _| {
                        assert!(!busy[slot].swap(true, Ordering::SeqCst));
                        std::hint::black_box((0..50).sum::<usize>());
                        busy[slot].store(false, Ordering::SeqCst);
                    });
                }
            })
        });
    }

    #[test]
    fn sections_and_loops_nest() {
        let seen = AtomicUsize::new(0);
        in_pool(3, || {
            section(|| {
                section(|| {
                    for_each(7, |_, _| {
                        for_each(5, |_, _| {
                            seen.fetch_add(1, Ordering::Relaxed);
                        })
                    })
                })
            })
        });
        assert_eq!(seen.into_inner(), 35);
    }

    #[test]
    fn a_panic_ends_the_section() {
        in_pool(2, || {
            let panics = || section(|| for_each(100, |_, i| assert_ne!(i, 50)));
            assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
            check(2, 10);
        });
    }
}
