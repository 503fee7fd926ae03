//! Where outputs go: nowhere until they are complete, and never over something else.

// Full disks, unwritable places and signals are brought about in Linux's ways.
#![cfg(target_os = "linux")]

mod common;

use common::{Folder, Model, assert_refusal, finish, stderr};
use std::time::Duration;

#[test]
fn outputs_that_cannot_be_written() {
    let folder = Folder::with_model();
    folder.write("file", "a file");
    std::fs::create_dir(folder.path("dir.gguf")).unwrap();
    for (output, said) in [
        ("absent/out.gguf", "absent does not exist"),
        ("file/out.gguf", "file is not a directory"),
        ("dir.gguf", "directory"),
        ("/proc/out.gguf", "/proc"),
        ("/dev/null", "not a regular file"),
    ] {
        folder.refuses(&format!("quantize model.gguf --to Q8_0 -o {output}"), &[output, said]);
        if output.ends_with(".gguf") {
            folder.refuses(&format!("convert model.gguf {output}"), &[output, said]);
        }
    }
    for output in ["absent/out", "file/out", "/proc/out"] {
        folder.refuses(&format!("convert model.gguf {output}"), &[output]);
    }
    folder.refuses("convert model.gguf file", &["file", "is a file"]);
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    std::fs::create_dir(folder.path("folder")).unwrap();
    for output in ["folder", "new/"] {
        let said = [output, "this is a directory; give a file's name"];
        folder.refuses(&format!("train model.gguf --data text.txt -o {output}"), &said);
        folder.refuses(&format!("teach model.gguf --data text.txt -o {output}"), &said);
        folder.refuses(
            &format!("distill --teacher model.gguf --layers 0 --data text.txt --cache {output} -o s.gguf"),
            &said,
        );
    }
    folder.refuses("train model.gguf --data text.txt -o /proc/out.gguf", &["/proc", "cannot write"]);
    for output in ["file", "file/out", "/proc/out"] {
        folder.refuses(&format!("shrink model.gguf --fit 1MB -o {output}"), &[output]);
        folder.refuses(&format!("compare model.gguf model.gguf -o {output}"), &[output]);
    }
}

#[test]
fn a_folder_of_the_users_is_no_earlier_run() {
    let folder = Folder::with_model();
    folder.succeeds("quantize model.gguf --to Q8_0 -o model-Q8_0.gguf");
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    let shrink = "shrink model.gguf --fit 1MB --levels Q8_0 --text text.txt --tasks none --context 64 --chunks 2 -o";
    folder.refuses(&format!("{shrink} ."), &["-o .", "model-Q8_0.gguf", "no earlier run"]);
    folder.write("report.json", "{}");
    folder.refuses(&format!("{shrink} ."), &["-o .", "no earlier run"]);
    std::fs::remove_file(folder.path("model-Q8_0.gguf")).unwrap();
    folder.refuses(&format!("{shrink} ."), &["-o .", "report.json", "no earlier run"]);
    folder.succeeds(&format!("{shrink} small"));
    folder.succeeds(&format!("{shrink} small"));
}

#[test]
fn what_shrink_only_tried_is_not_its_own() {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    let options = "--fit 400kB --text text.txt --tasks none --context 64 --chunks 2 -o small";
    let shrink = |levels: &str| format!("shrink model.gguf {options} --levels {levels}");
    folder.succeeds(&shrink("Q4_K_M,Q2_K"));
    assert!(folder.path("small/model-Q4_K_M.gguf").exists() && !folder.path("small/model-Q2_K.gguf").exists());
    folder.succeeds("quantize model.gguf --to Q2_K -o small/model-Q2_K.gguf");
    folder.refuses(&shrink("Q4_K_M,Q2_K"), &["-o small", "model-Q2_K.gguf", "no earlier run"]);
    std::fs::remove_file(folder.path("small/model-Q2_K.gguf")).unwrap();
    // What it kept is its own, also where a later run kept something else.
    folder.succeeds(&shrink("Q4_K_M,Q2_K --keep-all"));
    folder.succeeds(&shrink("Q2_K"));
    folder.succeeds(&shrink("Q4_K_M,Q2_K"));
    // Of an older report only the chosen one is known to have been kept.
    let mut report: serde_json::Value = serde_json::from_slice(&folder.read("small/report.json")).unwrap();
    let kept = report.as_object_mut().unwrap().remove("kept").unwrap();
    assert_eq!(kept, serde_json::json!(["model-Q2_K.gguf", "model-Q4_K_M.gguf"]));
    folder.write("small/report.json", report.to_string());
    folder.refuses(&shrink("Q4_K_M,Q2_K"), &["-o small", "model-Q2_K.gguf", "no earlier run"]);
    folder.succeeds(&shrink("Q4_K_M"));
}

