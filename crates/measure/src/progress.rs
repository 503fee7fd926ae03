//! How far a measurement has come, for whoever shows it.

/// Hears of progress. `()` hears nothing.
pub trait Progress {
    /// `done` of `total` `unit`s of an activity are done; called first with 0, last with `total`.
    fn update(&self, activity: &str, done: usize, total: usize, unit: &str);

    /// Something worth telling the user that is no error, such as a cache that had to be rebuilt.
    fn note(&self, note: &str);
}

impl Progress for () {
    fn update(&self, _activity: &str, _done: usize, _total: usize, _unit: &str) {}

    fn note(&self, _note: &str) {}
}
