//! The same texts and conversations as JSON lines and as Parquet, and damaged files.

use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::chat_template::ChatTemplate;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_shrink::text::{Logprobs, Sequence, Source};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

const TEXTS: &str = "{\"text\": \"The cat is number 0.\"}\n{\"text\": \"The dog is number 1.\"}\n\n\
                     {\"text\": \"The mouse is number 2.\", \"more\": []}\n";

const CHATS: &str = r#"{"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A cat."}]}
{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "And now?"},
 {"role": "assistant", "content": "Still a cat."}, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]}"#;

const TEMPLATE: &str = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}\
                        {% if add_generation_prompt %}<assistant>{% endif %}";

fn tokenizer() -> Tokenizer {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
    Tokenizer::of(&Checkpoint::open(model).unwrap()).unwrap()
}

fn source(path: &Path, template: &str, length: usize) -> Result<Source, String> {
    source_of(path, template, length, Logprobs::Ignored)
}

fn source_of(path: &Path, template: &str, length: usize, logprobs: Logprobs) -> Result<Source, String> {
    let template = ChatTemplate::new(template, "<s>".into(), "</s>".into(), Path::new("template")).unwrap();
    let spec = path.to_str().unwrap().parse().unwrap();
    Source::read(spec, &tokenizer(), Some(&template), length, logprobs).map_err(|e| e.to_string())
}

fn read(path: &Path, length: usize) -> Result<Vec<Sequence>, String> {
    source(path, TEMPLATE, length).map(|s| s.sequences)
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

#[test]
fn parquet_files_say_what_json_lines_say() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts.jsonl");
    std::fs::write(&path, TEXTS).unwrap();
    let texts = read(&path, 8).unwrap();
    assert!(texts.len() > 2);
    for codec in ["snappy", "zstd", "gzip"] {
        assert_eq!(read(&fixture(&format!("texts-{codec}.parquet")), 8).unwrap(), texts, "{codec}");
    }
    let path = folder.path().join("chats.jsonl");
    std::fs::write(&path, CHATS.replace(",\n", ",")).unwrap();
    let chats = read(&path, 200).unwrap();
    assert!(chats.len() == 2 && chats[1].learned.iter().any(|l| *l) && chats[1].learned.iter().any(|l| !l));
    assert_eq!(read(&fixture("chats.parquet"), 200).unwrap(), chats);
}

/// Writes columns of bytes, with the levels of definition and repetition of their values.
fn write_parquet(path: &Path, schema: &str, columns: &[&[&[u8]]], levels: Option<[&[i16]; 2]>) {
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut file = SerializedFileWriter::new(File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut rows = file.next_row_group().unwrap();
    let [definition, repetition] = levels.map_or([None, None], |levels| levels.map(Some));
    for column in columns {
        let values: Vec<ByteArray> = column.iter().map(|&bytes| ByteArray::from(bytes)).collect();
        let mut to = rows.next_column().unwrap().unwrap();
        to.typed::<ByteArrayType>().write_batch(&values, definition, repetition).unwrap();
        to.close().unwrap();
    }
    rows.close().unwrap();
    file.close().unwrap();
}

/// As files are written by those who do not say that their bytes are text.
#[test]
fn columns_of_bytes_are_read_if_they_are_text() {
    let folder = tempfile::tempdir().unwrap();
    let lines = folder.path().join("texts.jsonl");
    std::fs::write(&lines, TEXTS).unwrap();
    let path = folder.path().join("bytes.parquet");
    let picture: &[u8] = &[0xff, 0xd8];
    let texts: [&[u8]; 3] = [b"The cat is number 0.", b"The dog is number 1.", b"The mouse is number 2."];
    let schema = "message rows { required binary picture; required binary text; }";
    write_parquet(&path, schema, &[&[picture; 3], &texts], None);
    assert_eq!(read(&path, 8).unwrap(), read(&lines, 8).unwrap(), "a column that is not read may hold anything");
    write_parquet(&path, schema, &[&[picture; 3], &[texts[0], picture, texts[2]]], None);
    let error = read(&path, 8).unwrap_err();
    assert!(error.contains("row 2: the column `text` holds bytes"), "{error}");
    let schema = "message rows { required group messages (LIST) { repeated group list {
        required group element { required binary role; required binary content; } } } }";
    let said = |answer| -> [[&[u8]; 2]; 2] { [[b"user", b"assistant"], [b"Who are you?", answer]] };
    let write = |[roles, contents]: [[&[u8]; 2]; 2]| {
        write_parquet(&path, schema, &[&roles, &contents], Some([&[1, 1], &[0, 1]]));
        read(&path, 200)
    };
    std::fs::write(&lines, CHATS.lines().next().unwrap()).unwrap();
    assert_eq!(write(said(b"A cat.")).unwrap(), read(&lines, 200).unwrap());
    let error = write(said(picture)).unwrap_err();
    assert!(error.contains("row 1: `messages`") && error.contains("`content`"), "{error}");
}

