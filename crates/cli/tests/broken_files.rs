//! Files that are truncated, corrupted, lying, or not models at all, given to every command.

mod common;

use common::{Folder, Model};

/// Every command that reads a model, with `bad.gguf` in its place.
const COMMANDS: [&str; 11] = [
    "inspect bad.gguf",
    "convert bad.gguf out",
    "convert bad.gguf out.gguf",
    "quantize bad.gguf --to Q4_0 -o out.gguf",
    "eval bad.gguf --base model.gguf",
    "compare model.gguf bad.gguf -o out",
    "run bad.gguf -p x",
    "bench bad.gguf",
    "shrink bad.gguf --fit 1MB -o out",
    "student bad.gguf --layers 0 -o out.gguf",
    "student bad.gguf --feed-forward 8 -o out.gguf",
];

fn all_refuse(folder: &Folder, said: &[&str]) {
    for command in COMMANDS {
        folder.refuses(command, said);
    }
}

/// A folder in which `bad.gguf` is what `change` makes of a sound model.
fn corrupted(change: impl FnOnce(&mut Vec<u8>)) -> Folder {
    let folder = Folder::with_model();
    let mut bytes = folder.read("model.gguf");
    change(&mut bytes);
    folder.write("bad.gguf", bytes);
    folder
}

/// The position of `text` in the file.
fn find(bytes: &[u8], text: &str) -> usize {
    bytes.windows(text.len()).position(|w| w == text.as_bytes()).unwrap()
}

/// The position of the description of a tensor (dimensions on) in the table.
fn tensor(bytes: &[u8], name: &str) -> usize {
    find(bytes, name) + name.len()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[test]
fn no_such_file() {
    all_refuse(&Folder::with_model(), &["bad.gguf", "no such file"]);
}

#[test]
fn a_directory_without_a_model() {
    let folder = Folder::with_model();
    std::fs::create_dir(folder.path("bad.gguf")).unwrap();
    all_refuse(&folder, &["bad.gguf", "config.json", "Hugging Face"]);
}

#[test]
fn an_empty_file() {
    all_refuse(&corrupted(Vec::clear), &["bad.gguf"]);
}

#[test]
fn another_kind_of_file() {
    all_refuse(&corrupted(|bytes| *bytes = b"<html>Not found</html> and so on".to_vec()), &["bad.gguf", "GGUF"]);
}

#[test]
fn truncated_files() {
    for share in [8, 2] {
        all_refuse(&corrupted(|bytes| bytes.truncate(bytes.len() / share)), &["bad.gguf", "tensor"]);
    }
    for length in [3, 10, 30, 100, 1000] {
        let folder = corrupted(|bytes| bytes.truncate(length));
        folder.refuses("inspect bad.gguf", &["bad.gguf"]);
    }
}

#[test]
fn counts_that_overflow() {
    for at in [8, 16] {
        all_refuse(&corrupted(|bytes| put(bytes, at, &u64::MAX.to_le_bytes())), &["bad.gguf"]);
    }
}

#[test]
fn a_dimension_of_zero_or_beyond_everything() {
    for dimension in [0, u64::MAX, 1 << 62] {
        let folder = corrupted(|bytes| {
            let at = tensor(bytes, "blk.0.attn_q.weight") + 4;
            put(bytes, at, &dimension.to_le_bytes());
        });
        all_refuse(&folder, &["bad.gguf", "blk.0.attn_q.weight"]);
    }
}

#[test]
fn an_unknown_type_and_an_offset_out_of_range() {
    let folder = corrupted(|bytes| {
        let at = tensor(bytes, "blk.0.attn_q.weight") + 4 + 16;
        put(bytes, at, &999u32.to_le_bytes());
    });
    all_refuse(&folder, &["bad.gguf", "blk.0.attn_q.weight", "999"]);
    let folder = corrupted(|bytes| {
        let at = tensor(bytes, "blk.0.attn_q.weight") + 4 + 16 + 4;
        put(bytes, at, &(u64::MAX / 64 * 32).to_le_bytes());
    });
    all_refuse(&folder, &["bad.gguf", "blk.0.attn_q.weight"]);
}

#[test]
fn a_name_twice() {
    let folder = corrupted(|bytes| {
        let at = find(bytes, "blk.0.attn_v.weight");
        put(bytes, at, b"blk.0.attn_k.weight");
    });
    all_refuse(&folder, &["bad.gguf", "blk.0.attn_k.weight"]);
}

#[test]
fn hyperparameters_that_make_no_sense() {
    for (key, value) in [
        ("attention.head_count_kv", 0),
        ("attention.head_count", 0),
        ("block_count", 0),
        ("block_count", u32::MAX),
        ("embedding_length", 0),
        ("context_length", 0),
    ] {
        let folder = corrupted(|bytes| {
            let at = tensor(bytes, &format!("llama.{key}")) + 4;
            put(bytes, at, &u32::to_le_bytes(value));
        });
        for command in
            ["inspect bad.gguf", "run bad.gguf -p x", "bench bad.gguf", "quantize bad.gguf --to Q4_K_M -o out.gguf"]
        {
            let output = folder.run(command);
            let code = output.status.code();
            // A wrong number that a command does not need need not stop it.
            assert!(matches!(code, Some(0 | 2)), "{key} = {value}: {command}: {}", common::stderr(&output));
            if command.starts_with("run") {
                common::assert_refusal(&output, command, &["bad.gguf"]);
            }
        }
    }
}

#[test]
fn an_unknown_architecture() {
    let folder = Folder::with_model();
    Model { architecture: "perceptron", ..Model::default() }.write(&folder.path("bad.gguf"));
    all_refuse(&folder, &["bad.gguf", "perceptron", "llama"]);
}

#[test]
fn a_missing_tensor() {
    let folder = corrupted(|bytes| {
        let at = find(bytes, "blk.0.attn_v.weight");
        put(bytes, at, b"blk.0.attn_x.weight");
    });
    for command in ["run bad.gguf -p x", "bench bad.gguf", "eval bad.gguf --base model.gguf --text text.txt"] {
        folder.write("text.txt", "words ".repeat(200));
        folder.refuses(command, &["bad.gguf", "blk.0.attn_"]);
    }
}

#[test]
fn weights_that_are_not_finite() {
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let folder = Folder::with_model();
        folder.write("text.txt", "words ".repeat(200));
        Model { broken: Some(("blk.0.ffn_down.weight", value)), ..Model::default() }.write(&folder.path("bad.gguf"));
        let tensor = ["bad.gguf", "blk.0.ffn_down.weight", "row 0", "column 0"];
        for command in [
            "convert bad.gguf out",
            "convert bad.gguf out.gguf",
            "quantize bad.gguf --to Q4_0 -o out.gguf",
            "quantize bad.gguf --to F32 -o out.gguf",
        ] {
            folder.refuses(command, &tensor);
        }
        folder.refuses(
            "eval bad.gguf --base model.gguf --text text.txt --tasks none --context 64",
            &["bad.gguf", "finite"],
        );
        folder.refuses("run bad.gguf -p x", &["weights"]);
        folder.refuses("shrink bad.gguf --fit 1MB -o out --text text.txt --tasks none --context 64", &["bad.gguf"]);
    }
    let folder = Folder::with_model();
    Model { broken: Some(("blk.0.ffn_norm.weight", f32::NAN)), ..Model::default() }.write(&folder.path("bad.gguf"));
    for command in ["run bad.gguf -p x", "bench bad.gguf", "quantize bad.gguf --to Q8_0 -o out.gguf"] {
        folder.refuses(command, &["bad.gguf", "blk.0.ffn_norm.weight", "NaN"]);
    }
}

