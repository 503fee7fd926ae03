//! Images with labels, and networks that learn from them: the ground on which distillation was first shown.
//!
//! Where to start: [`Images::read`] for the data, [`ImageTask`] for learning from labels or from a teacher,
//! [`Experiment`] for several networks that learn from each other.

pub mod begin;
mod experiment;
mod idx;
mod picture;
mod task;

pub use experiment::{BiasCorrection, Experiment, Kept, Network, Outcome, Watch};
pub use idx::Images;
pub use picture::soft_labels;
pub use task::{ImageTask, Teacher, errors, logits};
