//! Calibration: what a model's layers see on real text, so that rounding loses least where it matters.
//!
//! Where to start: [`default_text`], which text that is if the user gives none. [`Overlap`] finds out whether it holds what
//! the result will be measured on, which would flatter the result.

mod overlap;
mod text;

pub use overlap::{Overlap, RUN};
pub use text::default_text;
