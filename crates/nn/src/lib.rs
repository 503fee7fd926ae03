//! Model definitions, and the backends that execute them.
//!
//! A model family is written once, in `models/`, in terms of a [`backend`] that executes it: `run` (quantized weights,
//! caches, SIMD), later `observe` (calibration) and `train` (autograd). Where to start: `models/llama.rs` for how a family reads,
//! [`Model::load`] and [`Session`] for using one.
//!
//! Invariant: this crate reads checkpoints and knows nothing of shrinking or measuring.

mod model;

pub use model::{Error, Model, Session};
