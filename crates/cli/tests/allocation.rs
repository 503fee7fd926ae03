//! Formats chosen within a budget, and mixes of one's own.

mod common;

use bantam_checkpoint::Checkpoint;
use common::Folder;

const QUICK: &str = "--calibration-length 32 --calibration-tokens 600";

#[test]
fn formats_are_chosen_for_bits_and_for_a_size() {
    let folder = Folder::with_model();
    let json = folder.json(&format!("quantize model.gguf --bits 5 {QUICK} --save-mix own.toml -o bits.gguf"));
    assert_eq!((json["level"].as_str(), json["method"].as_str()), (Some("5 bits"), Some("gptq")));
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
    assert!(json["chosen"]["predicted_kl_divergence"].as_f64().unwrap() > 0.0);

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
fn the_choice_is_shown() {
    let folder = Folder::with_model();
    let said = folder.succeeds(&format!("quantize model.gguf --bits 5 --method nearest {QUICK} -o out.gguf"));
    for part in
        ["layer", "attn_q", "ffn_down", "token_embd", "predicted KL divergence", "bits per weight", "bantam eval"]
    {
        assert!(said.contains(part), "{part}: {said}");
    }
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
    for (options, reason) in [
        ("--bits 1.5", "the fewest are"),
        ("--fit 10kB", "the smallest file has"),
        ("--to own.toml", "own.toml: line 1, `default = \"Q9_9\"`: unknown number format `Q9_9`"),
        ("--to none.toml", "none.toml"),
        // Before anything is measured: that the text is missing is not even found.
        ("--bits 5 --calibrate none.txt --save-mix nowhere/x.toml", "nowhere"),
    ] {
        folder.refuses(&format!("quantize model.gguf {options} {QUICK} -o out.gguf"), &[reason]);
    }
    for (options, reason) in [
        ("--bits 77", "between 1 and 32 bits"),
        ("--fit many", "size"),
        ("--bits 4 --fit 1MB", "cannot be used with"),
        ("--bits 4 --to Q4_0", "cannot be used with"),
        ("--to Q4_0 --save-mix x.toml", "cannot be used with"),
    ] {
        let output = folder.run(&format!("quantize model.gguf {options} -o out.gguf"));
        assert!(output.status.code() == Some(2) && common::stderr(&output).contains(reason), "{options}");
    }
    assert!(!folder.path("x.toml").exists() && !folder.path("out.gguf").exists());
}
