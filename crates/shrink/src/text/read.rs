//! From a file to sequences of tokens.

use super::entries::{Entry, entries, field};
use super::told::{Pieces, Top, UNTOLD};
use crate::Error;
use crate::generate::Word;
use bantam_checkpoint::chat_template::{ChatTemplate, Message};
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file to learn from, as `[CATEGORY=]FILE[:WEIGHT]`.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceSpec {
    /// What kind of text it is.
    pub category: String,
    /// The file.
    pub path: PathBuf,
    /// How often it is drawn from, relative to the other files; by its length if `None`.
    pub weight: Option<f64>,
}

/// The category of a file that is given without one.
const PLAIN: &str = "text";

fn is_weight(weight: f64) -> bool {
    weight > 0.0 && weight.is_finite()
}

impl FromStr for SourceSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let weighed = text.rsplit_once(':').and_then(|(path, weight)| Some((path, Some(weight.parse().ok()?))));
        let whole = [Some((text, None)), weighed].into_iter().flatten().find(|(path, _)| Path::new(path).exists());
        if let Some((path, weight)) = whole.filter(|(_, weight)| weight.is_none_or(is_weight)) {
            return Ok(Self { category: PLAIN.to_owned(), path: path.into(), weight });
        }
        let expected = |what: &str| {
            Err(format!("{what}: expected [CATEGORY=]FILE[:WEIGHT] with a weight above 0, as in code=examples.txt:0.5"))
        };
        let (category, rest) = text.split_once('=').unwrap_or((PLAIN, text));
        let (path, weight) = match rest.rsplit_once(':') {
            // A path goes on behind a drive's letter.
            Some((path, weight)) if !Path::new(rest).exists() && !weight.contains(['/', '\\']) => {
                match weight.parse() {
                    Ok(weight) => (path, Some(weight)),
                    Err(_) => return expected(&format!("there is no file {rest}, and {weight:?} is no weight")),
                }
            }
            _ => (rest, None),
        };
        if path.is_empty() || category.is_empty() {
            return expected("a name is missing");
        }
        if let Some(weight) = weight.filter(|&weight| !is_weight(weight)) {
            return expected(&format!("the weight is {weight}"));
        }
        Ok(Self { category: category.to_owned(), path: path.into(), weight })
    }
}

/// Tokens that are learned together.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Whether each token is to be predicted: all of a text but its first, in a conversation what the assistant says.
    pub learned: Vec<bool>,
    /// What a served teacher told of each token; empty if none told anything.
    pub told: Vec<Top>,
}

impl Sequence {
    /// Cuts off what is beyond `length` tokens; answers whether any of it was to be learned.
    fn shorten(&mut self, length: usize) -> bool {
        let cut = self.learned.iter().skip(length).any(|&learned| learned);
        self.tokens.truncate(length);
        self.learned.truncate(length);
        self.told.truncate(length);
        if !self.told.is_empty() && self.told.iter().all(Vec::is_empty) {
            self.learned.fill(false); // of what is left nothing was told
        }
        cut
    }
}

/// What is made of the `logprobs` beside an answer: what a served teacher told of each token that it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logprobs {
    /// Nothing: an answer is its text.
    Ignored,
    /// They are learned, and must be there.
    Needed,
}

/// A file's sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// Where they are from.
    pub spec: SourceSpec,
    /// In the order of the file.
    pub sequences: Vec<Sequence>,
    /// Conversations and prompts without anything to learn within a sequence's length, of how many.
    pub unanswered: (usize, usize),
    /// Those of which only the beginning is learned, since they are longer.
    pub cut: usize,
}

