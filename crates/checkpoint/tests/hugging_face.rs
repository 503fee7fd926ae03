//! Hugging Face directories, there and back.

mod common;

use bantam_checkpoint::config::{Encoder, Pooling, RopeScaling};
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, Metadata, hf, safetensors};
use bantam_formats::Format;
use common::{copy_of, fixture};
use std::fs;
use std::path::Path;

const FIXTURES: [&str; 6] = ["llama", "llama-biases", "qwen2", "qwen3", "gemma3", "bert"];

fn write_gguf(model: &Checkpoint, path: &Path) {
    let mut writer = GgufWriter::create(path, model.metadata(), model.tensors()).unwrap();
    for tensor in model.tensors() {
        writer.write(&model.data(&tensor.name).unwrap()).unwrap();
    }
    writer.finish().unwrap();
}

fn decoded(model: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = model.tensor(name).unwrap();
    let mut numbers = vec![0.0; tensor.len()];
    (tensor.format.decode)(&model.data(name).unwrap(), &mut numbers);
    numbers
}

/// The numbers of a tensor as the safetensors file has them.
fn stored(dir: &Path, name: &str) -> Vec<f32> {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let tensors = safetensors::read_header(dir, &bytes).unwrap();
    let tensor = tensors.iter().find(|t| t.info.name == name).unwrap();
    let mut numbers = vec![0.0; tensor.info.len()];
    (tensor.info.format.decode)(&bytes[tensor.range.clone()], &mut numbers);
    numbers
}

#[test]
fn hyperparameters_are_translated() {
    let llama = Config::of(&Checkpoint::open(fixture("llama")).unwrap()).unwrap();
    assert_eq!((llama.head_count, llama.head_count_kv, llama.key_length, llama.vocab_size), (4, 2, 16, 288));
    let linear = Config::of(&Checkpoint::open(fixture("llama-biases")).unwrap()).unwrap();
    assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 4.0 });
    let qwen3 = Config::of(&Checkpoint::open(fixture("qwen3")).unwrap()).unwrap();
    assert_eq!((qwen3.key_length, qwen3.rope.freq_base), (32, 1e6));
    let gemma3 = Config::of(&Checkpoint::open(fixture("gemma3")).unwrap()).unwrap();
    let window = gemma3.sliding_window.unwrap();
    assert_eq!((window.size, window.freq_base, gemma3.rope.freq_base), (8, 1e4, 1e6));
    assert_eq!(window.layers, [true, true, true, true, true, false, true]);
}

#[test]
fn llama_rows_are_reordered_for_neighbouring_pairs() {
    let (dir, model) = (fixture("llama"), Checkpoint::open(fixture("llama")).unwrap());
    let (theirs, ours) =
        (stored(&dir, "model.layers.1.self_attn.k_proj.weight"), decoded(&model, "blk.1.attn_k.weight"));
    // Heads of 16 rows of 64: row 3 of the second head is the second half's row 1.
    assert_eq!(ours[(16 + 3) * 64..][..64], theirs[(16 + 8 + 1) * 64..][..64]);
    assert_eq!(stored(&dir, "model.layers.1.self_attn.v_proj.weight"), decoded(&model, "blk.1.attn_v.weight"));
    assert_eq!(decoded(&model, "rope_freqs.weight").len(), 8);
}

#[test]
fn gemma_norms_have_the_one_added() {
    let (dir, model) = (fixture("gemma3"), Checkpoint::open(fixture("gemma3")).unwrap());
    let theirs = stored(&dir, "model.layers.0.self_attn.q_norm.weight");
    let expected: Vec<f32> = theirs.iter().map(|n| n + 1.0).collect();
    assert_eq!(decoded(&model, "blk.0.attn_q_norm.weight"), expected);
    assert_eq!(model.tensor("output_norm.weight").unwrap().format.name, "F32");
}

