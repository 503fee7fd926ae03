//! What an OpenAI-compatible server replies, as an answer. Log-probabilities come in two shapes: `content` with an object for
//! each token (chat; llama.cpp's server everywhere), or parallel arrays (the older completions of vLLM and others).

use super::http::{Failure, excerpt};
use super::{Answer, Finish, Piece, Word};
use serde_json::Value;

/// The answer in a reply. `words` says that the probabilities of each token were asked for.
pub(super) fn answer(reply: &Value, words: bool) -> Result<Answer, Failure> {
    let problem = Failure::Problem;
    if !reply["error"].is_null() {
        return Err(problem(format!("it replies with an error: {}", excerpt(&reply["error"].to_string()))));
    }
    let choices = reply["choices"].as_array().ok_or_else(|| problem(missing("`choices`", reply)))?;
    let choice = choices.first().ok_or_else(|| problem("its reply has no choice in `choices`".to_owned()))?;
    let finish_reason = choice["finish_reason"].as_str().map_or(Finish::Length, Finish::named);
    let text = match choice["message"]["content"].as_str().or(choice["text"].as_str()) {
        Some(text) => text.to_owned(),
        // Cut off while it thought.
        None if choice["finish_reason"] == "length" => {
            return Ok(Answer { text: String::new(), finish_reason, logprobs: Vec::new() });
        }
        None => {
            let missing = missing("`message.content` or `text`", choice);
            // A filter, a tool that it would call: others may be answered.
            let finished = choice["finish_reason"].is_string();
            return Err(if finished { Failure::refused(missing) } else { problem(missing) });
        }
    };
    let logprobs = if words { self::words(&choice["logprobs"], &text).map_err(problem)? } else { Vec::new() };
    Ok(Answer { text, finish_reason, logprobs })
}

/// Tokens that a reply says were generated, or about as many.
pub(super) fn tokens(reply: &Value, answer: &Answer) -> usize {
    let told = reply["usage"]["completion_tokens"].as_u64().and_then(|n| usize::try_from(n).ok());
    told.unwrap_or(answer.text.len() / 4)
}

fn missing(what: &str, of: &Value) -> String {
    format!("its reply has no {what}: {}", excerpt(&of.to_string()))
}

/// The tokens of a text, as they were told.
fn words(logprobs: &Value, text: &str) -> Result<Vec<Word>, String> {
    let words: Vec<Word> = match (logprobs["content"].as_array(), logprobs["tokens"].as_array()) {
        (Some(content), _) => content.iter().map(of_object).collect::<Result<_, _>>()?,
        (None, Some(tokens)) => {
            let numbered = tokens.iter().enumerate();
            numbered.map(|(i, token)| of_arrays(logprobs, i, token)).collect::<Result<_, _>>()?
        }
        (None, None) => Vec::new(),
    };
    // Of an empty answer many tell nothing, not even its end.
    if words.is_empty() && !text.trim().is_empty() {
        return Err("it returns no log-probabilities: without --top it gives text alone".to_owned());
    }
    Ok(words)
}

fn of_arrays(logprobs: &Value, i: usize, token: &Value) -> Result<Word, String> {
    let token = piece(token, &Value::Null)?;
    let own = probability(&token, &logprobs["token_logprobs"][i])?;
    let top = logprobs["top_logprobs"][i].as_object().into_iter().flatten();
    let top = top.map(|(text, log)| {
        let piece = Piece::Text(text.clone());
        probability(&piece, log).map(|log| (piece, log))
    });
    whole(token, own, top.collect::<Result<_, _>>()?)
}

fn of_object(object: &Value) -> Result<Word, String> {
    let of = |object: &Value| {
        let piece = piece(&object["token"], &object["bytes"])?;
        let log = probability(&piece, &object["logprob"])?;
        Ok::<_, String>((piece, log))
    };
    let (token, own) = of(object)?;
    let top = object["top_logprobs"].as_array().into_iter().flatten();
    let top = top.map(of).collect::<Result<Vec<_>, _>>()?;
    let its_end =
        |piece: &Piece| *piece != token && token.bytes().ends_with(piece.bytes()) && !piece.bytes().is_empty();
    let told = top.iter().any(|(piece, _)| *piece == token);
    if !told && top.iter().any(|(piece, log)| *log == own && its_end(piece)) {
        // llama.cpp's server tells a character of several tokens as one, with what it said of the last: not what it said of the character.
        return Ok(Word { token, top: Vec::new() });
    }
    whole(token, own, top)
}

fn piece(token: &Value, bytes: &Value) -> Result<Piece, String> {
    let text = token.as_str().ok_or_else(|| missing("text of a token", token))?;
    let byte = |b: &Value| b.as_u64().and_then(|b| u8::try_from(b).ok());
    match bytes.as_array().and_then(|bytes| bytes.iter().map(byte).collect::<Option<Vec<u8>>>()) {
        Some(bytes) if !bytes.is_empty() => Ok(Piece::new(bytes)),
        _ => Ok(Piece::Text(text.to_owned())),
    }
}

fn probability(piece: &Piece, log: &Value) -> Result<f32, String> {
    let shown = || String::from_utf8_lossy(piece.bytes()).into_owned();
    match log.as_f64() {
        // Rounding may bring a certain token a little above 0.
        Some(log) if log <= 1e-3 => Ok((log.max(-1e4) * 1e4).round() as f32 / 1e4),
        _ => Err(format!("the log-probability of token {:?} is {log}: a number of at most 0 is needed", shown())),
    }
    .map(|log| log.min(0.0))
}

/// A word with what was written among the likeliest.
fn whole(token: Piece, own: f32, mut top: Vec<(Piece, f32)>) -> Result<Word, String> {
    if !top.iter().any(|(piece, _)| *piece == token) {
        top.push((token.clone(), own));
    }
    let sum: f64 = top.iter().map(|(_, log)| f64::from(*log).exp()).sum();
    if sum > 1.01 {
        return Err(format!("the probabilities of the tokens at one place add up to {sum:.3}, more than 1"));
    }
    Ok(Word { token, top })
}
