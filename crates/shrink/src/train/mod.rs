//! Training: steps on batches by a schedule, saved on the way, and resumed exactly where they were.
//!
//! Where to start: [`Trainer`] runs a [`Task`], which says what a step's loss is (labels, a teacher). A task's batch is a
//! function of the step's number, so that a run that was killed goes on with the same losses.

mod schedule;
mod state;
mod trainer;

pub use schedule::{Decay, Schedule};
pub use trainer::{Pass, Settings, Task, Trainer};
