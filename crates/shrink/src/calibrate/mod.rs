//! Calibration: what a model's linear layers see on real text, so that rounding loses least where it matters.
//!
//! Where to start: [`Walk`] goes through a model layer by layer and gathers [`Moments`] of every linear layer's input.
//! [`default_text`] is what goes through it if the user gives no text. [`Overlap`] finds out whether a text holds what the result will
//! be measured on, which would flatter the result.

mod cholesky;
mod moments;
mod overlap;
mod text;
mod walk;

pub(crate) use cholesky::unit_upper;
pub use moments::{Inputs, Moments};
pub use overlap::{Overlap, RUN};
pub use text::default_text;
pub use walk::Walk;
