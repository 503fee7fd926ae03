//! A whole GGUF file: configuration and tokenizer, and a text through it.
#![no_main]

use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_checkpoint::{Checkpoint, Config};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let path = std::env::temp_dir().join(format!("bantam-fuzz-{}.gguf", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    if let Ok(model) = Checkpoint::open(&path) {
        let _ = Config::of(&model);
        if let Ok(tokenizer) = Tokenizer::of(&model)
            && let Ok(tokens) = tokenizer.encode("Hello, wörld 123\n<|end|> \u{1F600}", Special::PROMPT)
        {
            tokenizer.decode(&tokens);
        }
    }
});
