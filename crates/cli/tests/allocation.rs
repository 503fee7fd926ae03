//! Formats chosen within a budget, and mixes of one's own.

mod common;

use bantam_checkpoint::{Checkpoint, Config};
use common::{Folder, Model};
use std::path::Path;

const QUICK: &str = "--calibration-length 32 --calibration-tokens 600";

#[test]
fn formats_are_chosen_for_bits_and_for_a_size() {
    let folder = Folder::with_model();
    let json = folder.json(&format!("quantize model.gguf --bits 5 {QUICK} --save-mix own.toml -o bits.gguf"));
    assert_eq!((json["level"].as_str(), json["method"].as_str()), (Some("5 bits"), Some("scaling")));
    let bits = json["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 5.0 && bits > 4.0, "{bits}");
    // Seven layers in the block, and the embedding.
    let chosen = json["chosen"]["tensors"].as_array().unwrap();
    assert_eq!(chosen.len(), 8);
    let file = Checkpoint::open(folder.path("bits.gguf")).unwrap();
    for tensor in chosen {
        let info = file.tensor(tensor["tensor"].as_str().unwrap()).unwrap();
        assert_eq!(Some(info.format.name), tensor["format"].as_str());
        assert_eq!(Some(info.bytes() as u64), tensor["bytes"].as_u64());
    }
    let [predicted, measured] =
        ["predicted", "measured"].map(|key| json["chosen"][format!("{key}_kl_divergence")].as_f64().unwrap());
    assert!(measured > 0.0 && measured < 3.0 * predicted, "{measured} measured, {predicted} predicted");

    let fit = json["file_bytes"].as_u64().unwrap();
    let json = folder.json(&format!("quantize model.gguf --fit {fit} {QUICK} -o fit.gguf"));
    let bytes = json["file_bytes"].as_u64().unwrap();
    assert!(bytes <= fit && bytes == folder.read("fit.gguf").len() as u64);

    // The mix that was saved gives the same weights.
    folder.succeeds(&format!("quantize model.gguf --to own.toml --calibrate {QUICK} -o again.gguf"));
    let again = Checkpoint::open(folder.path("again.gguf")).unwrap();
    for tensor in file.tensors() {
        assert!(*file.data(&tensor.name).unwrap() == *again.data(&tensor.name).unwrap(), "{}", tensor.name);
    }
    folder.succeeds("run fit.gguf -p x -n 4");
}

#[test]
fn the_best_of_a_level_is_no_larger_than_the_level() {
    let folder = Folder::with_model();
    let made = |effort: &str, options: &str| {
        folder.json(&format!("quantize model.gguf --to Q4_K_M --effort {effort} {options} -o {effort}.gguf"))
    };
    let (fast, balanced) = (made("fast", ""), made("balanced", QUICK));
    let best_of = || made("best", &format!("--tune-steps 2 {QUICK}"));
    let best = best_of();
    let [method, bytes] = ["method", "file_bytes"].map(|key| [&fast, &balanced, &best].map(|json| json[key].clone()));
    assert_eq!(method, ["nearest", "scaling", "scaling"]);
    assert!(bytes[2].as_u64() <= bytes[1].as_u64() && bytes[2].as_u64() > Some(0), "{bytes:?}");
    assert!(best["chosen"].is_object() && balanced["chosen"].is_null());
    // Its scales were trained, and kept if that helped.
    let [before, after] = ["before", "after"].map(|at| best["tuned"][format!("divergence_{at}")].as_f64().unwrap());
    assert!(balanced["tuned"].is_null());
    assert_eq!(folder.succeeds("inspect best.gguf --json").contains("\"tune\""), after < before);
    assert!(!folder.path("best.gguf.training").exists());
    // What a stopped run left of another file under this name is not in the way.
    let file = folder.read("best.gguf");
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    folder.succeeds("quantize model.gguf --to Q4_0 -o q4.gguf");
    let tune = "tune q4.gguf --base model.gguf --data text.txt --length 32 --batch 2 --steps 4000 --learning-rate 3e-3";
    folder.killed(&format!("{tune} --save-every 0 -o best.gguf"), "best.gguf.training", &[20]);
    best_of();
    assert!(folder.read("best.gguf") == file && !folder.path("best.gguf.training").exists());
}

#[test]
fn what_was_measured_serves_other_budgets() {
    let folder = Folder::with_model();
    let made = |bits: &str, options: &str, output: &str| {
        folder.succeeds(&format!("quantize model.gguf --bits {bits} {QUICK} {options} -o {output}"));
        folder.read(output)
    };
    made("6", "--sensitivity kept.jsonl", "6.gguf");
    let kept = folder.read("kept.jsonl");
    assert!(made("5", "--sensitivity kept.jsonl", "5.gguf") == made("5", "", "5.gguf"));
    assert!(kept == folder.read("kept.jsonl"));
    let other = "quantize model.gguf --bits 5 --calibration-length 16 --sensitivity kept.jsonl -o none.gguf";
    folder.refuses(other, &["kept.jsonl", "other calibration text", "name another file"]);
}

/// Rounding a model to the grid that it came from takes back what it learned since: each tensor alone does not show it.
#[test]
fn formats_of_the_grid_that_a_model_was_trained_away_from_are_counted_as_dearer() {
    let folder = Folder::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
    folder.write("q41.toml", "default = \"Q4_1\"\nhead = \"Q4_1\"\n");
    let sums = (0..600).map(|i| format!("{} plus {} is {}. ", i / 10, i % 10, i / 10 + i % 10)).collect::<String>();
    folder.write("text.txt", sums);
    folder.succeeds(&format!("quantize {} --to q41.toml -o q41.gguf", model.display()));
    let train = "--data text.txt --length 64 --batch 8 --steps 10 --learning-rate 0.002";
    folder.succeeds(&format!("train q41.gguf {train} -o trained.gguf"));
    let choose = "--bits 5 --widen never --calibrate text.txt --calibration-length 64 --calibration-tokens 2000";
    let dearer = |model: &str, options: &str| {
        let json = folder.json(&format!("quantize {model} {choose} {options} -o out.gguf"));
        let dearer = json["chosen"]["dearer"].as_array().cloned().unwrap_or_default();
        let of = |d: &serde_json::Value| (d["format"].as_str().unwrap().to_owned(), d["times"].as_f64().unwrap());
        dearer.iter().map(of).collect::<Vec<_>>()
    };
    let found = dearer("trained.gguf", "--sensitivity kept.jsonl");
    assert!(found.len() == 1 && found[0].0 == "Q4_1" && found[0].1 > 3.0, "{found:?}");
    // It is found anew where nothing has to be measured.
    assert_eq!(dearer("trained.gguf", "--sensitivity kept.jsonl"), found);
    assert_eq!(dearer(&model.display().to_string(), ""), []);
    let said = folder.succeeds(&format!("quantize trained.gguf {choose} --sensitivity kept.jsonl -o out.gguf"));
    assert!(said.contains("Q4_1 (counted "), "{said}");
}

/// What one method rounded is not another's to remove.
#[test]
fn layers_that_another_run_rounded_are_kept() {
    let folder = Folder::with_model();
    folder.write("out.gguf.rounding", "another run's");
    folder.succeeds(&format!("quantize model.gguf --bits 5 --method nearest {QUICK} -o out.gguf"));
    assert_eq!(folder.read("out.gguf.rounding"), b"another run's");
}

/// Nobody has to ask for a file to keep what was measured in.
#[test]
fn a_choice_that_was_stopped_goes_on() {
    let folder = Folder::with_model();
    let quantize = |output: &str| format!("quantize model.gguf --bits 5 {QUICK} -o {output}");
    folder.succeeds(&quantize("whole.gguf"));
    assert!(!folder.path("whole.gguf.sensitivity").exists());
    folder.killed_at(&quantize("killed.gguf"), "killed.gguf.sensitivity", 3);
    let said = common::stderr(&folder.run(&quantize("killed.gguf")));
    assert!(said.contains("of 8 tensors were measured before"), "{said}");
    assert!(folder.read("whole.gguf") == folder.read("killed.gguf"));
    assert!(!folder.path("killed.gguf.sensitivity").exists() && !folder.path("killed.gguf.rounding").exists());
    // What another model left is not in the way.
    folder.killed_at(&quantize("other.gguf"), "other.gguf.sensitivity", 2);
    let kept = folder.read("other.gguf.sensitivity");
    Model { layers: 2, ..Model::default() }.write(&folder.path("model.gguf"));
    let said = common::stderr(&folder.run(&quantize("other.gguf")));
    assert!(said.contains("is of something else") && !said.contains("measured before"), "{said}");
    assert!(!folder.path("other.gguf.sensitivity").exists() && folder.read("other.gguf.sensitivity.other") == kept);
}

/// Stopped while its scales are trained, the best effort neither measures nor rounds again.
#[test]
fn the_best_effort_goes_on_where_it_was_stopped() {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(400));
    let quantize = |output: &str| {
        format!(
            "quantize model.gguf --to Q2_K --effort best --tune-steps 40 --calibration-tokens 2000 --calibrate text.txt -o {output}"
        )
    };
    folder.succeeds(&quantize("whole.gguf"));
    folder.killed(&quantize("killed.gguf"), "killed.gguf", &[50, 50]);
    assert!(folder.path("killed.gguf.rounding").exists() && folder.path("killed.gguf.sensitivity").exists());
    let said = common::stderr(&folder.run(&quantize("killed.gguf")));
    assert!(said.contains("8 of 8 tensors were measured before") && said.contains("rounded layers"), "{said}");
    let [whole, killed] = ["whole.gguf", "killed.gguf"].map(|name| Checkpoint::open(folder.path(name)).unwrap());
    for tensor in whole.tensors() {
        assert!(*whole.data(&tensor.name).unwrap() == *killed.data(&tensor.name).unwrap(), "{}", tensor.name);
    }
    for left in ["rounding", "sensitivity", "training"] {
        assert!(!folder.path(&format!("killed.gguf.{left}")).exists(), "{left}");
    }
}