#[test]
fn a_model_without_a_tokenizer_is_said_to_be_one() {
    let folder = Folder::with_model();
    folder.succeeds("convert model.gguf hf");
    let said = |to: &str| stderr(&folder.run(&format!("convert hf {to}")));
    assert!(!said("whole.gguf --dtype f32").contains("tokenizer"));
    std::fs::remove_file(folder.path("hf/tokenizer.json")).unwrap();
    let without = said("without.gguf");
    assert!(without.contains("hf has no tokenizer.json") && without.contains("without.gguf"), "{without}");
}

#[test]
fn a_model_never_replaces_itself() {
    let folder = Folder::with_model();
    std::fs::hard_link(folder.path("model.gguf"), folder.path("same.gguf")).unwrap();
    for output in ["model.gguf", "./model.gguf"] {
        folder.refuses(&format!("quantize model.gguf --to Q8_0 -o {output}"), &["model.gguf", "replace"]);
        folder.refuses(&format!("convert model.gguf {output}"), &["model.gguf", "replace"]);
    }
    folder.succeeds("convert model.gguf hf");
    folder.refuses("convert hf hf", &["hf", "replace"]);
    folder.refuses("quantize hf --to Q8_0 -o hf/model.safetensors", &["hf/model.safetensors", "replace"]);
    folder.succeeds("quantize hf --to Q8_0 -o hf/q8.gguf");
}

#[test]
fn nothing_that_is_read_is_written_over() {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    folder.succeeds("quantize model.gguf --to Q4_0 -o q4.gguf");
    let (text, model) = (folder.read("text.txt"), folder.read("model.gguf"));
    let steps = "--length 32 --batch 1 --steps 1";
    for (command, said) in [
        ("quantize model.gguf --to Q4_0 --calibrate text.txt -o text.txt", "read as --calibrate"),
        (
            "quantize model.gguf --to Q4_0 --calibrate text.txt --method importance --save-imatrix model.gguf -o a.gguf",
            "--save-imatrix",
        ),
        ("quantize model.gguf --bits 6 --save-mix model.gguf -o a.gguf", "--save-mix"),
        ("quantize model.gguf --bits 6 --save-mix a.gguf -o a.gguf", "-o is to be written there too"),
        ("quantize model.gguf --to Q4_0 --imatrix text.txt -o text.txt", "read as --imatrix"),
        (&format!("train model.gguf --data text.txt {steps} -o text.txt"), "read as --data"),
        (
            &format!("distill --teacher model.gguf --student q4.gguf --data code=text.txt:2 {steps} -o text.txt"),
            "--data",
        ),
        (&format!("distill --teacher model.gguf --student q4.gguf --data text.txt --cache x {steps} -o x"), "-o is"),
        (&format!("train model.gguf --data text.txt {steps} -o absent/a.gguf"), "absent does not exist"),
        ("tune q4.gguf --base model.gguf --data text.txt -o ./text.txt", "read as --data"),
        ("teach model.gguf --data text.txt -o text.txt", "read as --data"),
        ("generate model.gguf --prompts text.txt -o text.txt", "read as --prompts"),
        ("student model.gguf --layers 0 -o absent/a.gguf", "absent does not exist"),
    ] {
        folder.refuses(command, &[said]);
    }
    assert!(folder.read("text.txt") == text && folder.read("model.gguf") == model);
}

#[test]
fn levels_are_tried_once_and_only_as_files() {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    let shrink = "shrink model.gguf --fit 1MB --tasks none --text text.txt --context 32 --chunks 1 -o small --levels";
    folder.succeeds(&format!("{shrink} Q4_0,q4_0"));
    assert!(folder.path("small/model-Q4_0.gguf").exists());
    folder.refuses(&format!("{shrink} W4A16,Q4_0"), &["W4A16", "bantam quantize"]);
    folder.write("talks.jsonl", "{\"text\": \"The cat sat on the mat.\"}\n");
    folder.refuses(
        "eval model.gguf --base model.gguf --tasks none --text talks.jsonl --context 32",
        &["talks.jsonl", ".txt"],
    );
}

#[test]
fn a_file_that_is_there_is_replaced_when_the_new_one_is_complete() {
    let folder = Folder::with_model();
    folder.write("out.gguf", "older");
    Model { broken: Some(("output_norm.weight", f32::NAN)), ..Model::default() }.write(&folder.path("bad.gguf"));
    // The last tensor is the broken one: all others were written before.
    folder.refuses("quantize bad.gguf --to Q8_0 -o out.gguf", &["output_norm.weight"]);
    folder.succeeds("quantize model.gguf --to Q8_0 -o out.gguf");
    assert!(folder.read("out.gguf").starts_with(b"GGUF"));
}

#[test]
fn a_directory_that_holds_something_is_not_replaced() {
    let folder = Folder::with_model();
    std::fs::create_dir(folder.path("hf")).unwrap();
    folder.write("hf/thesis.txt", "months of work");
    folder.refuses("convert model.gguf hf", &["hf", "not empty"]);
}

