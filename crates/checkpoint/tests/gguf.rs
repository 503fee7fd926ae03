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
fn tensors_may_come_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    let (metadata, tensors, data) = small_model();
    let mut writer = GgufWriter::create(&path, &metadata, &tensors).unwrap();
    writer.begin("last").unwrap();
    writer.write(&data[2]).unwrap();
    writer.begin("odd").unwrap();
    writer.write(&data[0][..5]).unwrap();
    let error = writer.begin("matrix").unwrap_err().to_string();
    assert!(error.contains("tensor odd has 5 of its 12 bytes"), "{error}");
    writer.write(&data[0][5..]).unwrap();
    // Without being named the next is the one that follows in the file.
    writer.write(&data[1]).unwrap();
    let error = writer.begin("odd").unwrap_err().to_string();
    assert!(error.contains("no tensor odd"), "{error}");
    assert!(writer.write(&[1]).is_err(), "the last tensor is not written twice");
    writer.finish().unwrap();
    assert!(fs::read(path).unwrap() == small_bytes());
}

#[test]
fn a_tensor_that_was_left_out_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("small.gguf");
    let (metadata, tensors, data) = small_model();
    let mut writer = GgufWriter::create(&path, &metadata, &tensors).unwrap();
    writer.begin("matrix").unwrap();
    writer.write(&data[1]).unwrap();
    writer.write(&data[2]).unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("tensor odd has 0 of its 12 bytes"), "{error}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
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

/// A header put together by hand: no metadata but `entries`, and tensors as (name, dims, type, offset).
fn lie(entries: &[&[u8]], tensors: &[(&str, &[u64], u32, u64)], data: usize) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.len() as u64).to_le_bytes());
    entries.iter().for_each(|entry| bytes.extend(*entry));
    for (name, dims, format, offset) in tensors {
        bytes.extend((name.len() as u64).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(format.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(32) + data, 0);
    bytes
}

/// A metadata entry with a value of this type.
fn entry(key: &str, type_id: u32, value: &[u8]) -> Vec<u8> {
    [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), &type_id.to_le_bytes(), value].concat()
}

#[test]
fn lies_about_tensors_are_found_and_named() {
    type Tensors<'a> = &'a [(&'a str, &'a [u64], u32, u64)];
    let good: Tensors = &[("a", &[8], 0, 0), ("b", &[32, 2], 8, 32)];
    assert_eq!(gguf::read_header(Path::new("m"), &lie(&[], good, 100)).unwrap().tensors[1].shape, [2, 32]);
    let cases: [(Tensors, &str); 13] = [
        (&[("a", &[8], 0, 0), ("a", &[8], 0, 32)], "tensor a appears twice"),
        (&[("a", &[8, 0], 0, 0)], "dimension 1 of tensor a is 0"),
        (&[("a", &[1, 1, 1, 1, 1], 0, 0)], "5 dimensions"),
        (&[("a", &[1 << 40, 1 << 40], 0, 0)], "overflows"),
        (&[("a", &[u64::MAX], 0, 0)], "larger than any file"),
        (&[("a", &[1 << 62, 2], 0, 0)], "larger than any file"),
        (&[("a", &[33], 8, 0)], "tensor a has rows of 33 weights"),
        (&[("a", &[256], 19, 0)], "tensor a has the type IQ1_S"),
        (&[("a", &[256], 99, 0)], "type id 99"),
        (&[("a", &[8], 0, 8)], "no multiple of the alignment"),
        (&[("a", &[8], 0, 96)], "end beyond the file's"),
        (&[("a", &[8], 0, u64::MAX - 31)], "end beyond the file's"),
        (&[("a", &[16], 0, 0), ("b", &[8], 0, 32)], "overlap"),
    ];
    for (tensors, expected) in cases {
        let said = refusal(&lie(&[], tensors, 100));
        assert!(said.contains(expected) && said.starts_with("model.gguf: "), "{said}");
    }
}