#[test]
fn names_are_read_whatever_their_letters() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, TEXTS).unwrap();
        read(&path, 8).unwrap()
    };
    let texts = write("texts.jsonl");
    for name in ["TEXTS.JSONL", "texts.ndjson"] {
        assert_eq!(write(name), texts, "{name}");
    }
    assert_ne!(write("texts.txt"), texts);
    let path = folder.path().join("TEXTS.Parquet");
    std::fs::copy(fixture("texts-snappy.parquet"), &path).unwrap();
    assert_eq!(read(&path, 8).unwrap(), texts);
}

#[derive(serde::Deserialize)]
struct Published {
    name: String,
    template: String,
}

/// Some templates (Qwen3's, Phi's) render earlier turns otherwise once others follow.
#[test]
fn every_answer_of_a_conversation_is_learned_once_with_every_template() {
    let templates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../checkpoint/tests/fixtures/chat_templates.json");
    let templates: Vec<Published> = serde_json::from_slice(&std::fs::read(templates).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chat.jsonl");
    let turn = |i: usize| {
        format!(
            r#"{{"role": "user", "content": "Ask {i}?"}}, {{"role": "assistant", "content": "The answer is {i}."}}"#
        )
    };
    let turns: Vec<String> = (0..3).map(turn).collect();
    std::fs::write(&path, format!("{{\"messages\": [{}]}}\n", turns.join(", "))).unwrap();
    let tokenizer = tokenizer();
    let text = |tokens: &[u32]| -> String {
        let bytes: Vec<u8> = tokens.iter().flat_map(|&token| tokenizer.token_bytes(token)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let opened_thought = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}\
                          {% if add_generation_prompt %}<assistant><think>{% endif %}";
    let more = Published { name: "an opened thought".into(), template: opened_thought.into() };
    for Published { name, template } in templates.into_iter().chain([more]) {
        let read = source(&path, &template, 4096).unwrap();
        assert_eq!(read.unanswered, (0, 1), "{name}");
        let learned: String = read
            .sequences
            .iter()
            .map(|sequence| {
                let pairs = sequence.tokens.iter().zip(&sequence.learned);
                text(&pairs.filter(|(_, learned)| **learned).map(|(token, _)| *token).collect::<Vec<_>>())
            })
            .collect();
        for i in 0..3 {
            assert_eq!(learned.matches(&format!("The answer is {i}.")).count(), 1, "{name}: {learned}");
        }
        assert!(!learned.contains("Ask"), "{name}: {learned}");
        let last = text(&read.sequences.last().unwrap().tokens);
        assert!(
            (0..3).all(|i| last.contains(&format!("Ask {i}?"))),
            "{name}: the last answer follows all before: {last}"
        );
        assert_eq!(source(&path, &template, 4096).unwrap(), read, "{name}");
    }
}

/// The tokens of what is learned of each sequence, as text.
fn learned(of: &Source) -> Vec<String> {
    let tokenizer = tokenizer();
    let text = |sequence: &Sequence| {
        let pairs = sequence.tokens.iter().zip(&sequence.learned).filter(|(_, learned)| **learned);
        let bytes: Vec<u8> = pairs.flat_map(|(&token, _)| tokenizer.token_bytes(token)).collect();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    of.sequences.iter().map(text).collect()
}

#[test]
fn what_an_answer_is_found_by() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let thinking = "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}<|end|>{% endfor %}\
                    {% if add_generation_prompt %}<|assistant|><think>{% endif %}";
    let read = |messages: &str, more: &str, template: &str| {
        std::fs::write(&path, format!("{{\"messages\": [{messages}]{more}}}\n")).unwrap();
        source(&path, template, 200)
    };
    let said = |role: &str, content: &str| format!("{{\"role\": \"{role}\", \"content\": \"{content}\"}}");
    let user = said("user", "end?");
    let asked = |answer: &str, more: &str| read(&format!("{user}, {}", said("assistant", answer)), more, thinking);
    // A letter of the tokens around it, and thoughts that the template leaves out.
    assert_eq!(learned(&asked("d", "").unwrap()), ["d<|end|>"]);
    assert_eq!(learned(&asked("Hm.</think>d", "").unwrap()), ["d<|end|>"]);
    assert_eq!(learned(&asked("d", ", \"finish_reason\": \"length\"").unwrap()), ["d"]);
    // Of what was cut off before anything was said nothing is learned.
    for nothing in ["", "  "] {
        let refused = asked(nothing, ", \"finish_reason\": \"length\"").unwrap_err();
        assert!(refused.contains("none of its 1 conversations"), "{refused}");
    }
    // Begun by the assistant: the text begins once.
    let first = format!("{}, {user}, {}", said("assistant", "Hello."), said("assistant", "Yes."));
    let begun = read(&first, "", TEMPLATE).unwrap();
    let bos = tokenizer().bos().unwrap();
    assert!(begun.sequences.iter().all(|s| s.tokens.iter().filter(|t| **t == bos).count() <= 1), "{begun:?}");
    assert_eq!(learned(&begun), ["Hello.</s>Yes.</s>"], "what was said and its end");
    // What a template puts before the first turn by itself, nobody said.
    let instructed = format!("Be helpful. {TEMPLATE}");
    assert_eq!(learned(&read(&first, "", &instructed).unwrap()), ["Hello.</s>Yes.</s>"]);
}

#[test]
fn an_answer_that_was_cut_off_ends_where_the_template_put_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let line = |answer: &str, reason: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"end?\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}\"}}], \
             \"finish_reason\": {reason}}}\n"
        )
    };
    let template = |shown: &str| {
        format!(
            "{{% for m in messages %}}<|{{{{ m.role }}}}|>{{% if m.role == 'assistant' %}}{shown}{{% else %}}{{{{ m.content }}}}\
             {{% endif %}}<|end|>{{% endfor %}}{{% if add_generation_prompt %}}<|assistant|>{{% endif %}}"
        )
    };
    let read = |lines: &str, shown: &str| {
        std::fs::write(&path, lines).unwrap();
        source(&path, &template(shown), 200)
    };
    let cut_off = |answer: &str, shown: &str| read(&line(answer, "\"length\""), shown);
    let without_thoughts = "{{ m.content.split('</think>')[-1] }}";
    let with_thoughts =
        "<think>{{ m.content.split('</think>')[0].strip() }}</think>|{{ m.content.split('</think>')[-1].strip() }}";
    for (answer, shown, said) in [
        ("d", "{{ m.content }}", "d"),
        ("  d", "{{ m.content | trim }}", "d"),
        ("Hm. d.</think> d", without_thoughts, " d"),
        ("Hm. d. </think> d", with_thoughts, "<think>Hm. d.</think>|d"),
    ] {
        let found = cut_off(answer, shown).unwrap();
        assert_eq!((learned(&found), found.unanswered), (vec![said.to_owned()], (0, 1)), "{shown}");
    }
    // Of nothing that was said nothing is learned, the end least.
    let shouted = "{{ m.content | upper }}";
    for (answer, shown) in [("Yes.", shouted), ("Hm.</think>", without_thoughts), ("Hm. </think> ", with_thoughts)] {
        let error = cut_off(answer, shown).unwrap_err();
        assert!(error.contains("none of its 1 conversations"), "{shown}: {error}");
    }
    let both = read(&[line("Yes.", "\"length\""), line("Yes.", "null")].concat(), shouted).unwrap();
    assert_eq!((learned(&both), both.unanswered), (vec!["YES.<|end|>".to_owned()], (1, 2)));
    // As servers name ends, and what is none.
    for (reason, said) in [("end_turn", "d<|end|>"), ("stop", "d<|end|>"), ("tool_calls", "d"), ("content_filter", "d")]
    {
        let found = read(&line("d", &format!("\"{reason}\", \"logprobs\": null")), "{{ m.content }}").unwrap();
        assert_eq!(learned(&found), [said], "{reason}");
    }
}

