//! Finding the tokens that are taken whole out of a text before it is tokenized.

use super::vocab::{TokenType, Vocab};
use aho_corasick::{AhoCorasick, MatchKind};

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'t> {
    /// Text yet to be tokenized.
    Text(&'t str),
    /// A token found whole.
    Token(u32),
}

/// The tokens that are found whole, longest first.
///
/// llama.cpp's order: the longest token is found everywhere before the second longest is looked for, which is not the same
/// as the longest at each place from left to right.
pub struct Whole {
    tokens: Vec<(u32, String)>,
    /// Tells which occur at all: a vocabulary may have thousands, a text has a few.
    occurring: Option<AhoCorasick>,
}

impl Whole {
    /// The user-defined tokens and, if `special`, the control and unknown tokens.
    pub fn new(vocab: &Vocab, special: bool) -> Self {
        let wanted = |kind| match kind {
            TokenType::UserDefined => true,
            TokenType::Control | TokenType::Unknown => special,
            _ => false,
        };
        let mut tokens: Vec<_> =
            vocab.iter().filter(|&(.., kind)| wanted(kind)).map(|(id, text, _)| (id, text.to_owned())).collect();
        tokens.sort_by_key(|(_, text)| std::cmp::Reverse(text.len()));
        let patterns = tokens.iter().map(|(_, text)| text);
        // Building fails beyond 2³¹ bytes of patterns; each token is then searched for, which is only slower.
        let occurring = AhoCorasick::builder().match_kind(MatchKind::Standard).build(patterns).ok();
        Whole { tokens, occurring }
    }

    /// Cuts `text` at the tokens it contains. Texts are not empty.
    pub fn partition<'t>(&self, text: &'t str) -> Vec<Part<'t>> {
        let mut parts = if text.is_empty() { vec![] } else { vec![Part::Text(text)] };
        for (id, token) in self.candidates(text) {
            let mut cut = Vec::with_capacity(parts.len() + 2);
            for part in parts {
                match part {
                    Part::Text(text) => cut_at(text, token, *id, &mut cut),
                    Part::Token(_) => cut.push(part),
                }
            }
            parts = cut;
        }
        parts
    }

    fn candidates(&self, text: &str) -> impl Iterator<Item = &(u32, String)> {
        let mut occurs = vec![self.occurring.is_none(); self.tokens.len()];
        for found in self.occurring.iter().flat_map(|automaton| automaton.find_overlapping_iter(text)) {
            occurs[found.pattern().as_usize()] = true;
        }
        self.tokens.iter().zip(occurs).filter_map(|(token, occurs)| occurs.then_some(token))
    }
}

fn cut_at<'t>(text: &'t str, token: &str, id: u32, parts: &mut Vec<Part<'t>>) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(token) {
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        parts.push(Part::Token(id));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
}