#[test]
fn broken_hugging_face_directories() {
    let folder = Folder::with_model();
    folder.succeeds("convert model.gguf hf");
    let sound = folder.read("hf/model.safetensors");
    let commands = ["inspect hf", "convert hf out.gguf", "quantize hf --to Q8_0 -o out.gguf", "run hf -p x"];
    let refused = |bytes: Vec<u8>, said: &[&str]| {
        folder.write("hf/model.safetensors", bytes);
        commands.iter().for_each(|command| folder.refuses(command, said));
    };
    let with_header = |change: &dyn Fn(String) -> String| {
        let length = u64::from_le_bytes(sound[..8].try_into().unwrap()) as usize;
        let header = change(String::from_utf8(sound[8..8 + length].to_vec()).unwrap());
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &sound[8 + length..]].concat()
    };
    refused(Vec::new(), &["model.safetensors"]);
    refused(sound[..sound.len() / 2].to_vec(), &["model.safetensors", "tensor", "truncated"]);
    refused([&u64::MAX.to_le_bytes()[..], &sound[8..]].concat(), &["model.safetensors", "header"]);
    refused(with_header(&|h| h.replacen("\"F32\"", "\"I7\"", 1)), &["model.safetensors", "tensor", "I7"]);
    refused(with_header(&|h| h.replacen("[256]", "[0]", 1)), &["model.safetensors", "tensor", "shape"]);
    refused(with_header(&|h| h.replacen("[256]", "[4611686018427387904,9]", 1)), &["model.safetensors", "overflows"]);
    refused(with_header(&|h| h.replacen("v_proj", "k_proj", 1)), &["model.safetensors", "k_proj", "twice"]);
    refused(with_header(&|h| h.replacen("[0,", "[7,", 1)), &["model.safetensors", "tensor"]);

    std::fs::remove_file(folder.path("hf/model.safetensors")).unwrap();
    commands.iter().for_each(|command| folder.refuses(command, &["hf/model.safetensors", "no such file"]));
    folder.write("hf/model.safetensors", &sound);
    let config = folder.read("hf/config.json");
    for (bytes, said) in [(&b"{}"[..], "model_type"), (&b"{"[..], "config.json"), (&b"\xff\xfe"[..], "UTF-8")] {
        folder.write("hf/config.json", bytes);
        commands.iter().for_each(|command| folder.refuses(command, &["hf/config.json", said]));
    }
    let unknown = String::from_utf8(config).unwrap().replace("\"llama\"", "\"perceptron\"");
    folder.write("hf/config.json", unknown);
    commands.iter().for_each(|command| folder.refuses(command, &["hf/config.json", "perceptron", "llama"]));
}

#[test]
fn a_parquet_file_at_which_its_library_panics() {
    let folder = Folder::with_model();
    let fixture =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shrink/tests/fixtures/texts-snappy.parquet");
    let mut bytes = std::fs::read(fixture).unwrap();
    // A column that begins before the file.
    bytes[463] = 255;
    folder.write("bad.parquet", bytes);
    folder.refuses(
        "quantize model.gguf --to Q4_0 --calibrate bad.parquet --calibration-length 8 -o out.gguf",
        &["bad.parquet", "the Parquet file is damaged"],
    );
}
