//! Directories of integers: read, written again as others wrote them, and refused.

mod common;

use bantam_checkpoint::hf::integers::{IntegerWriter, Packing};
use bantam_checkpoint::safetensors::read_parts;
use bantam_checkpoint::{Checkpoint, GgufWriter, TensorWriter, provenance};
use bantam_formats::Format;
use common::{copy_of, fixture};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The fixtures with their packings; see `scripts/fixtures/integers.py`.
const FIXTURES: [(&str, &str); 3] = [("w4a16", "pack-quantized"), ("w8a8", "int-quantized"), ("gptq", "gptq")];

/// Type, shape and bytes of a directory's tensors. Numbers in BF16 as F16, if those hold them.
fn tensors(dir: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(dir.join("model.safetensors")).unwrap();
    let parts = read_parts(dir, &bytes, |_, _| true).unwrap();
    let entry = |part: bantam_checkpoint::safetensors::Part| {
        let data = &bytes[part.range];
        let halves = |b: &[u8; 2]| half::f16::from_f32(half::bf16::from_le_bytes(*b).to_f32()).to_le_bytes();
        match &part.dtype[..] {
            "BF16" => (part.name, ("F16".to_owned(), part.shape, data.as_chunks().0.iter().flat_map(halves).collect())),
            _ => (part.name, (part.dtype, part.shape, data.to_vec())),
        }
    };
    parts.into_iter().map(entry).collect()
}

fn write(model: &Checkpoint, writer: &mut dyn TensorWriter) {
    // In any order, and in pieces.
    for tensor in model.tensors().iter().rev() {
        let data = model.data(&tensor.name).unwrap();
        writer.begin(&tensor.name).unwrap();
        data.chunks(1000).for_each(|piece| writer.write(piece).unwrap());
    }
}

#[test]
fn what_others_packed_is_packed_to_the_same_bytes() {
    for (name, packing) in FIXTURES {
        let (dir, model) = (tempfile::tempdir().unwrap(), Checkpoint::open(fixture(name)).unwrap());
        let mut metadata = model.metadata().clone();
        provenance::append(&mut metadata, model.step("quantize").setting("to", "W4A16"));
        let output = dir.path().join("written");
        let packing = Packing::by_name(packing).unwrap();
        let mut writer = IntegerWriter::create(&output, &model, packing, &metadata, model.tensors()).unwrap();
        write(&model, &mut writer);
        assert!(!output.exists());
        Box::new(writer).finish().unwrap();

        let (ours, theirs) = (tensors(&output), tensors(&fixture(name)));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, (dtype, shape, bytes)) in ours.iter().filter(|(t, _)| !t.contains("norm") && !t.ends_with("bias"))
        {
            let theirs = &theirs[tensor];
            assert_eq!((dtype, shape), (&theirs.0, &theirs.1), "{name}: {tensor}");
            assert!(*bytes == theirs.2, "{name}: {tensor} has other bytes");
        }
        let again = Checkpoint::open(&output).unwrap();
        assert_eq!(provenance::of(again.metadata()), provenance::of(&metadata));
        for tensor in model.tensors().iter().filter(|t| !t.stays_f32()) {
            assert!(again.data(&tensor.name).unwrap()[..] == model.data(&tensor.name).unwrap()[..], "{}", tensor.name);
        }
    }
}

/// The configuration says one format for a module of all layers.
#[test]
fn a_layer_with_a_format_of_its_own_is_refused() {
    let (dir, model) = (tempfile::tempdir().unwrap(), Checkpoint::open(fixture("w4a16")).unwrap());
    let mut tensors = model.tensors().to_vec();
    let last = tensors.iter_mut().rfind(|t| t.name.ends_with("attn_q.weight")).unwrap();
    assert_ne!(last.name, "blk.0.attn_q.weight");
    last.format = Format::f16();
    let packing = Packing::by_name("pack-quantized").unwrap();
    let output = dir.path().join("written");
    let refused =
        IntegerWriter::create(&output, &model, packing, model.metadata(), &tensors).err().unwrap().to_string();
    assert!(refused.contains("blk.0.attn_q.weight is to be INT4_G32 and") && refused.contains("F16"), "{refused}");
    assert!(!output.exists());
}

