//! From a file to its entries: an object a line, a row of columns, or all of it as one text.

use super::parquet;
use crate::Error;
use crate::generate::Finish;
use bantam_checkpoint::chat_template::Message;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;

/// How a file's entries lie in it, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// `.jsonl`, `.ndjson`: an object a line.
    Lines,
    /// `.parquet`: rows of columns.
    Rows,
    /// Any other: text.
    Text,
}

impl Layout {
    pub fn of(path: &Path) -> Self {
        match extension(path).as_deref() {
            Some("jsonl" | "ndjson") => Layout::Lines,
            Some("parquet") => Layout::Rows,
            _ => Layout::Text,
        }
    }
}

fn extension(path: &Path) -> Option<String> {
    path.extension()?.to_str().map(str::to_ascii_lowercase)
}

/// What is read of a line of a JSONL file, of a row of a Parquet file. A field that is null is not there, and one that is not used may be
/// anything.
#[derive(Default, Deserialize)]
#[serde(expecting = "an object, such as {\"text\": \"…\"}")]
pub(crate) struct Fields {
    pub messages: Option<Value>,
    pub prompt: Option<Value>,
    pub completion: Option<Value>,
    pub text: Option<Value>,
    pub finish_reason: Option<Value>,
    pub logprobs: Option<Value>,
}

impl Fields {
    /// The place of the field of this name.
    pub fn named(&mut self, name: &str) -> Option<&mut Option<Value>> {
        match name {
            "messages" => Some(&mut self.messages),
            "prompt" => Some(&mut self.prompt),
            "completion" => Some(&mut self.completion),
            "text" => Some(&mut self.text),
            "finish_reason" => Some(&mut self.finish_reason),
            "logprobs" => Some(&mut self.logprobs),
            _ => None,
        }
    }
}

/// A field as what it is to be; otherwise what is wrong with it.
pub(crate) fn field<T: DeserializeOwned>(name: &str, value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|e| format!("`{name}`: {e}"))
}

/// The field `messages`; otherwise what is wrong with it.
pub(crate) fn messages(value: Value) -> Result<Vec<Message>, String> {
    field("messages", value).map_err(|problem| format!("{problem}; each has a `role` and a `content`, both text"))
}

/// What is learned from.
pub(super) enum Entry {
    Chat {
        messages: Vec<Message>,
        /// Whether the last message was cut off: its end is not to be learned.
        cut_off: bool,
        logprobs: Option<Value>,
    },
    Continued {
        prompt: String,
        completion: String,
        cut_off: bool,
        logprobs: Option<Value>,
    },
    Text {
        text: String,
    },
}

const EXPECTED: &str = "expected a `text`, `messages` with `role` and `content`, or a `prompt` and its `completion`";

impl Entry {
    /// By the fields that are there; otherwise what is wrong with them. Where there are several kinds, the text is what was made of the others.
    fn of(fields: Fields) -> Result<Self, String> {
        let Fields { messages, prompt, completion, text, finish_reason, logprobs } = fields;
        match (messages, prompt.zip(completion), text) {
            (Some(messages), ..) => {
                let messages = self::messages(messages)?;
                Ok(Entry::Chat { messages, cut_off: cut_off(finish_reason)?, logprobs })
            }
            (None, Some((prompt, completion)), _) => {
                let (prompt, completion) = (field("prompt", prompt)?, field("completion", completion)?);
                Ok(Entry::Continued { prompt, completion, cut_off: cut_off(finish_reason)?, logprobs })
            }
            (None, None, Some(text)) => Ok(Entry::Text { text: field("text", text)? }),
            (None, None, None) => Err(EXPECTED.to_owned()),
        }
    }
}

/// Whether what is said of an answer's end says that it has none.
fn cut_off(finish_reason: Option<Value>) -> Result<bool, String> {
    let reason: Option<String> = finish_reason.map(|reason| field("finish_reason", reason)).transpose()?;
    Ok(reason.is_some_and(|name| Finish::named(&name) == Finish::Length))
}

/// Calls `take` with each entry of a file and its place; a text is one as a whole.
pub(super) fn entries(path: &Path, take: &mut dyn FnMut(String, Entry) -> Result<(), Error>) -> Result<(), Error> {
    match Layout::of(path) {
        Layout::Text => take("text".to_owned(), Entry::Text { text: read_text(path)? }),
        Layout::Lines | Layout::Rows => objects(path, &mut |place, fields| {
            let error = |problem| Error::Data { path: path.to_owned(), problem: format!("{place}: {problem}") };
            let entry = Entry::of(fields).map_err(error)?;
            take(place, entry)
        }),
    }
}

/// Calls `take` with each line that is not blank.
pub(crate) fn lines(path: &Path, take: &mut dyn FnMut(String, &str) -> Result<(), Error>) -> Result<(), Error> {
    let text = read_text(path)?;
    let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.try_for_each(|(i, line)| take(format!("line {}", i + 1), line))
}

/// Calls `take` with the fields of each object of a file that is no text, and its place.
pub(crate) fn objects(path: &Path, take: &mut dyn FnMut(String, Fields) -> Result<(), Error>) -> Result<(), Error> {
    if Layout::of(path) == Layout::Rows {
        return parquet::rows(path, |number, fields| take(format!("row {number}"), fields));
    }
    lines(path, &mut |place, line| {
        let error = |e| Error::Data { path: path.to_owned(), problem: format!("{place}: {}", no_object(&e)) };
        let fields = serde_json::from_str(line).map_err(error)?;
        take(place, fields)
    })
}

/// What is wrong with a line; where in it, since its number is said beside.
fn no_object(error: &serde_json::Error) -> String {
    let said = error.to_string();
    let said = said.rsplit_once(" at line ").map_or(&said[..], |(said, _)| said);
    match error.is_data() {
        true => said.to_owned(),
        false => format!("not JSON: {said} at column {}", error.column()),
    }
}

fn read_text(path: &Path) -> Result<String, Error> {
    let error = |problem: String| Error::Data { path: path.to_owned(), problem };
    // Their punctuation would be learned as text.
    if let Some(kind @ ("json" | "csv" | "tsv")) = extension(path).as_deref() {
        let problem = format!(
            "a .{kind} file is not read; give a .jsonl file with an object a line, or a .parquet file, or name it .txt if all of it is text"
        );
        return Err(error(problem));
    }
    let bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    let text = String::from_utf8(bytes)
        .map_err(|e| error(format!("byte {} is not UTF-8; convert the file first", e.utf8_error().valid_up_to())))?;
    // The mark that some editors put before a text is no part of it.
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}
