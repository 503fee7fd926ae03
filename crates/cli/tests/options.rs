//! Wrong options, texts and candidates.

mod common;

use common::{CONTEXT, Folder, Model, assert_refusal, stderr};

/// Refused by the command line's parser: exit code 2 with the option's name.
fn misused(folder: &Folder, arguments: &str, said: &str) {
    let before = folder.snapshot();
    let output = folder.run(arguments);
    assert_eq!(output.status.code(), Some(2), "bantam {arguments}");
    let message = stderr(&output);
    assert!(message.starts_with("error: ") && message.contains(said), "bantam {arguments}: {message}");
    assert!(!message.contains("panicked"), "bantam {arguments}: {message}");
    assert_eq!(folder.snapshot(), before);
}

#[test]
fn numbers_that_make_no_sense() {
    let folder = Folder::with_model();
    for (arguments, said) in [
        ("inspect model.gguf --threads 0", "--threads"),
        ("inspect model.gguf --threads -1", "-1"),
        ("inspect model.gguf --threads 1000000", "--threads"),
        ("inspect model.gguf --context many", "--context"),
        ("inspect model.gguf --context 99999999999999999999999", "--context"),
        ("run model.gguf -p x -n many", "--max-tokens"),
        ("run model.gguf -p x --temperature hot", "--temperature"),
        ("run model.gguf -p x --seed -1", "-1"),
        ("bench model.gguf --repetitions 0", "--repetitions"),
        ("bench model.gguf --prompt 0", "--prompt"),
        ("bench model.gguf --decode 0", "--decode"),
        ("eval model.gguf --base model.gguf --chunks 0", "--chunks"),
        ("eval model.gguf --base model.gguf --tasks some", "--tasks"),
        ("shrink model.gguf --fit big -o out", "--fit"),
        ("shrink model.gguf --fit 0 -o out", "--fit"),
        ("shrink model.gguf --fit -5MB -o out", "--fit"),
        ("shrink model.gguf --fit 1e999 -o out", "--fit"),
        ("convert model.gguf out.gguf --dtype q4", "--dtype"),
        ("completions tcsh", "tcsh"),
        ("quantise model.gguf", "quantize"),
        ("quantize model.gguf --to Q8_0", "--output"),
    ] {
        misused(&folder, arguments, said);
    }
    folder.succeeds("inspect model.gguf --context 18446744073709551615");
    // A model behind an option of several files is taken for one of them.
    for (command, option) in [("eval --base model.gguf", "--text"), ("quantize --to Q4_0 -o out.gguf", "--calibrate")] {
        let said = format!("{option} takes all names that follow");
        misused(&folder, &format!("{command} {option} a.txt model.gguf"), &said);
    }
}

#[test]
fn a_missing_option_is_no_swallowed_model() {
    let folder = Folder::with_model();
    let said = stderr(&folder.run("quantize model.gguf --to Q4_0 --calibrate a.txt"));
    assert!(said.contains("--output") && !said.contains("takes all names"), "{said}");
}

#[test]
fn options_that_nothing_would_come_of() {
    let folder = Folder::with_model();
    misused(&folder, "student model.gguf --layers 0 --seed 3 -o s.gguf", "--seed");
    folder.refuses("student model.gguf --layers 0 --feed-forward 100000 -o s.gguf", &["model.gguf", "100000"]);
    misused(&folder, "run model.gguf -p x --raw --system be", "--raw");
    misused(&folder, "teach model.gguf --data text.txt --temperature 0 -o cache", "--temperature");
    let said = stderr(&folder.run("run model.gguf -p x -n 1 --context 100000"));
    assert!(said.contains("warning: --context 100000"), "{said}");
}

#[test]
fn sampling_out_of_range() {
    let folder = Folder::with_model();
    for (options, said) in [
        ("--temperature NaN", "temperature is NaN"),
        ("--temperature inf", "temperature is inf"),
        ("--temperature=-1", "temperature is -1"),
        ("--top-p 2", "top-p is 2"),
        ("--top-p 0", "top-p is 0"),
        ("--top-p NaN", "top-p is NaN"),
        ("--min-p 1.5", "min-p is 1.5"),
        ("--repetition-penalty 0", "penalty is 0"),
    ] {
        folder.refuses(&format!("run model.gguf -p x {options}"), &[said, "needed"]);
    }
}

#[test]
fn levels_that_do_not_exist() {
    let folder = Folder::with_model();
    folder.refuses("quantize model.gguf --to Q4_KM -o out.gguf", &["Q4_KM", "Q8_0"]);
    folder.refuses("shrink model.gguf --fit 1MB --levels Q8_0,Q9_0 -o out", &["Q9_0", "Q8_0"]);
    folder.refuses("eval model.gguf --base model.gguf --suite huge", &["huge", "standard", "quick"]);
}

