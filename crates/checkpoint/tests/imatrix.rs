//! Importance matrices that llama.cpp made are read, both forms alike, and what is wrong with others is said.
//! The fixtures are made by `scripts/fixtures/imatrix.py`.

use bantam_checkpoint::imatrix::Entry;
use bantam_checkpoint::metadata::Array;
use bantam_checkpoint::{GgufWriter, Imatrix, Metadata, TensorInfo, Value};
use bantam_formats::Format;
use std::fs;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/imatrix").join(name)
}

fn read(name: &str) -> Imatrix {
    Imatrix::read(&fixture(name)).unwrap()
}

/// The error of reading these bytes.
fn refusal(bytes: &[u8]) -> String {
    Imatrix::parse(Path::new("some.imatrix"), bytes).unwrap_err().to_string()
}

/// Writes the matrix with `write` and reads it again.
fn again(imatrix: &Imatrix, write: fn(&Imatrix, &Path) -> bantam_checkpoint::Result<()>) -> Imatrix {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("again");
    write(imatrix, &path).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "the temporary file is gone");
    Imatrix::read(&path).unwrap()
}

/// A file in the older form, entry by entry: name, chunks, sums.
fn legacy(entries: &[(&str, i32, &[f32])]) -> Vec<u8> {
    let mut bytes = (entries.len() as i32).to_le_bytes().to_vec();
    for (name, chunks, sums) in entries {
        bytes.extend((name.len() as i32).to_le_bytes());
        bytes.extend(name.as_bytes());
        bytes.extend(chunks.to_le_bytes());
        bytes.extend((sums.len() as i32).to_le_bytes());
        bytes.extend(sums.iter().flat_map(|s| s.to_le_bytes()));
    }
    bytes
}

/// A GGUF file of these strings and F32 vectors.
fn gguf(strings: &[(&str, &str)], tensors: &[(&str, &[f32])]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.gguf");
    let mut metadata = Metadata::default();
    strings.iter().for_each(|(key, value)| metadata.set(key, Value::String((*value).into())));
    let format = Format::by_name("F32").unwrap();
    let infos: Vec<_> =
        tensors.iter().map(|(name, v)| TensorInfo { name: (*name).into(), shape: vec![v.len()], format }).collect();
    let mut writer = GgufWriter::create(&path, &metadata, &infos).unwrap();
    for (_, values) in tensors {
        writer.write(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    }
    writer.finish().unwrap();
    fs::read(path).unwrap()
}

#[test]
fn what_llama_cpp_made_is_read() {
    let imatrix = read("imatrix.gguf");
    assert_eq!((&imatrix.datasets[..], imatrix.chunks), (&["text.txt".to_owned()][..], 3));
    assert_eq!(imatrix.chunk_tokens, Some(64));
    let expected: serde_json::Value = serde_json::from_slice(&fs::read(fixture("expected.json")).unwrap()).unwrap();
    let expected = expected.as_object().unwrap();
    assert!(expected.keys().eq(imatrix.entries.keys()));
    for (name, entry) in &imatrix.entries {
        let expected = &expected[name];
        assert_eq!(serde_json::json!(entry.counts()), expected["counts"], "{name}");
        assert_eq!(entry.sums().len(), expected["sums"].as_u64().unwrap() as usize, "{name}");
        let first: Vec<_> = expected["first"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect();
        assert_eq!(entry.sums()[..3], first, "{name}");
        let total: f64 = entry.sums().iter().map(|&s| f64::from(s)).sum();
        assert!((total / expected["total"].as_f64().unwrap() - 1.0).abs() < 1e-12, "{name}");
    }
}

#[test]
fn both_forms_say_the_same() {
    let (new, old) = (read("imatrix.gguf"), read("imatrix.dat"));
    assert_eq!((&old.datasets, old.chunks, old.chunk_tokens), (&new.datasets, new.chunks, None));
    assert!(old.entries.keys().eq(new.entries.keys()));
    for (name, entry) in &new.entries {
        let old = old.entries[name].mean_squares();
        assert_eq!(old.len(), entry.sums().len());
        for (a, b) in entry.mean_squares().into_iter().zip(old) {
            assert!((a - b).abs() <= 1e-6 * a, "{name}: {a} and {b}");
        }
    }
    let experts = new.entries["blk.0.ffn_down_exps.weight"].mean_squares();
    assert!(experts[..96].iter().all(|&m| m != 1.0) && experts[96..].iter().all(|&m| m == 1.0));
}

#[test]
fn what_is_written_is_read() {
    let (new, old) = (read("imatrix.gguf"), read("imatrix.dat"));
    assert_eq!(again(&new, Imatrix::write), new);
    assert_eq!(again(&old, Imatrix::write), old);
    assert_eq!(again(&old, Imatrix::write_legacy), old);
    let converted = again(&new, Imatrix::write_legacy);
    for (name, entry) in &old.entries {
        assert_eq!(converted.entries[name].counts(), entry.counts(), "{name}");
        let pairs = entry.sums().iter().zip(converted.entries[name].sums());
        // llama.cpp rounds twice on the way.
        assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= 2e-7 * a), "{name}");
    }
}

