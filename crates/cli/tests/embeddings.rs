//! Sentence encoders by the command line: converting, embedding, teaching, distilling, measuring, and what is refused.
#![cfg(unix)]

mod common;

use bantam_checkpoint::{Checkpoint, GgufWriter, provenance};
use common::{Folder, Model};
use std::path::Path;

const STEPS: &str = "--steps 40 --batch 8 --learning-rate 0.003 --threads 1";
const WORDS: [&str; 8] = ["man", "flute", "plays", "space", "tokens", "soft", "zero", "wide"];

/// A folder with the tiny encoder as `teacher.gguf`, sentences, and scored pairs.
fn folder() -> Folder {
    let folder = Folder::new();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/bert");
    folder.succeeds(&format!("convert {} teacher.gguf --dtype f32", fixture.display()));
    let sentence = |i: usize| [i, i / 3, i / 7, i * 5].map(|w| WORDS[w % 8]).join(" ");
    folder.write("sentences.txt", (0..60).map(|i| sentence(i) + "\n").collect::<String>());
    let pair = |i: usize| format!("{}\t{}\t{}\n", i * i % 7, sentence(i), sentence(2 * i + 1));
    folder.write("pairs.tsv", (0..40).map(pair).collect::<String>());
    folder
}

#[test]
fn embeddings_that_are_none_are_not_written() {
    let folder = folder();
    let sound = Checkpoint::open(folder.path("teacher.gguf")).unwrap();
    let mut writer = GgufWriter::create(&folder.path("broken.gguf"), sound.metadata(), sound.tensors()).unwrap();
    for tensor in sound.tensors() {
        let mut data = sound.data(&tensor.name).unwrap().to_vec();
        if tensor.name == "blk.0.ffn_up.weight" {
            data[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
        writer.write(&data).unwrap();
    }
    writer.finish().unwrap();
    for output in ["", "-o out.jsonl", "-o out.npy"] {
        folder.refuses(&format!("embed broken.gguf sentences.txt {output}"), &["broken.gguf", "not finite"]);
    }
    assert!(!folder.path("out.jsonl").exists() && !folder.path("out.npy").exists());
}

/// Who reads the first line alone has what was asked for.
#[test]
fn nobody_has_to_read_all_embeddings() {
    let folder = folder();
    folder.write("many.txt", "a man plays the flute\n".repeat(2000));
    let output = folder.shell("(bantam embed teacher.gguf many.txt; echo status $? >&2) | head -n 1");
    let said = common::stderr(&output);
    assert!(said.contains("status 0") && !said.contains("error"), "{said}");
}

#[test]
fn embeddings_come_as_lines_of_json_or_as_an_array() {
    let folder = folder();
    let inspection = folder.json("inspect teacher.gguf");
    assert_eq!((&inspection["pooling"], &inspection["kv_bytes"]), (&"mean".into(), &0.into()));
    assert!(folder.succeeds("inspect teacher.gguf").contains("pooled: mean"));
    folder.write("two.txt", "A man is playing a flute.\n\nnaïve façade\n");
    let lines = folder.succeeds("embed teacher.gguf two.txt");
    let lines: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["text"], "naïve façade");
    let numbers = |line: &serde_json::Value| -> Vec<f32> {
        line["embedding"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
    };
    assert!((numbers(&lines[0]).iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);

    let result = folder.json("embed teacher.gguf two.txt -o two.npy");
    assert_eq!((&result["texts"], &result["width"]), (&2.into(), &32.into()));
    let npy = folder.read("two.npy");
    assert!(npy.starts_with(b"\x93NUMPY\x01\x00") && String::from_utf8_lossy(&npy).contains("'shape': (2, 32)"));
    assert_eq!((npy.len() - 2 * 32 * 4) % 64, 0);
    let array: Vec<f32> = npy[npy.len() - 256..].as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    assert_eq!(array, lines.iter().flat_map(numbers).collect::<Vec<f32>>());
    folder.succeeds("embed teacher.gguf two.txt -o two.jsonl");
    assert_eq!(folder.read("two.jsonl"), folder.succeeds("embed teacher.gguf two.txt").into_bytes());
    let note = common::stderr(&folder.run("embed teacher.gguf two.txt -o two.npy"));
    assert!(note.contains("left out (1)"), "{note}");
}

#[test]
fn a_student_comes_nearer_to_its_teacher_and_is_measured_beside_it() {
    let folder = folder();
    folder.succeeds("student teacher.gguf --layers 0,2 -o before.gguf");
    let taught = folder.json("teach teacher.gguf --data sentences.txt -o cache");
    assert!(taught["sequences"].as_u64() == Some(60) && taught["tokens"].as_u64().unwrap() > 300);
    assert_eq!(
        folder.json("teach teacher.gguf --data sentences.txt -o cache")["tokens"],
        0,
        "nothing is captured twice"
    );
    let command = format!("distill --teacher teacher.gguf --layers 0,2 --data sentences.txt {STEPS}");
    folder.succeeds(&format!(
        "{command} --match cosine,relation:5,hidden:0.2,token-relation --cache cache -o student.gguf"
    ));
    let student = Checkpoint::open(folder.path("student.gguf")).unwrap();
    let made: Vec<String> = provenance::of(student.metadata()).into_iter().map(|step| step.step).collect();
    assert_eq!(made, ["quantize", "take layers", "distill"]);
    assert_eq!(student.metadata().uint("bert.block_count"), Some(2));

    let measure = |name: &str| folder.json(&format!("eval {name} --base teacher.gguf --pairs pairs.tsv"));
    let (before, after) = (measure("before.gguf"), measure("student.gguf"));
    assert_eq!(before["base"], after["base"]);
    assert!(after["cosine"].as_f64() > before["cosine"].as_f64(), "{before} {after}");
    let same = measure("teacher.gguf");
    assert_eq!((&same["share"]["mean"], &same["share"]["se"]), (&1.0.into(), &0.0.into()));
    let text = folder.succeeds("eval student.gguf --base teacher.gguf --pairs pairs.tsv");
    assert!(text.contains("40 scored pairs") && text.contains("Spearman"), "{text}");
    let against_student = |name: &str| {
        folder.json(&format!("eval {name} --base student.gguf --pairs pairs.tsv"))["cosine"].as_f64().unwrap()
    };
    folder.succeeds("quantize student.gguf --to Q8_0 -o q8.gguf");
    assert!(against_student("q8.gguf") > 0.99);
    folder.succeeds("convert student.gguf back");
    assert!(against_student("back") > 0.9999);
}

#[test]
fn two_pairs_have_a_standard_error_of_their_share() {
    let folder = folder();
    // Half of the draws have one of them twice, which orders nothing.
    folder.write("two.tsv", "1\tman plays\tspace\n4\tsoft flute\tsoft\n");
    let eval = "eval teacher.gguf --base teacher.gguf --pairs two.tsv";
    let json = folder.json(eval);
    assert_eq!((&json["share"]["mean"], &json["share"]["se"]), (&1.0.into(), &0.0.into()));
    let text = folder.succeeds(eval);
    assert!(text.contains("keeps 100.0 ± 0.0 %"), "{text}");
}

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_weights() {
    let folder = folder();
    let data = "--data sentences.txt --match cosine,hidden --cache cache";
    let command = format!("distill --teacher teacher.gguf --layers 0,2 {data} {STEPS} --save-every 0");
    folder.succeeds(&format!("{command} -o whole.gguf"));
    folder.killed(&format!("{command} -o killed.gguf"), "killed.gguf.training", &[40, 80, 120]);
    folder.succeeds(&format!("{command} -o killed.gguf"));
    assert!(folder.read("whole.gguf") == folder.read("killed.gguf"), "the files differ");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let folder = folder();
    Model::default().write(&folder.path("llama.gguf"));
    folder.write("text.txt", "words ".repeat(500));
    folder.write("empty.txt", "\n \n");
    folder.write("wrong.jsonl", "{\"text\": \"one\"}\n{\"words\": 2}\n");
    let distill = "distill --teacher teacher.gguf --data sentences.txt -o out.gguf";
    folder.refuses(&format!("{distill} --student llama.gguf"), &["an encoder", "a language model"]);
    folder.refuses(&format!("{distill} --layers 0 --divergence reverse"), &["--divergence", "--match"]);
    folder.refuses(&format!("{distill} --layers 0,1 --match hidden --map 1"), &["--map", "the student has 2"]);
    folder.refuses(&format!("{distill} --layers 0 --match hidden --map 3"), &["no layer 3", "0 to 2"]);
    folder.refuses(&format!("{distill} --layers 0 --at-once 4"), &["--at-once", "--batch"]);
    folder.refuses(
        "distill --teacher teacher.gguf --layers 0 --data empty.txt -o out.gguf",
        &["empty.txt", "one a line"],
    );
    folder.refuses("distill --teacher teacher.gguf --layers 0 --data wrong.jsonl -o out.gguf", &["line 2", "`text`"]);
    let other = "distill --teacher llama.gguf --layers 0 --data text.txt --match cosine -o out.gguf";
    folder.refuses(other, &["language model", "--match"]);
    folder.refuses("run teacher.gguf -p hello", &["is an encoder", "bantam embed"]);
    folder.refuses("train teacher.gguf --data text.txt -o out.gguf", &["is an encoder"]);
    folder.refuses("embed llama.gguf text.txt", &["llama.gguf", "no encoder"]);
    folder.refuses("embed teacher.gguf empty.txt", &["empty.txt"]);
    folder.refuses("embed teacher.gguf text.txt -o out.bin", &["out.bin", ".npy or .jsonl"]);
    folder.refuses("eval teacher.gguf --base teacher.gguf", &["--pairs"]);
    folder.refuses("eval llama.gguf --base llama.gguf --pairs pairs.tsv", &["--pairs is for sentence encoders"]);
    folder.write("wrong.tsv", "1\ta\tb\nmuch\ta\tb\n");
    folder.refuses("eval teacher.gguf --base teacher.gguf --pairs wrong.tsv", &["wrong.tsv, line 2", "\"much\""]);
}

#[test]
fn hidden_states_are_matched_within_the_shorter_context() {
    let folder = folder();
    folder.write(
        "config.json",
        r#"{"model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 400, "max_position_embeddings": 8, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}"#,
    );
    folder.succeeds("student teacher.gguf --config config.json -o short.gguf");
    folder.write("long.txt", format!("{}\n", WORDS.join(" ")).repeat(20));
    let distill = "distill --teacher teacher.gguf --student short.gguf --data long.txt --match hidden -o student.gguf";
    folder.succeeds(&format!("{distill} {STEPS}"));
    let student = Checkpoint::open(folder.path("student.gguf")).unwrap();
    let made = provenance::of(student.metadata()).pop().unwrap().to_string();
    assert!(made.contains("8 tokens a sentence"), "{made}");
}
