//! What a teacher is asked.

use crate::Error;
use crate::text::{Fields, Layout, field, lines, messages, objects};
use bantam_checkpoint::chat_template::Message;
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

const EXPECTED: &str = "expected a `prompt`, a `text`, or `messages` with `role` and `content`";

/// Reads prompts: a line each, or of `.jsonl` and `.parquet` a `prompt`, a `text`, or `messages`, of which the last turn of
/// the user's is to be answered.
///
/// # Errors
/// If the file cannot be read, or has no prompts.
pub fn read_prompts(path: &Path) -> Result<Vec<Prompt>, Error> {
    let error = |problem: String| Error::Data { path: path.to_owned(), problem };
    let mut prompts = Vec::new();
    let mut take = |place: String, prompt: Result<Prompt, String>| -> Result<(), Error> {
        prompts.push(prompt.map_err(|problem| error(format!("{place}: {problem}")))?);
        Ok(())
    };
    match Layout::of(path) {
        Layout::Text => lines(path, &mut |place, line| take(place, of_text(line.to_owned())))?,
        Layout::Lines | Layout::Rows => objects(path, &mut |place, fields| take(place, of_fields(fields)))?,
    }
    if prompts.is_empty() {
        return Err(error("it has no prompts; give one a line".to_owned()));
    }
    Ok(prompts)
}

/// What an object asks; otherwise what is wrong with it.
fn of_fields(fields: Fields) -> Result<Prompt, String> {
    match (fields.messages, fields.prompt, fields.text) {
        (Some(of), ..) => {
            let mut messages = messages(of)?;
            let last = messages.iter().rposition(|m| m.role == "user").ok_or("no message is the user's")?;
            messages.truncate(last + 1);
            Ok(Prompt::Chat(messages))
        }
        (None, Some(prompt), _) => of_text(field("prompt", prompt)?),
        (None, None, Some(text)) => of_text(field("text", text)?),
        (None, None, None) => Err(EXPECTED.to_owned()),
    }
}

fn of_text(text: String) -> Result<Prompt, String> {
    if text.trim().is_empty() { Err("the prompt is empty".to_owned()) } else { Ok(Prompt::Text(text)) }
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