#[test]
fn a_model_survives_gguf_and_comes_back() {
    for name in FIXTURES {
        let dir = tempfile::tempdir().unwrap();
        let model = Checkpoint::open(fixture(name)).unwrap();
        let gguf = dir.path().join("model.gguf");
        write_gguf(&model, &gguf);
        let gguf = Checkpoint::open(&gguf).unwrap();
        assert_eq!(Config::of(&gguf).unwrap(), Config::of(&model).unwrap());
        let back = dir.path().join("back");
        assert_eq!(hf::write_hf(&gguf, &back, None, &mut |_| ()).unwrap().name, "BF16");
        let again = Checkpoint::open(&back).unwrap();
        assert_eq!(again.tensors(), model.tensors(), "{name}");
        assert_eq!(Config::of(&again).unwrap(), Config::of(&model).unwrap(), "{name}");
        for tensor in model.tensors() {
            // Gemma's norms lose their last bits when the one is added to a small number in F32.
            let (ours, theirs) = (decoded(&again, &tensor.name), decoded(&model, &tensor.name));
            assert!(ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() <= 1e-7), "{name}: {}", tensor.name);
        }
    }
}

#[test]
fn shards_are_one_model() {
    let dir = copy_of("qwen2");
    let whole = Checkpoint::open(dir.path()).unwrap();
    let bytes = fs::read(dir.path().join("model.safetensors")).unwrap();
    let tensors = safetensors::read_header(dir.path(), &bytes).unwrap();
    let mut weight_map = serde_json::Map::new();
    for (i, half) in tensors.chunks(tensors.len() / 2 + 1).enumerate() {
        let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
        let file = format!("model-{i}.safetensors");
        for tensor in half {
            let start = data.len();
            data.extend(&bytes[tensor.range.clone()]);
            let info = serde_json::json!({
                "dtype": tensor.info.format.name, "shape": tensor.info.shape, "data_offsets": [start, data.len()],
            });
            header.insert(tensor.info.name.clone(), info);
            weight_map.insert(tensor.info.name.clone(), file.clone().into());
        }
        let header = serde_json::to_vec(&header).unwrap();
        fs::write(dir.path().join(file), [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()).unwrap();
    }
    let index = serde_json::json!({ "weight_map": weight_map }).to_string();
    fs::write(dir.path().join("model.safetensors.index.json"), index).unwrap();
    let sharded = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(sharded.tensors(), whole.tensors());
    assert!(sharded.tensors().iter().all(|t| sharded.data(&t.name).unwrap()[..] == whole.data(&t.name).unwrap()[..]));
}

/// What opening says after `change` to config.json.
fn config_refusal(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let dir = copy_of(name);
    let path = dir.path().join("config.json");
    let mut json = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json);
    fs::write(&path, json.to_string()).unwrap();
    Checkpoint::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn a_directory_with_tensors_missing_or_too_many_is_named() {
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        let layers = Config::of(&Checkpoint::open(copy_of(name).path()).unwrap()).unwrap().block_count;
        let with = |layers: usize| {
            config_refusal(name, |json| {
                drop(json.as_object_mut().unwrap().remove("layer_types"));
                json["num_hidden_layers"] = layers.into();
            })
        };
        let (more, fewer) = (with(layers + 1), with(layers - 1));
        let missing = format!("no tensor model.layers.{layers}.input_layernorm.weight");
        assert!(more.contains(&missing) && more.contains("file missing"), "{more}");
        let beyond = format!("a tensor model.layers.{}.input_layernorm.weight, but", layers - 1);
        assert!(fewer.contains(&beyond), "{fewer}");
    }
    let said = config_refusal("bert", |json| json["num_hidden_layers"] = 9.into());
    assert!(said.contains("encoder.layer.") && said.contains("attention.self.query.weight"), "{said}");
    let said = config_refusal("gemma3", |json| json["tie_word_embeddings"] = false.into());
    assert!(said.contains("no tensor lm_head.weight"), "{said}");
}

#[test]
fn what_is_not_supported_is_said() {
    let said = config_refusal("llama", |json| json["model_type"] = "mamba".into());
    assert!(said.contains("\"mamba\"") && said.contains("qwen3"), "{said}");
    let said = config_refusal("llama", |json| json["num_key_value_heads"] = 3.into());
    assert!(said.contains("num_key_value_heads 3"), "{said}");
    let said = config_refusal("llama", |json| drop(json.as_object_mut().unwrap().remove("hidden_size")));
    assert!(said.contains("missing field `hidden_size`"), "{said}");
    let said = config_refusal("llama", |json| json["quantization_config"] = serde_json::json!({ "bits": 4 }));
    assert!(said.contains("quantization_config"), "{said}");
    let said = config_refusal("llama", |json| json["rope_parameters"]["rope_type"] = "longrope".into());
    assert!(said.contains("longrope"), "{said}");
    let said = config_refusal("qwen2", |json| json["hidden_act"] = "relu".into());
    assert!(said.contains("relu") && said.contains("silu"), "{said}");
    let said = Checkpoint::open(tempfile::tempdir().unwrap().path()).unwrap_err().to_string();
    assert!(said.contains("config.json"), "{said}");
}

