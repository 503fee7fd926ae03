//! The formats, one file a family.

pub mod float;
