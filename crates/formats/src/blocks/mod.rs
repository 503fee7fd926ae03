//! The formats, one file a family: their bytes, and how weights become bytes.
//!
//! `layout.rs` says what a format must tell about its bytes, and derives decoding from it; `search/`
//! finds the scales and quants that lose least; `grid.rs` lets others choose them. `points.rs` is what the formats with code books
//! (`books.rs`) have in common. A family's file joins
//! these. Layouts are ggml's, bit for bit.
//!
//! `integer.rs` holds the formats of other engines' files, which are not GGUF's.
//!
//! To add a format: a `Layout` (and `Encoder`) in the family's file, its row by
//! `block_format!`, the row in [`FORMATS`](crate::FORMATS), and fixtures by `scripts/fixtures/formats.py`.

pub(crate) mod books;
pub mod float;
pub mod fp4;
mod grid;
pub mod integer;
pub mod iq2;
pub mod iq3;
pub mod iq4;
pub(crate) mod layout;
pub mod legacy;
mod names;
pub mod narrow;
pub(crate) mod points;
pub mod q2_k;
pub mod q3_k;
pub mod q4_k;
pub mod q5_k;
pub mod q6_k;
mod search;
pub mod ternary;

pub use names::ggml_type_name;
