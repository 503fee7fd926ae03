//! GGUF files written here read back, and lies in them are found.

use bantam_checkpoint::metadata::Array;
use bantam_checkpoint::{Checkpoint, Config, Error, GgufWriter, Metadata, TensorInfo, Value, gguf};
use bantam_formats::Format;
use std::fs;
use std::path::Path;

/// A file with every kind of value, two formats, and padding after a tensor.
fn small_model() -> (Metadata, Vec<TensorInfo>, Vec<Vec<u8>>) {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String("llama".into()));
    metadata.set("u8", Value::U8(200));
    metadata.set("i8", Value::I8(-3));
    metadata.set("u16", Value::U16(60_000));
    metadata.set("i16", Value::I16(-300));
    metadata.set("u32", Value::U32(7));
    metadata.set("i32", Value::I32(-7));
    metadata.set("f32", Value::F32(1e-5));
    metadata.set("f64", Value::F64(0.1));
    metadata.set("u64", Value::U64(u64::MAX));
    metadata.set("i64", Value::I64(i64::MIN));
    metadata.set("bool", Value::Bool(true));
    metadata.set("strings", Value::Array(Array::String(vec!["a".into(), "".into(), "▁süß".into()])));
    metadata.set("numbers", Value::Array(Array::F32(vec![0.5, -1.0])));
    metadata.set("booleans", Value::Array(Array::Bool(vec![true, false])));
    let tensor = |name: &str, shape: &[usize], format: &str| TensorInfo {
        name: name.into(),
        shape: shape.into(),
        format: Format::by_name(format).unwrap(),
    };
    let tensors = vec![tensor("odd", &[3], "F32"), tensor("matrix", &[2, 32], "Q8_0"), tensor("last", &[1, 5], "F16")];
    let data = tensors.iter().map(|t| (0..t.bytes()).map(|i| (i * 7) as u8).collect()).collect();
    (metadata, tensors, data)
}

fn write(path: &Path, (metadata, tensors, data): &(Metadata, Vec<TensorInfo>, Vec<Vec<u8>>)) {
    let mut writer = GgufWriter::create(path, metadata, tensors).unwrap();
    for bytes in data {
        let (head, tail) = bytes.split_at(bytes.len() / 2);
        writer.write(head).unwrap();
        writer.write(tail).unwrap();
    }
    writer.finish().unwrap();
}

fn small_bytes() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    write(&path, &small_model());
    fs::read(path).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    let model = small_model();
    write(&path, &model);
    let read = Checkpoint::open(&path).unwrap();
    assert_eq!(read.metadata(), &model.0);
    assert_eq!(read.tensors(), &model.1);
    for (tensor, bytes) in model.1.iter().zip(&model.2) {
        assert_eq!(&*read.data(&tensor.name).unwrap(), &bytes[..], "{}", tensor.name);
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file is gone");
}

#[test]
fn real_models_copy_byte_for_byte() {
    let cache = std::env::var_os("BANTAM_CACHE").map(Into::into);
    let cache: std::path::PathBuf = cache.unwrap_or_else(|| std::env::home_dir().unwrap().join(".cache/bantam"));
    let path = cache.join("models/smollm2-135m.gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return;
    }
    let model = Checkpoint::open(&path).unwrap();
    let config = Config::of(&model).unwrap();
    assert_eq!((config.block_count, config.head_count, config.head_count_kv, config.key_length), (30, 9, 3, 64));
    assert_eq!((config.vocab_size, config.context_length, config.rope.freq_base), (49152, 8192, 100_000.0));
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.gguf");
    let mut writer = GgufWriter::create(&copy, model.metadata(), model.tensors()).unwrap();
    for tensor in model.tensors() {
        writer.write(&model.data(&tensor.name).unwrap()).unwrap();
    }
    writer.finish().unwrap();
    assert!(fs::read(copy).unwrap() == fs::read(path).unwrap(), "the copy differs");
}

/// The error for these bytes.
fn refusal(bytes: &[u8]) -> String {
    let error = gguf::read_header(Path::new("model.gguf"), bytes).unwrap_err();
    assert!(matches!(error, Error::Malformed { .. } | Error::Unsupported { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn every_truncation_is_found() {
    let whole = small_bytes();
    let end = gguf::read_header(Path::new("m"), &whole).unwrap().ranges.iter().map(|r| r.end).max().unwrap();
    for len in 0..end {
        refusal(&whole[..len]);
    }
}

#[test]
fn no_flipped_byte_panics() {
    let mut bytes = small_bytes();
    for at in 0..bytes.len() {
        for flip in [0x01, 0x80, 0xFF] {
            bytes[at] ^= flip;
            if let Ok(header) = gguf::read_header(Path::new("m"), &bytes) {
                assert!(header.ranges.iter().all(|r| r.end <= bytes.len()));
            }
            bytes[at] ^= flip;
        }
    }
}