#[test]
fn rows_are_made_longer_where_that_is_asked_for() {
    let folder = Folder::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
    let made = |options: &str| {
        let said = folder.succeeds(&format!("quantize {} {options} -o out.gguf", model.display()));
        let file = Checkpoint::open(folder.path("out.gguf")).unwrap();
        let format = file.tensor("blk.0.attn_q.weight").unwrap().format.name;
        (said, Config::of(&file).unwrap().embedding_length, format)
    };
    let (said, width, format) = made("--to Q3_K_M");
    assert!(said.contains("no multiple of 256") && (width, format) == (64, "Q4_0"), "{said}");
    let (said, width, format) = made("--to Q3_K_M --widen always");
    assert!(!said.contains("multiple of 256") && (width, format) == (256, "Q3_K"), "{said}");

    let encoder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/bert");
    let encoder = format!("quantize {} --to Q8_0 -o bert.gguf", encoder.display());
    folder.succeeds(&encoder);
    folder.refuses(&format!("{encoder} --widen always"), &["cannot be made longer", "leave out --widen"]);

    // Bits are of the model's own weights, whoever says them.
    let json = folder.json(&format!("quantize {} --to Q3_K_M --widen always -o out.gguf", model.display()));
    let inspected = folder.json("inspect out.gguf");
    let own = Checkpoint::open(&model).unwrap().parameters();
    assert_eq!(inspected["model"]["parameters"].as_u64(), Some(own), "{inspected}");
    assert_eq!(inspected["model"]["bits_per_weight"], json["bits_per_weight"]);

    // What is known of the model's channels holds for the wider one's.
    assert_eq!(made(&format!("--to Q3_K_M --widen always --calibrate --method importance {QUICK}")).1, 256);

    // Smoothing is of the wider model, and both are in it.
    folder.succeeds(&format!("quantize {} --to W8A8 --widen always --calibrate {QUICK} -o w8a8", model.display()));
    let own = Checkpoint::open(&model).unwrap().parameters();
    assert_eq!(folder.json("inspect w8a8")["model"]["parameters"].as_u64(), Some(own));
    let inspected = folder.succeeds("inspect w8a8 --json");
    assert!(inspected.contains("\"widen llama") && inspected.contains("\"smooth llama"), "{inspected}");

    // A mix of one's own says that it is for the wider model.
    folder.write("own.toml", "widen = true\ndefault = \"Q3_K\"\nhead = \"Q6_K\"\n");
    assert_eq!(made("--to own.toml").1, 256);
    assert_eq!(made("--to own.toml --widen never").1, 64);
}

