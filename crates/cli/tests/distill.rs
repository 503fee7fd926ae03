//! Teaching, distilling and training on tiny models: what comes out, what is refused, and runs that are killed.
#![cfg(unix)]

mod common;

use bantam_checkpoint::{Checkpoint, provenance};
use common::{Folder, Model, stderr};
use std::process::Command;
use std::time::{Duration, Instant};

const DATA: &str = "--data text.txt --length 32 --top 16";
const STEPS: &str = "--steps 40 --batch 2 --learning-rate 0.003 --threads 1";

fn folder() -> Folder {
    let folder = Folder::new();
    Model { layers: 3, ..Model::default() }.write(&folder.path("teacher.gguf"));
    folder.write("text.txt", "The cat sat on the mat, and then the dog came. ".repeat(40));
    folder
}

#[test]
fn a_student_of_some_layers_comes_nearer_to_its_teacher() {
    let folder = folder();
    let taught = folder.json(&format!("teach teacher.gguf -o cache {DATA}"));
    assert!(taught["sequences"].as_u64().unwrap() > 40);
    let again = folder.json(&format!("teach teacher.gguf -o cache {DATA}"));
    assert_eq!(again["tokens"], 0, "nothing is captured twice");
    // Text that is added is all that is captured then, whatever its place.
    folder.write("more.txt", "And then the dog went home and slept on the mat. ".repeat(8));
    let [whole, more] = ["text.txt", "more.txt"]
        .map(|name| folder.json(&format!("teach teacher.gguf -o {name}.cache {}", DATA.replace("text.txt", name))));
    let both = folder.json(&format!("teach teacher.gguf -o cache {}", DATA.replace("text.txt", "more.txt text.txt")));
    assert_eq!(again["tokens"].as_u64().unwrap() + both["tokens"].as_u64().unwrap(), more["tokens"].as_u64().unwrap());
    assert_eq!(
        both["sequences"].as_u64(),
        Some(whole["sequences"].as_u64().unwrap() + more["sequences"].as_u64().unwrap())
    );
    let distill = format!("distill --teacher teacher.gguf --layers 0,2 {DATA} {STEPS}");
    let result = folder.json(&format!("{distill} --cache cache -o student.gguf"));
    let losses: Vec<f64> = result["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert_eq!(losses.len(), 40);
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    assert!(mean(&losses[35..]) < 0.6 * mean(&losses[..5]), "{losses:?}");
    assert!(!folder.path("student.gguf.training").exists());

    let student = Checkpoint::open(folder.path("student.gguf")).unwrap();
    assert_eq!(student.metadata().uint("llama.block_count"), Some(2));
    let made: Vec<String> = provenance::of(student.metadata()).into_iter().map(|step| step.step).collect();
    assert_eq!(made, ["take layers", "distill"]);
    folder.succeeds("run student.gguf --raw -p The -n 4");
    let evaluation = folder.json("eval student.gguf --base teacher.gguf --text text.txt --context 32 --tasks none");
    let training = &evaluation["evaluations"][0]["candidate"]["training"][0];
    assert_eq!(training[0], "distill");
    assert_eq!(
        (&training[1]["steps"], &training[1]["tokens"]),
        (&40.into(), &result["tokens"]),
        "the file says what it took"
    );

    let trained = folder.json(&format!("train student.gguf --data text.txt --length 32 {STEPS} -o trained.gguf"));
    assert_eq!(trained["steps"], 40);
    let last = provenance::of(Checkpoint::open(folder.path("trained.gguf")).unwrap().metadata()).pop().unwrap();
    assert_eq!((last.get("data"), last.get("length")), (Some("text=text.txt"), Some("32")));
    let by_descent = STEPS.replace("0.003", "0.1 --optimizer sgd");
    let descended = folder.json(&format!("train student.gguf --data text.txt --length 32 {by_descent} -o sgd.gguf"));
    let losses = |of: &serde_json::Value| {
        of["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect::<Vec<_>>()
    };
    let (adam, sgd) = (losses(&trained), losses(&descended));
    assert!(adam[0] == sgd[0] && adam[39] != sgd[39] && sgd[39] < sgd[0], "{sgd:?}");
}

const CONFIG: &str = r#"{"model_type": "MODEL", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 260, "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5, "tie_word_embeddings": false}"#;

#[test]
fn a_student_from_a_configuration_learns_whatever_its_family() {
    let folder = folder();
    for family in ["llama", "qwen2", "qwen3", "gemma3_text"] {
        folder.write("config.json", CONFIG.replace("MODEL", family));
        let made = folder.json("student teacher.gguf --config config.json -o student.gguf");
        assert!(made["parameters"].as_u64().unwrap() < made["teacher_parameters"].as_u64().unwrap(), "{made}");
        let result = folder
            .json(&format!("distill --teacher teacher.gguf --student student.gguf {DATA} {STEPS} -o distilled.gguf"));
        let losses: Vec<f64> = result["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
        assert!(losses[39] < 0.9 * losses[0], "{family}: {losses:?}");
        folder.succeeds("run distilled.gguf --raw -p The -n 4");
    }
    folder.write("config.json", CONFIG.replace("MODEL", "llama").replace("260", "300"));
    folder.refuses("student teacher.gguf --config config.json -o none.gguf", &["vocab_size is 300", "260 tokens"]);
    for (absurd, said) in
        [("\"vocab_size\": 4000000000", "16777216 tokens"), ("\"head_dim\": 4294967294", "at most 65536")]
    {
        let (key, _) = absurd.split_once(':').unwrap();
        let at =
            CONFIG.split(", ").flat_map(|line| line.split(",\n    ")).find(|entry| entry.starts_with(key)).unwrap();
        folder.write("config.json", CONFIG.replace("MODEL", "llama").replace(at, absurd));
        folder.refuses("student teacher.gguf --config config.json -o none.gguf", &["config.json", said]);
    }
    let huge = CONFIG.replace("MODEL", "llama").replace("\"hidden_size\": 64", "\"hidden_size\": 2000000000");
    folder.write("config.json", huge);
    folder.refuses("student teacher.gguf --config config.json -o none.gguf", &["config.json", "GB are free"]);
    folder.write("config.json", CONFIG.replace("MODEL", "mamba"));
    folder.refuses("student teacher.gguf --config config.json -o none.gguf", &["mamba", "config.json"]);
}

#[test]
fn a_narrower_student_keeps_the_neurons_that_weigh_most() {
    let folder = folder();
    folder.succeeds("student teacher.gguf --layers 0,2 --feed-forward 192 -o student.gguf");
    let result =
        folder.json(&format!("distill --teacher teacher.gguf --student student.gguf {DATA} {STEPS} -o distilled.gguf"));
    let losses: Vec<f64> = result["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses[39] < 0.8 * losses[0], "{losses:?}");
    let student = Checkpoint::open(folder.path("student.gguf")).unwrap();
    assert_eq!(student.metadata().uint("llama.feed_forward_length"), Some(192));
    // Nothing is lost with neurons that do nothing: the same model with a quarter of them at 0.
    let mut silent = Model { layers: 3, ..Model::default() };
    silent.silent = 64;
    silent.write(&folder.path("silent.gguf"));
    folder.succeeds("student silent.gguf --feed-forward 192 -o narrow.gguf");
    let same = folder.json("eval narrow.gguf --base silent.gguf --text text.txt --context 32 --tasks none");
    let divergence = same["evaluations"][0]["overall"]["kl_divergence"]["mean"].as_f64().unwrap();
    assert!(divergence < 1e-6, "{divergence}");
    folder.refuses("student teacher.gguf --feed-forward 256 -o none.gguf", &["teacher.gguf", "256 neurons", "255"]);
}

#[test]
fn hidden_states_are_matched_and_kept() {
    let folder = folder();
    folder.succeeds(&format!("teach teacher.gguf -o cache --hidden 0,2 {DATA}"));
    let distill = format!("distill --teacher teacher.gguf --layers 0,2 {DATA} {STEPS} --match hidden:2");
    folder.succeeds(&format!("{distill} --cache cache -o student.gguf"));
    folder.refuses(&format!("{distill} --map 0,1 --cache cache -o none.gguf"), &["cache", "layers [0, 2], not of"]);
    folder.refuses(&format!("{distill} --map 0,3 -o none.gguf"), &["--map", "layers 0 to 2"]);
    folder.refuses(&format!("{distill},cosine -o none.gguf"), &["only `hidden` and `hidden-cosine`"]);
    folder.refuses(&format!("teach teacher.gguf -o other --hidden 3 {DATA}"), &["--hidden", "layers 0 to 2"]);
    let student = Checkpoint::open(folder.path("student.gguf")).unwrap();
    assert!(student.tensors().iter().all(|t| !t.name.contains("projection")));
    let last = provenance::of(student.metadata()).pop().unwrap().to_string();
    assert!(
        last.contains("hidden Some(HiddenMatching { weights: States { squares: 2.0, cosine: 0.0 }, layers: [0, 2]"),
        "{last}"
    );
}

/// As `generate --endpoint` writes it: each token with the likeliest ones at its place. The vocabulary is of bytes.
#[test]
fn a_student_learns_from_the_probabilities_that_came_with_the_text() {
    let folder = folder();
    let line = |prompt: &str, answer: &str| {
        let words: Vec<String> = answer
            .chars()
            .map(|c| format!("{{\"token\":\"{c}\",\"top\":[[\"{c}\",-0.11],[\"q\",-2.8],[\"<none>\",-4.0]]}}"))
            .collect();
        format!(
            "{{\"prompt\":\"{prompt}\",\"completion\":\"{answer}\",\"finish_reason\":\"length\",\"logprobs\":[{}]}}\n",
            words.join(",")
        )
    };
    folder.write("told.jsonl", (0..20).map(|i| line(&format!("{i}: "), "yes and no")).collect::<String>());
    let distill = format!("distill --student teacher.gguf --length 32 {STEPS} -o student.gguf");
    let result = folder.json(&format!("{distill} --data told.jsonl"));
    let losses: Vec<f64> = result["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses[39] < 0.3 * losses[0], "{losses:?}");
    folder.refuses(&format!("{distill} --data text.txt"), &["text.txt", "no probabilities"]);
    folder.refuses(&format!("{distill} --data told.jsonl --temperature 2"), &["--temperature"]);
    folder.refuses(&format!("{distill} --data told.jsonl --cache cache"), &["--teacher"]);
    folder.write("other.jsonl", line("1: ", "yes").replace("\"token\":\"y\"", "\"token\":\"ye\""));
    folder.refuses(&format!("{distill} --data other.jsonl"), &["other.jsonl", "line 1", "\"ye\"", "bantam train"]);
    folder.write("other.jsonl", line("1: ", "yes").replace("\"completion\":\"yes", "\"completion\":\"yet"));
    folder.refuses(&format!("{distill} --data other.jsonl"), &["other.jsonl", "line 1", "not the answer"]);
}

#[test]
fn labels_alone_are_learned_for_as_many_operations() {
    let folder = folder();
    let data = "--data chat=chat.jsonl:1 text.txt:2 --length 32 --batch 2";
    folder.write("chat.jsonl", "{\"prompt\": \"a b\", \"completion\": \"c\"}\n".repeat(40));
    folder.succeeds("student teacher.gguf --layers 0,2 -o student.gguf");
    let distill = format!("distill --teacher teacher.gguf --student student.gguf {data} --steps 20");
    let flops = |result: serde_json::Value| (result["flops"].as_f64().unwrap(), result["steps"].as_f64().unwrap());
    let (distilled, _) = flops(folder.json(&format!("{distill} -o distilled.gguf")));
    let train = format!("train student.gguf {data} -o labels.gguf");
    let (labels, steps) = flops(folder.json(&format!("{train} --operations-of distilled.gguf")));
    assert!(
        steps > 20.0 && (labels - distilled).abs() < 2.0 * labels / steps,
        "{labels} of {distilled}, {steps} steps"
    );
    folder.refuses(&format!("{train} --operations-of teacher.gguf"), &["teacher.gguf", "bantam distill or train"]);
    let large = train.replace("--batch 2", "--batch 5000");
    folder.refuses(&format!("{large} --operations-of distilled.gguf"), &["distilled.gguf", "--batch"]);
    let both = folder.run(&format!("{train} --operations-of distilled.gguf --steps 3"));
    assert!(stderr(&both).contains("cannot be used with '--steps"), "{}", stderr(&both));
}

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_weights() {
    let folder = folder();
    let steps = STEPS.replace("--steps 40", "--steps 300");
    let command = format!("distill --teacher teacher.gguf --layers 0,2 {DATA} {steps} --save-every 0");
    folder.succeeds(&format!("{command} -o whole.gguf"));
    folder.killed_at_work(
        &format!("{command} -o killed.gguf"),
        "killed.gguf.training",
        &[0, 1, 2, 3, 5, 7, 11, 13, 17, 23],
    );
    folder.succeeds(&format!("{command} -o killed.gguf"));
    assert!(folder.read("whole.gguf") == folder.read("killed.gguf"), "the files differ");
}

#[test]
fn a_run_on_the_students_own_text_goes_on_to_the_same_weights_too() {
    let folder = folder();
    let on_policy = "--on-policy 0.7 --divergence reverse --save-every 0";
    let command = format!("distill --teacher teacher.gguf --layers 0,2 {DATA} {STEPS} {on_policy}");
    folder.succeeds(&format!("{command} -o whole.gguf"));
    folder.killed(&format!("{command} -o killed.gguf"), "killed.gguf.training", &[200, 350, 500]);
    folder.succeeds(&format!("{command} -o killed.gguf"));
    assert!(folder.read("whole.gguf") == folder.read("killed.gguf"), "the files differ");
    folder.refuses(&format!("{command} --soft 0.5 -o none.gguf"), &["--on-policy", "--soft 1"]);
    folder.refuses(&format!("{} -o none.gguf", command.replace("0.7", "1.5")), &["--on-policy 1.5", "within 0 and 1"]);
}

#[test]
fn a_run_does_not_go_on_with_a_student_that_computes_something_else() {
    let folder = folder();
    let student = |epsilon| Model { layers: 2, epsilon, ..Model::default() }.write(&folder.path("student.gguf"));
    student(1e-5);
    let steps = STEPS.replace("--steps 40", "--steps 300");
    let command = format!("train student.gguf --data text.txt --length 32 {steps} --save-every 0 -o trained.gguf");
    folder.killed_at_work(&command, "trained.gguf.training", &[0]);
    // The same weights.
    student(1e-2);
    folder.refuses(&command, &["trained.gguf.training", "another run", "delete"]);
    student(1e-5);
    folder.succeeds(&command);
}

#[test]
fn an_interrupt_saves_the_run_and_says_so() {
    let folder = folder();
    let steps = STEPS.replace("--steps 40", "--steps 100000 --save-every 0");
    let command = format!("train teacher.gguf --data text.txt --length 32 {steps} -o trained.gguf");
    let child = folder.command(&command).spawn().unwrap();
    let start = Instant::now();
    while !folder.path("trained.gguf.training").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is saved");
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("goes on from there"), "{}", stderr(&output));
    assert!(folder.path("trained.gguf.training").exists() && !folder.path("trained.gguf").exists());
}

/// `nohup` is how people leave a run to itself.
#[cfg(target_os = "linux")]
#[test]
fn a_run_begun_with_nohup_stays_when_its_terminal_goes() {
    let folder = folder();
    let command =
        "train teacher.gguf --data text.txt --length 32 --steps 100000 --save-every 0 --batch 1 --quiet -o out.gguf";
    let shown = folder.shell(&format!(
        "nohup bantam {command} >/dev/null 2>said & while [ ! -e out.gguf.training ]; do sleep 0.01; done\n\
         kill -HUP $!; sleep 0.5; kill -0 $! && echo stays; kill -TERM $!; wait $!; echo ended with $?"
    ));
    let said = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(said.contains("stays") && said.contains("ended with 130"), "{said}{}", stderr(&shown));
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let folder = folder();
    folder.write("empty.txt", "");
    folder.write("latin.txt", b"caf\xe9");
    folder.write("wrong.jsonl", "{\"text\": \"one\"}\n{\"words\": 2}\n");
    folder.write("broken.jsonl", "{\"text\": \"one\"\n");
    folder.write("chat.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}]}\n");
    let train = |data: &str| format!("train teacher.gguf --data {data} --length 32 -o out.gguf");
    folder.refuses(&train("empty.txt"), &["empty.txt", "too few", "more text, or a smaller length"]);
    for table in ["table.csv", "table.TSV", "array.json"] {
        folder.write(table, "[\"some text\", 1]\n".repeat(200));
        folder.refuses(&train(table), &[table, ".jsonl", ".txt"]);
    }
    folder.refuses("train teacher.gguf --data text.txt --length 1 -o out.gguf", &["text.txt", "at least 2"]);
    for command in ["train teacher.gguf", "teach teacher.gguf", "distill --teacher teacher.gguf --layers 0"] {
        let command = format!("{command} --data text.txt --length 4000 -o out.gguf");
        folder.refuses(&command, &["--length 4000", "teacher.gguf", "at most 128 tokens"]);
    }
    folder.refuses(&train("latin.txt"), &["latin.txt", "byte 3", "UTF-8"]);
    folder.refuses(&train("wrong.jsonl"), &["wrong.jsonl", "line 2", "`text`"]);
    folder.refuses(&train("broken.jsonl"), &["broken.jsonl", "line 1: not JSON", "at column"]);
    folder.refuses(&train("chat.jsonl"), &["chat.jsonl", "chat template"]);
    folder.refuses(&train("absent.txt"), &["absent.txt"]);

    Model { layers: 3, broken: Some(("blk.1.attn_q.weight", f32::NAN)), ..Model::default() }
        .write(&folder.path("nan.gguf"));
    let command = format!("teach nan.gguf -o begun {DATA}");
    common::assert_refusal(&folder.run(&command), &command, &["nan.gguf", "not finite"]);
    let command = format!("distill --teacher nan.gguf --student teacher.gguf {DATA} -o out.gguf");
    folder.refuses(&command, &["nan.gguf", "not finite"]);

    let distill = format!("distill --teacher teacher.gguf {DATA} -o out.gguf");
    folder.refuses(&format!("{distill} --layers 0-7"), &["teacher.gguf", "0 to 2"]);
    Model { merges: Some(vec!["Ġ c", "h e", "Ġc he"]), ..Model::default() }.write(&folder.path("other.gguf"));
    folder.refuses(&format!("{distill} --student other.gguf"), &["other.gguf", "teacher.gguf", "token 256"]);
    let larger = folder.run(&format!("{distill} --student teacher.gguf --steps 1"));
    assert!(!stderr(&larger).contains("larger than its teacher"), "{}", stderr(&larger));
    Model { layers: 4, ..Model::default() }.write(&folder.path("larger.gguf"));
    let larger =
        folder.run(&format!("{} --student larger.gguf --steps 1", distill.replace("out.gguf", "of-larger.gguf")));
    assert!(larger.status.success() && stderr(&larger).contains("larger than its teacher"), "{}", stderr(&larger));
    std::fs::remove_file(folder.path("out.gguf")).unwrap();
    folder.refuses(&format!("{distill} --layers 0 --soft 2"), &["--soft", "within 0 and 1"]);
    folder.refuses(&format!("{distill} --layers 0 --learning-rate nan"), &["--learning-rate", "above 0"]);

    folder.succeeds(&format!("teach teacher.gguf -o cache {DATA}"));
    folder.refuses(
        &format!("{distill} --layers 0 --cache cache --temperature 2"),
        &["cache", "temperature 1, not of", "temperature 2"],
    );
    let mut bytes = folder.read("cache");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    folder.write("cache", bytes);
    folder.refuses(&format!("{distill} --layers 0 --cache cache"), &["cache", "damaged"]);
}
