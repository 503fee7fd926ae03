//! Measurement: what a candidate lost against its base, and what it gained.
//!
//! One yardstick for every claim: candidate and base see the same text, and differ by KL divergence, top-1 agreement,
//! perplexity and task accuracy, each by category and with a standard error; beside them bytes, memory and speed.
//!
//! Where to start: [`results`] says what is measured, as plain data.
//!
//! Invariant: nothing here changes a model.

pub mod base;
pub mod cache;
pub mod choice;
pub mod conclusion;
pub mod data;
pub mod divergence;
mod error;
pub mod evaluate;
pub mod machine;
pub mod progress;
pub mod report;
pub mod results;
pub mod samples;
pub mod softmax;
pub mod speed;
pub mod statistics;
pub mod suite;
pub mod summary;

pub use base::{Base, Options};
pub use error::{Error, Result};
pub use evaluate::evaluate;
pub use progress::Progress;
pub use suite::{Question, Suite, Task, Text};
