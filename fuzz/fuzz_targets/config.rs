//! The `config.json` of a Hugging Face directory.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|json: &str| {
    let _ = bantam_checkpoint::hf::check_config(Path::new("config.json"), json);
});
