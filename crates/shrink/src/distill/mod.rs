//! Distillation: a small student learns from a large teacher.
//!
//! Where to start: [`TextTask`] is what a step learns, [`SoftLabels`] what it minimizes, [`Divergence`] the ways of comparing
//! two distributions, [`Teacher`] where a teacher's word comes from.

mod cache;
mod divergence;
mod soft_labels;
mod task;
mod teacher;

pub use cache::{Cache, Kept};
pub use divergence::{Divergence, UnknownDivergence};
pub use soft_labels::{Soft, SoftLabels};
pub use task::{Matching, TextTask};
pub use teacher::{ModelTeacher, Said, Teacher, fingerprint, same_tokens};
