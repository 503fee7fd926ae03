//! Quantizing with calibration: on text, on importance matrices, and what is refused.

mod common;

use bantam_checkpoint::imatrix::{Entry, Imatrix};
use common::{Folder, Model};

const QUICK: &str = "--calibration-length 32 --calibration-tokens 600";

fn folder() -> Folder {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    folder
}

#[test]
fn text_and_the_matrix_made_of_it_give_the_same_file() {
    let folder = folder();
    let json = folder.json(&format!(
        "quantize model.gguf --to Q4_0 --calibrate prose=text.txt --method importance {QUICK} --save-imatrix im.gguf -o a.gguf"
    ));
    assert_eq!(json["method"], "importance");
    let imatrix = Imatrix::read(&folder.path("im.gguf")).unwrap();
    assert_eq!(
        (imatrix.chunk_tokens, imatrix.chunks, &imatrix.datasets[..]),
        (Some(32), 19, &["prose=text.txt".to_owned()][..])
    );
    // Seven layers in the block, and the head, which is the embedding.
    assert_eq!(imatrix.entries.len(), 8);
    assert!(imatrix.entries.values().all(|e| e.counts() == [19 * 32]));
    folder.succeeds("quantize model.gguf --to Q4_0 --imatrix im.gguf -o b.gguf");
    folder.succeeds("quantize model.gguf --to Q4_0 -o nearest.gguf");
    let weights = |name: &str| {
        let model = bantam_checkpoint::Checkpoint::open(folder.path(name)).unwrap();
        model.tensors().iter().map(|t| model.data(&t.name).unwrap().to_vec()).collect::<Vec<_>>()
    };
    assert!(weights("a.gguf") == weights("b.gguf"));
    assert!(weights("a.gguf") != weights("nearest.gguf"));
}

