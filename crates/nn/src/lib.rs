//! Model definitions, and the backends that execute them.
//!
//! A model family is written once, in `models/`, out of the layers in [`layers`], in terms of a [`Backend`] that executes
//! it: [`run`] (quantized weights, caches, SIMD), [`train`] (gradients), [`observe`] (what every linear layer sees: calibration).
//! Where to start: `models/llama.rs` for how a family reads, [`Model::load`] and [`Session`] for using one,
//! [`Sampler`] for choosing tokens, [`generate`] for continuing several texts together, [`Encoder`] for embeddings of sentences.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = bantam_nn::Model::load(&bantam_checkpoint::Checkpoint::open("model.gguf")?)?;
//! let mut session = model.session(512);
//! let hidden = session.forward(&[1, 2, 3])?.to_vec(); // [3, embedding_length]
//! let mut logits = vec![0.0; 3 * model.config().vocab_size];
//! session.logits(&hidden, &mut logits);
//! # Ok(())
//! # }
//! ```
//!
//! Invariant: this crate reads checkpoints and knows nothing of shrinking or measuring.

pub mod backend;
mod encoder;
pub mod error;
pub mod generate;
pub mod layers;
pub mod matrix;
mod model;
pub mod models;
pub mod observe;
pub mod random;
mod rotation;
pub mod run;
pub mod sample;
mod sequences;
pub mod softmax;
mod tensor;
pub mod train;
mod vector;
pub mod weights;

pub use backend::Backend;
pub use encoder::Encoder;
pub use error::{Error, Result};
pub use model::{Batch, Model, Session};
pub use sample::{Sampler, Sampling};
pub use sequences::together;
