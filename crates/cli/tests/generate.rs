//! A teacher's answers: what they are, runs that are killed, students that learn from them, and what is refused.
#![cfg(unix)]

mod common;

use common::{Folder, Model};

fn folder() -> Folder {
    let folder = Folder::new();
    Model { layers: 3, ..Model::default() }.write(&folder.path("teacher.gguf"));
    folder.write("prompts.txt", (0..30).map(|i| format!("The cat number {i}\n")).collect::<String>());
    folder
}

const GENERATE: &str = "generate teacher.gguf --prompts prompts.txt -n 24 --batch 4 --threads 1";

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_file() {
    let folder = folder();
    folder.succeeds(&format!("{GENERATE} -o whole.jsonl"));
    folder.killed(&format!("{GENERATE} -o killed.jsonl"), "killed.jsonl.generating", &[20, 35, 50, 30, 40]);
    folder.succeeds(&format!("{GENERATE} -o killed.jsonl"));
    let whole = folder.read("whole.jsonl");
    assert!(whole == folder.read("killed.jsonl"), "the files differ");
    assert!(!folder.path("killed.jsonl.generating").exists());
    let lines: Vec<serde_json::Value> =
        whole.split_inclusive(|&b| b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect();
    assert_eq!(lines.len(), 30);
    assert_eq!(lines[7]["prompt"], "The cat number 7");
    folder.succeeds(&format!("{GENERATE} --seed 1 -o other.jsonl"));
    assert!(whole != folder.read("other.jsonl"));
}

#[test]
fn a_student_with_another_tokenizer_learns_what_its_teacher_does() {
    let folder = folder();
    let other = Some(vec!["Ġ c", "h e", "Ġc he"]);
    Model { merges: other, ..Model::default() }.write(&folder.path("student.gguf"));
    folder.succeeds(&format!("{GENERATE} --temperature 0 -o answers.jsonl"));
    let distill = "distill --teacher teacher.gguf --student student.gguf --data answers.jsonl -o out.gguf";
    folder.refuses(distill, &["student.gguf", "teacher.gguf", "bantam generate"]);
    let steps = "--length 64 --steps 60 --batch 4 --learning-rate 0.01 --threads 1";
    let trained = folder.json(&format!("train student.gguf --data answers.jsonl {steps} -o trained.gguf"));
    let losses: Vec<f64> = trained["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses[59] < 0.7 * losses[0], "{losses:?}");
}

#[test]
fn prompts_come_in_several_forms_and_wrong_ones_are_refused() {
    let folder = folder();
    folder.write("some.jsonl", "{\"prompt\": \"One\"}\n\n{\"text\": \"Two\"}\n");
    let generated = folder.json("generate teacher.gguf --prompts some.jsonl -n 3 -o some-answers.jsonl");
    assert_eq!(generated["prompts"], 2);
    folder.write("empty.txt", "\n \n");
    folder.write("wrong.jsonl", "{\"prompt\": \"One\"}\n{\"words\": 2}\n");
    folder.write("silent.jsonl", "{\"messages\": [{\"role\": \"system\", \"content\": \"x\"}]}\n");
    folder.write("chat.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n");
    folder.write("long.txt", "x".repeat(500));
    let generate = |prompts: &str| format!("generate teacher.gguf --prompts {prompts} -o out.jsonl");
    folder.refuses(&generate("empty.txt"), &["empty.txt", "no prompts"]);
    folder.refuses(&generate("wrong.jsonl"), &["wrong.jsonl", "line 2", "`prompt`"]);
    folder.refuses(&generate("silent.jsonl"), &["silent.jsonl", "line 1", "user"]);
    folder.refuses(&generate("absent.txt"), &["absent.txt"]);
    folder.refuses(&format!("{} --temperature nan", generate("prompts.txt")), &["temperature"]);
    folder.refuses(&generate("chat.jsonl"), &["prompt 1", "chat template"]);
    folder.refuses(&generate("long.txt"), &["prompt 1", "500 tokens", "128"]);
    // Nothing is answered before the last prompt is known to be answerable.
    folder.write("last.txt", format!("{}{}", "One\n".repeat(20), "x".repeat(500)));
    folder.refuses(&generate("last.txt"), &["prompt 21", "500 tokens", "128"]);
}
