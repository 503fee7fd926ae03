//! What a served teacher told of each token that it wrote, in a student's tokens.

use crate::generate::{Piece, Word};
use bantam_checkpoint::tokenizer::Tokenizer;
use std::collections::HashMap;

/// The likeliest tokens at one place with the natural logarithms of their probabilities. Empty where nothing was told.
pub type Top = Vec<(u32, f32)>;

/// Finds a student's tokens by what they stand for.
pub(super) struct Pieces<'t> {
    tokenizer: &'t Tokenizer,
    tokens: HashMap<Vec<u8>, u32>,
}

impl<'t> Pieces<'t> {
    /// All tokens of a vocabulary.
    pub fn of(tokenizer: &'t Tokenizer) -> Self {
        let ids = (0..tokenizer.vocab_size() as u32).filter(|&id| !tokenizer.is_control(id));
        // Where two tokens stand for the same, the first does.
        let mut tokens = HashMap::new();
        ids.for_each(|id| {
            tokens.entry(tokenizer.token_bytes(id)).or_insert(id);
        });
        Self { tokenizer, tokens }
    }

    /// Servers give the token that ends an answer an empty text, or its name.
    fn token(&self, piece: &Piece, end: Option<u32>) -> Option<u32> {
        if piece.bytes().is_empty() {
            return end;
        }
        let name = || self.tokenizer.token_id(std::str::from_utf8(piece.bytes()).ok()?);
        self.tokens.get(piece.bytes()).copied().or_else(name)
    }

    /// The tokens of an answer, and what was told at each. Tokens among the likeliest that the student does not have are left
    /// out: what remains to 1 counts as one outcome. An answer that is `finished` ends with the token `end`, whether or not the server told of it:
    /// an empty one is that alone.
    ///
    /// # Errors
    /// If nothing was told of an answer, a token that was written is none of the student's, or they do not spell the answer: then the two have other tokens,
    /// and what is said of one means nothing for the other.
    pub fn answer(
        &self,
        words: &[Word],
        answer: &str,
        end: Option<u32>,
        finished: bool,
    ) -> Result<Vec<(u32, Top)>, String> {
        match (answer.trim().is_empty(), finished) {
            (true, false) => return Ok(Vec::new()), // not even the end of it was said
            (false, _) if words.is_empty() => return Err(UNTOLD.to_owned()),
            _ => {}
        }
        let mut spelled = Vec::new();
        let mut tokens = Vec::new();
        for word in words {
            let shown = || String::from_utf8_lossy(word.token.bytes()).into_owned();
            let token = match self.token(&word.token, end) {
                Some(token) => token,
                // A character of several tokens, of which nothing is told.
                None if word.top.is_empty() => {
                    let parts = self.tokenizer.encode_continuation(None, &shown(), false);
                    tokens.extend(parts.into_iter().map(|token| (token, Top::new())));
                    spelled.extend_from_slice(word.token.bytes());
                    continue;
                }
                None => {
                    let token = shown();
                    return Err(format!(
                        "the teacher wrote the token {token:?}, which the student does not have; {INSTEAD}"
                    ));
                }
            };
            if !self.tokenizer.is_end(token) {
                spelled.extend_from_slice(word.token.bytes());
            }
            let mut told = Top::new();
            for (token, log) in word.top.iter().filter_map(|(piece, log)| Some((self.token(piece, end)?, *log))) {
                // Several of the teacher's may be one of the student's: special tokens are told as empty text, whichever they are.
                match told.iter_mut().find(|(other, _)| *other == token) {
                    Some((_, sum)) => *sum = (sum.exp() + log.exp()).ln(),
                    None => told.push((token, log)),
                }
            }
            tokens.push((token, told));
        }
        let spelled = String::from_utf8_lossy(&spelled);
        if spelled.trim() != answer.trim() {
            return Err(format!("its `logprobs` spell {spelled:?} and not the answer; {INSTEAD}"));
        }
        let open = finished && tokens.last().is_none_or(|(token, _)| !self.tokenizer.is_end(*token));
        tokens.extend(end.filter(|_| open).map(|end| (end, vec![(end, 0.0)])));
        Ok(tokens)
    }
}