impl Source {
    /// Reads a file into sequences of up to `length` tokens. A file named `.jsonl` or `.ndjson` holds an object a line, one named
    /// `.parquet` a row of columns, with a `text`, with `messages` (`role` and `content`) or with a `prompt` and its `completion`; any other
    /// file is one text. Texts follow each other, parted by the end of text, and fill sequences wholly, which begin as the model
    /// begins a text; a completion with its prompt has a sequence of its own, cut off at `length`, and so has a conversation (several, where the
    /// template renders earlier turns otherwise than when they were answered). A `finish_reason` other than `stop`, `eos` or `end_turn` says that an
    /// answer was cut off: then its end is not learned, and where the template shows nothing of what was said, the answer is left out.
    ///
    /// # Errors
    /// If the file cannot be read, is not UTF-8, is named as a table or as JSON, has a line that is no such object, holds conversations for a
    /// model without a chat template, or not enough for one sequence; where probabilities are needed, if an entry has none or they are of
    /// other tokens.
    pub fn read(
        spec: SourceSpec,
        tokenizer: &Tokenizer,
        template: Option<&ChatTemplate>,
        length: usize,
        logprobs: Logprobs,
    ) -> Result<Self, Error> {
        let error = |problem: String| Error::Data { path: spec.path.clone(), problem };
        let mut reader = Reader::new(tokenizer, template, length, logprobs);
        entries(&spec.path, &mut |place, entry| {
            reader.take(entry).map_err(|problem| error(format!("{place}: {problem}")))
        })?;
        let Reader { stream, mut sequences, answered, asked, cut: cut_off, .. } = reader;
        sequences.extend(cut(&stream, tokenizer, length).0.into_iter().filter(|s| s.learned.contains(&true)));
        match sequences.is_empty() {
            true => Err(error(nothing_learned(asked, stream.len(), length))),
            false => Ok(Self { spec, sequences, unanswered: (asked - answered, asked), cut: cut_off }),
        }
    }

    /// Texts that are at hand, as [`read`](Self::read) would read them from files. What is left beyond whole sequences is a
    /// sequence too.
    ///
    /// # Errors
    /// If a text cannot be cut into tokens, or there is nothing to learn.
    pub fn of_texts(
        spec: SourceSpec,
        texts: impl IntoIterator<Item = impl AsRef<str>>,
        tokenizer: &Tokenizer,
        length: usize,
    ) -> Result<Self, Error> {
        let mut stream = Vec::new();
        texts.into_iter().try_for_each(|text| push_document(text.as_ref(), tokenizer, &mut stream))?;
        let (mut sequences, rest) = cut(&stream, tokenizer, length);
        if !rest.is_empty() {
            sequences.push(running(rest, begin(rest, tokenizer, length)));
        }
        sequences.retain(|s| s.learned.contains(&true));
        match sequences.is_empty() {
            true => Err(Error::Data { path: spec.path, problem: nothing_learned(0, stream.len(), length) }),
            false => Ok(Self { spec, sequences, unanswered: (0, 0), cut: 0 }),
        }
    }

    /// All tokens.
    pub fn tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.tokens.len()).sum()
    }
}

/// Makes tokens of entries.
struct Reader<'t> {
    tokenizer: &'t Tokenizer,
    template: Option<&'t ChatTemplate>,
    length: usize,
    /// The tokens of which something was told, where that is needed.
    pieces: Option<Pieces<'t>>,
    /// Texts one after the other.
    stream: Vec<u32>,
    /// Of conversations and prompts.
    sequences: Vec<Sequence>,
    /// Conversations and prompts with something to learn, those of which some is cut off, and all.
    answered: usize,
    cut: usize,
    asked: usize,
}

/// What is wrong with an entry; its place is said beside.
type Problem = Box<dyn std::error::Error>;

impl<'t> Reader<'t> {
    fn new(tokenizer: &'t Tokenizer, template: Option<&'t ChatTemplate>, length: usize, logprobs: Logprobs) -> Self {
        let pieces = (logprobs == Logprobs::Needed).then(|| Pieces::of(tokenizer));
        let (stream, sequences) = (Vec::new(), Vec::new());
        Self { tokenizer, template, length, pieces, stream, sequences, answered: 0, cut: 0, asked: 0 }
    }

