//! Tiny models whose weights are integers, as compressed-tensors and GPTQ pack them, against the logits that transformers computes.
//! `scripts/fixtures/integers.py` makes them.

use bantam_checkpoint::Checkpoint;
use bantam_formats::Format;
use bantam_nn::Model;
use std::path::{Path, PathBuf};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// `tokens` and `logits` of the reference.
fn reference(name: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder(name).join("reference.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let words = |name: &str| -> Vec<[u8; 4]> {
        let offset = |i: usize| 8 + header + json[name]["data_offsets"][i].as_u64().unwrap() as usize;
        bytes[offset(0)..offset(1)].as_chunks().0.to_vec()
    };
    let tokens = words("tokens").into_iter().map(u32::from_le_bytes).collect();
    (tokens, words("logits").into_iter().map(f32::from_le_bytes).collect())
}

/// The largest difference of the logits, given `step` tokens at a time, as a share of the largest.
fn relative_error(name: &str, step: usize) -> f32 {
    let model = Model::load(&Checkpoint::open(folder(name)).unwrap()).unwrap();
    let (tokens, expected) = reference(name);
    let mut session = model.session_with_cache(64, Format::by_name("F32").unwrap()).unwrap();
    let mut found = Vec::new();
    for tokens in tokens.chunks(step) {
        let hidden = session.forward(tokens).unwrap().to_vec();
        let mut logits = vec![f32::NAN; tokens.len() * model.config().vocab_size];
        session.logits(&hidden, &mut logits);
        found.extend(logits);
    }
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    found.iter().zip(&expected).fold(0f32, |m, (f, e)| m.max((f - e).abs())) / largest
}

#[test]
fn logits_agree_with_transformers() {
    for name in ["w4a16", "gptq"] {
        for step in [24, 1] {
            let error = relative_error(name, step);
            assert!(error <= 1e-4, "{name}, {step} at a time: relative error {error}");
        }
    }
}

#[test]
fn activations_are_rounded_token_by_token() {
    // Where sums differ in their last bit a value may be rounded the other way; without rounding the error is 0.033.
    for step in [24, 1] {
        let error = relative_error("w8a8", step);
        assert!(error <= 5e-3, "{step} at a time: relative error {error}");
    }
}
