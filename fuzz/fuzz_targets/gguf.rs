//! A GGUF header: whatever is accepted lies inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(header) = bantam_checkpoint::gguf::read_header(Path::new("fuzz.gguf"), bytes) {
        for (tensor, range) in header.tensors.iter().zip(&header.ranges) {
            assert_eq!(bytes[range.clone()].len(), tensor.bytes());
        }
    }
});
