//! The tiny random models of `bantam-nn`'s tests, and what they compute.

#![allow(dead_code, reason = "each test file uses a part")]

use bantam_checkpoint::Checkpoint;
use bantam_formats::Format;
use bantam_nn::Model;
use std::path::Path;

/// One of them, by its folder's name.
pub fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures").join(name)).unwrap()
}

/// The logits of sequences of at most 128 tokens, one after another.
pub fn logits(checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Vec<f32> {
    let model = Model::load(checkpoint).unwrap();
    let f32 = Format::by_name("F32").unwrap();
    let one = |tokens: &Vec<u32>| {
        let mut session = model.session_with_cache(128, f32).unwrap();
        let hidden = session.forward(tokens).unwrap().to_vec();
        let mut logits = vec![0.0; tokens.len() * model.config().vocab_size];
        session.logits(&hidden, &mut logits);
        logits
    };
    sequences.iter().flat_map(one).collect()
}

/// The squared difference as a share of the squares.
pub fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let square = |v: f32| f64::from(v) * f64::from(v);
    let squares: f64 = expected.iter().map(|e| square(*e)).sum();
    found.iter().zip(expected).map(|(f, e)| square(f - e)).sum::<f64>() / squares
}