#[test]
fn bytes_are_those_of_llama_cpp() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("again");
    read("imatrix.gguf").write(&path).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(fixture("imatrix.gguf")).unwrap());
    read("imatrix.dat").write_legacy(&path).unwrap();
    assert!(fs::read(&path).unwrap() == fs::read(fixture("imatrix.dat")).unwrap());
}

#[test]
fn tensors_that_saw_nothing_are_not_in_the_older_form() {
    let mut imatrix = Imatrix { chunk_tokens: Some(8), ..Imatrix::default() };
    imatrix.entries.insert("seen".into(), Entry::new(vec![9.0, 18.0], vec![9]));
    imatrix.entries.insert("unseen".into(), Entry::new(vec![0.0, 0.0], vec![0]));
    let old = again(&imatrix, Imatrix::write_legacy);
    assert_eq!(old.entries.keys().collect::<Vec<_>>(), ["seen"]);
    assert_eq!(old.entries["seen"], Entry::new(vec![2.0, 4.0], vec![2]), "nine tokens are two chunks of eight");
    assert_eq!(again(&imatrix, Imatrix::write), imatrix);
    imatrix.entries.remove("seen");
    for write in [Imatrix::write, Imatrix::write_legacy] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("never");
        let error = write(&imatrix, &path).unwrap_err().to_string();
        assert!(error.contains("no tensor saw a token") && !path.exists(), "{error}");
    }
}

#[test]
fn the_oldest_files_end_after_their_entries() {
    let bytes = fs::read(fixture("imatrix.dat")).unwrap();
    let whole = read("imatrix.dat");
    let trailer = 4 + 4 + "text.txt".len();
    let entries_only = Imatrix::parse(Path::new("a"), &bytes[..bytes.len() - trailer]).unwrap();
    assert_eq!(entries_only.entries, whole.entries);
    assert_eq!((entries_only.chunks, entries_only.datasets.len()), (0, 0));
    let without_name = Imatrix::parse(Path::new("a"), &bytes[..bytes.len() - trailer + 4]).unwrap();
    assert_eq!((without_name.chunks, without_name.datasets.len()), (3, 0));
    // Sums of no chunks are means, as in llama-quantize.
    let means = Imatrix::parse(Path::new("a"), &legacy(&[("t", 0, &[2.0, 3.0])])).unwrap();
    assert_eq!(means.entries["t"].mean_squares(), [2.0, 3.0]);
}

#[test]
fn truncated_files_are_refused_at_every_byte() {
    for name in ["imatrix.gguf", "imatrix.dat"] {
        let bytes = fs::read(fixture(name)).unwrap();
        // A file of the older form that ends after its entries, or the number of chunks, is whole.
        let whole = |len| name.ends_with("dat") && [bytes.len() - 16, bytes.len() - 12].contains(&len);
        // Padding ends the GGUF form.
        let end = if name.ends_with("gguf") { bytes.len() - 32 } else { bytes.len() };
        for len in (0..end).filter(|&len| !whole(len)) {
            assert!(Imatrix::parse(Path::new("a"), &bytes[..len]).is_err(), "{name} cut to {len} bytes");
        }
    }
}