#[test]
fn a_size_that_cannot_be_reached() {
    let folder = Folder::with_model();
    folder.refuses("shrink model.gguf --fit 10kB -o out", &["model.gguf", "10.0 kB", "Q2_K", "--fit"]);
    folder.succeeds("quantize model.gguf --to Q2_K -o q2.gguf");
    folder.refuses("shrink q2.gguf --fit 1MB -o out", &["q2.gguf", "smaller", "--levels"]);
    // The size that it names is true.
    let message = stderr(&folder.run("shrink model.gguf --fit 10kB -o out"));
    let smallest: u64 = message.split("--fit ").nth(1).unwrap().split(',').next().unwrap().parse().unwrap();
    assert_eq!(smallest, folder.read("q2.gguf").len() as u64);
}

#[test]
fn texts_that_cannot_be_measured_on() {
    let folder = Folder::with_model();
    folder.write("empty.txt", "");
    folder.write("blank.txt", " \n\n");
    folder.write("latin1.txt", b"caf\xe9");
    folder.write("short.txt", "Too short.");
    std::fs::create_dir(folder.path("texts")).unwrap();
    let eval = |options: &str, said: &[&str]| {
        folder.refuses(&format!("eval model.gguf --base model.gguf --context 64 {options}"), said);
        folder.refuses(&format!("compare model.gguf model.gguf -o out --context 64 {options}"), said);
        folder.refuses(&format!("shrink model.gguf --fit 1MB -o out --context 64 {options}"), said);
    };
    eval("--text empty.txt", &["empty.txt", "empty"]);
    eval("--text blank.txt", &["blank.txt", "empty"]);
    eval("--text latin1.txt", &["latin1.txt", "UTF-8", "byte 3"]);
    eval("--text short.txt", &["short.txt", "64", "longer"]);
    eval("--text absent.txt", &["absent.txt", "No such file"]);
    eval("--text texts", &["texts", "directory"]);
    folder.refuses("eval model.gguf --base model.gguf --context 1", &["context of 1", "16"]);
    folder.refuses("eval model.gguf --base model.gguf --context 4096", &["4096", &CONTEXT.to_string()]);
}

#[test]
fn candidates_that_are_not_the_base_made_smaller() {
    let folder = Folder::with_model();
    folder.write("text.txt", "words the they then ".repeat(50));
    Model { vocab: 300, ..Model::default() }.write(&folder.path("larger.gguf"));
    Model { merges: Some(vec!["Ġ t", "h e", "t h"]), ..Model::default() }.write(&folder.path("other.gguf"));
    let options = "--text text.txt --tasks none --context 64";
    let refused = |candidate: &str, said: &[&str]| {
        folder.refuses(&format!("eval {candidate} --base model.gguf {options}"), said);
        folder.refuses(&format!("compare model.gguf {candidate} -o out {options}"), said);
    };
    refused("larger.gguf", &["larger.gguf", "model.gguf", "tokenizer", "300 tokens and 260"]);
    refused("other.gguf", &["other.gguf", "model.gguf", "tokenizer"]);
    refused("absent.gguf", &["absent.gguf", "no such file"]);
    // Found out before the work on the base, of which nothing is kept then.
    folder.succeeds("quantize model.gguf --to Q8_0 -o q8.gguf");
    let compare = |candidates: &str| {
        folder.shell(&format!("BANTAM_CACHE=cache bantam compare model.gguf {candidates} {options}"))
    };
    assert_refusal(&compare("q8.gguf other.gguf"), "compare", &["other.gguf", "tokenizer"]);
    assert!(!folder.path("cache").exists());
    assert!(compare("q8.gguf").status.success() && folder.path("cache").exists());
}

#[test]
fn models_without_a_whole_tokenizer() {
    let folder = Folder::with_model();
    Model { tokenizer: false, ..Model::default() }.write(&folder.path("mute.gguf"));
    Model { merges: None, ..Model::default() }.write(&folder.path("unmerged.gguf"));
    for (model, said) in [("mute.gguf", "tokenizer"), ("unmerged.gguf", "merges")] {
        folder.refuses(&format!("run {model} -p x"), &[model, said]);
        folder.refuses(&format!("eval {model} --base {model}"), &[model, said]);
        folder.refuses(&format!("shrink {model} --fit 1MB -o out"), &[model, said]);
        // What needs no tokenizer works.
        folder.succeeds(&format!("inspect {model}"));
        folder.succeeds(&format!("quantize {model} --to Q8_0 -o {model}.q8.gguf"));
        folder.succeeds(&format!("bench {model} --prompt 8 --decode 2 --repetitions 1"));
    }
}

#[test]
fn prompts_that_do_not_fit() {
    let folder = Folder::with_model();
    let prompt = "x".repeat(300);
    folder.refuses(&format!("run model.gguf -p {prompt}"), &["context", "128", "300"]);
    folder.refuses("run model.gguf -p abcdefgh --context 4", &["context", "4", "8"]);
    folder.refuses("run model.gguf -p x --context 0", &["context", "0"]);
    folder.refuses("bench model.gguf --prompt 1000000000000", &["model.gguf", "128", "--prompt"]);
    folder.refuses("bench model.gguf --decode 18446744073709551615", &["model.gguf", "128", "--decode"]);
    let mut command = folder.command("run model.gguf --raw -p");
    command.arg("");
    assert_refusal(&common::finish(&mut command), "run with an empty prompt", &["prompt is empty"]);
    folder.refuses("run model.gguf -p x --system y", &["model.gguf", "chat template", "--system"]);
}