#[test]
fn calibrating_needs_no_text_of_the_users() {
    let folder = folder();
    let json = folder.json(&format!("quantize model.gguf --to Q4_0 --calibrate {QUICK} -o out.gguf"));
    assert_eq!(json["method"], "scaling");
    let text = folder.succeeds("inspect out.gguf --json");
    for part in ["scaling", "the text that comes with bantam", "tokens "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let threads = |n: usize| {
        folder.succeeds(&format!("quantize model.gguf --to Q4_0 --calibrate {QUICK} --threads {n} -o {n}.gguf"));
        folder.read(&format!("{n}.gguf"))
    };
    assert!(threads(1) == threads(3));
}

#[test]
fn the_best_effort_takes_more_text() {
    let folder = folder();
    let tokens = |effort: &str| {
        let options = format!("--effort {effort} --tune-steps 0 --calibration-length 128 -o {effort}.gguf");
        folder.succeeds(&format!("quantize model.gguf --to Q4_0 {options}"));
        let file = bantam_checkpoint::Checkpoint::open(folder.path(&format!("{effort}.gguf"))).unwrap();
        let step = bantam_checkpoint::provenance::of(file.metadata()).pop().unwrap();
        step.settings.iter().find(|(key, _)| key == "tokens").unwrap().1.parse::<usize>().unwrap()
    };
    let [balanced, best] = ["balanced", "best"].map(tokens);
    assert!((16_384..17_000).contains(&balanced) && best > 2 * balanced, "{balanced} and {best}");
}

#[test]
fn calibrating_on_what_is_measured_is_said() {
    let folder = folder();
    let suite = bantam_measure::data::suite("standard").unwrap();
    folder.write("leaked.txt", suite.texts[0].text.clone());
    let said = common::stderr(
        &folder.run("quantize model.gguf --to Q4_0 --calibrate leaked.txt --calibration-length 128 --calibration-tokens 4000 -o out.gguf"),
    );
    assert!(
        said.contains("evaluation text is in the text that is calibrated on") && !said.contains("questions"),
        "{said}"
    );
    let prompts: Vec<&str> = suite.tasks.iter().flat_map(|t| &t.questions).map(|q| &q.prompt[..]).collect();
    folder.write("questions.txt", prompts.join("\n\n"));
    let said =
        common::stderr(&folder.run("train model.gguf --data questions.txt --length 64 --steps 1 -o trained.gguf"));
    assert!(said.contains("questions is in the text that is learned from"), "{said}");
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let folder = folder();
    folder.write("short.txt", "Too short.");
    folder.write("broken.gguf", "not an importance matrix");
    let other = Imatrix {
        chunks: 1,
        entries: [("blk.7.attn_q.weight".to_owned(), Entry::new(vec![1.0; 64], vec![1]))].into(),
        ..Imatrix::default()
    };
    other.write(&folder.path("other.gguf")).unwrap();
    for (options, reason) in [
        ("--calibrate short.txt", "too few"),
        ("--calibrate missing.txt", "missing.txt"),
        ("--method gptq", "--calibrate"),
        ("--method nearest --calibrate text.txt", "leave out"),
        ("--imatrix model.gguf", "model.gguf"),
        ("--imatrix broken.gguf", "broken.gguf"),
        (
            "--imatrix other.gguf",
            "other.gguf: the importance is of another model than model.gguf, which has no tensor blk.7.attn_q.weight",
        ),
        ("--method gptq --imatrix im.gguf", "gptq"),
        ("--method descent --imatrix im.gguf", "descent"),
        ("--method scaling --imatrix im.gguf", "scaling"),
        ("--save-imatrix im.gguf", "--calibrate --method importance"),
        ("--calibration-tokens 100", "give --calibrate"),
        ("--calibration-length 64", "give --calibrate"),
        ("--method nearest --effort balanced", "leave out --effort"),
        ("--effort balanced --imatrix im.gguf", "or --effort fast"),
        ("--tune-steps 5 --calibrate text.txt", "--effort best"),
        ("--effort balanced --calibrate text.txt --calibration-length 4000", "learned on at most 128 tokens"),
    ] {
        folder.refuses(&format!("quantize model.gguf --to Q4_0 {options} -o out.gguf"), &[reason]);
    }
    let listed = folder.run("quantize model.gguf --to Q4_0 --list -o out.gguf");
    assert!(!listed.status.success() && common::stderr(&listed).contains("cannot be used with '--list'"));
}

#[test]
fn a_weight_beyond_half_precision_is_named() {
    let folder = Folder::new();
    Model { broken: Some(("blk.0.ffn_up.weight", 7e4)), ..Model::default() }.write(&folder.path("model.gguf"));
    let said =
        ["model.gguf", "`blk.0.ffn_up.weight`, row 0, column 0 is 70000", "F16 holds at most 65504", "BF16 or F32"];
    folder.refuses(&format!("quantize model.gguf --bits 5 {QUICK} -o out.gguf"), &said);
    folder.refuses("quantize model.gguf --to F16 -o out.gguf", &said);
    folder.succeeds("quantize model.gguf --to BF16 -o out.gguf");
}

#[test]
fn code_books_without_calibration_are_warned_of() {
    let folder = Folder::with_model();
    let said = |options: &str| common::stderr(&folder.run(&format!("quantize model.gguf {options} -o out.gguf")));
    let warned = said("--to IQ2_XS");
    assert!(warned.contains("warning: formats with code books (IQ2_XS)") && warned.contains("--calibrate"), "{warned}");
    folder.succeeds(&format!(
        "quantize model.gguf --to IQ2_XS --calibrate --method importance {QUICK} --save-imatrix im.gguf -o out.gguf"
    ));
    // Where a matrix has gaps, that is said, and what it costs.
    let mut gaps = Imatrix::read(&folder.path("im.gguf")).unwrap();
    gaps.entries.retain(|name, _| !name.contains("ffn"));
    gaps.write(&folder.path("gaps.gguf")).unwrap();
    let warned = said("--to IQ2_XS --imatrix gaps.gguf");
    assert!(warned.contains("nothing about 3 of") && warned.contains("warning: formats with code books"), "{warned}");
    for options in ["--to IQ4_XS", "--to IQ2_XS --imatrix im.gguf", &format!("--to IQ2_XS --calibrate {QUICK}")] {
        assert!(!said(options).contains("warning"), "{options}");
    }
}

#[test]
fn matrices_are_written_and_read_in_the_older_form_too() {
    let folder = folder();
    let importance = format!("--calibrate text.txt --method importance {QUICK}");
    folder.succeeds(&format!("quantize model.gguf --to Q4_0 {importance} --save-imatrix im.dat -o a.gguf"));
    assert!(!folder.read("im.dat").starts_with(b"GGUF"));
    folder.succeeds("quantize model.gguf --to Q4_0 --imatrix im.dat -o b.gguf");
    let weights = |name: &str| {
        let model = bantam_checkpoint::Checkpoint::open(folder.path(name)).unwrap();
        model.data("blk.0.ffn_up.weight").unwrap().to_vec()
    };
    assert!(weights("a.gguf") == weights("b.gguf"));
}

/// llama-imatrix leaves the head out.
#[test]
fn a_matrix_without_the_head_is_no_other_models() {
    let folder = Folder::new();
    Model { untied: true, ..Model::default() }.write(&folder.path("model.gguf"));
    let importance = format!("--calibrate --method importance {QUICK} --save-imatrix im.gguf -o a.gguf");
    folder.succeeds(&format!("quantize model.gguf --to Q4_0 {importance}"));
    let mut imatrix = Imatrix::read(&folder.path("im.gguf")).unwrap();
    assert!(imatrix.entries.remove("output.weight").is_some());
    imatrix.write(&folder.path("without.gguf")).unwrap();
    let said = common::stderr(&folder.run("quantize model.gguf --to Q4_0 --imatrix without.gguf -o b.gguf"));
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn a_file_that_has_too_little_for_its_weight_is_said() {
    let folder = folder();
    folder.write("little.txt", "A little text that is soon at its end. ".repeat(4));
    let quantize = |weights: [&str; 2]| {
        let [little, text] = weights;
        let files = format!("little.txt{little} text.txt{text}");
        common::stderr(&folder.run(&format!("quantize model.gguf --to Q4_0 --calibrate {files} {QUICK} -o out.gguf")))
    };
    let said = quantize([":1", ":1"]);
    assert!(said.contains("little.txt has") && said.contains("its weight asks for"), "{said}");
    for enough in [["", ""], [":1", ""], [":1", ":9"]] {
        assert!(!quantize(enough).contains("its weight asks for"), "{enough:?}");
    }
    // Draws of what is used up would take for ever.
    quantize([":1", ":1e-9"]);
}

#[test]
fn broken_weights_are_named_and_leave_nothing_behind() {
    let folder = Folder::new();
    Model { broken: Some(("blk.0.ffn_up.weight", f32::NAN)), ..Model::default() }.write(&folder.path("model.gguf"));
    let said = ["model.gguf", "`blk.0.ffn_up.weight`", "row 0, column 0 is NaN"];
    for how in ["--to Q4_0", "--to Q4_0 --calibrate", "--bits 5", "--to Q4_0 --calibrate --method importance"] {
        let quick = if how.contains("calibrate") || how.contains("bits") { QUICK } else { "" };
        folder.refuses(&format!("quantize model.gguf {how} {quick} -o out"), &said);
    }
}

/// Weights that are finite, of which what a layer computes is not.
#[test]
fn activations_that_overflow_are_named_and_leave_nothing_behind() {
    let folder = Folder::new();
    // In the second layer: when it is refused the first is rounded already, and kept.
    let write = |value| {
        let broken = Some(("blk.1.ffn_up.weight", value));
        Model { layers: 2, broken, ..Model::default() }.write(&folder.path("model.gguf"));
    };
    let said = ["model.gguf: what `blk.1.ffn_down.weight`", "in channel 0 is not finite"];
    let refuses = |how: &str| {
        folder.refuses(&format!("quantize model.gguf --to Q4_0 --calibrate {how} {QUICK} -o out.gguf"), &said)
    };
    // What it sees overflows, or the squares of that alone.
    for value in [3e38, 1e30] {
        write(value);
        for how in ["", "--method descent", "--method gptq"] {
            refuses(how);
        }
    }
    refuses("--method importance --save-imatrix im.gguf");
}

/// What layers see is what those before give when rounded: the same as if those had been rounded before, in a file of their own.
#[test]
fn layers_are_rounded_for_what_the_rounded_ones_before_give() {
    let folder = folder();
    Model { layers: 2, ..Model::default() }.write(&folder.path("model.gguf"));
    let roles = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    for layer in [0, 1] {
        let rule = |role| format!("{{ tensor = \"blk.{layer}.{role}\", format = \"Q4_0\" }}");
        let rules = roles.map(rule).join(", ");
        folder.write(&format!("only-{layer}.toml"), format!("default = \"F32\"\nhead = \"F32\"\nrules = [{rules}]\n"));
    }
    let rounded = |from: &str, to: &str, output: &str| {
        let options = format!("--calibrate text.txt --method gptq {QUICK}");
        folder.succeeds(&format!("quantize {from} --to {to} {options} -o {output}"));
        let file = bantam_checkpoint::Checkpoint::open(folder.path(output)).unwrap();
        move |name: &str| file.data(name).unwrap().to_vec()
    };
    let at_once = rounded("model.gguf", "Q4_0", "at-once.gguf");
    let before = rounded("model.gguf", "only-0.toml", "first.gguf");
    let after = rounded("first.gguf", "Q4_0", "after.gguf");
    // Were layer 1 rounded for what the exact layer 0 gives, it would be another.
    let without = rounded("model.gguf", "only-1.toml", "without.gguf");
    for role in roles {
        let [zeroth, first] = [0, 1].map(|layer| format!("blk.{layer}.{role}.weight"));
        assert!(at_once(&zeroth) == before(&zeroth) && before(&zeroth) == after(&zeroth), "{zeroth}");
        assert!(at_once(&first) == after(&first), "{first}");
        assert!(at_once(&first) != without(&first), "{first} does not depend on the layer before");
    }
    assert!(at_once("token_embd.weight") == after("token_embd.weight"), "the head");
}

#[test]
fn weights_of_three_values_are_warned_of() {
    let folder = Folder::with_model();
    let said = common::stderr(&folder.run("quantize model.gguf --to TQ2_0 -o out.gguf"));
    assert!(said.contains("three values (TQ2_0)") && said.contains("unusable"), "{said}");
}

/// A directory's name with a slash at its end, there or not.
#[test]
fn directories_are_gone_on_with_whatever_their_names() {
    let folder = folder();
    let quantize = |output: &str| format!("quantize model.gguf --to W4A16 --calibrate text.txt {QUICK} -o {output}");
    folder.succeeds(&quantize("plain"));
    std::fs::create_dir(folder.path("empty")).unwrap();
    folder.succeeds(&quantize("empty/"));
    folder.succeeds(&quantize("new/"));
    folder.killed(&quantize("killed/"), "killed.rounding", &[30, 60, 90]);
    folder.succeeds(&quantize("killed/"));
    for name in ["empty", "new", "killed"] {
        let read = |of: &str| folder.read(&format!("{of}/model.safetensors"));
        assert!(read(name) == read("plain"), "{name}");
        assert!(!folder.path(&format!("{name}.rounding")).exists(), "{name}");
    }
}
