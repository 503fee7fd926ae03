//! Distillation: a small student learns from a large teacher.
//!
//! Where to start: [`SoftLabels`] is what is minimized, [`Divergence`] the ways of comparing two distributions.

mod divergence;
mod soft_labels;

pub use divergence::{Divergence, UnknownDivergence};
pub use soft_labels::{Soft, SoftLabels};
