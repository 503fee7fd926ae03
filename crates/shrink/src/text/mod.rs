//! Text to learn from: files of documents and conversations, cut into sequences of tokens, mixed by weight.
//!
//! Where to start: [`Source::read`] for one file, [`Mixture`] for the order in which sequences of several are drawn.

mod mixture;
mod parquet;
mod read;

pub use mixture::Mixture;
pub use read::{Sequence, Source, SourceSpec};
