//! A teacher's answers: what they are, runs that are killed, students that learn from them, and what is refused.
#![cfg(unix)]

mod common;

use bantam_checkpoint::{Checkpoint, GgufWriter, Value as Metadatum};
use common::{Folder, Model, assert_refusal, finish, stderr};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

fn folder() -> Folder {
    let folder = Folder::new();
    Model { layers: 3, ..Model::default() }.write(&folder.path("teacher.gguf"));
    folder.write("prompts.txt", (0..30).map(|i| format!("The cat number {i}\n")).collect::<String>());
    folder
}

fn lines(text: &[u8]) -> Vec<Value> {
    text.split_inclusive(|&b| b == b'\n').map(|line| serde_json::from_slice(line).unwrap()).collect()
}

const GENERATE: &str = "generate teacher.gguf --prompts prompts.txt -n 24 --batch 4 --threads 1";

#[test]
fn a_run_killed_at_any_moment_goes_on_to_the_same_file() {
    let folder = folder();
    folder.succeeds(&format!("{GENERATE} -o whole.jsonl"));
    folder.killed(&format!("{GENERATE} -o killed.jsonl"), "killed.jsonl.generating", &[20, 35, 50, 30, 40]);
    // The last of these may have been done before.
    folder.killed_at(&format!("{GENERATE} -o killed.jsonl"), "killed.jsonl.generating", 2);
    // The same weights with other tokens give other answers.
    let teacher = |model: Model| model.write(&folder.path("teacher.gguf"));
    teacher(Model { layers: 3, merges: Some(vec!["Ġ c", "h e", "Ġc he"]), ..Model::default() });
    folder.refuses(&format!("{GENERATE} -o killed.jsonl"), &["killed.jsonl.generating", "another run", "delete"]);
    teacher(Model { layers: 3, ..Model::default() });
    folder.succeeds(&format!("{GENERATE} -o killed.jsonl"));
    let whole = folder.read("whole.jsonl");
    assert!(whole == folder.read("killed.jsonl"), "the files differ");
    assert!(!folder.path("killed.jsonl.generating").exists());
    let lines = lines(&whole);
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
    folder.write("null.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": null}], \"prompt\": \"x\"}\n");
    folder.write("long.txt", "x".repeat(500));
    let generate = |prompts: &str| format!("generate teacher.gguf --prompts {prompts} -o out.jsonl");
    folder.refuses(&generate("empty.txt"), &["empty.txt", "no prompts"]);
    folder.refuses(&generate("wrong.jsonl"), &["wrong.jsonl", "line 2", "`prompt`"]);
    folder.refuses(&generate("silent.jsonl"), &["silent.jsonl", "line 1", "user"]);
    folder.refuses(&generate("null.jsonl"), &["null.jsonl", "line 1", "`messages`", "`content`"]);
    folder.refuses(&generate("absent.txt"), &["absent.txt"]);
    folder.refuses(&format!("{} --temperature nan", generate("prompts.txt")), &["temperature"]);
    folder.refuses(&generate("chat.jsonl"), &["prompt 1", "chat template"]);
    folder.refuses(&generate("long.txt"), &["prompt 1", "500 tokens", "128"]);
    // Nothing is answered before the last prompt is known to be answerable.
    folder.write("last.txt", format!("{}{}", "One\n".repeat(20), "x".repeat(500)));
    folder.refuses(&generate("last.txt"), &["prompt 21", "500 tokens", "128"]);
}

/// By another name its lines would be learned as prose, with their braces.
#[test]
fn answers_have_a_name_by_which_they_are_read() {
    let folder = folder();
    for wrong in ["answers.txt", "answers", "answers.parquet"] {
        folder.refuses(&format!("{GENERATE} -o {wrong}"), &[wrong, "name the output answers.jsonl"]);
    }
}

/// What a server was sent: the headers, and the body.
type Sent = (String, Value);

/// A server that answers what it is asked with a status and JSON. It asks for no wait before another attempt.
fn serve(mut reply: impl FnMut(&str) -> (&'static str, Value) + Send + 'static) -> (String, Receiver<Sent>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (send, sent) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let (head, body) = request(&stream);
            let asked = body["messages"][0]["content"].as_str().unwrap().to_owned();
            send.send((head, body)).ok();
            let (status, body) = reply(&asked);
            let (body, close) = (body.to_string(), "Connection: close\r\nRetry-After: 0");
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{close}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).ok();
        }
    });
    (url, sent)
}

fn request(stream: &TcpStream) -> Sent {
    let (mut reader, mut head) = (BufReader::new(stream), String::new());
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "{head}");
    }
    head.make_ascii_lowercase();
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; len.parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (head, serde_json::from_slice(&body).unwrap())
}