#[test]
fn the_best_of_a_wider_level_is_chosen_within_its_size() {
    let folder = Folder::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
    folder.write("own.toml", "widen = true\ndefault = \"Q3_K\"\nhead = \"Q6_K\"\n");
    let bytes = |options: &str| {
        let made = format!("quantize {} --to own.toml {options} {QUICK} -o out.gguf", model.display());
        folder.json(&made)["file_bytes"].as_u64().unwrap()
    };
    let (wide, narrow) = (bytes("--effort balanced"), bytes("--effort balanced --widen never"));
    // Rows as short as this model's have many zeros behind them, in whose place much more can be kept.
    let best = bytes("--effort best --tune-steps 0");
    assert!(narrow < best && best <= wide, "{narrow} {best} {wide}");
    let best = bytes("--effort best --tune-steps 0 --widen never");
    assert!(best <= narrow, "{best} {narrow}");
}

#[test]
fn rules_that_nothing_comes_of_are_said() {
    let folder = Folder::with_model();
    let rules = ["ffn_upp", "ffn_up", "token_embd"].map(|t| format!("{{ tensor = \"{t}\", format = \"Q8_0\" }}"));
    folder.write("own.toml", format!("default = \"Q4_0\"\nrules = [{}]\n", rules.join(", ")));
    let said = |level: &str| common::stderr(&folder.run(&format!("quantize model.gguf --to {level} -o out.gguf")));
    let warned = said("own.toml");
    assert!(warned.contains("own.toml: nothing comes of its rule for `ffn_upp` and 1 more: "), "{warned}");
    // A level of ours is for models of all kinds.
    assert!(!said("IQ2_M").contains("nothing comes of"));
    let file = Checkpoint::open(folder.path("out.gguf")).unwrap();
    assert_eq!(file.tensor("token_embd.weight").unwrap().format.name, "Q5_K");
}

