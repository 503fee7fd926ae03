//! What a teacher is asked.

use crate::Error;
use crate::text::{Layout, lines, objects, parquet};
use bantam_checkpoint::chat_template::Message;
use serde::Deserialize;
use std::collections::HashMap;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// What is to be answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prompt {
    /// A text, to be continued or, by a model that chats, answered.
    Text(String),
    /// A conversation whose last turn is the user's.
    Chat(Vec<Message>),
}

/// An object that asks.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Chat { messages: Vec<Message> },
    Prompt { prompt: String },
    Text { text: String },
}

const EXPECTED: &str = "expected a `prompt`, a `text`, or `messages` with `role` and `content`";

/// Reads prompts: a line each, or of `.jsonl` and `.parquet` a `prompt`, a `text`, or `messages`, of which the last turn of
/// the user's is to be answered.
///
/// # Errors
/// If the file cannot be read, or has no prompts.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>, Error> {
    let error = |problem: String| Error::Data { path: path.to_owned(), problem };
    let mut prompts = Vec::new();
    let mut take = |place: String, entry: Entry| {
        prompts.push(match entry {
            Entry::Prompt { prompt: text } | Entry::Text { text } if text.trim().is_empty() => {
                return Err(error(format!("{place}: the prompt is empty")));
            }
            Entry::Prompt { prompt: text } | Entry::Text { text } => Prompt::Text(text),
            Entry::Chat { mut messages } => {
                let last = messages.iter().rposition(|m| m.role == "user");
                let last = last.ok_or_else(|| error(format!("{place}: no message is the user's")))?;
                messages.truncate(last + 1);
                Prompt::Chat(messages)
            }
        });
        Ok(())
    };
    match Layout::of(path) {
        Layout::Lines => objects(path, EXPECTED, &mut take)?,
        Layout::Rows => parquet::rows(path, |number, row| {
            let wrong = |_| error(format!("row {number}: {EXPECTED}"));
            take(format!("row {number}"), serde_json::from_value(row).map_err(wrong)?)
        })?,
        Layout::Text => lines(path, &mut |place, line| take(place, Entry::Text { text: line.to_owned() }))?,
    }
    if prompts.is_empty() {
        return Err(error("it has no prompts; give one a line".to_owned()));
    }
    Ok(prompts)
}

/// A hash of each prompt, by which its answer is known; of those that come more than once each has its own.
pub(super) fn keys(prompts: &[Prompt]) -> Vec<u64> {
    let mut times = HashMap::new();
    let mut key = |prompt: &Prompt| {
        let text = format!("{prompt:?}");
        let time = times.entry(xxh3_64(text.as_bytes())).and_modify(|time| *time += 1).or_insert(0);
        xxh3_64(format!("{time} {text}").as_bytes())
    };
    prompts.iter().map(&mut key).collect()
}