/// A reply with the probabilities of each token, which is a byte, and of the end. A byte that is no text by itself is told as one, with no text.
fn reply(answer: &str) -> Value {
    let token = |bytes: &[u8], log: f64| json!({"token": std::str::from_utf8(bytes).unwrap_or(""), "bytes": bytes, "logprob": log});
    let place = |bytes: &[u8]| {
        let mut place = token(bytes, -0.11);
        place["top_logprobs"] = json!([token(bytes, -0.11), token(b"q", -2.8)]);
        place
    };
    let mut content: Vec<Value> = answer.as_bytes().chunks(1).map(place).collect();
    content.push(place(&[]));
    json!({"choices": [{"message": {"content": answer}, "finish_reason": "stop", "logprobs": {"content": content}}]})
}

/// A model that chats: it is asked in brackets.
fn chatting(folder: &Folder, name: &str) {
    Model { layers: 3, ..Model::default() }.write(&folder.path("plain.gguf"));
    let plain = Checkpoint::open(folder.path("plain.gguf")).unwrap();
    let mut metadata = plain.metadata().clone();
    let template = "{% for m in messages %}[{{ m.content }}]{% endfor %}";
    metadata.set("tokenizer.chat_template", Metadatum::String(template.to_owned()));
    let mut writer = GgufWriter::create(&folder.path(name), &metadata, plain.tensors()).unwrap();
    plain.tensors().iter().for_each(|tensor| writer.write(&plain.data(&tensor.name).unwrap()).unwrap());
    writer.finish().unwrap();
}

#[test]
fn a_student_learns_what_a_served_teacher_told() {
    let folder = Folder::new();
    chatting(&folder, "student.gguf");
    folder.write("prompts.txt", (0..6).map(|i| format!("What is {i}?\n")).collect::<String>());
    let answer = |asked: &str| format!("né {}", &asked[8..9]);
    let (url, sent) = serve(move |asked| ("200 OK", reply(&answer(asked))));
    let generate = format!("generate --endpoint {url} --model big --prompts prompts.txt --top 2 -n 24 --batch 4");
    let mut command = folder.command(&format!("{generate} --key-env BANTAM_TEST_KEY -o told.jsonl"));
    let output = finish(command.env("BANTAM_TEST_KEY", "sk-of-this-test"));
    assert!(output.status.success(), "{}", stderr(&output));

    let sent: Vec<Sent> = sent.try_iter().collect();
    let mut asked: Vec<&str> = sent.iter().map(|(_, body)| body["messages"][0]["content"].as_str().unwrap()).collect();
    asked.sort_unstable();
    assert_eq!(asked, (0..6).map(|i| format!("What is {i}?")).collect::<Vec<_>>(), "each is asked once");
    for (head, body) in &sent {
        assert!(head.starts_with("post /v1/chat/completions "), "{head}");
        assert!(head.contains("authorization: bearer sk-of-this-test\r\n"), "{head}");
        let fields = ["model", "max_tokens", "logprobs", "top_logprobs"].map(|field| &body[field]);
        assert_eq!(fields, [&json!("big"), &json!(24), &json!(true), &json!(2)]);
    }
    let told = lines(&folder.read("told.jsonl"));
    let texts: Vec<&str> = told.iter().map(|line| line["messages"][1]["content"].as_str().unwrap()).collect();
    assert_eq!(texts, (0..6).map(|i| format!("né {i}")).collect::<Vec<_>>(), "in the prompts' order");
    let words = told[0]["logprobs"].as_array().unwrap();
    assert_eq!(words[1], json!({"token": [195], "top": [[[195], -0.11], ["q", -2.8]]}));
    assert_eq!(words[5..], [json!({"token": "", "top": [["", -0.11], ["q", -2.8]]})]);

    let distill = "distill --student student.gguf --data told.jsonl --length 32 --steps 80 --batch 6 --threads 1";
    let result = folder.json(&format!("{distill} --learning-rate 0.003 -o distilled.gguf"));
    let losses: Vec<f64> = result["losses"].as_array().unwrap().iter().map(|l| l.as_f64().unwrap()).collect();
    assert!(losses[79] < 0.1 * losses[0], "{losses:?}");
    // Which number is which is more than so few steps teach; how an answer goes, and that it ends there, is not.
    folder.succeeds("generate distilled.gguf --prompts prompts.txt --temperature 0 -n 24 --threads 1 -o said.jsonl");
    for said in lines(&folder.read("said.jsonl")) {
        let text = said["messages"][1]["content"].as_str().unwrap();
        assert!(text.starts_with("né ") && text.chars().count() == 4 && said["finish_reason"] == "stop", "{said}");
    }
}