#[test]
fn a_full_disk_leaves_nothing() {
    let folder = Folder::with_model();
    folder.write("out.gguf", "older");
    let before = folder.snapshot();
    // The limit on a file's size, in blocks of 512 bytes, acts like a disk that is full: the write fails.
    for command in [
        "quantize model.gguf --to F32 -o out.gguf",
        "convert model.gguf out.gguf --dtype f32",
        "convert model.gguf hf",
        "shrink model.gguf --fit 1MB -o small --tasks none --chunks 1 --context 64 --suite quick",
    ] {
        let output = folder.shell(&format!("trap '' XFSZ; ulimit -f 200; exec bantam {command}"));
        let target = command.split(' ').find(|word| ["out.gguf", "hf", "small"].contains(word)).unwrap();
        let said: &[&str] = if target == "small" { &["cannot write"] } else { &[target, "cannot write"] };
        assert_refusal(&output, command, said);
        assert_eq!(folder.snapshot(), before, "{command}");
    }
}

#[test]
fn where_the_bases_outputs_find_no_room_the_remedy_is_named() {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    let before = folder.snapshot();
    // Quiet: a note would say that they are not kept, before the error says that they have no other place either.
    let command = "eval model.gguf --base model.gguf --text text.txt --tasks none --context 64 --quiet";
    let output = folder.shell(&format!("trap '' XFSZ; ulimit -f 200; exec bantam {command}"));
    assert_refusal(&output, command, &["cannot write the base's outputs", "BANTAM_CACHE", "TMPDIR"]);
    assert_eq!(folder.snapshot(), before);
}

/// Only a file system can be truly full, and only who may mount one has a small one to fill: others skip this, and say so, since a test has
/// no other way out than to pass.
#[test]
fn a_full_file_system_leaves_nothing() {
    let folder = Folder::with_model();
    std::fs::create_dir(folder.path("disk")).unwrap();
    let disk = folder.path("disk");
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|m| m.status.success()) {
        eprintln!("skipped: no right to mount a small file system here");
        return;
    }
    let commands = ["quantize model.gguf --to Q8_0 -o disk/out.gguf", "convert model.gguf disk/hf"];
    let outputs = commands.map(|command| folder.run(command));
    let left = std::fs::read_dir(&disk).unwrap().count();
    std::process::Command::new("umount").arg(&disk).status().unwrap();
    for (output, command) in outputs.iter().zip(commands) {
        assert_refusal(output, command, &["disk/", "cannot write"]);
    }
    assert_eq!(left, 0);
}

/// A model that takes a second or more to quantize, so that it can be interrupted.
fn slow_model(folder: &Folder) {
    Model { layers: 24, ..Model::default() }.write(&folder.path("large.gguf"));
}

/// Interrupts a command as soon as something temporary is there.
fn interrupt(folder: &Folder, arguments: &str, signal: &str) {
    let before = folder.snapshot();
    let mut child = folder.command(arguments).spawn().unwrap();
    let temporary = || {
        let mut names = std::fs::read_dir(folder.path(".")).unwrap().map(|e| e.unwrap().file_name());
        names.any(|name| name.to_string_lossy().starts_with(".bantam-"))
    };
    while !temporary() {
        assert_eq!(child.try_wait().unwrap(), None, "{arguments}: ended before it could be interrupted");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(std::process::Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{arguments} {signal}: {}", stderr(&output));
    assert_eq!(folder.snapshot(), before, "{arguments} {signal}: left something behind");
}

#[test]
fn an_interrupt_leaves_nothing() {
    let folder = Folder::new();
    slow_model(&folder);
    for signal in ["-INT", "-TERM"] {
        interrupt(&folder, "quantize large.gguf --to Q3_K_M -o out.gguf --threads 1", signal);
        interrupt(&folder, "convert large.gguf hf", signal);
        interrupt(&folder, "shrink large.gguf --fit 100MB -o small --suite quick --tasks none --context 64", signal);
    }
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let folder = Folder::with_model();
    for command in
        ["inspect model.gguf --tensors", "quantize --list", "completions bash", "inspect model.gguf --tensors --json"]
    {
        let output = folder.shell(&format!("(bantam {command}; echo code $? >&2) | true"));
        let message = stderr(&output);
        assert!(message.trim() == "code 0", "{command}: {message}");
    }
}

#[test]
fn a_full_standard_output_is_an_error() {
    let folder = Folder::with_model();
    for command in
        ["inspect model.gguf", "inspect model.gguf --json", "quantize --list", "completions zsh", "run model.gguf -p x"]
    {
        let output = folder.shell(&format!("bantam {command} >/dev/full"));
        assert_refusal(&output, command, &["standard output"]);
        let silent = folder.shell(&format!("bantam {command} >/dev/full 2>/dev/full"));
        assert_eq!(silent.status.code(), Some(2), "{command}: with nowhere to say so");
    }
}

#[test]
fn an_output_without_permission() {
    let folder = Folder::with_model();
    let mut command = folder.command("quantize model.gguf --to Q8_0 -o /sys/out.gguf");
    assert_refusal(&finish(&mut command), "quantize to /sys", &["/sys/out.gguf", "cannot write"]);
}
