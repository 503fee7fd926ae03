//! Model files: what a trained model is on disk.
//!
//! A [`Checkpoint`] is metadata, a list of tensors, and lazily read bytes, whichever file it came from: a GGUF file or a
//! Hugging Face directory. Both speak one language, GGUF's: its metadata keys (`llama.block_count`), its tensor names
//! (`blk.0.attn_q.weight`) and its tensor layouts (for the llama family, Q and K rows ordered for interleaved rotary
//! embedding; for gemma, norms with the one added). A Hugging Face directory is translated on reading, and back on
//! writing, by the tables of `hf/`; nothing above this crate knows the difference.
//!
//! Where to start: [`Checkpoint::open`], then [`config::Config`] for the hyperparameters as types.
//! Beside models, [`Imatrix`] reads and writes llama.cpp's importance matrices.
//! Writing is streamed: a [`TensorWriter`] ([`GgufWriter`], or [`IntegerWriter`](hf::integers::IntegerWriter) for other engines'
//! directories) takes tensors one at a time, into a temporary file that is renamed when complete.
//!
//! Invariant: this crate uses `formats` and knows nothing of execution.

pub mod calendar;
pub mod chat_template;
pub mod checkpoint;
pub mod config;
pub mod error;
pub mod gguf;
pub mod hf;
pub mod imatrix;
mod mapped;
pub mod metadata;
pub mod output;
pub mod provenance;
pub mod safetensors;
pub mod tokenizer;

/// The tensor of Llama 3's frequency factors: part of the architecture, not weights.
pub const ROPE_FREQS: &str = "rope_freqs.weight";

pub use checkpoint::{Checkpoint, TensorData, TensorInfo};
pub use config::Config;
pub use error::{Error, Result};
pub use gguf::writer::GgufWriter;
pub use imatrix::Imatrix;
pub use metadata::{Metadata, Value};
pub use output::TensorWriter;