#[test]
fn lies_in_metadata_are_found_and_named() {
    let huge = u64::MAX.to_le_bytes();
    let nested = [&9u32.to_le_bytes()[..], &0u64.to_le_bytes()].concat();
    let cases: [(&[&[u8]], &str); 9] = [
        (&[&entry("k", 4, &[0; 4]), &entry("k", 4, &[0; 4])], "\"k\" appears twice"),
        (&[&entry("", 4, &[0; 4])], "is empty"),
        (&[&entry("k", 8, &huge)], "length of the value of k is 18446744073709551615"),
        (&[&entry("k", 9, &[&6u32.to_le_bytes()[..], &huge].concat())], "length of the array k"),
        (&[&entry("k", 9, &nested)], "array of arrays"),
        (&[&entry("k", 7, &[2])], "boolean 2"),
        (&[&entry("k", 13, &[0])], "value type 13"),
        (&[&entry("k", 8, &[&1u64.to_le_bytes()[..], &[0xFF]].concat())], "not UTF-8"),
        (&[&entry("general.alignment", 4, &48u32.to_le_bytes())], "power of two"),
    ];
    for (entries, expected) in cases {
        let said = refusal(&lie(entries, &[], 64));
        assert!(said.contains(expected), "{said}");
    }
    let said = refusal(&lie(&[&entry("split.count", 2, &3u16.to_le_bytes())], &[], 0));
    assert!(said.contains("one of 3 parts"), "{said}");
}

#[test]
fn other_files_are_refused_by_name() {
    let versioned = |version: u32| [&b"GGUF"[..], &version.to_le_bytes(), &[0; 16]].concat();
    assert!(refusal(b"PK\x03\x04....").contains("no GGUF file"));
    assert!(refusal(&versioned(1)).contains("version 1"));
    assert!(refusal(&versioned(4)).contains("reads versions 2 and 3"));
    assert!(refusal(&versioned(3u32.swap_bytes())).contains("big-endian"));
    assert!(gguf::read_header(Path::new("m"), &versioned(2)).unwrap().tensors.is_empty());
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("empty.gguf"), []).unwrap();
    let said = Checkpoint::open(dir.path().join("empty.gguf")).unwrap_err().to_string();
    assert!(said.contains("magic number"), "{said}");
    let said = Checkpoint::open(dir.path().join("absent.gguf")).unwrap_err().to_string();
    assert!(said.contains("absent.gguf: there is no such file"), "{said}");
}

#[test]
fn an_unfinished_file_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (metadata, tensors, data) = small_model();
    let path = dir.path().join("out.gguf");
    let mut writer = GgufWriter::create(&path, &metadata, &tensors).unwrap();
    writer.write(&data[0]).unwrap();
    assert!(writer.finish().unwrap_err().to_string().contains("tensor matrix has 0 of its 68 bytes"));
    let mut writer = GgufWriter::create(&path, &metadata, &tensors).unwrap();
    assert!(writer.write(&[0; 13]).unwrap_err().to_string().contains("tensor odd has 12 bytes"));
    drop(writer);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_target_that_cannot_be_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (metadata, tensors, _) = small_model();
    let refused = |path: &Path| GgufWriter::create(path, &metadata, &tensors).err().unwrap().to_string();
    assert!(refused(dir.path()).contains("this is a directory"));
    assert!(refused(&dir.path().join("no/such/folder.gguf")).contains("does not exist"));
    let file = dir.path().join("model.gguf");
    write(&file, &small_model());
    assert!(Checkpoint::open(&file).unwrap().refuse_overwriting(&dir.path().join("./model.gguf")).is_err());
    #[cfg(unix)]
    assert!(refused(Path::new("/dev/null")).contains("not a regular file"));
}

/// A limit on the size of files stands in for a full disk. It holds for a whole process, so the test runs itself again.
#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_leaves_nothing() {
    const FOLDER: &str = "BANTAM_TEST_FULL_DISK";
    if let Some(folder) = std::env::var_os(FOLDER) {
        let (metadata, _, _) = small_model();
        let format = Format::by_name("F32").unwrap();
        let tensors = [TensorInfo { name: "large".into(), shape: vec![1 << 22], format }];
        let mut writer = GgufWriter::create(&Path::new(&folder).join("out.gguf"), &metadata, &tensors).unwrap();
        let error = (0..16).try_for_each(|_| writer.write(&[0; 1 << 20])).and_then(|()| writer.finish()).unwrap_err();
        assert!(error.to_string().contains("out.gguf: cannot write: "), "{error}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = "trap '' XFSZ; ulimit -f 64; exec \"$0\" --exact a_full_disk_leaves_nothing";
    let mut again = std::process::Command::new("sh");
    again.args(["-c", script]).arg(std::env::current_exe().unwrap()).env(FOLDER, dir.path());
    assert!(again.output().unwrap().status.success());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}