    fn take(&mut self, entry: Entry) -> Result<(), Problem> {
        let mut made = match entry {
            Entry::Text { .. } if self.pieces.is_some() => return Err(UNTOLD.into()),
            Entry::Text { text } => return Ok(push_document(&text, self.tokenizer, &mut self.stream)?),
            Entry::Chat { messages, cut_off, logprobs } => self.chat(&messages, cut_off, logprobs)?,
            Entry::Continued { prompt, completion, cut_off, logprobs } => {
                vec![self.continued(&prompt, &completion, cut_off, logprobs)?]
            }
        };
        let cut = made.iter_mut().fold(false, |cut, sequence| sequence.shorten(self.length) | cut);
        let before = self.sequences.len();
        self.sequences.extend(made.into_iter().filter(|s| s.learned.contains(&true)));
        let answered = self.sequences.len() > before;
        self.answered += usize::from(answered);
        self.cut += usize::from(answered && cut);
        self.asked += 1;
        Ok(())
    }

    fn chat(&self, messages: &[Message], cut_off: bool, logprobs: Option<Value>) -> Result<Vec<Sequence>, Problem> {
        let template = self.template.ok_or("the model has no chat template")?;
        let Some(pieces) = &self.pieces else {
            return Ok(conversation(messages, cut_off, self.tokenizer, template)?);
        };
        let (answer, before) = messages.split_last().ok_or("it has no messages")?;
        let prompt = template.render(before, true)?;
        let end = end_of_turn(messages, &prompt, self.tokenizer, template)?;
        let answer = pieces.answer(&words(logprobs)?, &answer.content, end, !cut_off)?;
        Ok(vec![told(self.tokenizer.encode(&prompt, Special::PROMPT)?, answer)])
    }

    fn continued(
        &self,
        prompt: &str,
        completion: &str,
        cut_off: bool,
        logprobs: Option<Value>,
    ) -> Result<Sequence, Problem> {
        let prompt = self.tokenizer.encode(prompt, Special::OPENING)?;
        let Some(pieces) = &self.pieces else {
            return Ok(completed(prompt, completion, cut_off, self.tokenizer));
        };
        let answer = pieces.answer(&words(logprobs)?, completion, self.tokenizer.eos(), !cut_off)?;
        Ok(told(prompt, answer))
    }
}

fn words(logprobs: Option<Value>) -> Result<Vec<Word>, String> {
    logprobs.map_or(Ok(Vec::new()), |words| field("logprobs", words))
}

/// Why nothing is learned of a file with this many conversations and prompts and tokens of text.
fn nothing_learned(answers: usize, tokens: usize, length: usize) -> String {
    match (answers, tokens) {
        _ if length < 2 => {
            "in a sequence of 1 token there is nothing to predict; give a length of at least 2".to_owned()
        }
        (1.., 0) => format!(
            "none of its {answers} conversations or prompts has an answer within {length} tokens; give such with messages of an `assistant`, or a \
             greater length"
        ),
        _ => format!(
            "it has {tokens} tokens of text, too few for a sequence of {length}; give more text, or a smaller length"
        ),
    }
}

/// Whole sequences of running text, and what is left. Models that begin a text with a token of its own see it in every sequence: they attend
/// to it as to no other.
fn cut<'t>(mut stream: &'t [u32], tokenizer: &Tokenizer, length: usize) -> (Vec<Sequence>, &'t [u32]) {
    let mut sequences = Vec::new();
    loop {
        let bos = begin(stream, tokenizer, length);
        match stream.split_off(..length - usize::from(bos.is_some())) {
            Some(tokens) => sequences.push(running(tokens, bos)),
            None => return (sequences, stream),
        }
    }
}

/// What a sequence of this text lacks at its beginning.
fn begin(tokens: &[u32], tokenizer: &Tokenizer, length: usize) -> Option<u32> {
    tokenizer.bos().filter(|bos| tokenizer.add_bos() && length > 1 && tokens.first() != Some(bos))
}

fn running(tokens: &[u32], bos: Option<u32>) -> Sequence {
    let tokens: Vec<u32> = bos.into_iter().chain(tokens.iter().copied()).collect();
    Sequence { learned: (0..tokens.len()).map(|i| i > 0).collect(), tokens, told: Vec::new() }
}