#[test]
fn lies_in_safetensors_are_found() {
    let file = |json: &str, data: usize| {
        let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &vec![0; data]].concat();
        safetensors::read_header(Path::new("m"), &bytes).map(|t| t.len()).map_err(|e| e.to_string())
    };
    let tensor = |name: &str, dtype: &str, shape: &str, offsets: &str| {
        format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}"#)
    };
    let good = tensor("a", "F32", "[2]", "[0,8]");
    assert_eq!(file(&format!(r#"{{"__metadata__":{{"format":"pt"}},{good}}}"#), 8), Ok(1));
    let cases = [
        (format!("{{{good}}}"), 7, "truncated"),
        (format!("{{{good}}}"), 9, "1 bytes follow"),
        (format!("{{{good},{good}}}"), 8, "appears twice"),
        (format!("{{{good},{}}}", tensor("b", "F32", "[1]", "[4,8]")), 8, "overlaps"),
        (format!("{{{good},{}}}", tensor("b", "F32", "[1]", "[12,16]")), 16, "gap"),
        (format!("{{{}}}", tensor("a", "I64", "[1]", "[0,8]")), 8, "I64"),
        (format!("{{{}}}", tensor("a", "F32", "[0]", "[0,0]")), 0, "none of them 0"),
        (format!("{{{}}}", tensor("a", "F32", "[4294967296,4294967296]", "[0,8]")), 8, "overflows"),
        (format!("{{{}}}", tensor("a", "F32", "[2]", "[8,0]")), 8, "takes 8"),
        ("[1]".into(), 0, "object of tensors"),
        ("{".into(), 0, "header"),
    ];
    for (json, data, expected) in cases {
        let said = file(&json, data).unwrap_err();
        assert!(said.contains(expected), "{json}: {said}");
    }
    let said = safetensors::read_header(Path::new("m"), &[255; 20]).err().unwrap().to_string();
    assert!(said.contains("header claims"), "{said}");
}

#[test]
fn no_spoiled_safetensors_panics() {
    let json = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let mut bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &[0; 8]].concat();
    for at in 0..bytes.len() {
        assert!(safetensors::read_header(Path::new("m"), &bytes[..at]).is_err());
        for flip in 1..=255 {
            bytes[at] ^= flip;
            let _ = safetensors::read_header(Path::new("m"), &bytes);
            bytes[at] ^= flip;
        }
    }
}

#[test]
fn values_too_large_for_f16_are_written_as_bf16() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::open(fixture("qwen2")).unwrap();
    let path = dir.path().join("large.gguf");
    let mut metadata: Metadata = model.metadata().clone();
    metadata.remove("tokenizer.ggml.tokens");
    let format = Format::by_name("Q4_0").unwrap();
    let tensors: Vec<_> = model
        .tensors()
        .iter()
        .map(|t| {
            if t.name == "blk.0.ffn_up.weight" {
                bantam_checkpoint::TensorInfo { format, ..t.clone() }
            } else {
                t.clone()
            }
        })
        .collect();
    let mut writer = GgufWriter::create(&path, &metadata, &tensors).unwrap();
    for tensor in &tensors {
        if tensor.format == format {
            let numbers: Vec<f32> = (0..tensor.len()).map(|i| i as f32 * 100.0).collect();
            let mut bytes = vec![0; tensor.bytes()];
            (format.encode.unwrap())(&numbers, None, &mut bytes);
            writer.write(&bytes).unwrap();
        } else {
            writer.write(&model.data(&tensor.name).unwrap()).unwrap();
        }
    }
    writer.finish().unwrap();
    let large = Checkpoint::open(&path).unwrap();
    assert_eq!(hf::write_hf(&large, &dir.path().join("out"), None, &mut |_| ()).unwrap().name, "BF16");
    let refused = hf::write_hf(&large, &dir.path().join("narrow"), Format::by_name("F16"), &mut |_| ());
    assert!(refused.unwrap_err().to_string().contains("too large for F16"));
    assert!(!dir.path().join("narrow").exists());
}

