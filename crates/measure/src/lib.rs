//! Measurement: what a candidate lost against its base, and what it gained.
//!
//! One yardstick for every claim: candidate and base see the same text, and differ by KL divergence, top-1 agreement,
//! perplexity and task accuracy, each by category and with a standard error; beside them bytes, memory and speed.
//!
//! Where to start: [`results`] says what is measured, as plain data; [`evaluate`](mod@evaluate) measures it. [`suite`] and
//! [`data`] are what is measured on; [`base`] keeps the base's outputs, in a [`cache`]; [`divergence`] and [`choice`] score,
//! over [`bantam_nn::softmax`] and [`statistics`]; [`speed`], [`machine`] and [`summary`] are about files and processes;
//! [`conclusion`] and [`report`] say it to people. Sentence encoders are measured apart, on scored [`pairs`].
//!
//! ```no_run
//! use bantam_checkpoint::Checkpoint;
//! use bantam_measure::{Base, Options, conclusion, data, evaluate};
//!
//! let suite = data::suite("quick").expect("a built-in suite");
//! let mut base = Base::prepare(&Checkpoint::open("model.gguf")?, &suite, &Options::default(), &())?;
//! for candidate in ["model-Q8_0.gguf", "model-Q4_K_M.gguf"] {
//!     let evaluation = evaluate(&Checkpoint::open(candidate)?, &mut base, &())?;
//!     println!("{}", conclusion::sentence(&evaluation, base.summary()));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
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
mod kept;
pub mod machine;
pub mod pairs;
pub mod progress;
pub mod report;
pub mod results;
pub mod samples;
pub mod speed;
pub mod statistics;
pub mod suite;
pub mod summary;

pub use base::{Base, Options};
pub use error::{Error, Result};
pub use evaluate::evaluate;
pub use progress::Progress;
pub use suite::{Question, Suite, Task, Text};