/// What is wrong with text of which a student cannot learn what was told.
pub(crate) const UNTOLD: &str = "no probabilities were told of it: give a --teacher, or have one served write answers with them (bantam \
                                 generate --endpoint URL --top 20)";

const INSTEAD: &str = "train on the answers' text (`bantam train`)";

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_checkpoint::Checkpoint;
    use std::path::Path;

    fn word(token: &str, top: &[(&str, f32)]) -> Word {
        let piece = |text: &str| Piece::Text(text.to_owned());
        Word { token: piece(token), top: top.iter().map(|(text, log)| (piece(text), *log)).collect() }
    }

    #[test]
    fn words_become_the_students_tokens_or_are_refused() {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
        let tokenizer = Tokenizer::of(&Checkpoint::open(model).unwrap()).unwrap();
        let pieces = Pieces::of(&tokenizer);
        let text = "The cat";
        let words: Vec<Word> = tokenizer
            .encode_continuation(None, text, false)
            .iter()
            .map(|&t| String::from_utf8(tokenizer.token_bytes(t)).unwrap())
            .map(|t| word(&t, &[(&t, -0.1), ("no such token at all", -3.0)]))
            .collect();
        let eos = tokenizer.eos();
        let answer = |words: &[Word], text: &str| pieces.answer(words, text, eos, false);
        let found = answer(&words, text).unwrap();
        let tokens: Vec<u32> = found.iter().map(|(token, _)| *token).collect();
        assert_eq!(tokenizer.decode(&tokens).trim(), text);
        assert!(found.iter().all(|(token, told)| *told == [(*token, -0.1)]), "{found:?}");
        assert!(answer(&words, "The dog").unwrap_err().contains("spell"));
        let foreign = [word("no such token at all", &[("no such token at all", -0.1)])];
        assert!(answer(&foreign, "no such token at all").unwrap_err().contains("does not have"));
        let ended = [&words[..], &[word("", &[("", -0.5)])]].concat();
        let end = answer(&ended, text).unwrap().pop().unwrap();
        assert!(Some(end.0) == eos && end.1 == [(end.0, -0.5)]);
        // A character that is several tokens.
        let told = pieces.answer(&[&words[..], &[word("𓀀", &[])]].concat(), "The cat𓀀", eos, false).unwrap();
        let (before, character) = told.split_at(found.len());
        assert!(
            before == found && character.len() > 1 && character.iter().all(|(_, told)| told.is_empty()),
            "{told:?}"
        );
        assert_eq!(tokenizer.decode(&character.iter().map(|(token, _)| *token).collect::<Vec<_>>()).trim(), "𓀀");
        // Of a server that does not tell of it, and of one that does.
        let finished = |words: &[Word]| pieces.answer(words, text, eos, true).unwrap();
        assert_eq!(finished(&words), [&found[..], &[(eos.unwrap(), vec![(eos.unwrap(), 0.0)])]].concat());
        assert_eq!(finished(&ended), answer(&ended, text).unwrap());
        // Nothing was said but that it ended, or not even that.
        assert_eq!(pieces.answer(&[], " ", eos, true).unwrap(), [(eos.unwrap(), vec![(eos.unwrap(), 0.0)])]);
        assert_eq!(pieces.answer(&[], "", eos, false).unwrap(), []);
        assert_eq!(pieces.answer(&[], text, eos, true).unwrap_err(), UNTOLD);
        let twice = [&words[..], &[word("", &[("", 0.5f32.ln()), ("", 0.25f32.ln())])]].concat();
        let end = answer(&twice, text).unwrap().pop().unwrap();
        assert!(matches!(end.1[..], [(_, log)] if (log.exp() - 0.75).abs() < 1e-6), "{end:?}");
    }
}