/// The tiny encoder's directory with all its files.
fn encoder_copy() -> tempfile::TempDir {
    let dir = copy_of("bert");
    fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    for file in ["tokenizer.json", "tokenizer_config.json", "1_Pooling/config.json"] {
        fs::copy(fixture("bert").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

#[test]
fn an_encoder_has_ggufs_keys_and_tensors() {
    let model = Checkpoint::open(fixture("bert")).unwrap();
    let config = Config::of(&model).unwrap();
    assert_eq!((config.block_count, config.context_length, config.norm_eps), (3, 128, 1e-12));
    assert_eq!(config.encoder, Some(Encoder { token_types: 2, pooling: Pooling::Mean }));
    assert_eq!(model.metadata().bool("bert.attention.causal"), Some(false));
    assert_eq!(model.metadata().uint("bert.pooling_type"), Some(1));
    assert_eq!(model.tensors().len(), 5 + 3 * 16, "the pooler is not needed");
    // llama.cpp adds these tables as they are.
    let format = |name: &str| model.tensor(name).unwrap().format.name;
    assert_eq!((format("position_embd.weight"), format("token_types.weight")), ("F32", "F32"));
    assert_eq!((format("token_embd.weight"), format("blk.2.ffn_down.weight")), ("BF16", "BF16"));
    let stored = stored(&fixture("bert"), "encoder.layer.1.attention.output.LayerNorm.bias");
    assert_eq!(decoded(&model, "blk.1.attn_output_norm.bias"), stored);
}

#[test]
fn how_an_encoder_pools_is_read_and_written() {
    let dir = encoder_copy();
    let config = dir.path().join("1_Pooling/config.json");
    let pooling = || Checkpoint::open(dir.path()).map(|m| Config::of(&m).unwrap().encoder.unwrap().pooling);
    fs::write(&config, r#"{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}"#).unwrap();
    let first = Checkpoint::open(dir.path()).unwrap();
    assert_eq!(pooling().unwrap(), Pooling::First);
    let back = dir.path().join("back");
    hf::write_hf(&first, &back, None, &mut |_| ()).unwrap();
    assert_eq!(Config::of(&Checkpoint::open(&back).unwrap()).unwrap().encoder.unwrap().pooling, Pooling::First);
    fs::write(&config, r#"{"pooling_mode_max_tokens": true}"#).unwrap();
    assert!(pooling().unwrap_err().to_string().contains("mean, cls and lasttoken"));
    fs::write(dir.path().join("modules.json"), r#"[{"type": "x.Pooling", "path": "../elsewhere"}]"#).unwrap();
    assert!(pooling().unwrap_err().to_string().contains("elsewhere"));
    fs::remove_file(dir.path().join("modules.json")).unwrap();
    fs::remove_file(&config).unwrap();
    assert_eq!(pooling().unwrap(), Pooling::Mean, "where nothing is said");
    let said = config_refusal("bert", |json| json["position_embedding_type"] = "relative_key".into());
    assert!(said.contains("relative_key"), "{said}");
    let said = config_refusal("bert", |json| json["is_decoder"] = true.into());
    assert!(said.contains("is_decoder"), "{said}");
}

#[derive(serde::Deserialize)]
struct Text {
    text: String,
    tokens: Vec<u32>,
}

#[test]
fn wordpiece_agrees_with_transformers_on_odd_texts() {
    let dir = tempfile::tempdir().unwrap();
    let model = Checkpoint::open(fixture("bert")).unwrap();
    hf::write_hf(&model, &dir.path().join("back"), None, &mut |_| ()).unwrap();
    let texts: Vec<Text> =
        serde_json::from_str(&fs::read_to_string(fixture("bert").join("wordpiece.json")).unwrap()).unwrap();
    for path in [fixture("bert"), dir.path().join("back")] {
        let tokenizer = Tokenizer::of(&Checkpoint::open(path).unwrap()).unwrap();
        for Text { text, tokens } in &texts {
            assert_eq!(tokenizer.encode(text, Special::DOCUMENT).unwrap(), *tokens, "{text:?}");
        }
        let tokens = tokenizer.encode("A man is playing [SEP] a flute.", Special::DOCUMENT).unwrap();
        assert_eq!(tokens.iter().filter(|&&t| t == 3).count(), 1, "what others write ends no text");
        let tokens = tokenizer.encode("A man is playing a flute.", Special::TEXT).unwrap();
        assert_eq!(tokenizer.decode(&tokens), "a man is playing a flute .");
    }
}
