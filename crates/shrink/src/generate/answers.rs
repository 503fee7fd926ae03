//! Answers, kept as they come, so that none is lost: one a line in a file beside the output, which has them in order once
//! all are there.

use super::Prompt;
use super::prompts::keys;
use crate::Error;
use crate::lines::{Kind, Lines};
use crate::text::Layout;
use bantam_checkpoint::chat_template::Message;
use bantam_checkpoint::output::OutputFile;
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Whose answers they are, then an answer each.
const KIND: Kind =
    Kind { key: "run", name: "answers", other: "another run", instead: "give another output, or delete it" };

/// What ended an answer, by the names of OpenAI's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The author did.
    Stop,
    /// It was cut off: what follows is not to be learned as an end.
    Length,
}

impl Finish {
    /// By the name that a server or a file gives it. A filter, a tool call, a limit: in any case not an end that the author chose.
    pub(crate) fn named(name: &str) -> Self {
        match name {
            "stop" | "eos" | "end_turn" => Finish::Stop,
            _ => Finish::Length,
        }
    }
}

/// What was written after a prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// What ended it.
    pub finish_reason: Finish,
    /// The author's probabilities, token by token, as far as they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub logprobs: Vec<Word>,
}

/// A token that an author wrote, and what else it could have written there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// What was written.
    pub token: Piece,
    /// The likeliest tokens with the natural logarithms of their probabilities; what was written is among them.
    pub top: Vec<(Piece, f32)>,
}

/// A token by what it stands for: a model's numbers mean nothing to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Piece {
    /// Text.
    Text(String),
    /// Bytes that are no text by themselves.
    Bytes(Vec<u8>),
}

impl Piece {
    /// The token of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|e| Piece::Bytes(e.into_bytes()), Piece::Text)
    }

    /// What it stands for.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Piece::Text(text) => text.as_bytes(),
            Piece::Bytes(bytes) => bytes,
        }
    }
}

/// The answers to prompts so far. An answer is known by its prompt, so that it stays where other prompts are changed, left out or added.
pub struct Answers {
    /// Begun with the first answer, so that a run that comes to none leaves nothing.
    lines: Lines,
    output: PathBuf,
    /// Of each prompt.
    keys: Vec<u64>,
    /// By the prompts' keys.
    kept: HashMap<u64, Answer>,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    prompt: u64,
    answer: Answer,
}

/// A line of the output, which is text to learn from.
#[derive(Serialize)]
#[serde(untagged)]
enum Line<'a> {
    Chat {
        messages: Vec<Message>,
        finish_reason: Finish,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        logprobs: &'a [Word],
    },
    Continued {
        prompt: &'a str,
        completion: &'a str,
        finish_reason: Finish,
        #[serde(skip_serializing_if = "<[_]>::is_empty")]
        logprobs: &'a [Word],
    },
}

impl Answers {
    /// Refuses an output that would not be read as the lines that it has: by its name it would be learned as prose, or not at all.
    ///
    /// # Errors
    /// If it has such a name.
    pub fn check_name(output: &Path) -> Result<(), Error> {
        let right = output.with_extension("jsonl");
        let problem =
            format!("answers are JSON lines, and read as such by their name; name the output {}", right.display());
        match Layout::of(output) {
            Layout::Lines => Ok(()),
            Layout::Rows | Layout::Text => Err(Error::Data { path: output.to_owned(), problem }),
        }
    }

    /// Begins the answers to `prompts` that are to become `output`, or goes on with those in the file beside it.
    /// `author` describes who writes them, and all that changes what is written.
    ///
    /// # Errors
    /// As [`check_name`](Self::check_name), and if the file cannot be read or written, holds another author's answers or none to these
    /// prompts, or is damaged.
    pub fn open(output: &Path, author: &str, prompts: &[Prompt]) -> Result<Self, Error> {
        Self::check_name(output)?;
        let mut name = output.as_os_str().to_owned();
        name.push(".generating");
        let (lines, there) = Lines::open::<Kept>(name.as_ref(), &KIND, author)?;
        let (any, keys) = (!there.is_empty(), keys(prompts));
        let asked: HashSet<u64> = keys.iter().copied().collect();
        let kept = there.into_iter().filter(|kept| asked.contains(&kept.prompt));
        let kept: HashMap<u64, Answer> = kept.map(|Kept { prompt, answer }| (prompt, answer)).collect();
        if any && kept.is_empty() {
            let problem = "it holds answers to other prompts; give another output, or delete it".to_owned();
            return Err(Error::Data { path: lines.path().to_owned(), problem });
        }
        Ok(Self { lines, output: output.to_owned(), keys, kept })
    }

    /// Whether a prompt is answered.
    pub fn has(&self, number: u64) -> bool {
        self.kept.contains_key(&self.keys[number as usize])
    }

    /// Prompts answered.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether no prompt is answered.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Where the answers are until all are there.
    pub fn path(&self) -> &Path {
        self.lines.path()
    }

