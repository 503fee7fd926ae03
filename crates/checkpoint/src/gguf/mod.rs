//! The GGUF file format, versions 2 and 3 in, version 3 out.

pub mod writer;