/// Of tokens that the student does not have, as a server's tell of another model's.
#[test]
fn what_a_served_teacher_told_of_other_tokens_is_learned_as_text() {
    let folder = folder();
    let line = |i: usize| {
        let word = json!({"token": "yes and no", "top": [["yes and no", -0.1], ["yes", -2.5]]});
        let line = json!({"prompt": format!("{i}: "), "completion": "yes and no", "finish_reason": "stop", "logprobs": [word]});
        format!("{line}\n")
    };
    folder.write("told.jsonl", (0..10).map(line).collect::<String>());
    let steps = "--data told.jsonl --length 32 --steps 2 --batch 2 --threads 1";
    let distill = format!("distill --student teacher.gguf {steps} -o out.gguf");
    folder.refuses(&distill, &["told.jsonl", "line 1", "\"yes and no\"", "`bantam train`"]);
    folder.succeeds(&format!("train teacher.gguf {steps} -o trained.gguf"));
    folder.succeeds("teach teacher.gguf --data told.jsonl --length 32 --threads 1 -o teacher.cache");
    // Where nothing was told of a line, it is said of which.
    let silent = "{\"prompt\": \"1: \", \"completion\": \"yes\"}\n";
    folder.write("silent.jsonl", silent);
    let distill = distill.replace("told.jsonl", "silent.jsonl");
    folder.refuses(&distill, &["silent.jsonl", "line 1", "no probabilities", "--top"]);
}

#[test]
fn a_served_teacher_that_fails_is_asked_as_often_and_waited_for_as_long_as_was_said() {
    let folder = Folder::new();
    folder.write("prompts.txt", "What is 0?\n");
    let (url, sent) = serve(|_| ("503 Service Unavailable", json!({"error": {"message": "still loading"}})));
    let generate = |url: &str| {
        format!(
            "generate --endpoint {url} --model big --key-env BANTAM_NO_KEY --prompts prompts.txt -o out.jsonl --quiet"
        )
    };
    for attempts in [1, 3] {
        let last = format!("attempt {attempts}, the last");
        folder.refuses(&format!("{} --attempts {attempts}", generate(&url)), &[&url, "503", "still loading", &last]);
        let heads: Vec<String> = sent.try_iter().map(|(head, _)| head).collect();
        assert_eq!(heads.len(), attempts);
        assert!(!heads[0].contains("authorization"), "{}", heads[0]);
    }
    let (silent, _sent) = serve(|_| {
        std::thread::sleep(Duration::from_secs(30));
        ("200 OK", Value::Null)
    });
    folder.refuses(&format!("{} --attempts 1 --timeout 0.3", generate(&silent)), &["within 0.3 s", "--timeout"]);
    folder.refuses(&format!("{} --timeout 0", generate(&url)), &["--timeout 0", "above 0"]);
    assert_eq!(sent.try_iter().count(), 0);
}

/// An answer that was paid for is not asked for again: neither after an interrupt, nor where another prompt is refused.
#[test]
fn an_interrupted_run_keeps_what_a_served_teacher_answered() {
    let folder = Folder::new();
    let prompts = |numbers: &[usize]| numbers.iter().map(|i| format!("What is {i}?\n")).collect::<String>();
    folder.write("prompts.txt", prompts(&[0, 1, 2, 3, 4]));
    let (url, sent) = serve(|asked| match asked {
        "What is 1?" => ("400 Bad Request", json!({"error": {"message": "no such number"}})),
        "What is 2?" => {
            std::thread::sleep(Duration::from_secs(1)); // the interrupt comes meanwhile
            ("200 OK", reply("two"))
        }
        _ => ("200 OK", reply("another")),
    });
    let generate =
        format!("generate --endpoint {url} --model big --prompts prompts.txt --batch 1 --quiet -o out.jsonl");
    let child = folder.command(&generate).spawn().unwrap();
    let asked = || sent.recv_timeout(Duration::from_secs(60)).unwrap().1["messages"][0]["content"].clone();
    assert_eq!([asked(), asked(), asked()], ["What is 0?", "What is 1?", "What is 2?"]);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(stderr(&output).contains("after 2 answers"), "{}", stderr(&output));

    let output = folder.run(&generate);
    assert_refusal(&output, &generate, &[&url, "1 of 3 prompts", "(prompt 2)", "no such number"]);
    assert_eq!([asked(), asked(), asked()], ["What is 1?", "What is 3?", "What is 4?"]);
    folder.write("prompts.txt", prompts(&[0, 2, 3, 4]));
    folder.succeeds(&generate);
    assert!(sent.try_recv().is_err(), "all was answered");
    let texts: Vec<Value> =
        lines(&folder.read("out.jsonl")).iter().map(|l| l["messages"][1]["content"].clone()).collect();
    assert_eq!(texts, ["another", "two", "another", "another"]);
}