#[test]
fn lies_in_the_older_form_are_found() {
    let says = |bytes: &[u8], what: &[&str]| {
        let refusal = refusal(bytes);
        assert!(what.iter().all(|w| refusal.contains(w)), "{refusal}");
        assert!(refusal.starts_with("some.imatrix: "), "{refusal}");
    };
    let good = legacy(&[("t", 2, &[1.0, 2.0])]);
    let changed = |at: usize, value: i32| {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    says(&changed(0, i32::MAX), &["at byte 0", "number of entries is 2147483647", "room for 1"]);
    says(&changed(0, 0), &["number of entries is 0"]);
    says(&changed(4, -1), &["at byte 4", "length of the name of entry 0 is -1"]);
    says(&changed(9, -5), &["at byte 9", "number of chunks of t is -5"]);
    says(&changed(13, 1 << 30), &["at byte 13", "number of sums of t is 1073741824", "room for 2"]);
    says(&legacy(&[("t", 1, &[1.0, f32::NAN])]), &["sum of squares 1 of t is NaN"]);
    says(&legacy(&[("t", 1, &[-1.0])]), &["sum of squares 0 of t is -1"]);
    says(&legacy(&[("t", 1, &[f32::INFINITY])]), &["is inf"]);
    says(&legacy(&[("t", 1, &[1.0]), ("t", 1, &[1.0])]), &["t, appears twice"]);
    says(b"It is a truth universally acknowledged", &["does not begin with \"GGUF\"", "llama-imatrix"]);
    says(b"", &["the number of entries needs 4 bytes"]);
}

#[test]
fn lies_in_the_gguf_form_are_found() {
    let says = |strings: &[(&str, &str)], tensors: &[(&str, &[f32])], what: &str| {
        let refusal = refusal(&gguf(strings, tensors));
        assert!(refusal.contains(what), "{refusal}");
    };
    let kind = [("general.type", "imatrix")];
    says(&kind, &[], "no tensor saw a token");
    says(&kind, &[("t.in_sum2", &[1.0]), ("t.counts", &[0.0])], "no tensor saw a token");
    says(&kind, &[("t.in_sum2", &[1.0])], "there is t.in_sum2, but no t.counts");
    says(&kind, &[("t.counts", &[1.0])], "there is t.counts, but no t.in_sum2");
    says(&kind, &[("t.in_sum2", &[1.0, 2.0, 3.0]), ("t.counts", &[1.0, 1.0])], "t has 3 sums and 2 counts");
    says(&kind, &[("t.in_sum2", &[1.0, f32::NAN]), ("t.counts", &[1.0])], "sum of squares 1 of t is NaN");
    says(&kind, &[("t.in_sum2", &[-2.0]), ("t.counts", &[1.0])], "sum of squares 0 of t is -2");
    for count in [f32::NAN, f32::INFINITY, -1.0, 1e30] {
        says(&kind, &[("t.in_sum2", &[1.0]), ("t.counts", &[count])], "which is no number of tokens");
    }
    let model = [("general.architecture", "llama")];
    says(&model, &[("token_embd.weight", &[1.0])], "this is a llama model, not an importance matrix");
    says(&[("general.type", "mmproj")], &[], "a GGUF file of the type \"mmproj\", not an importance matrix");
}

#[test]
fn a_gguf_file_needs_no_metadata() {
    let bytes = gguf(&[], &[("t.in_sum2", &[4.0, 6.0]), ("t.counts", &[2.0]), ("other", &[1.0])]);
    let imatrix = Imatrix::parse(Path::new("a"), &bytes).unwrap();
    assert_eq!((imatrix.datasets.len(), imatrix.chunk_tokens, imatrix.chunks), (0, None, 0));
    assert_eq!(imatrix.entries["t"].mean_squares(), [2.0, 3.0]);
    // What is written has all keys: llama-quantize refuses files without.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("made.gguf");
    imatrix.write(&path).unwrap();
    let written = bantam_checkpoint::Checkpoint::open(&path).unwrap();
    let metadata = written.metadata();
    assert_eq!(metadata.str("general.type"), Some("imatrix"));
    assert_eq!(metadata.get("imatrix.datasets"), Some(&Value::Array(Array::String(vec![]))));
    assert_eq!((metadata.uint("imatrix.chunk_count"), metadata.uint("imatrix.chunk_size")), (Some(0), Some(0)));
}
