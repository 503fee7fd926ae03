//! A served teacher that misbehaves in every way it can, and what is kept of what it said.

use bantam_nn::Sampling;
use bantam_shrink::generate::{Answers, Endpoint, Finish, Prompt, Served, answer_all};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

/// What the server does with one request.
enum Reply {
    Json(&'static str),
    Status(&'static str, &'static str),
    /// These bytes, whatever they are.
    Raw(&'static str),
    /// Closes the connection.
    Close,
    /// Says nothing for long.
    Silence,
}

/// A server that gives `replies` one after the other and then no more; what it was sent comes through the receiver.
fn serve(replies: Vec<Reply>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (send, requests) = channel();
    std::thread::spawn(move || {
        for reply in replies {
            let (mut stream, _) = listener.accept().unwrap();
            send.send(request(&mut stream)).unwrap();
            let http = |status: &str, body: &str| {
                format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
            };
            let bytes = match reply {
                Reply::Json(body) => http("200 OK", body),
                Reply::Status(status, body) => http(status, body),
                Reply::Raw(bytes) => bytes.to_owned(),
                Reply::Close => String::new(),
                Reply::Silence => {
                    std::thread::spawn(move || (std::thread::sleep(Duration::from_secs(5)), stream));
                    continue;
                }
            };
            stream.write_all(bytes.as_bytes()).ok();
        }
    });
    (url, requests)
}

/// Headers and body.
fn request(stream: &mut TcpStream) -> String {
    let (mut bytes, mut part) = (Vec::new(), [0; 4096]);
    loop {
        let n = stream.read(&mut part).unwrap();
        bytes.extend_from_slice(&part[..n]);
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let len = head.lines().find_map(|l| l.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        if n == 0 || body.len() >= len.unwrap().parse::<usize>().unwrap() {
            return text;
        }
    }
}

fn body(request: &str) -> serde_json::Value {
    serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap()
}

const GOOD: &str = r#"{"choices": [{"message": {"content": "Because."}, "finish_reason": "stop"}]}"#;
const CUT: &str = r#"{"choices": [{"message": {"content": "Since"}, "finish_reason": "length"}]}"#;

fn prompts(n: usize) -> Vec<Prompt> {
    (0..n).map(|i| Prompt::Text(format!("Why {i}?"))).collect()
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.to_owned(),
        model: "big".to_owned(),
        key_name: "BANTAM_TEST_NO_SUCH_KEY".to_owned(),
        timeout: Duration::from_millis(400),
        attempts: 3,
        first_wait: Duration::from_millis(5),
        notice: |what| NOTICES.lock().unwrap().push(what.to_owned()),
    }
}

/// What was said of attempts that are repeated, by all tests.
static NOTICES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Asks `n` prompts one by one; returns the error, and what is kept afterwards.
fn ask(endpoint: &Endpoint, n: usize, top: usize, output: &Path) -> (Option<String>, Answers) {
    let mut author = Served::new(endpoint, Sampling::default(), 20, top, false).unwrap();
    let prompts = prompts(n);
    let mut answers = Answers::open(output, "big", &prompts).unwrap();
    let result = answer_all(&mut author, &prompts, 1, &mut answers, &mut |_| true);
    drop(answers);
    (result.err().map(|e| e.to_string()), Answers::open(output, "big", &prompts).unwrap())
}

fn refused(reply: Reply, top: usize) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (url, _requests) = serve(vec![Reply::Json(GOOD_WORDS), reply]);
    let (error, answers) = ask(&endpoint(&url), 2, top, &folder.path().join("out.jsonl"));
    assert_eq!(answers.len(), 1, "the answer that came is kept");
    let error = error.expect("it is refused");
    assert!(error.contains(&url) && error.contains("prompt 2"), "{error}");
    error
}

const GOOD_WORDS: &str = r#"{"choices": [{"message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": [
    {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [
        {"token": "a", "logprob": -0.5, "bytes": [97]}, {"token": "?", "logprob": -2.0, "bytes": [226, 128]}]}]}}]}"#;