/// Appends a text, and the end of text if the model knows one. Of an empty one there is nothing to learn, least of all that texts end where
/// they begin.
fn push_document(text: &str, tokenizer: &Tokenizer, stream: &mut Vec<u32>) -> Result<(), Error> {
    if text.trim().is_empty() {
        return Ok(());
    }
    stream.extend(tokenizer.encode(text, Special::DOCUMENT)?);
    if stream.last().is_some_and(|last| Some(*last) != tokenizer.eos()) {
        stream.extend(tokenizer.eos());
    }
    Ok(())
}

/// A prompt, which is not learned, and what follows it. The two are cut into tokens apart, as they were when the one was
/// written after the other.
fn completed(prompt: Vec<u32>, completion: &str, cut_off: bool, tokenizer: &Tokenizer) -> Sequence {
    let begins = prompt.len().max(1);
    let mut tokens = prompt;
    tokens.extend(tokenizer.encode_continuation(None, completion, false));
    if !cut_off {
        tokens.extend(tokenizer.eos());
    }
    Sequence { learned: (0..tokens.len()).map(|i| i >= begins).collect(), tokens, told: Vec::new() }
}

/// A prompt, and an answer with what was told of each of its tokens.
fn told(prompt: Vec<u32>, answer: Vec<(u32, Top)>) -> Sequence {
    let begins = prompt.len().max(1);
    let mut told = vec![Top::new(); prompt.len()];
    let mut tokens = prompt;
    for (token, what) in answer {
        tokens.push(token);
        told.push(what);
    }
    Sequence { learned: (0..tokens.len()).map(|i| i >= begins).collect(), tokens, told }
}

/// The token with which the template ends the last of these messages, which is said after `prompt`; otherwise what is known by its name to
/// end turns.
fn end_of_turn(
    messages: &[Message],
    prompt: &str,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
) -> Result<Option<u32>, Error> {
    let rendered = template.render(messages, false)?;
    let behind = match messages.last().map_or("", |message| message.content.trim()) {
        "" => rendered.strip_prefix(prompt).unwrap_or(""),
        said => rendered.rfind(said).map_or("", |at| &rendered[at + said.len()..]),
    };
    let tokens = tokenizer.encode(behind, Special::PROMPT)?;
    let ends = tokens.into_iter().find(|&token| tokenizer.is_end(token));
    Ok(ends.or(tokenizer.eot()).or(tokenizer.eos()))
}

/// A conversation as the template renders it; learned is what each message of the assistant's adds after the prompt for it. Some templates render
/// earlier turns otherwise once others follow (they cut thoughts out): what is answered then is another sequence, as it is when the model answers.
fn conversation(
    messages: &[Message],
    cut_off: bool,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
) -> Result<Vec<Sequence>, Error> {
    let mut sequences: Vec<Rendered> = Vec::new();
    for i in (0..messages.len()).filter(|&i| messages[i].role == "assistant") {
        let content = messages[i].content.trim_end();
        let cut_off = cut_off && i + 1 == messages.len();
        if cut_off && content.is_empty() {
            continue; // not even the end of it was said
        }
        let mut answered = template.render(&messages[..=i], false)?;
        let mut prompt = match i {
            0 if content.trim().is_empty() => continue,
            0 => before_first(&messages[0], &answered, template)?.to_owned(),
            _ => template.render(&messages[..i], true)?,
        };
        if !answered.starts_with(&prompt) {
            // What the model is asked with is no part of what is remembered, as an opened thought.
            let before = template.render(&messages[..i], false)?;
            if !answered.starts_with(&before) {
                continue;
            }
            let common = before.len().max(common_prefix(&prompt, &answered));
            let begin = answered[common..].find(content).map_or(common, |at| common + at);
            prompt = answered[..begin].to_owned();
        }
        if cut_off {
            let Some(end) = end_of_content(&answered[prompt.len()..], content) else { continue };
            answered.truncate(prompt.len() + end);
        }
        if !sequences.last().is_some_and(|last| prompt.starts_with(&last.text)) {
            sequences.push(Rendered::default());
        }
        let rendered = sequences.last_mut().expect("one was just added");
        rendered.push(&prompt, false, tokenizer)?;
        rendered.push(&answered, true, tokenizer)?;
    }
    Ok(sequences.into_iter().map(Rendered::sequence).collect())
}

