//! Hyperparameters from metadata: llama.cpp's defaults, and errors that name the key.

use bantam_checkpoint::config::{RopePairing, RopeScaling};
use bantam_checkpoint::metadata::Array;
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, Metadata, Value};

/// The configuration of a model with little metadata and these changes, keys without the architecture.
fn config(architecture: &str, changes: &[(&str, Option<Value>)]) -> Result<Config, String> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String(architecture.into()));
    let counts = [
        ("block_count", 7),
        ("context_length", 128),
        ("embedding_length", 64),
        ("feed_forward_length", 96),
        ("attention.head_count", 4),
        ("vocab_size", 100),
    ];
    counts.iter().for_each(|(key, n)| metadata.set(&format!("{architecture}.{key}"), Value::U32(*n)));
    metadata.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), Value::F32(1e-5));
    for (key, value) in changes {
        let key = format!("{architecture}.{key}");
        match value {
            Some(value) => metadata.set(&key, value.clone()),
            None => drop(metadata.remove(&key)),
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    GgufWriter::create(&path, &metadata, &[]).unwrap().finish().unwrap();
    Config::of(&Checkpoint::open(&path).unwrap()).map_err(|e| e.to_string())
}

#[test]
fn absent_keys_have_llama_cpps_defaults() {
    let llama = config("llama", &[]).unwrap();
    assert_eq!((llama.head_count_kv, llama.key_length, llama.value_length), (4, 16, 16));
    assert_eq!((llama.rope.dimension_count, llama.rope.freq_base, llama.vocab_size), (16, 10_000.0, 100));
    assert_eq!((llama.rope.pairing, llama.rope.scaling), (RopePairing::Interleaved, RopeScaling::None));
    assert_eq!(llama.sliding_window, None);
    assert_eq!(config("qwen2", &[]).unwrap().rope.pairing, RopePairing::Halves);
}

#[test]
fn every_sixth_layer_of_gemma3_sees_everything() {
    let window = ("attention.sliding_window", Some(Value::U32(8)));
    let default = config("gemma3", std::slice::from_ref(&window)).unwrap().sliding_window.unwrap();
    assert_eq!((default.size, default.freq_base), (8, 10_000.0));
    assert_eq!(default.layers, [true, true, true, true, true, false, true]);
    let pattern = ("attention.sliding_window_pattern", Some(Value::U32(2)));
    let other = config("gemma3", &[window, pattern]).unwrap().sliding_window.unwrap();
    assert_eq!(other.layers, [true, false, true, false, true, false, true]);
    assert_eq!(config("gemma3", &[]).unwrap().sliding_window, None);
}

#[test]
fn scaling_is_read() {
    let scaled = |kind: &str| {
        let kind = ("rope.scaling.type", Some(Value::String(kind.into())));
        config("llama", &[kind, ("rope.scaling.factor", Some(Value::F32(4.0)))]).map(|c| c.rope.scaling)
    };
    assert_eq!(scaled("linear"), Ok(RopeScaling::Linear { factor: 4.0 }));
    assert_eq!(scaled("yarn"), Ok(RopeScaling::Yarn { factor: 4.0, original_context: 128 }));
    assert_eq!(scaled("none"), Ok(RopeScaling::None));
    assert!(scaled("longrope").unwrap_err().contains("longrope"));
}

#[test]
fn errors_name_the_key() {
    let cases = [
        ("block_count", None, "llama.block_count is missing"),
        ("block_count", Some(Value::U32(u32::MAX)), "llama.block_count is 4294967295"),
        ("attention.head_count", Some(Value::U32(0)), "llama.attention.head_count is 0"),
        ("attention.head_count", Some(Value::String("4".into())), "must be one non-negative integer"),
        ("attention.head_count", Some(Value::I32(-4)), "must be one non-negative integer"),
        ("attention.head_count", Some(Value::Array(Array::U32(vec![4, 2]))), "the same in all layers"),
        ("attention.head_count_kv", Some(Value::U32(3)), "llama.attention.head_count_kv is 3"),
        ("rope.dimension_count", Some(Value::U32(15)), "llama.rope.dimension_count is 15"),
        ("rope.dimension_count", Some(Value::U32(18)), "at most the head width 16"),
        ("rope.freq_base", Some(Value::F32(f32::NAN)), "llama.rope.freq_base is NaN"),
        ("rope.freq_base", Some(Value::U32(10_000)), "must be a floating-point number"),
        ("attention.layer_norm_rms_epsilon", None, "epsilon is missing"),
        ("vocab_size", None, "llama.vocab_size is missing"),
    ];
    for (key, value, expected) in cases {
        let said = config("llama", &[(key, value)]).unwrap_err();
        assert!(said.contains(expected), "{said}");
    }
    let said = config("mamba", &[]).unwrap_err();
    assert!(said.contains("\"mamba\"") && said.contains("llama, qwen2, qwen3, gemma3"), "{said}");
}
