//! Text to learn from: files of documents and conversations, cut into sequences of tokens, mixed by weight.
//!
//! Where to start: [`Source::read`] for one file ([`Sentences::read`] where every line is learned by itself), [`Mixture`] for the
//! order in which sequences of several are drawn.

mod entries;
mod mixture;
mod parquet;
mod read;
mod sentences;
mod told;

pub(crate) use entries::{Fields, Layout, field, lines, messages, objects};
pub use mixture::Mixture;
pub use read::{Logprobs, Sequence, Source, SourceSpec};
pub use sentences::Sentences;
pub use told::Top;
pub(crate) use told::UNTOLD;