#[test]
fn an_entry_is_what_it_has_and_its_own_faults_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("entries.jsonl");
    let read = |line: &str| {
        std::fs::write(&path, format!("{{\"text\": \"The cat.\"}}\n{line}\n")).unwrap();
        source(&path, TEMPLATE, 4)
    };
    let calls = r#""messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": null, "tool_calls": []}]"#;
    for (line, said) in [
        (&format!("{{{calls}, \"text\": \"Because.\"}}")[..], "`messages`: invalid type: null"),
        (&format!("{{{calls}}}"), "a `role` and a `content`"),
        (r#"{"messages": [{"role": "user"}]}"#, "missing field `content`"),
        (r#"{"prompt": ["Why?"], "completion": "So.", "text": "Because."}"#, "`prompt`: invalid type: sequence"),
        (r#"{"prompt": "Why?", "completion": 3}"#, "`completion`: invalid type: integer"),
        (r#"{"prompt": "Why?", "completion": "So.", "finish_reason": 3}"#, "`finish_reason`: invalid type: integer"),
        (r#"{"text": ["Because."]}"#, "`text`: invalid type: sequence"),
        (r#"{"words": "Because."}"#, "expected a `text`, `messages`"),
        (r#"{"prompt": "Why?"}"#, "expected a `text`, `messages`"),
        (r#""Because.""#, "expected an object"),
    ] {
        let error = read(line).unwrap_err();
        assert!(error.contains("entries.jsonl: line 2: ") && error.contains(said), "{line}: {error}");
    }
    // What is null is not there, and what is not used may be anything.
    let plain = read(r#"{"text": "The dog is number 1."}"#).unwrap();
    for more in [r#""messages": null"#, r#""prompt": 3"#, r#""prompt": "Why?", "completion": null, "logprobs": 3"#] {
        assert_eq!(read(&format!("{{\"text\": \"The dog is number 1.\", {more}}}")).unwrap(), plain, "{more}");
    }
}

/// What a server told of each token that the model of the tests has for this text.
fn words(text: &str) -> String {
    let tokenizer = tokenizer();
    let word = |token: u32| {
        let piece = serde_json::to_string(&String::from_utf8(tokenizer.token_bytes(token)).unwrap()).unwrap();
        format!("{{\"token\": {piece}, \"top\": [[{piece}, -0.1]]}}")
    };
    let words: Vec<String> = tokenizer.encode_continuation(None, text, false).into_iter().map(word).collect();
    format!("[{}]", words.join(", "))
}

#[test]
fn probabilities_are_read_where_they_are_needed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("told.jsonl");
    let read = |more: &str, logprobs: Logprobs| {
        std::fs::write(&path, format!("{{\"prompt\": \"Who?\", \"completion\": \"The cat\"{more}}}\n")).unwrap();
        source_of(&path, TEMPLATE, 64, logprobs).map(|source| source.sequences)
    };
    let plain = read("", Logprobs::Ignored).unwrap();
    assert!(plain[0].told.is_empty());
    let own = format!(", \"logprobs\": {}", words("The cat"));
    let told = read(&own, Logprobs::Needed).unwrap();
    assert_eq!(told[0].tokens, plain[0].tokens);
    assert!(told[0].told.iter().zip(&told[0].learned).all(|(told, learned)| told.is_empty() != *learned), "{told:?}");
    // Of other tokens, of thoughts that the answer leaves out, of a form of its own, and none.
    let foreign = r#"[{"token": "The cat!", "top": [["The cat!", -0.1]]}]"#.to_owned();
    for (logprobs, said) in [
        (foreign, "the student does not have"),
        (words("Hm. The cat"), "not the answer"),
        (r#"{"content": []}"#.to_owned(), "`logprobs`: invalid type: map"),
        ("[]".to_owned(), "no probabilities"),
        ("null".to_owned(), "no probabilities"),
    ] {
        let more = format!(", \"logprobs\": {logprobs}");
        assert_eq!(read(&more, Logprobs::Ignored).unwrap(), plain, "{logprobs}");
        let error = read(&more, Logprobs::Needed).unwrap_err();
        assert!(error.contains("told.jsonl: line 1: ") && error.contains(said), "{logprobs}: {error}");
    }
    std::fs::write(&path, format!("{{\"prompt\": \"Who?\", \"completion\": \"The cat\"{own}}}\n{TEXTS}")).unwrap();
    let error = source_of(&path, TEMPLATE, 64, Logprobs::Needed).unwrap_err();
    assert!(error.contains("line 2: no probabilities"), "{error}");
}

#[test]
fn an_answer_without_words_is_told_as_its_end_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("told.jsonl");
    let asked = |answer: &str, reason: &str, more: &str| {
        format!("{{\"prompt\": \"Who?\", \"completion\": \"{answer}\", \"finish_reason\": \"{reason}\"{more}}}\n")
    };
    let chat = r#"{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": ""}], "finish_reason": "stop"}"#;
    let lines = [
        asked("The cat", "stop", &format!(", \"logprobs\": {}", words("The cat"))),
        asked("", "stop", ""),
        asked("", "length", ""),
        // A character of several tokens, of which nothing is told.
        asked("𓀀", "length", r#", "logprobs": [{"token": "𓀀", "top": []}]"#),
        chat.to_owned(),
    ];
    std::fs::write(&path, lines.concat()).unwrap();
    let template = TEMPLATE.replace("</s>", "<|end|>");
    let read = source_of(&path, &template, 64, Logprobs::Needed).unwrap();
    assert_eq!((read.sequences.len(), read.unanswered), (3, (2, 5)));
    let end = tokenizer().eos().unwrap();
    for sequence in &read.sequences {
        assert_eq!((sequence.tokens.last(), sequence.told.last()), (Some(&end), Some(&vec![(end, 0.0)])));
    }
    for sequence in &read.sequences[1..] {
        assert_eq!(sequence.learned.iter().filter(|learned| **learned).count(), 1, "{sequence:?}");
    }
}

#[test]
fn conversations_without_an_answer_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("chats.jsonl");
    let chat = |question: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"{question}\"}}, {{\"role\": \"assistant\", \"content\": \"Yes.\"}}]}}\n"
        )
    };
    std::fs::write(&path, [chat("Why?"), chat(&"long ".repeat(100)), chat("Who?")].concat()).unwrap();
    let source = source(&path, TEMPLATE, 64).unwrap();
    assert_eq!((source.sequences.len(), source.unanswered), (2, (1, 3)));
}

#[test]
fn answers_that_are_cut_off_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("answers.jsonl");
    let line = |answer: &str| format!("{{\"prompt\": \"Who?\", \"completion\": \"{answer}\"}}\n");
    std::fs::write(&path, [line("A cat."), line(&"long ".repeat(100)), line("A dog.")].concat()).unwrap();
    let source = source(&path, TEMPLATE, 32).unwrap();
    assert_eq!((source.sequences.len(), source.unanswered, source.cut), (3, (0, 3), 1));
    let end = tokenizer().eos();
    assert_eq!(source.sequences.iter().filter(|s| s.tokens.last().copied() == end).count(), 2);
}

#[test]
fn of_texts_without_words_and_of_an_editors_mark_nothing_is_learned() {
    let folder = tempfile::tempdir().unwrap();
    let (plain, marked) = (folder.path().join("plain.jsonl"), folder.path().join("marked.jsonl"));
    std::fs::write(&plain, TEXTS).unwrap();
    std::fs::write(&marked, format!("\u{feff}{{\"text\": \"\"}}\n{TEXTS}{{\"text\": \" \"}}\n")).unwrap();
    assert_eq!(read(&marked, 8).unwrap(), read(&plain, 8).unwrap());
    let text = folder.path().join("marked.txt");
    std::fs::write(&text, "\u{feff}The cat is number 0.").unwrap();
    assert!(!read(&text, 4).unwrap().iter().any(|s| tokenizer().decode(&s.tokens).contains('\u{feff}')));
}

#[test]
fn what_has_nothing_to_learn_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |name: &str, text: &str, length: usize| {
        std::fs::write(folder.path().join(name), text).unwrap();
        read(&folder.path().join(name), length).unwrap_err()
    };
    let silent = refused("silent.jsonl", r#"{"messages": [{"role": "user", "content": "Who are you?"}]}"#, 64);
    assert!(silent.contains("none of its 1 conversations") && silent.contains("`assistant`"), "{silent}");
    let long = refused("long.jsonl", r#"{"prompt": "One two three four five", "completion": "six"}"#, 4);
    assert!(long.contains("within 4 tokens"), "{long}");
    let broken = refused("broken.jsonl", "{\"text\": \"a\"}\n{\"text\": ", 4);
    assert!(broken.contains("line 2: not JSON: EOF") && broken.matches("line").count() == 1, "{broken}");
}

#[test]
fn damaged_parquet_files_are_refused_and_nothing_panics() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("damaged.parquet");
    let whole = std::fs::read(fixture("texts-snappy.parquet")).unwrap();
    for cut in (0..whole.len()).step_by(7) {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let error = read(&path, 8).unwrap_err();
        assert!(error.contains("damaged.parquet"), "{error}");
    }
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x55;
        std::fs::write(&path, &bytes).unwrap();
        refused += usize::from(read(&path, 8).is_err());
    }
    assert!(refused > whole.len() / 4, "{refused} of {}", whole.len());
    let other = folder.path().join("other.parquet");
    std::fs::write(&other, "text\nmore\n").unwrap();
    assert!(read(&other, 8).unwrap_err().contains("no Parquet file"));
}

#[test]
fn sequences_begin_as_the_model_begins_a_text() {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    std::fs::create_dir(&model).unwrap();
    for file in std::fs::read_dir(&fixture).unwrap().map(|file| file.unwrap()) {
        std::fs::copy(file.path(), model.join(file.file_name())).unwrap();
    }
    let config = std::fs::read_to_string(fixture.join("tokenizer_config.json")).unwrap();
    let text = folder.path().join("text.jsonl");
    std::fs::write(&text, TEXTS).unwrap();
    let tokenizer = |begins: bool| {
        let config = config.replacen('{', &format!("{{\"add_bos_token\": {begins},"), 1);
        std::fs::write(model.join("tokenizer_config.json"), config).unwrap();
        Tokenizer::of(&Checkpoint::open(&model).unwrap()).unwrap()
    };
    let read = |tokenizer: &Tokenizer, length| {
        let spec = text.to_str().unwrap().parse().unwrap();
        Source::read(spec, tokenizer, None, length, Logprobs::Ignored).unwrap().sequences
    };
    let (plain, begins) = (tokenizer(false), tokenizer(true));
    let bos = begins.bos().unwrap();
    let stream: Vec<u32> = read(&plain, 2).into_iter().flat_map(|s| s.tokens).collect();
    assert!(stream.len() > 20 && !stream.contains(&bos));
    for length in [2, 5, 8] {
        let sequences = read(&begins, length);
        assert!(sequences.iter().all(|s| s.tokens.len() == length && s.tokens[0] == bos && !s.learned[0]), "{length}");
        // Nothing is lost or said twice between sequences.
        let said: Vec<u32> = sequences.into_iter().flat_map(|s| s.tokens).filter(|t| *t != bos).collect();
        assert!(said[..stream.len() - length] == stream[..stream.len() - length], "{length}");
        // What is left of texts at hand is a sequence too.
        let texts = ["The cat is number 0.", "The dog is number 1."];
        let spec = text.to_str().unwrap().parse().unwrap();
        let sequences = Source::of_texts(spec, texts, &begins, length).unwrap().sequences;
        assert!(sequences.iter().all(|s| s.tokens.len() <= length && s.tokens[0] == bos), "{length}");
        let said: Vec<u32> = sequences.into_iter().flat_map(|s| s.tokens).filter(|t| *t != bos).collect();
        assert!(said == stream[..said.len()] && said.len() > 10, "{length}");
    }
}
