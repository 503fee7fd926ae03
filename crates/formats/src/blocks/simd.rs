//! One source, compiled for several instruction sets, chosen at run time.
//!
//! A [`Task`] is plain code over fixed arrays that the compiler vectorizes. Every step is an IEEE operation of its own
//! (Rust never fuses a product and a sum), and every sum has a fixed order, so all versions give the same bits.

/// Code to run at the machine's best. Everything that `run` calls must be `#[inline(always)]`, for a function that
/// is not inlined is compiled for the baseline.
pub trait Task {
    /// Does the work.
    fn run(self);
}

/// Runs a task with the widest vectors that this machine has.
#[inline]
pub fn dispatch<T: Task>(task: T) {
    #[cfg(target_arch = "x86_64")]
    {
        if std::arch::is_x86_feature_detected!("avx512f")
            && std::arch::is_x86_feature_detected!("avx512bw")
            && std::arch::is_x86_feature_detected!("avx512dq")
            && std::arch::is_x86_feature_detected!("avx512vl")
        {
            // SAFETY: the features were detected.
            return unsafe { avx512(task) };
        }
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was detected.
            return unsafe { avx2(task) };
        }
    }
    task.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512<T: Task>(task: T) {
    task.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2<T: Task>(task: T) {
    task.run();
}
