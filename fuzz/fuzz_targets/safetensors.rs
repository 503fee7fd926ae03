//! A safetensors header: whatever is accepted lies inside the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(tensors) = bantam_checkpoint::safetensors::read_header(Path::new("fuzz.safetensors"), bytes) {
        for tensor in tensors {
            assert_eq!(bytes[tensor.range].len(), tensor.info.bytes());
        }
    }
});