    /// Keeps an answer; one that is there already stays.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn keep(&mut self, number: u64, answer: Answer) -> Result<(), Error> {
        if !self.has(number) {
            let kept = Kept { prompt: self.keys[number as usize], answer };
            self.lines.append(&kept)?;
            self.kept.insert(kept.prompt, kept.answer);
        }
        Ok(())
    }

    /// Writes the output: conversations where `chat` says that the prompts were put to the author as such, else prompts
    /// and completions.
    ///
    /// # Errors
    /// If it cannot be written.
    ///
    /// # Panics
    /// If an answer is missing.
    pub fn finish(self, prompts: &[Prompt], chat: bool) -> Result<(), Error> {
        let mut file = OutputFile::create(&self.output)?;
        for (key, prompt) in self.keys.iter().zip(prompts) {
            let answer = self.kept.get(key).expect("all prompts are answered");
            let Answer { text: completion, finish_reason, logprobs } = answer;
            let finish_reason = *finish_reason;
            let line = match prompt {
                Prompt::Text(prompt) if !chat => Line::Continued { prompt, completion, finish_reason, logprobs },
                prompt => {
                    let mut messages = prompt.messages();
                    messages.push(Message::new("assistant", completion));
                    Line::Chat { messages, finish_reason, logprobs }
                }
            };
            let written = serde_json::to_writer(&mut file, &line).map_err(std::io::Error::from);
            let written = written.and_then(|()| file.write_all(b"\n"));
            written.map_err(|e| Error::Data { path: self.output.clone(), problem: e.to_string() })?;
        }
        file.finish()?;
        std::fs::remove_file(self.path()).ok();
        Ok(())
    }
}

impl Prompt {
    /// As a conversation.
    pub fn messages(&self) -> Vec<Message> {
        match self {
            Prompt::Text(text) => vec![Message::new("user", text)],
            Prompt::Chat(messages) => messages.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str) -> Answer {
        Answer { text: text.to_owned(), finish_reason: Finish::Stop, logprobs: Vec::new() }
    }

    #[test]
    fn a_file_cut_short_anywhere_keeps_its_whole_lines() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("texts.jsonl");
        let prompts: Vec<Prompt> = (0..3).map(|i| Prompt::Text(format!("é{i}"))).collect();
        let open = || Answers::open(&output, "A", &prompts).unwrap();
        let texts = ["one\ntwo", "zwei", ""];
        let mut answers = open();
        [2, 0, 1].into_iter().for_each(|i| answers.keep(i as u64, answer(texts[i])).unwrap());
        let (path, bytes) = (answers.path().to_owned(), std::fs::read(answers.path()).unwrap());
        answers.finish(&prompts, false).unwrap();
        let whole = std::fs::read(&output).unwrap();
        assert!(!path.exists() && whole.starts_with("{\"prompt\":\"é0\",\"completion\":\"one\\ntwo\"".as_bytes()));
        for len in 0..bytes.len() {
            std::fs::write(&path, &bytes[..len]).unwrap();
            let mut answers = open();
            (0..3).for_each(|i| answers.keep(i as u64, answer(texts[i])).unwrap());
            answers.finish(&prompts, false).unwrap();
            assert_eq!(std::fs::read(&output).unwrap(), whole, "cut to {len}");
        }
    }

    #[test]
    fn answers_stay_where_other_prompts_change() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("texts.jsonl");
        let prompts = |texts: &[&str]| texts.iter().map(|&text| Prompt::Text(text.to_owned())).collect::<Vec<_>>();
        let mut answers = Answers::open(&output, "A", &prompts(&["a", "b", "a", "c"])).unwrap();
        (0..4).for_each(|i| answers.keep(i, answer(&i.to_string())).unwrap());
        assert!(matches!(Answers::open(&output, "A", &prompts(&["a"])), Err(Error::InUse { .. })), "one run at a time");
        drop(answers);
        let later = prompts(&["c", "a", "d", "a", "a"]);
        let mut answers = Answers::open(&output, "A", &later).unwrap();
        assert_eq!((0..5).map(|i| answers.has(i)).collect::<Vec<_>>(), [true, true, false, true, false]);
        [2, 4].into_iter().for_each(|i| answers.keep(i, answer("new")).unwrap());
        answers.finish(&later, false).unwrap();
        let text = std::fs::read_to_string(&output).unwrap();
        let written = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        let written: Vec<String> = written.map(|line| line["completion"].as_str().unwrap().to_owned()).collect();
        assert_eq!(written, ["3", "0", "new", "2", "new"]);
    }

    #[test]
    fn names_by_which_answers_would_not_be_read_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Answers::open(&folder.path().join(name), "A", &[]);
        for (wrong, right) in [("a.txt", "a.jsonl"), ("a", "a.jsonl"), ("a.parquet", "a.jsonl"), ("a.json", "a.jsonl")]
        {
            let error = open(wrong).err().unwrap().to_string();
            assert!(error.contains(wrong) && error.ends_with(&format!("/{right}")), "{error}");
        }
        assert!(["a.jsonl", "a.NDJSON"].into_iter().all(|right| open(right).is_ok()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn other_runs_and_damage_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("texts.jsonl");
        let prompts = [Prompt::Text("a".to_owned())];
        let mut answers = Answers::open(&output, "A", &prompts).unwrap();
        answers.keep(0, answer("b")).unwrap();
        let path = answers.path().to_owned();
        drop(answers);
        let refused = |author: &str, prompts: &[Prompt]| {
            Answers::open(&output, author, prompts).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refused("B", &prompts).contains("another run"));
        assert!(refused("A", &[Prompt::Text("c".to_owned())]).contains("other prompts"));
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.replace("\"prompt\"", "\"pompt\"")).unwrap();
        assert!(refused("A", &prompts).contains("line 2 is damaged"));
        for notes in ["hello\n", "hello"] {
            std::fs::write(&path, notes).unwrap();
            assert!(refused("A", &prompts).contains("no file of answers"));
            assert_eq!(std::fs::read_to_string(&path).unwrap(), notes);
        }
    }
}
