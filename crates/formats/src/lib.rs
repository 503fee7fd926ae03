//! Number formats for model weights, and the arithmetic on them.
//!
//! A *format* says how a row of weights is laid out in bytes: its block size, its bytes per block, how to encode
//! and decode a block, and how to multiply by it. Each format is one row, a [`Format`] value, in
//! [`FORMATS`]; everything above this crate (files, quantization, execution, reports) goes through that row, so that
//! adding a format is adding one value.
//!
//! Where to start: [`mod@format`] for what a row says, [`grid`] to round weights or choose scales oneself,
//! `blocks/` for the formats by family, `kernels/` for [`matmul`] and the SIMD code behind it. Every SIMD path
//! has a scalar reference that it is tested against.
//!
//! [`FORMATS`] are GGUF's; [`INTEGERS`] those of other engines' files.
//!
//! Invariant: this crate knows nothing of files, models or threads' owners; it uses nothing of bantam's.

pub mod blocks;
pub mod format;
pub mod grid;
pub mod kernels;

pub use blocks::ggml_type_name;
pub use format::{Activation, FORMATS, Format, INTEGERS};
pub use grid::Grid;
pub use kernels::{Matrix, Scratch, matmul, matmul_each};
