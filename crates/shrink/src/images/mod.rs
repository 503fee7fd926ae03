//! Images with labels, and networks that learn from them: the ground on which distillation was first shown.
//!
//! Where to start: [`Images::read`] for the data, [`ImageTask`] for learning from labels or from a teacher.

mod idx;
mod task;

pub use idx::Images;
pub use task::{ImageTask, Teacher, errors, initial, logits};
