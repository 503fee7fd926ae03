//! Cutting text into words before BPE: one row for each way that models in the wild do it.
//!
//! GGUF names the way in `tokenizer.ggml.pre`, after the model that had it first. The patterns are llama.cpp's reading of
//! the models' own. Where llama.cpp simplified (only ASCII has letter case for `tekken` and `gpt-4o`), so do we: a GGUF
//! file must give the same tokens here and there.

use crate::{Error, Result};
use fancy_regex::{Regex, RegexBuilder};
use std::ops::Range;
use std::path::Path;

/// How a family of models cuts text into words.
#[derive(Debug)]
pub struct PreTokenizer {
    /// The names in `tokenizer.ggml.pre`. The first is written where a Hugging Face tokenizer matches.
    pub names: &'static [&'static str],
    /// Each pattern in turn cuts what the ones before it left whole: its matches, and what lies between, become words.
    pub patterns: &'static [&'static str],
    /// Whether a word that is a token is taken whole, whatever the merges say.
    pub ignore_merges: bool,
    /// Whether BOS is added when the metadata does not say.
    pub add_bos: bool,
}

/// GPT-2's pattern: English contractions, letters, digits, the rest, white space (the last space goes to the next word).
pub const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// The same with every digit a word.
const GPT2_DIGITS: &[&str] = &[r"\p{N}", GPT2];

/// English contractions in either case.
pub const CONTRACTIONS: &str = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])";

/// GPT-4's pattern (`cl100k_base`), with up to three digits in a word.
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same with every digit a word.
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The same with combining marks as letters.
const QWEN35: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Mistral's: words end before an upper-case letter.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// `o200k_base`: the same with contractions at the end of words and up to three digits.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]*[\p{L}&&[^A-Z]]+(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|[^\r\n\p{L}\p{N}]?[\p{L}&&[^a-z]]+[\p{L}&&[^A-Z]]*(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const DEEPSEEK3: &[&str] = &[
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];

const fn row(names: &'static [&'static str], patterns: &'static [&'static str]) -> PreTokenizer {
    PreTokenizer { names, patterns, ignore_merges: false, add_bos: false }
}

/// All known ways.
pub static PRE_TOKENIZERS: &[PreTokenizer] = &[
    row(
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "exaone4",
            "trillion",
            "granite-docling",
            "gigachat",
            "jina-es",
            "jina-de",
        ],
        &[GPT2],
    ),
    row(&["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"], GPT2_DIGITS),
    row(
        &["qwen2", "deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2", "kormo", "f2llmv2"],
        &[QWEN2],
    ),
    row(&["qwen35"], &[QWEN35]),
    PreTokenizer {
        names: &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "midm-2.0",
            "lfm2",
            "jina-v5-nano",
        ],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    row(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[LLAMA3]),
    PreTokenizer { names: &["glm4", "glm5"], patterns: &[LLAMA3], ignore_merges: true, add_bos: false },
    PreTokenizer { names: &["tekken"], patterns: &[TEKKEN], ignore_merges: true, add_bos: true },
    row(&["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"], &[GPT4O]),
    row(&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], DEEPSEEK3),
    row(&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    row(&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    // What llama.cpp uses for files from before `tokenizer.ggml.pre`.
    row(&["default"], &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

impl PreTokenizer {
    /// The row with this name.
    ///
    /// # Errors
    /// If there is none.
    pub fn by_name(name: &str, path: &Path) -> Result<&'static PreTokenizer> {
        PRE_TOKENIZERS.iter().find(|row| row.names.contains(&name)).ok_or_else(|| {
            let known: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|row| row.names).copied().collect();
            Error::unsupported(
                path,
                format!("unknown pre-tokenizer `{name}` (tokenizer.ggml.pre); known are {}", known.join(", ")),
            )
        })
    }

    /// The patterns, ready to cut.
    pub fn compile(&self) -> Splitter {
        let compile = |pattern: &&str| {
            // Only `\s+(?!\S)` backtracks, by one character at most; the rest runs in linear time. What that may go back to is kept for each
            // character, though, and there is a limit to it: see `cut_at_matches`.
            RegexBuilder::new(pattern).backtrack_limit(usize::MAX).build().expect("the table's patterns are tested")
        };
        Splitter { patterns: self.patterns.iter().map(compile).collect() }
    }
}

/// Cuts text into words.
pub struct Splitter {
    patterns: Vec<Regex>,
}

impl Splitter {
    /// The words of `text`, in order and without loss.
    pub fn split<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for pattern in &self.patterns {
            let mut cut = Vec::with_capacity(words.len());
            for word in words {
                cut_at_matches(pattern, word, &mut cut);
            }
            words = cut;
        }
        words
    }
}

