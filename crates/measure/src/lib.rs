//! Measurement: what a candidate lost against its base, and what it gained.
//!
//! One yardstick for every claim: candidate and base see the same text, and differ by KL divergence, top-1 agreement,
//! perplexity and task accuracy, each by category and with a standard error; beside them bytes, memory and speed.
//!
//! Where to start: [`results`] says what is measured, as plain data.
//!
//! Invariant: nothing here changes a model.

pub mod cache;
pub mod data;
pub mod divergence;
mod error;
mod progress;
pub mod results;
pub mod softmax;
pub mod statistics;
pub mod suite;

pub use error::{Error, Result};
pub use progress::Progress;
pub use suite::{Question, Suite, Task, Text};
