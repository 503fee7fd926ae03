//! Tuning a quantized model: what it gains, that it can be killed, and what is refused.

mod common;

use bantam_checkpoint::Checkpoint;
use bantam_nn::random::SplitMix64;
use common::Folder;

const QUICK: &str = "--length 32 --batch 2 --steps 40 --learning-rate 3e-3 --save-every 0";

fn folder() -> Folder {
    let folder = Folder::with_model();
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    folder.succeeds("quantize model.gguf --to Q4_0 -o q4.gguf");
    folder
}

#[test]
fn a_tuned_file_is_nearer_to_its_base_and_a_killed_run_ends_in_the_same() {
    let folder = folder();
    let tune = |output: &str| format!("tune q4.gguf --base model.gguf --data text.txt {QUICK} -o {output}");
    let json = folder.json(&tune("tuned.gguf"));
    let number = |key: &str| json[key].as_f64().unwrap();
    assert!(number("divergence_after") < 0.95 * number("divergence_before"), "{json}");
    assert_eq!(json["losses"].as_array().unwrap().len(), 40);
    let [q4, tuned] = ["q4.gguf", "tuned.gguf"].map(|name| Checkpoint::open(folder.path(name)).unwrap());
    assert_eq!(q4.tensors(), tuned.tensors());
    let inspected = folder.succeeds("inspect tuned.gguf --json");
    assert!(inspected.contains("\"tune\"") && inspected.contains("text=text.txt"), "{inspected}");

    folder.killed(&tune("again.gguf"), "again.gguf.training", &[60, 120, 200, 2000]);
    folder.succeeds(&tune("again.gguf"));
    assert!(folder.read("tuned.gguf") == folder.read("again.gguf"));
    assert!(!folder.path("again.gguf.training").exists());
}

#[test]
fn what_cannot_be_tuned_is_refused() {
    let folder = folder();
    folder.write("short.txt", "Too short.");
    std::fs::create_dir(folder.path("folder")).unwrap();
    folder.succeeds("quantize model.gguf --to W4A16 -o w4");
    for (command, reason) in [
        ("tune model.gguf --base model.gguf -o out.gguf", "not quantized"),
        ("tune q4.gguf --base model.gguf --data short.txt -o out.gguf", "too few"),
        ("tune q4.gguf --base model.gguf --data text.txt --learning-rate 7 -o out.gguf", "--learning-rate"),
        ("tune q4.gguf --base model.gguf --data text.txt -o q4.gguf", "q4.gguf"),
        ("tune q4.gguf --base missing.gguf --data text.txt -o out.gguf", "missing.gguf"),
        ("tune q4.gguf --base model.gguf --data text.txt -o folder", "this is a directory"),
        ("tune w4 --base model.gguf --data text.txt -o out.gguf", "tune a GGUF file"),
        ("tune q4.gguf --base model.gguf --data text.txt --length 4096 -o out.gguf", "learned on at most"),
        ("tune q4.gguf --base model.gguf --length 1 -o out.gguf", "nothing to predict"),
    ] {
        folder.refuses(command, &[reason]);
    }
}

#[test]
fn nothing_is_trained_where_text_does_not_agree() {
    let folder = folder();
    // A file that says what its base does but for activations, and text without a pattern.
    folder.succeeds("quantize q4.gguf --to F32 -o base.gguf");
    let mut random = SplitMix64::new(1);
    let letters: String = (0..12_000).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
    folder.write("letters.txt", letters);
    let tune = "tune q4.gguf --base base.gguf --data letters.txt --length 32 --batch 2 --steps 4 -o out.gguf";
    folder.refuses(tune, &["nothing to learn", "--batch", "--learning-rate"]);
    // What is asked for all the same is trained, and not written, since it does not help.
    let output = folder.run(&format!("{tune} --learning-rate 0.003"));
    assert!(!output.status.success() && common::stderr(&output).contains("did not help"));
    assert!(!folder.path("out.gguf").exists());
}

#[test]
fn a_run_that_went_astray_is_given_up_on_the_way() {
    let folder = folder();
    let tune = "tune q4.gguf --base model.gguf --data text.txt --length 32 --batch 2 --steps 40 --learning-rate 0.9 -o out.gguf";
    let output = folder.run(tune);
    let said = common::stderr(&output);
    assert!(!output.status.success() && said.contains("did not help") && said.contains("in 10 steps"), "{said}");
    assert!(!folder.path("out.gguf").exists());
    // Nothing of it is in the way of the lower rate that is advised.
    folder.succeeds(&tune.replace("0.9", "0.003"));
}

#[test]
fn another_students_run_is_not_gone_on_with() {
    let folder = folder();
    folder.succeeds("quantize model.gguf --to Q4_0 --calibrate text.txt --calibration-length 32 -o scaled.gguf");
    let tune = |student: &str| format!("tune {student} --base model.gguf --data text.txt {QUICK} -o out.gguf");
    folder.succeeds(&tune("scaled.gguf"));
    let expected = folder.read("out.gguf");
    // Of the same formats and text: only its weights are others.
    folder.killed(&tune("q4.gguf"), "out.gguf.training", &[20]);
    folder.refuses(&tune("scaled.gguf"), &["another run", "delete"]);
    std::fs::remove_file(folder.path("out.gguf.training")).unwrap();
    folder.succeeds(&tune("scaled.gguf"));
    assert!(folder.read("out.gguf") == expected);
}
