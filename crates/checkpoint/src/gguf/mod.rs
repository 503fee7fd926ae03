//! The GGUF file format, versions 2 and 3 in, version 3 out.
//!
//! A file is a header (magic, version, counts), key-value metadata, a table of tensors, and, from the next multiple of
//! the alignment on, the tensors' bytes. All numbers are little endian. The specification is ggml's `docs/gguf.md`.
//!
//! Where to start: [`read_header`], which checks everything that a file claims about itself, and
//! [`GgufWriter`](writer::GgufWriter).

mod cursor;
mod reader;
pub mod writer;

pub(crate) use cursor::Cursor;
pub use reader::{Header, read_header};

/// The first four bytes of a file.
pub const MAGIC: [u8; 4] = *b"GGUF";

/// The alignment of tensor data where `general.alignment` does not say otherwise, and of all files written here.
pub const ALIGNMENT: usize = 32;

/// The metadata key of the alignment.
pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";

/// Type ids of metadata values.
pub(crate) mod value_type {
    pub const U8: u32 = 0;
    pub const I8: u32 = 1;
    pub const U16: u32 = 2;
    pub const I16: u32 = 3;
    pub const U32: u32 = 4;
    pub const I32: u32 = 5;
    pub const F32: u32 = 6;
    pub const BOOL: u32 = 7;
    pub const STRING: u32 = 8;
    pub const ARRAY: u32 = 9;
    pub const U64: u32 = 10;
    pub const I64: u32 = 11;
    pub const F64: u32 = 12;
}
