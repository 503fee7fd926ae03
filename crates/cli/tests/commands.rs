//! What each command does for its user when all is well.

mod common;

use bantam_checkpoint::{Checkpoint, GgufWriter, TensorInfo};
use common::{Folder, Model};
use serde_json::Value;
use std::collections::BTreeSet;

const QUICK: &str = "--text text.txt --tasks none --context 64 --chunks 2";

fn folder() -> Folder {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(20));
    folder
}

fn weights(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let info = checkpoint.tensor(name).unwrap_or_else(|| panic!("no {name}"));
    let mut values = vec![0.0; info.len()];
    (info.format.decode)(&checkpoint.data(name).unwrap(), &mut values);
    values
}

#[test]
fn inspect_says_what_a_model_is() {
    let folder = folder();
    let json = folder.json("inspect model.gguf --tensors --context 100");
    assert_eq!(json["model"]["architecture"], "llama");
    assert_eq!(json["model"]["file_bytes"], folder.read("model.gguf").len());
    assert_eq!(json["context_length"], 128);
    // Two heads of 64 for keys and for values, in f16, one layer.
    assert_eq!(json["kv_bytes_per_token"], 2 * 64 * 2 * 2);
    assert_eq!(json["kv_bytes"], 51_200);
    assert_eq!(json["tensors"].as_array().unwrap().len(), 11);
    let text = folder.succeeds("inspect model.gguf --tensors");
    for part in ["llama", "260 tokens", "Q4_K_M", "blk.0.attn_q.weight"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn converting_there_and_back_changes_no_weight() {
    let folder = folder();
    folder.succeeds("convert model.gguf hf");
    let json = folder.json("convert hf back.gguf --dtype f32");
    assert_eq!(json["dtype"], "F32");
    let [there, back] = ["model.gguf", "back.gguf"].map(|name| Checkpoint::open(folder.path(name)).unwrap());
    assert_eq!(there.tensors().len(), back.tensors().len());
    for tensor in there.tensors() {
        assert_eq!(weights(&there, &tensor.name), weights(&back, &tensor.name), "{}", tensor.name);
    }
    let answer = |model| folder.json(&format!("run {model} --raw -p hello -n 12 --temperature 0"))["text"].clone();
    assert_eq!(answer("model.gguf"), answer("hf"));
    assert_eq!(answer("model.gguf"), answer("back.gguf"));
}

#[test]
fn every_level_can_be_made_and_run() {
    let folder = folder();
    let levels = folder.json("quantize --list");
    let levels: Vec<&str> = levels.as_array().unwrap().iter().map(|level| level[0].as_str().unwrap()).collect();
    assert!(levels.contains(&"Q4_K_M") && levels.len() > 15);
    for level in levels {
        let directory = ["W4A16", "W8A8", "GPTQ"].contains(&level);
        let output = if directory { level } else { "out.gguf" };
        let json = folder.json(&format!("quantize model.gguf --to {level} -o {output}"));
        assert_eq!(json["level"], level);
        let bytes: u64 = match directory {
            true => std::fs::read_dir(folder.path(output)).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum(),
            false => folder.read(output).len() as u64,
        };
        assert_eq!(json["file_bytes"], bytes, "{level}");
        assert_eq!(folder.json(&format!("run {output} --raw -p hello -n 3"))["prompt_tokens"], 4, "{level}");
    }
}

#[test]
fn quantizing_does_not_depend_on_threads() {
    let folder = folder();
    folder.succeeds("quantize model.gguf --to Q4_K_M -o one.gguf --threads 1");
    folder.succeeds("quantize model.gguf --to q4_k_m -o two.gguf --threads 2");
    assert!(folder.read("one.gguf") == folder.read("two.gguf"));
}

#[test]
fn eval_measures_what_was_lost() {
    let folder = folder();
    folder.succeeds("quantize model.gguf --to Q2_K -o small.gguf");
    let json = folder.json(&format!("eval small.gguf --base model.gguf {QUICK}"));
    let evaluation = &json["evaluations"][0];
    let loss = |evaluation: &Value| evaluation["overall"]["kl_divergence"]["mean"].as_f64().unwrap();
    assert!(loss(evaluation) > 1e-5, "{evaluation}");
    for field in ["perplexity", "top1_agreement"] {
        assert!(evaluation["overall"].get(field).is_some(), "{field}: {}", evaluation["overall"]);
    }
    for path in ["/candidate/file_bytes", "/candidate/bits_per_weight", "/categories", "/made_by/0"] {
        assert!(evaluation.pointer(path).is_some(), "{path}: {evaluation}");
    }
    assert_eq!(json["base"]["architecture"], "llama");
    let same = folder.json(&format!("eval model.gguf --base model.gguf {QUICK}"));
    assert!(loss(&same["evaluations"][0]).abs() < 1e-6);
    let table = folder.succeeds(&format!("eval small.gguf --base model.gguf {QUICK}"));
    assert!(table.contains("small.gguf"), "{table}");
}

#[test]
fn compare_writes_a_report() {
    let folder = folder();
    folder.succeeds("quantize model.gguf --to Q8_0 -o q8.gguf");
    folder.succeeds("quantize model.gguf --to Q2_K -o q2.gguf");
    let json = folder.json(&format!("compare model.gguf q2.gguf q8.gguf -o new/report {QUICK} --speed"));
    assert_eq!(json["evaluations"][0]["candidate"]["label"], "q8.gguf");
    assert!(json["evaluations"][1]["speed"]["decode"].as_f64().unwrap() > 0.0);
    let written: Value = serde_json::from_slice(&folder.read("new/report/report.json")).unwrap();
    assert_eq!(written["evaluations"], json["evaluations"]);
    let html = String::from_utf8(folder.read("new/report/report.html")).unwrap();
    assert!(html.contains("q8.gguf") && html.trim_end().ends_with("</html>"));
}

#[test]
fn candidates_of_one_name_are_called_by_their_paths() {
    let folder = folder();
    for (output, level) in [("a/model.gguf", "Q8_0"), ("b/model.gguf", "Q2_K"), ("c/q4.gguf", "Q4_0")] {
        std::fs::create_dir(folder.path(&output[..1])).unwrap();
        folder.succeeds(&format!("quantize model.gguf --to {level} -o {output}"));
    }
    let json = folder.json(&format!("compare model.gguf a/model.gguf b/model.gguf c/q4.gguf {QUICK}"));
    let evaluations = json["evaluations"].as_array().unwrap();
    let labels: Vec<_> = evaluations.iter().map(|e| e["candidate"]["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["a/model.gguf", "q4.gguf", "b/model.gguf"]);
}

#[test]
fn shrink_keeps_the_best_that_fits() {
    let folder = folder();
    folder.write("kept.txt", "something of the user's");
    let json = folder.json(&format!("shrink model.gguf --fit 400kB --levels Q8_0,Q4_K_M,Q2_K -o small {QUICK}"));
    let chosen = &json["evaluations"][json["chosen"].as_u64().unwrap() as usize];
    assert_eq!(chosen["candidate"]["label"], "Q4_K_M", "{json}");
    assert_eq!(chosen["candidate"]["path"], "small/model-Q4_K_M.gguf");
    let mut names: Vec<_> = std::fs::read_dir(folder.path("small"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["model-Q4_K_M.gguf", "report.html", "report.json"]);
    assert!(folder.read("small/model-Q4_K_M.gguf").len() <= 400_000);
    // Again into the same directory, with all levels.
    let text =
        folder.succeeds(&format!("shrink model.gguf --fit 400kB --levels Q4_K_M,Q2_K --keep-all -o small {QUICK}"));
    assert!(text.contains("bantam run small/model-Q4_K_M.gguf"), "{text}");
    assert_eq!(std::fs::read_dir(folder.path("small")).unwrap().count(), 4);
    assert_eq!(std::fs::read_dir(folder.path(".")).unwrap().count(), 4, "temporary folders are gone");
}

#[test]
fn shrink_tries_formats_chosen_within_the_size() {
    let folder = folder();
    let shrink = "shrink model.gguf --fit 400kB --levels Q4_K_M,Q2_K --keep-all -o small --calibrate";
    let json = folder.json(&format!("{shrink} {QUICK}"));
    let tried = json["evaluations"].as_array().unwrap();
    let labels: BTreeSet<_> = tried.iter().map(|e| e["candidate"]["label"].as_str().unwrap()).collect();
    assert_eq!(labels, ["Q2_K", "Q4_K_M", "fit"].into());
    assert!(folder.read("small/model-fit.gguf").len() <= 400_000);
    // The chosen one is the best of what fits.
    let loss = |e: &serde_json::Value| e["overall"]["kl_divergence"]["mean"].as_f64().unwrap();
    let chosen = &tried[json["chosen"].as_u64().unwrap() as usize];
    assert!(tried.iter().all(|e| loss(chosen) <= loss(e)), "{json}");
    // Its report says which files are its own: nothing else takes that report's place.
    let compare = format!("compare model.gguf small/model-fit.gguf {QUICK}");
    folder.refuses(&format!("{compare} -o small"), &["small", "report.json", "bantam compare"]);
    folder.succeeds(&format!("{compare} -o report"));
    folder.succeeds(&format!("{compare} -o report"));
    // Smaller than any level.
    let below = json["evaluations"].as_array().unwrap().iter().map(|e| e["candidate"]["file_bytes"].as_u64().unwrap());
    let below = below.min().unwrap() - 1;
    let shrink = format!("shrink model.gguf --fit {below} --levels Q2_K -o smaller {QUICK}");
    folder.refuses(&shrink, &["cannot be made to fit", "--calibrate"]);
    let json = folder.json(&format!("{shrink} --calibrate"));
    assert_eq!(json["evaluations"][json["chosen"].as_u64().unwrap() as usize]["candidate"]["label"], "fit", "{json}");
    assert!(folder.read("smaller/model-fit.gguf").len() as u64 <= below);
    folder.refuses(&format!("{shrink} --calibrate none.txt"), &["none.txt"]);
}

#[test]
fn shrink_goes_on_where_it_was_stopped() {
    let folder = folder();
    let shrink = |to: &str| {
        format!("shrink model.gguf --fit 400kB --levels Q4_K_M,Q2_K --calibrate -o {to} --text text.txt --context 32")
    };
    folder.killed(&shrink("killed"), "killed.shrinking/model-fit.gguf", &[50, 50]);
    folder.write("killed.shrinking/mine.txt", "mine");
    let said = common::stderr(&folder.run(&shrink("killed")));
    assert!(said.contains("rounded layers") && said.contains("8 of 8 tensors were measured before"), "{said}");
    let left: Vec<_> =
        std::fs::read_dir(folder.path("killed.shrinking")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["mine.txt"], "what is the user's stays");
    let said = common::stderr(&folder.run(&shrink("whole")));
    assert!(said.contains("model-fit.gguf: as measured before") && !said.contains("rounded layers"), "{said}");
    assert!(!folder.path("whole.shrinking").exists());
    let chosen = |of: &str| {
        let read = |name: &str| std::fs::read(folder.path(of).join(name)).ok();
        ["model-fit.gguf", "model-Q4_K_M.gguf", "model-Q2_K.gguf"].map(read)
    };
    assert!(chosen("whole") == chosen("killed") && chosen("whole").iter().flatten().count() == 1);
}

/// Writes `model.gguf` as `padded.gguf`, with rows in its embedding that stand for no token and are likelier than any: GGUF files may be
/// padded so.
fn pad(folder: &Folder) {
    const MORE: usize = 64;
    let model = Checkpoint::open(folder.path("model.gguf")).unwrap();
    let rows = model.tensor("token_embd.weight").unwrap().rows() + MORE;
    let info = |tensor: &TensorInfo| {
        let mut info = tensor.clone();
        if info.name == "token_embd.weight" {
            info.shape[0] = rows;
        }
        info
    };
    let infos: Vec<TensorInfo> = model.tensors().iter().map(info).collect();
    let mut metadata = model.metadata().clone();
    metadata.set("llama.vocab_size", bantam_checkpoint::Value::U32(rows as u32));
    let mut writer = GgufWriter::create(&folder.path("padded.gguf"), &metadata, &infos).unwrap();
    for info in &infos {
        let mut values = weights(&model, &info.name);
        let more: Vec<f32> = values.iter().take(info.len() - values.len()).map(|v| 20.0 * v).collect();
        values.extend(more);
        writer.write(bytemuck::cast_slice(&values)).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn run_is_reproducible_by_its_seed() {
    let folder = folder();
    let said = |model: &str, seed: u32| {
        folder.succeeds(&format!("run {model} -p hello -n 30 --temperature 1 --top-k 0 --seed {seed}"))
    };
    let text = |seed| said("model.gguf", seed);
    assert_eq!(text(7), text(7));
    assert_ne!(text(7), text(8));
    // What is no token is not chosen, however likely.
    pad(&folder);
    assert_eq!(said("padded.gguf", 7), text(7));
    let json = folder.json("run model.gguf -p hello -n 5 --temperature 0");
    assert_eq!(json["prompt_tokens"], 4);
    assert!(json["tokens"].as_u64().unwrap() <= 5);
}

#[test]
fn run_reads_prompts_line_by_line() {
    let folder = folder();
    let output = folder.shell("printf 'hello\\nthe cat\\n\\nnever read\\n' | bantam run model.gguf -n 3 --json");
    let answers: Result<Vec<Value>, _> = serde_json::Deserializer::from_slice(&output.stdout).into_iter().collect();
    let answers = answers.unwrap();
    assert_eq!(answers.len(), 2);
    assert!(answers.iter().all(|answer| answer["tokens"].as_u64().unwrap() <= 3));
    let output = folder.shell("printf 'caf\\351\\n' | bantam run model.gguf -n 3");
    common::assert_refusal(&output, "run with a prompt that is not UTF-8", &["standard input", "UTF-8"]);
}

/// Some tokenizers put the end of text behind every text: nothing would follow it but another one.
#[test]
fn what_is_to_be_continued_has_no_end_behind_it() {
    let folder = folder();
    Model { ends: true, ..Model::default() }.write(&folder.path("ends.gguf"));
    for options in ["--raw -p hello", "-p hello"] {
        let [answer, same] =
            ["model", "ends"].map(|name| folder.json(&format!("run {name}.gguf {options} -n 8 --temperature 0")));
        assert_eq!((&answer["prompt_tokens"], &answer["text"]), (&same["prompt_tokens"], &same["text"]), "{options}");
    }
    // Neither questions nor what is written on has one, while documents have.
    let options = "--text text.txt --context 32";
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    let measured = |name: &str| folder.json(&format!("compare {name}.gguf {name}.gguf {options}"));
    let [choices, same] = ["model", "ends"].map(|name| measured(name)["evaluations"][0]["choices"].clone());
    assert!(choices.as_array().is_some_and(|all| !all.is_empty()) && choices == same, "{choices} {same}");
}

#[test]
fn a_full_context_is_said_with_what_gives_more() {
    let folder = folder();
    let answer = folder.run("run model.gguf --raw -p hello -n 400 --context 16 --temperature 2 --seed 3");
    let said = common::stderr(&answer);
    assert!(answer.status.success() && said.contains("cut off where the context (--context) is full"), "{said}");
    let json = folder.json("run model.gguf --raw -p hello -n 4 --temperature 0");
    assert_eq!(json["full"], false);
    let long = "word ".repeat(40);
    folder.write("long.txt", &long);
    let output = folder.shell("bantam run model.gguf --raw -p \"$(cat long.txt)\" --context 16");
    common::assert_refusal(
        &output,
        "run with a long prompt",
        &["the context has 16", "--context gives more, up to 128"],
    );
}

#[test]
fn a_candidate_is_not_measured_beyond_what_it_sees() {
    let folder = folder();
    Model { context: 32, ..Model::default() }.write(&folder.path("short.gguf"));
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    for command in ["eval short.gguf --base model.gguf", "compare model.gguf short.gguf"] {
        let command = format!("{command} --text text.txt --tasks none");
        folder
            .refuses(&format!("{command} --context 64"), &["short.gguf was trained for 32 at most", "smaller context"]);
        folder.succeeds(&format!("{command} --context 32"));
    }
}

/// What comes through a pipe can be read once.
#[test]
fn text_may_come_through_a_pipe() {
    let folder = folder();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    let options = "--text /dev/stdin --context 32 --tasks none";
    for command in ["compare model.gguf model.gguf", "shrink model.gguf --fit 1MB --calibrate text.txt -o small"] {
        let output = folder.shell(&format!("cat text.txt | bantam {command} {options}"));
        assert!(output.status.success(), "{command}: {}", common::stderr(&output));
    }
}

#[test]
fn bench_measures_within_the_models_context() {
    let folder = folder();
    Model { context: 48, ..Model::default() }.write(&folder.path("short.gguf"));
    let json = folder.json("bench short.gguf --repetitions 1");
    assert_eq!(json["prompt_tokens"], 24);
    let json = folder.json("bench model.gguf --decode 4 --repetitions 1");
    assert_eq!(json["prompt_tokens"], 124);
    assert!(json["prefill"].as_f64().unwrap() > 0.0 && json["decode"].as_f64().unwrap() > 0.0);
}

#[test]
fn completions_for_the_usual_shells() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = folder.succeeds(&format!("completions {shell}"));
        assert!(script.contains("quantize") && script.contains("shrink"), "{shell}");
    }
}

#[test]
fn every_help_has_an_example() {
    let folder = Folder::new();
    let help = folder.succeeds("--help");
    assert!(help.contains("Examples:") && help.contains("Make a trained model small"), "{help}");
    for command in ["inspect", "convert", "quantize", "eval", "compare", "run", "bench", "shrink", "completions"] {
        assert!(help.contains(command));
        let help = folder.succeeds(&format!("{command} --help"));
        assert!(help.contains("Example") && help.contains(&format!("  bantam {command} ")), "{command}: {help}");
    }
}

#[test]
fn models_in_hugging_faces_form_can_be_shrunk() {
    let folder = folder();
    Model { layers: 2, ..Model::default() }.write(&folder.path("two.gguf"));
    folder.succeeds("convert two.gguf two-hf");
    folder.succeeds(&format!("shrink two-hf --fit 1MB --levels Q4_0 -o small {QUICK}"));
    assert!(folder.read("small/two-hf-Q4_0.gguf").starts_with(b"GGUF"));
}

#[test]
#[cfg(unix)]
fn a_download_made_of_links_can_be_shrunk() {
    let folder = folder();
    folder.succeeds("convert model.gguf blobs");
    let snapshot = folder.path("Qwen2.5-0.5B");
    std::fs::create_dir(&snapshot).unwrap();
    let mut bytes = 0;
    for file in std::fs::read_dir(folder.path("blobs")).unwrap().map(Result::unwrap) {
        bytes += file.metadata().unwrap().len();
        std::os::unix::fs::symlink(file.path(), snapshot.join(file.file_name())).unwrap();
    }
    folder.write("Qwen2.5-0.5B/mine.gguf", "not the model's");
    let json = folder.json(&format!("shrink Qwen2.5-0.5B --fit 1MB --levels Q4_0 -o small {QUICK}"));
    assert_eq!(json["base"]["file_bytes"], bytes);
    assert!(folder.read("small/Qwen2.5-0.5B-Q4_0.gguf").starts_with(b"GGUF"));
}