#[test]
fn gguf_files_cannot_hold_them() {
    let (dir, model) = (tempfile::tempdir().unwrap(), Checkpoint::open(fixture("w4a16")).unwrap());
    let path = dir.path().join("model.gguf");
    let error = GgufWriter::create(&path, model.metadata(), model.tensors()).err().unwrap().to_string();
    assert!(error.contains("INT4_G32") && error.contains("GGUF"), "{error}");
    assert!(!path.exists());
}

/// What is said of the fixture with another `quantization_config`.
fn refusal(name: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let dir = copy_of(name);
    let path = dir.path().join("config.json");
    let mut json: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut json["quantization_config"]);
    fs::write(&path, json.to_string()).unwrap();
    Checkpoint::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn what_is_not_read_is_named() {
    let weights = |change: fn(&mut serde_json::Value)| {
        move |q: &mut serde_json::Value| change(&mut q["config_groups"]["group_0"])
    };
    for (said, part) in [
        (refusal("w4a16", |q| q["quant_method"] = "awq".into()), "\"awq\""),
        (refusal("w4a16", |q| q["format"] = "float-quantized".into()), "float-quantized"),
        (refusal("w4a16", weights(|g| g["weights"]["num_bits"] = 3.into())), "4 bits"),
        (refusal("w4a16", weights(|g| g["weights"]["symmetric"] = false.into())), "symmetric"),
        (refusal("w4a16", weights(|g| g["input_activations"] = serde_json::json!({ "num_bits": 8 }))), "activations"),
        (refusal("w8a8", weights(|g| g["input_activations"]["dynamic"] = false.into())), "token by token"),
        (refusal("w8a8", |q| q["kv_cache_scheme"] = serde_json::json!({})), "kv_cache_scheme"),
        (refusal("w8a8", |q| q["config_groups"] = 1.into()), "config_groups"),
        (refusal("gptq", |q| q["bits"] = 8.into()), "8 bits"),
        (refusal("gptq", |q| q["sym"] = false.into()), "symmetric"),
        (refusal("gptq", |q| q["checkpoint_format"] = "gptq_v2".into()), "gptq_v2"),
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// What is said of the fixture with some bytes of its weights replaced: those of the first tensor whose name ends so.
fn spoiled(name: &str, suffix: &str, change: impl FnOnce(&mut [u8])) -> Result<Checkpoint, String> {
    let dir = copy_of(name);
    let path = dir.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let parts = read_parts(&path, &bytes, |name, _| name.ends_with(suffix)).unwrap();
    change(&mut bytes[parts[0].range.clone()]);
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(dir.path()).map_err(|e| e.to_string())
}

#[test]
fn numbers_that_mean_something_else_are_refused() {
    let said = spoiled("gptq", "qzeros", |bytes| bytes[0] = 0x78).unwrap_err();
    assert!(said.contains("not symmetric") && said.contains("_proj"), "{said}");
    let said = spoiled("gptq", "g_idx", |bytes| bytes.reverse()).unwrap_err();
    assert!(said.contains("desc_act"), "{said}");
    let said = spoiled("w4a16", "weight_shape", |bytes| bytes[0] += 1).unwrap_err();
    assert!(said.contains("weight_shape"), "{said}");
    assert!(spoiled("w4a16", "weight_packed", |bytes| bytes.fill(0xff)).is_ok());
}

#[test]
fn modules_that_are_not_whole_are_refused() {
    for (name, part, message) in [
        ("w4a16", "weight_scale", "weight_packed, weight_shape do not make a weight"),
        ("w8a8", "weight_scale", "there is no weight_scale"),
        ("gptq", "g_idx", "there is no g_idx"),
    ] {
        let dir = copy_of(name);
        let path = dir.path().join("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        // A tensor that no model needs takes its place.
        let module = "model.layers.0.self_attn.q_proj";
        let mut changed = header.replacen(&format!("{module}.{part}\""), "old.rotary_emb.inv_freq\"", 1);
        assert_ne!(changed, header);
        changed.push_str(&" ".repeat(changed.len().next_multiple_of(8) - changed.len()));
        fs::write(
            &path,
            [&(changed.len() as u64).to_le_bytes()[..], changed.as_bytes(), &bytes[8 + length..]].concat(),
        )
        .unwrap();
        let said = Checkpoint::open(dir.path()).unwrap_err().to_string();
        assert!(said.contains(message) && said.contains(module), "{said}");
    }
}
