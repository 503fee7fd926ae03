//! Our mixes give every tensor of real models the format that `llama-quantize` gives it.

use bantam_checkpoint::TensorInfo;
use bantam_checkpoint::config::{Config, Rope, RopePairing, RopeScaling};
use bantam_formats::Format;
use bantam_shrink::Mix;
use serde_json::Value;

/// A configuration of which a mix reads the numbers of heads and layers.
fn config(model: &Value) -> Config {
    let number = |key: &str| model[key].as_u64().unwrap() as usize;
    let rope = Rope { dimension_count: 64, freq_base: 1e4, pairing: RopePairing::Halves, scaling: RopeScaling::None };
    Config {
        architecture: "llama".into(),
        block_count: number("block_count"),
        embedding_length: 0,
        feed_forward_length: 0,
        head_count: number("head_count"),
        head_count_kv: number("head_count_kv"),
        key_length: 64,
        value_length: 64,
        vocab_size: 0,
        context_length: 0,
        norm_eps: 1e-5,
        rope,
        sliding_window: None,
        encoder: None,
    }
}

fn tensors(model: &Value) -> Vec<TensorInfo> {
    let f16 = Format::by_name("F16").unwrap();
    let f32 = Format::by_name("F32").unwrap();
    let shapes = model["tensors"].as_object().unwrap();
    let tensor = |(name, shape): (&String, &Value)| {
        let shape: Vec<usize> = shape.as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
        TensorInfo { name: name.clone(), format: if shape.len() > 1 { f16 } else { f32 }, shape }
    };
    shapes.iter().map(tensor).collect()
}

#[test]
fn mixes_choose_what_llama_quantize_chooses() {
    let models: Vec<Value> = serde_json::from_str(include_str!("fixtures/mixes.json")).unwrap();
    assert_eq!(models.len(), 3);
    for model in &models {
        let (config, tensors) = (config(model), tensors(model));
        for (level, expected) in model["formats"].as_object().unwrap() {
            let targets = Mix::by_name(level).unwrap().assign(&tensors, &config);
            let expected: Vec<&str> = expected.as_str().unwrap().split(' ').collect();
            assert_eq!(targets.len(), expected.len());
            for ((tensor, target), expected) in tensors.iter().zip(&targets).zip(expected) {
                assert_eq!(target.format.name, expected, "{} {level} {}", model["model"], tensor.name);
            }
        }
    }
}

#[test]
fn an_unknown_mix_is_refused_with_the_known_ones() {
    for (name, resembles) in [("Q4_KM", Some("did you mean Q4_K_M?")), ("tiny", None)] {
        let message = Mix::by_name(name).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("Q8_0"), "{message}");
        assert_eq!(message.contains("did you mean"), resembles.is_some(), "{message}");
        assert!(resembles.is_none_or(|said| message.contains(said)), "{message}");
    }
}