#[test]
fn answers_are_written_as_conversations() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let (url, requests) = serve(vec![Reply::Json(GOOD), Reply::Json(CUT)]);
    let (error, answers) = ask(&endpoint(&url), 2, 0, &output);
    assert_eq!(error, None);
    answers.finish(&prompts(2), true).unwrap();
    let text = std::fs::read_to_string(&output).unwrap();
    let line = r#"{"messages":[{"role":"user","content":"Why 0?"},{"role":"assistant","content":"Because."}],"finish_reason":"stop"}"#;
    assert!(text.starts_with(line) && text.contains(r#""finish_reason":"length""#), "{text}");
    let request = requests.recv().unwrap();
    assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1"), "{request}");
    let sent = body(&request);
    assert_eq!((&sent["model"], &sent["max_tokens"]), (&"big".into(), &20.into()));
    assert_eq!(sent["messages"][0]["content"], "Why 0?");
}

#[test]
fn what_passes_is_tried_again() {
    let busy = || Reply::Status("429 Too Many Requests", r#"{"error": {"message": "slow down"}}"#);
    let half = || Reply::Raw("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"choices\"");
    for troubles in [
        vec![busy(), Reply::Status("503 Service Unavailable", "loading")],
        vec![Reply::Close, Reply::Silence],
        vec![half(), Reply::Raw("SSH-2.0-OpenSSH_9.6\r\n")],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (url, _requests) = serve(troubles.into_iter().chain([Reply::Json(GOOD)]).collect());
        let (error, answers) = ask(&endpoint(&url), 1, 0, &folder.path().join("out.jsonl"));
        assert_eq!((error, answers.len()), (None, 1));
        let notices = NOTICES.lock().unwrap();
        let said: Vec<_> = notices.iter().filter(|said| said.contains(&url)).collect();
        assert!(said.len() == 2 && said[0].contains("attempt 2 of 3"), "{said:?}");
    }
}

#[test]
fn a_server_that_stays_away_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let (error, answers) = ask(&endpoint(&url), 1, 0, &folder.path().join("out.jsonl"));
    let error = error.unwrap();
    assert!(error.contains(&url) && error.contains("attempt 3") && answers.is_empty(), "{error}");
    let silent = refused_after(vec![Reply::Silence, Reply::Silence, Reply::Silence]);
    assert!(silent.contains("within 0.4 s"), "{silent}");
    let busy = || Reply::Status("500 Internal Server Error", r#"{"error": {"message": "out of memory"}}"#);
    let failing = refused_after(vec![busy(), busy(), busy()]);
    assert!(failing.contains("500") && failing.contains("out of memory"), "{failing}");
}

fn refused_after(replies: Vec<Reply>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let (url, _requests) = serve(replies);
    ask(&endpoint(&url), 1, 0, &folder.path().join("out.jsonl")).0.unwrap()
}

#[test]
fn nonsense_is_said_clearly_and_what_came_before_is_kept() {
    for (reply, said) in [
        (Reply::Json("<!DOCTYPE html><html><body>Welcome</body></html>"), "web page"),
        (Reply::Json("hello there"), "not JSON: `hello there`"),
        (Reply::Json(""), "answers with nothing"),
        (Reply::Json(r#"{"choices": []}"#), "no choice"),
        (Reply::Json(r#"{"result": 1}"#), "no `choices`"),
        (Reply::Json(r#"{"choices": [{"message": {}}]}"#), "no `message.content`"),
        (Reply::Json(r#"{"error": {"message": "boom"}}"#), "boom"),
        (Reply::Status("404 Not Found", r#"{"error": {"message": "no model big"}}"#), "no model big"),
        (Reply::Status("401 Unauthorized", ""), "BANTAM_TEST_NO_SUCH_KEY"),
        (Reply::Status("302 Found", "<html>"), "302"),
    ] {
        let error = refused(reply, 0);
        assert!(error.contains(said), "`{said}` is not in {error}");
    }
}

/// One prompt too long for the server's model, one that it thought about until it was cut off.
#[test]
fn a_prompt_that_is_refused_keeps_no_other_from_its_answer() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let long = || Reply::Status("400 Bad Request", r#"{"error": {"message": "context exceeded"}}"#);
    let thought = r#"{"choices": [{"message": {"content": null, "reasoning": "Hm"}, "finish_reason": "length"}]}"#;
    let (url, _requests) = serve(vec![Reply::Json(GOOD), long(), Reply::Json(thought), Reply::Json(GOOD)]);
    let (error, answers) = ask(&endpoint(&url), 4, 0, &output);
    let error = error.unwrap();
    assert!(error.contains(&url) && error.contains("1 of 4") && error.contains("context exceeded"), "{error}");
    assert!(error.contains("(prompt 2)") && error.contains("take them out"), "{error}");
    assert_eq!((0..4).map(|i| answers.has(i)).collect::<Vec<_>>(), [true, false, true, true]);
    // One that a filter kept back.
    let kept_back = r#"{"choices": [{"message": {"content": null}, "finish_reason": "content_filter"}]}"#;
    let (url, _requests) = serve(vec![Reply::Json(kept_back), Reply::Json(GOOD)]);
    let (error, others) = ask(&endpoint(&url), 2, 0, &folder.path().join("filtered.jsonl"));
    assert!(error.unwrap().contains("1 of 2") && !others.has(0) && others.has(1));
    // Without it the others are written.
    drop(answers);
    let mut others = prompts(4);
    others.remove(1);
    let answers = Answers::open(&output, "big", &others).unwrap();
    answers.finish(&others, true).unwrap();
    assert_eq!(std::fs::read_to_string(&output).unwrap().lines().count(), 3);
    // A server that refuses everything is not asked for the rest.
    let (url, requests) = serve(vec![long(), long(), long(), Reply::Json(GOOD)]);
    let (error, _) = ask(&endpoint(&url), 9, 0, &folder.path().join("other.jsonl"));
    let error = error.unwrap();
    assert!(error.contains("3 of 3 prompts are not answered (prompts 1, 2, 3)"), "{error}");
    assert_eq!(requests.try_iter().count(), 3);
}

/// As OpenAI's newer models refuse it, here through a proxy that puts the reason deep into what it says.
#[test]
fn a_limit_that_the_server_calls_otherwise_is_sent_by_that_name() {
    let folder = tempfile::tempdir().unwrap();
    let reason =
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
    let text = format!(r#"{{"error": {{"message": "Provider returned error", "metadata": {{"raw": "{reason}"}}}}}}"#);
    let text: &'static str = Box::leak(text.into_boxed_str());
    let newer = || Reply::Status("400 Bad Request", text);
    let long = || Reply::Status("400 Bad Request", r#"{"error": {"message": "context exceeded"}}"#);
    // The first prompt is too long by either name, which says nothing of the name.
    let (url, requests) = serve(vec![newer(), long(), newer(), Reply::Json(GOOD), Reply::Json(GOOD), newer()]);
    let (error, answers) = ask(&endpoint(&url), 4, 0, &folder.path().join("out.jsonl"));
    let error = error.unwrap();
    assert!(error.contains("2 of 4") && error.contains("context exceeded"), "{error}");
    assert_eq!((0..4).map(|i| answers.has(i)).collect::<Vec<_>>(), [false, true, true, false]);
    let sent: Vec<_> = requests.try_iter().map(|request| body(&request)).collect();
    let names = |sent: &serde_json::Value| ["max_tokens", "max_completion_tokens"].map(|name| sent[name].as_u64());
    let (old, new) = ([Some(20), None], [None, Some(20)]);
    // The last is refused for a name that it was not sent by: it is not sent again.
    assert_eq!(sent.iter().map(names).collect::<Vec<_>>(), [old, new, old, new, new, new]);
    let asked: Vec<_> = sent.iter().map(|sent| sent["messages"][0]["content"].as_str().unwrap()).collect();
    assert_eq!(asked, ["Why 0?", "Why 0?", "Why 1?", "Why 1?", "Why 2?", "Why 3?"]);
}

#[test]
fn log_probabilities_that_are_none_are_refused() {
    let words = |log: &str| -> &'static str {
        let text = GOOD_WORDS.replacen("-2.0", log, 1);
        Box::leak(text.into_boxed_str())
    };
    for (log, said) in [
        ("NaN", "not JSON"),
        ("\"NaN\"", "log-probability"),
        ("null", "log-probability"),
        ("0.7", "at most 0"),
        ("-0.1", "more than 1"),
    ] {
        let error = refused(Reply::Json(words(log)), 2);
        assert!(error.contains(said), "{log}: {error}");
    }
    assert!(refused(Reply::Json(GOOD), 2).contains("no log-probabilities"));
}

/// As llama.cpp's server told it of a character of three tokens, and of the end: what is said is of the last of them.
#[test]
fn a_character_of_several_tokens_is_told_nothing_of() {
    let folder = tempfile::tempdir().unwrap();
    let reply = r#"{"choices": [{"message": {"content": "龘"}, "finish_reason": "stop", "logprobs": {"content": [
        {"token": "龘", "bytes": [233, 190, 152], "logprob": -0.0001369, "top_logprobs": [
            {"token": "\ufffd", "bytes": [152], "logprob": -0.0001369}, {"token": "\ufffd", "bytes": [153], "logprob": -9.289}]},
        {"token": "", "bytes": [], "logprob": -0.042, "top_logprobs": [{"token": "", "bytes": [], "logprob": -0.042}]}]}}]}"#;
    let (url, _requests) = serve(vec![Reply::Json(reply)]);
    let output = folder.path().join("out.jsonl");
    let (error, answers) = ask(&endpoint(&url), 1, 2, &output);
    assert_eq!(error, None);
    answers.finish(&prompts(1), true).unwrap();
    let written = std::fs::read_to_string(&output).unwrap();
    assert!(written.contains(r#"[{"token":"龘","top":[]},{"token":"","top":[["",-0.042]]}]"#), "{written}");
}

/// Of it servers tell nothing, or of no word.
#[test]
fn an_empty_answer_is_kept_without_words() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out.jsonl");
    let empty = [
        r#"{"choices": [{"message": {"content": ""}, "finish_reason": "stop", "logprobs": null}]}"#,
        r#"{"choices": [{"message": {"content": ""}, "finish_reason": "stop", "logprobs": {"content": null}}]}"#,
        r#"{"choices": [{"message": {"content": ""}, "finish_reason": "stop", "logprobs": {"content": []}}]}"#,
        r#"{"choices": [{"text": "", "finish_reason": "length", "logprobs": {"tokens": []}}]}"#,
    ];
    let (url, _requests) = serve(empty.into_iter().chain([GOOD_WORDS]).map(Reply::Json).collect());
    let (error, answers) = ask(&endpoint(&url), 5, 2, &output);
    assert_eq!((error, answers.len()), (None, 5));
    answers.finish(&prompts(5), true).unwrap();
    let written = std::fs::read_to_string(&output).unwrap();
    let told: Vec<bool> = written.lines().map(|line| line.contains("logprobs")).collect();
    assert_eq!(told, [false, false, false, false, true], "{written}");
    let silent =
        r#"{"choices": [{"message": {"content": "a"}, "finish_reason": "stop", "logprobs": {"content": []}}]}"#;
    assert!(refused(Reply::Json(silent), 2).contains("no log-probabilities"));
}

#[test]
fn a_key_is_sent_and_never_shown() {
    // SAFETY: no other test of this program reads or writes this variable.
    unsafe { std::env::set_var("BANTAM_TEST_KEY", "sk-very-secret") };
    let folder = tempfile::tempdir().unwrap();
    let (url, requests) = serve(vec![Reply::Status(
        "401 Unauthorized",
        r#"{"error": {"message": "Incorrect key sk-very-secret provided"}}"#,
    )]);
    let endpoint = Endpoint { key_name: "BANTAM_TEST_KEY".to_owned(), ..endpoint(&url) };
    let (error, _) = ask(&endpoint, 1, 0, &folder.path().join("out.jsonl"));
    let error = error.unwrap();
    assert!(error.contains("BANTAM_TEST_KEY") && !error.contains("secret"), "{error}");
    assert!(requests.recv().unwrap().to_ascii_lowercase().contains("authorization: bearer sk-very-secret"));
    for wrong in ["localhost:8080", "ftp://host", "http://", "http://me:secret@host/v1"] {
        let error =
            Served::new(&Endpoint { url: wrong.to_owned(), ..endpoint.clone() }, Sampling::default(), 1, 0, true);
        let error = error.err().unwrap().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn the_finish_is_what_the_server_says() {
    let folder = tempfile::tempdir().unwrap();
    let (url, _requests) = serve(vec![Reply::Json(GOOD_WORDS)]);
    let output = folder.path().join("out.jsonl");
    let (_, answers) = ask(&endpoint(&url), 1, 2, &output);
    answers.finish(&prompts(1), true).unwrap();
    let text = std::fs::read_to_string(&output).unwrap();
    assert!(text.contains(r#""logprobs":[{"token":"a","top":[["a",-0.5],[[226,128],-2.0]]}]"#), "{text}");
    assert_eq!(serde_json::to_string(&Finish::Length).unwrap(), "\"length\"");
}
