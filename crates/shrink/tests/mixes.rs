//! Our mixes give every tensor of real models the format that `llama-quantize` gives it.

use bantam_checkpoint::TensorInfo;
use bantam_checkpoint::config::{Config, Rope, RopePairing, RopeScaling};
use bantam_formats::{FORMATS, Format};
use bantam_shrink::{Error, Mix};
use serde_json::{Value, json};

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
            let targets = Mix::by_name(level).unwrap().assign(&tensors, &config).unwrap();
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

/// A mix of one's own, from a file `own.toml` of this text.
fn own(text: &str) -> Result<Mix, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("own.toml");
    std::fs::write(&path, text).unwrap();
    Mix::named(path.to_str().unwrap())
}

/// A model of one layer, whose head is a tensor of its own or its embedding.
fn small(tied: bool) -> (Config, Vec<TensorInfo>) {
    let mut shapes = json!({
        "token_embd.weight": [256, 256],
        "blk.0.attn_norm.weight": [256],
        "blk.0.attn_q.weight": [256, 256],
        "blk.0.ffn_up.weight": [256, 256],
    });
    if !tied {
        shapes["output.weight"] = json!([256, 256]);
    }
    let model = json!({ "block_count": 1, "head_count": 4, "head_count_kv": 4, "tensors": shapes });
    (config(&model), tensors(&model))
}

#[test]
fn every_line_of_a_saved_mix_counts() {
    let q4_k = Format::by_name("Q4_K").unwrap();
    for tied in [true, false] {
        let (config, tensors) = small(tied);
        let matrices: Vec<(&str, &'static Format)> =
            tensors.iter().filter(|t| t.shape.len() > 1).map(|t| (&t.name[..], q4_k)).collect();
        let mix = Mix::of_tensors("chosen".into(), "for a test".into(), &matrices);
        let (saved, expected) = (mix.to_toml(), mix.assign(&tensors, &config).unwrap());
        let read = own(&saved).unwrap();
        assert_eq!(read.assign(&tensors, &config).unwrap(), expected, "{saved}");
        assert!(read.idle(&tensors).is_empty(), "{saved}");
        let mut edited = 0;
        for at in 0..saved.lines().count() {
            let lines = saved.lines().enumerate();
            let edit = |(i, line): (usize, &str)| if i == at { line.replace("Q4_K", "F16") } else { line.to_owned() };
            let text = lines.map(edit).collect::<Vec<_>>().join("\n");
            // The default is of tensors that no line names, and there are none.
            if text == saved.trim_end() || text.contains("default = \"F16\"") {
                continue;
            }
            let targets = own(&text).unwrap().assign(&tensors, &config).unwrap();
            let changed = targets.iter().zip(&expected).filter(|(target, before)| target != before).count();
            assert_eq!(changed, 1, "{text}");
            edited += 1;
        }
        assert_eq!(edited, matrices.len(), "{saved}");
    }
}

#[test]
fn rules_that_nothing_comes_of_are_known() {
    let rule = |tensor: &str| format!("{{ tensor = \"{tensor}\", format = \"Q6_K\" }}");
    let named = ["attn_q", "blk.0.ffn_up", "ffn_upp", "blk.1.ffn_up", "attn_norm", "token_embd", "output"];
    let rules = named.map(rule).join(", ");
    let mix = own(&format!("default = \"Q4_K\"\nrules = [{rules}]\n")).unwrap();
    assert_eq!(mix.idle(&small(true).1), ["ffn_upp", "blk.1.ffn_up", "attn_norm", "token_embd", "output"]);
    assert_eq!(mix.idle(&small(false).1), ["ffn_upp", "blk.1.ffn_up", "attn_norm", "output"]);
    // One of ours is for models of all kinds.
    assert!(Mix::by_name("IQ2_M").unwrap().idle(&small(true).1).is_empty());
}

#[test]
fn formats_that_can_only_be_read_are_for_tensors_that_have_them() {
    let (config, tensors) = small(true);
    let mut read_only = 0;
    for format in FORMATS.iter().copied().filter(|f| f.encode.is_none()) {
        read_only += 1;
        let default = format!("default = \"{format}\"\n");
        let head = format!("default = \"Q4_K\"\nhead = \"{format}\"\n");
        let rule = format!("default = \"Q4_K\"\nrules = [{{ tensor = \"attn_q\", format = \"{format}\" }}]\n");
        for text in [&default, &head, &rule] {
            let error = own(text).unwrap().assign(&tensors, &config).unwrap_err().to_string();
            assert!(error.contains("own.toml: ") && error.contains(&format!("become {format},")), "{error}");
            let written: Vec<&str> = error.split_once("it can write ").unwrap().1.split(", ").collect();
            assert!(written.contains(&"Q4_K") && !written.contains(&format.name), "{error}");
        }
        let has_it = |t: &TensorInfo| match t.name.contains("attn_q") {
            true => TensorInfo { format, ..t.clone() },
            false => t.clone(),
        };
        let packed: Vec<TensorInfo> = tensors.iter().map(has_it).collect();
        let targets = own(&rule).unwrap().assign(&packed, &config).unwrap();
        let kept = packed.iter().zip(&targets).filter(|(_, target)| target.format == format);
        assert_eq!(kept.map(|(t, _)| &t.name[..]).collect::<Vec<_>>(), ["blk.0.attn_q.weight"]);
    }
    assert!(read_only > 0);
}

#[test]
fn a_directory_holds_what_its_packing_can() {
    let (config, tensors) = small(false);
    let plain = "head = \"F16\"\nrules = [{ tensor = \"token_embd\", format = \"F16\" }";
    let mix = |packing: &str, default: &str, more: &str| {
        own(&format!("directory = \"{packing}\"\ndefault = \"{default}\"\n{more}\n")).unwrap().assign(&tensors, &config)
    };
    for (packing, held, other) in
        [("gptq", "INT4_G128", "INT8"), ("pack-quantized", "INT4_G64", "INT8"), ("int-quantized", "INT8", "INT4_G128")]
    {
        let rules = format!("{plain}]");
        mix(packing, held, &rules).unwrap();
        let q8 = format!("{plain}, {{ tensor = \"ffn_up\", format = \"Q8_0\" }}]");
        let embedding = "head = \"F16\"\n";
        for (default, more, tensor) in [
            (other, &rules[..], "blk.0.attn_q.weight"),
            (held, &q8, "blk.0.ffn_up.weight"),
            (held, embedding, "token_embd.weight"),
            (held, "rules = [{ tensor = \"token_embd\", format = \"F16\" }]", "output.weight"),
        ] {
            let error = mix(packing, default, more).unwrap_err().to_string();
            let named = ["own.toml", tensor, packing, held];
            assert!(named.iter().all(|name| error.contains(name)) && !error.contains(", INT8,"), "{error}");
        }
    }
}