/// What a template puts before a conversation's first message, which nobody said: instructions of its own, whose turn it is.
fn before_first<'r>(message: &Message, rendered: &'r str, template: &ChatTemplate) -> Result<&'r str, Error> {
    let begins_otherwise = if message.content.trim_start().starts_with('0') { "1" } else { "0" };
    let other = Message { content: begins_otherwise.to_owned(), ..message.clone() };
    Ok(&rendered[..common_prefix(rendered, &template.render(&[other], false)?)])
}

/// Where a template put the end of what was said, which it may have trimmed, or parted from its thoughts; `None` if it is not to be found.
fn end_of_content(rendered: &str, content: &str) -> Option<usize> {
    const THOUGHT: &str = "</think>";
    let end = |from: usize, said: &str| Some(from + rendered[from..].find(said)? + said.len());
    end(0, content).or_else(|| end(0, content.trim())).or_else(|| {
        let (_, spoken) = content.rsplit_once(THOUGHT)?;
        // Not in a thought that is shown.
        let from = rendered.rfind(THOUGHT).map_or(0, |at| at + THOUGHT.len());
        Some(spoken.trim()).filter(|spoken| !spoken.is_empty()).and_then(|spoken| end(from, spoken))
    })
}

/// Bytes of what two texts begin with, whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.char_indices()
        .zip(b.chars())
        .take_while(|((_, a), b)| a == b)
        .map(|((at, a), _)| at + a.len_utf8())
        .last()
        .unwrap_or(0)
}

/// The beginning of a conversation.
#[derive(Default)]
struct Rendered {
    text: String,
    tokens: Vec<u32>,
    learned: Vec<bool>,
}

impl Rendered {
    /// Goes on to a text that begins with what there is.
    fn push(&mut self, upto: &str, learned: bool, tokenizer: &Tokenizer) -> Result<(), Error> {
        let added = &upto[self.text.len()..];
        if added.is_empty() {
            return Ok(()); // nor is there a beginning yet
        }
        let tokens = match self.text.is_empty() {
            true => tokenizer.encode(added, Special::PROMPT)?,
            false => tokenizer.encode_continuation(self.tokens.last().copied(), added, true),
        };
        self.learned.extend(tokens.iter().map(|_| learned));
        self.tokens.extend(tokens);
        upto.clone_into(&mut self.text);
        Ok(())
    }

    fn sequence(mut self) -> Sequence {
        if let Some(first) = self.learned.first_mut() {
            *first = false;
        }
        Sequence { tokens: self.tokens, learned: self.learned, told: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specifications_are_read() {
        let spec = |text: &str| text.parse::<SourceSpec>();
        let full = SourceSpec { category: "code".into(), path: "a/b.txt".into(), weight: Some(0.5) };
        assert_eq!(spec("code=a/b.txt:0.5"), Ok(full));
        assert_eq!(spec("b.txt").unwrap(), SourceSpec { category: "text".into(), path: "b.txt".into(), weight: None });
        assert_eq!(spec("C:/b.txt").unwrap().path, Path::new("C:/b.txt"));
        for (wrong, why) in [
            ("", "missing"),
            ("code=", "missing"),
            ("=b.txt", "missing"),
            ("b.txt:0", "weight is 0"),
            ("b.txt:-1", "weight is -1"),
            ("b.txt:half", "no file b.txt:half, and \"half\" is no weight"),
        ] {
            let said = spec(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
        // A file that is there is meant, whatever its name looks like.
        let folder = tempfile::tempdir().unwrap();
        for name in ["x=1.txt", "notes:abc", "notes:2"] {
            let path = folder.path().join(name);
            std::fs::write(&path, "text").unwrap();
            let found = SourceSpec { category: "text".into(), path: path.clone(), weight: None };
            let name = path.to_str().unwrap();
            assert_eq!(spec(name), Ok(found.clone()));
            assert_eq!(spec(&format!("{name}:0.5")), Ok(SourceSpec { weight: Some(0.5), ..found }));
        }
    }
}