/// `ulimit -f` refuses files as large as the wider model's, in F32, and has room for the quantized one.
#[cfg(target_os = "linux")]
#[test]
fn a_wider_model_that_is_no_better_is_not_written() {
    let folder = Folder::new();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
    let command = |options: &str| {
        let options = format!("quantize {} --bits 32 {options} {QUICK} -o out.gguf", model.display());
        folder.shell(&format!("trap '' XFSZ; ulimit -f 1000; exec bantam {options}"))
    };
    let output = command("");
    assert!(output.status.success(), "{}", common::stderr(&output));
    let written = command("--widen always");
    common::assert_refusal(&written, "quantize --widen always", &["cannot write"]);
    // Always is always, though there are not bytes enough.
    let little = format!("quantize {} --bits 4 --widen always {QUICK} -o none.gguf", model.display());
    folder.refuses(&little, &["4 bits per weight are too few"]);
}

#[test]
fn the_choice_is_shown() {
    let folder = Folder::with_model();
    let said = folder.succeeds(&format!("quantize model.gguf --bits 5 --method nearest {QUICK} -o out.gguf"));
    for part in [
        "layer",
        "attn_q",
        "ffn_down",
        "token_embd",
        "KL divergence on text held out: ",
        "was predicted",
        "bits per weight",
        "bantam eval",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

#[test]
fn a_speed_is_predicted_where_one_is_asked_for() {
    let folder = Folder::with_model();
    // A model as small is always as fast, so that the choice is what it would be.
    let made = |options: &str| {
        let json = folder.json(&format!("quantize model.gguf --bits 5 {options} {QUICK} -o out.gguf"));
        (json["chosen"]["predicted_tokens_per_second"].as_f64(), json["chosen"]["tensors"].clone())
    };
    let ((none, plain), (speed, fast)) = (made(""), made("--tokens-per-second 0.5"));
    assert!(none.is_none() && speed > Some(0.5) && plain == fast, "{none:?}, {speed:?}");
    // Formats of other engines are timed where the model has them.
    folder.succeeds("quantize model.gguf --to W4A16 -o w4");
    let json = folder.json(&format!("quantize w4 --bits 5 --tokens-per-second 0.5 {QUICK} -o w4.gguf"));
    assert!(json["chosen"]["predicted_tokens_per_second"].as_f64() > Some(0.5), "{json}");
    // The file says what was asked for.
    let inspected = folder.succeeds("inspect out.gguf --json");
    assert!(inspected.contains("tokens_per_second 0.5"), "{inspected}");
}

#[test]
fn one_thread_and_three_choose_alike() {
    let folder = Folder::with_model();
    let made = |n: usize| {
        folder.succeeds(&format!("quantize model.gguf --bits 4.7 {QUICK} --threads {n} -o {n}.gguf"));
        folder.read(&format!("{n}.gguf"))
    };
    assert!(made(1) == made(3));
}

#[test]
fn impossible_budgets_are_refused() {
    let folder = Folder::with_model();
    folder.write("own.toml", "default = \"Q9_9\"");
    folder.write("read.toml", "default = \"MXFP4\"");
    folder.write("q8.toml", "default = \"Q8_0\"");
    for (options, reason) in [
        // Before anything is measured: a file of sensitivities would be left.
        ("--bits 1.5 --sensitivity x.jsonl", "1.5 bits per weight are too few; the fewest are"),
        ("--fit 10kB --sensitivity x.jsonl", "the smallest file has"),
        ("--bits 5 --tokens-per-second 1e12 --sensitivity x.jsonl", "tokens per second are more than any formats"),
        ("--to own.toml", "own.toml: line 1, `default = \"Q9_9\"`: unknown number format `Q9_9`"),
        ("--to none.toml", "none.toml"),
        ("--to read.toml", "read.toml: blk.0.attn_q.weight would become MXFP4, which bantam can only read"),
        ("--to read.toml --calibrate none.txt", "which bantam can only read; it can write F32, F16"),
        (
            "--bits 5 --save-mix chosen",
            "--save-mix chosen: --to reads only files that are named .toml: give chosen.toml",
        ),
        ("--to Q4_0 --save-mix x.toml", "formats that are chosen"),
        ("--to Q4_0 --tokens-per-second 5", "formats that are chosen"),
        ("--to Q4_0 --effort balanced --imatrix own.toml", "needs text"),
        ("--to Q4_0 --effort balanced --sensitivity x.jsonl", "formats that are chosen"),
        ("--bits 5 --sensitivity own.toml", "own.toml: it is no file of sensitivities"),
        ("--to q8.toml --effort best --save-mix q8.toml", "would replace what is read as --to"),
        // Before anything is measured: that the text is missing is not even found.
        ("--bits 5 --calibrate none.txt --save-mix nowhere/x.toml", "nowhere"),
    ] {
        folder.refuses(&format!("quantize model.gguf {options} {QUICK} -o out.gguf"), &[reason]);
    }
    folder.refuses("quantize model.gguf --to q8.toml -o q8.toml", &["would replace what is read as --to"]);
    Model { layers: 3, broken: Some(("blk.1.ffn_up.weight", f32::NAN)), ..Model::default() }
        .write(&folder.path("nan.gguf"));
    folder.refuses(&format!("quantize nan.gguf --bits 5 --quiet {QUICK} -o out.gguf"), &["blk.1.ffn_up.weight", "NaN"]);
    for (options, reason) in [
        ("--bits 77", "between 1 and 32 bits"),
        ("--fit many", "size"),
        ("--bits 4 --tokens-per-second 0", "above 0"),
        ("--bits 4 --fit 1MB", "cannot be used with"),
        ("--bits 4 --to Q4_0", "cannot be used with"),
    ] {
        let output = folder.run(&format!("quantize model.gguf {options} -o out.gguf"));
        assert!(output.status.code() == Some(2) && common::stderr(&output).contains(reason), "{options}");
    }
    assert_eq!(folder.read("own.toml"), b"default = \"Q9_9\"");
    assert!(!folder.path("x.toml").exists() && !folder.path("out.gguf").exists());
}