fn cut_at_matches<'t>(pattern: &Regex, text: &'t str, words: &mut Vec<&'t str>) {
    let mut end = 0;
    // No pattern matches the empty string.
    let next = |from: usize| match pattern.find_from_pos(text, from) {
        Ok(found) => found.map(|found| found.range()),
        Err(_) => long_space(text, from),
    };
    while let Some(found) = next(end) {
        if found.start > end {
            words.push(&text[end..found.start]);
        }
        words.push(&text[found.clone()]);
        end = found.end;
    }
    if end < text.len() {
        words.push(&text[end..]);
    }
}

/// White space at `from` that is too long for a search to go back in: all but its last character, as the patterns take it, which goes to the next
/// word.
fn long_space(text: &str, from: usize) -> Option<Range<usize>> {
    let space = &text[from..text[from..].find(|c: char| !c.is_whitespace()).map_or(text.len(), |len| from + len)];
    let last = if from + space.len() < text.len() { space.chars().next_back().map_or(0, char::len_utf8) } else { 0 };
    (space.len() > last).then(|| from..from + space.len() - last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn split<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        PreTokenizer::by_name(name, Path::new("")).unwrap().compile().split(text)
    }

    #[test]
    fn white_space_of_any_length_is_a_word() {
        for len in [10, 1_100_000] {
            let (space, end) = (" ".repeat(len), " ".repeat(len + 1));
            let text = format!("a{end}b c{space}");
            for row in ["gpt-2", "llama-bpe", "qwen2", "tekken"] {
                assert!(split(row, &text) == ["a", &space, " b", " c", &space], "{row}, {len}");
            }
        }
    }

    #[test]
    fn every_row_compiles_and_loses_nothing() {
        let text = "It's 12345 o'clock,  CamelCase\n\n \tΣ日本語 e\u{301} 🎉!\r\n  ";
        let mut seen = HashSet::new();
        for row in PRE_TOKENIZERS {
            assert!(row.names.iter().all(|name| seen.insert(*name)), "a name twice: {:?}", row.names);
            let words = row.compile().split(text);
            assert_eq!(words.concat(), text, "{:?}", row.names);
            assert!(words.iter().all(|word| !word.is_empty()), "{:?}", row.names);
        }
    }

    #[test]
    fn words_are_those_of_the_models() {
        assert_eq!(split("gpt-2", "It's  12345!\n x"), ["It", "'s", " ", " 12345", "!", "\n", " x"]);
        assert_eq!(split("smollm", "a 12"), ["a", " ", "1", "2"]);
        assert_eq!(split("llama3", "DON'T 12345\n\n x"), ["DON", "'T", " ", "123", "45", "\n\n", " x"]);
        assert_eq!(split("qwen2", "(abc) 12"), ["(abc", ")", " ", "1", "2"]);
        assert_eq!(split("gpt-4o", "CamelCase's"), ["Camel", "Case's"]);
    }

    #[test]
    fn unknown_names_are_refused_with_the_known() {
        let error = PreTokenizer::by_name("nonesuch", Path::new("m.gguf")).unwrap_err().to_string();
        assert!(error.contains("m.gguf") && error.contains("`nonesuch`") && error.contains("qwen2"), "{error}");
    }
}
