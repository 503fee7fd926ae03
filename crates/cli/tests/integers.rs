//! Directories of integers for other engines, from the command line.

mod common;

use common::Folder;

#[test]
fn directories_are_written_read_and_converted() {
    let folder = Folder::with_model();
    for (level, format) in [("W4A16", "INT4_G128"), ("W8A8", "INT8"), ("GPTQ", "INT4_G128")] {
        let json = folder.json(&format!("quantize model.gguf --to {level} -o {level}"));
        assert_eq!((json["level"].as_str(), json["method"].as_str()), (Some(level), Some("nearest")));
        let text = folder.succeeds(&format!("inspect {level} --json"));
        assert!(text.contains(format) && text.contains(&format!("to {level}")), "{text}");
        folder.succeeds(&format!("convert {level} {level}.gguf"));
        assert!(folder.succeeds(&format!("inspect {level}.gguf")).contains(format), "where it came from");
    }
}

#[test]
fn eight_bits_are_smoothed_with_text() {
    let folder = Folder::with_model();
    let quick = "--calibration-length 32 --calibration-tokens 300";
    folder.succeeds(&format!("quantize model.gguf --to W8A8 --calibrate {quick} -o w8"));
    let text = folder.succeeds("inspect w8 --json");
    assert!(text.contains("smooth model.gguf") && text.contains("method scaling"), "{text}");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_done() {
    let folder = Folder::with_model();
    folder.refuses("quantize model.gguf --to W4A16 -o w4.gguf", &["directory"]);
    std::fs::create_dir(folder.path("there")).unwrap();
    folder.write("there/mine.txt", "mine");
    folder.refuses("quantize model.gguf --to W4A16 --calibrate -o there", &["not empty"]);
    assert_eq!(folder.read("there/mine.txt"), b"mine");
}
