//! The built-in evaluation data: excerpts by category and multiple-choice tasks, compiled in.
//!
//! [`suite`] gives what a named suite measures. Sources, licences and what calibration must leave alone:
//! `data/README.md`; `scripts/data/build.py` makes the files.

use crate::{Question, Suite, Task, Text, results::Category};
use serde::Deserialize;

/// The names that [`suite`] knows, the default first.
pub const SUITES: [&str; 2] = ["standard", "quick"];

/// The built-in suite of a name in [`SUITES`]: its texts by category in the order of [`Category`], and its tasks.
///
/// `standard` is everything: eight documents of about 8 KB in each category. `quick` is a quarter of the documents (two
/// of each category, whole) and of the questions, spread evenly over each task.
pub fn suite(name: &str) -> Option<Suite> {
    let step = match name {
        "standard" => 1,
        "quick" => 4,
        _ => return None,
    };
    let documents = DOCUMENTS.chunks(PER_CATEGORY).flat_map(|category| category.iter().step_by(step));
    Some(Suite {
        texts: documents.map(Document::text).collect(),
        tasks: TASKS.iter().map(|task| task.parsed(step)).collect(),
    })
}

/// Documents in each category.
const PER_CATEGORY: usize = 8;

/// A document as it is stored.
struct Document {
    category: Category,
    name: &'static str,
    source: &'static str,
    text: &'static str,
}

impl Document {
    fn text(&self) -> Text {
        let Document { category, name, source, text } = *self;
        Text { category, name: name.into(), source: source.into(), text: text.into() }
    }
}

/// A task as it is stored.
struct TaskFile {
    name: &'static str,
    category: Category,
    source: &'static str,
    lines: &'static str,
}

/// A line of a task's file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    question: String,
    options: Vec<String>,
    answer: usize,
}

impl TaskFile {
    /// Every `step`th question.
    fn parsed(&self, step: usize) -> Task {
        let parse = |line| {
            let Line { question, options, answer } = serde_json::from_str(line).expect("tests read every line");
            Question { prompt: question, options: options.iter().map(|option| format!(" {option}")).collect(), answer }
        };
        let questions = self.lines.lines().step_by(step).map(parse).collect();
        Task { name: self.name.into(), category: self.category, source: self.source.into(), questions }
    }
}

/// The documents of one category, each `name: source`.
macro_rules! texts {
    ($($category:ident in $folder:literal { $($name:literal: $source:literal,)+ })+) => {
        [$($(Document {
            category: Category::$category,
            name: $name,
            source: $source,
            text: include_str!(concat!("../data/text/", $folder, "/", $name, ".txt")),
        },)+)+]
    };
}

// The first and the fifth of each category are `quick`: two that differ much.
static DOCUMENTS: [Document; 4 * PER_CATEGORY] = texts! {
    Prose in "prose" {
        "austen-persuasion": "Jane Austen, Persuasion, 1817 (public domain)",
        "world-factbook": "CIA World Factbook, Kenya and Morocco (public domain)",
        "postgresql-reliability": "PostgreSQL 15 documentation, Reliability and the Write-Ahead Log (PostgreSQL licence)",
        "verne-2889": "Michel and Jules Verne, In the Year 2889, 1889 (public domain)",
        "rust-book": "The Rust Programming Language, What Is Ownership? (MIT or Apache-2.0)",
        "jargon-file": "The Jargon File 4.4.7, Hacker Writing Style (public domain)",
        "milton-areopagitica": "John Milton, Areopagitica, 1644 (public domain)",
        "python-sockets": "Gordon McMillan, Socket Programming HOWTO (PSF licence)",
    }
    Chat in "chat" {
        "assistant-helpful": "BIG-bench hhh_alignment, helpful (Apache-2.0)",
        "instructions-stories": "BIG-bench natural_instructions 024, CosmosQA (Apache-2.0)",
        "assistant-other": "BIG-bench hhh_alignment, other (Apache-2.0)",
        "topical-chat-2": "BIG-bench topical_chat (Apache-2.0)",
        "topical-chat-1": "BIG-bench topical_chat (Apache-2.0)",
        "instructions-science": "BIG-bench natural_instructions 061, ROPES (Apache-2.0)",
        "assistant-honest": "BIG-bench hhh_alignment, honest (Apache-2.0)",
        "instructions-rewriting": "BIG-bench natural_instructions 045 (Apache-2.0)",
    }
    Code in "code" {
        "python-fractions": "Python 3.11 standard library, fractions.py (PSF licence)",
        "javascript-express-response": "express 4.21.2, lib/response.js (MIT)",
        "c-lua-table": "Lua 5.4.8, ltable.c (MIT)",
        "rust-rayon-chunks": "rayon 1.12.0, slice/chunks.rs (MIT or Apache-2.0)",
        "rust-multi-progress": "indicatif 0.18.6, multi.rs (MIT)",
        "python-mailbox": "Python 3.11 standard library, mailbox.py (PSF licence)",
        "c-lua-string": "Lua 5.4.8, lstrlib.c (MIT)",
        "python-graphlib": "Python 3.11 standard library, graphlib.py (PSF licence)",
    }
    Math in "math" {
        "grade-school-1": "reasoning-gym 0.1.25, gsm_symbolic 0 to 31 (Apache-2.0)",
        "competition-inequality": "CHAMP 1.0.0, inequalities (MIT)",
        "math-qa-1": "BIG-bench elementary_math_qa with hints, from 1000 (Apache-2.0)",
        "competition-polynomial": "CHAMP 1.0.0, polynomials (MIT)",
        "competition-combinatorics": "CHAMP 1.0.0, combinatorics (MIT)",
        "grade-school-2": "reasoning-gym 0.1.25, gsm_symbolic 38 to 60 (Apache-2.0)",
        "math-qa-2": "BIG-bench elementary_math_qa with hints, from 3000 (Apache-2.0)",
        "competition-sequence": "CHAMP 1.0.0, sequences (MIT)",
    }
};

static TASKS: [TaskFile; 4] = [
    TaskFile {
        name: "logical_deduction",
        category: Category::Prose,
        source: "BIG-bench logical_deduction, three objects (Apache-2.0)",
        lines: include_str!("../data/choices/logical_deduction.jsonl"),
    },
    TaskFile {
        name: "social_iqa",
        category: Category::Chat,
        source: "BIG-bench social_iqa (Apache-2.0)",
        lines: include_str!("../data/choices/social_iqa.jsonl"),
    },
    TaskFile {
        name: "code_line_description",
        category: Category::Code,
        source: "BIG-bench code_line_description (Apache-2.0)",
        lines: include_str!("../data/choices/code_line_description.jsonl"),
    },
    TaskFile {
        name: "elementary_math_qa",
        category: Category::Math,
        source: "BIG-bench elementary_math_qa with hints, 0 to 999 (Apache-2.0)",
        lines: include_str!("../data/choices/elementary_math_qa.jsonl"),
    },
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const CATEGORIES: [Category; 4] = [Category::Prose, Category::Chat, Category::Code, Category::Math];

    #[test]
    fn every_category_has_enough_varied_text() {
        let suite = suite("standard").unwrap();
        for category in CATEGORIES {
            let texts: Vec<_> = suite.texts.iter().filter(|text| text.category == category).collect();
            assert_eq!(texts.len(), PER_CATEGORY, "{}", category.name());
            // Sixteen chunks of 512 tokens, at four bytes a token or a little more.
            assert!(texts.iter().map(|text| text.text.len()).sum::<usize>() > 60_000, "{}", category.name());
        }
        assert!(suite.texts.is_sorted_by_key(|text| text.category));
    }

    #[test]
    fn text_is_clean() {
        for text in &DOCUMENTS {
            assert!((5_000..10_000).contains(&text.text.len()), "{}", text.name);
            assert!(text.text.ends_with('\n') && !text.text.ends_with("\n\n"), "{}", text.name);
            let odd = |c: char| c == '\u{fffd}' || (c.is_control() && c != '\n');
            assert!(!text.text.contains(odd), "{}: control or replacement characters", text.name);
            assert!(text.text.lines().all(|line| line.trim_end_matches(' ') == line), "{}: trailing spaces", text.name);
        }
        let names: HashSet<_> = DOCUMENTS.iter().map(|text| text.name).collect();
        assert_eq!(names.len(), DOCUMENTS.len());
    }

    #[test]
    fn documents_do_not_repeat_each_other() {
        let mut seen = HashSet::new();
        for text in &DOCUMENTS {
            // The instructions' definition and short code lines may recur; a long line is somebody's sentence.
            let lines: HashSet<_> = text.text.lines().filter(|line| line.len() > 80).collect();
            for line in lines {
                assert!(seen.insert(line), "{} repeats: {line}", text.name);
            }
        }
    }

    #[test]
    fn questions_are_well_formed_and_not_in_the_text() {
        for task in suite("standard").unwrap().tasks {
            assert!(task.questions.len() >= 60, "{}", task.name);
            assert!(task.chance() > 0.19 && task.chance() < 0.34, "{}: chance {}", task.name, task.chance());
            for question in &task.questions {
                assert!(question.options.len() >= 2 && question.answer < question.options.len(), "{question:?}");
                assert!(question.prompt.ends_with(':'), "{question:?}");
                assert!(
                    question
                        .options
                        .iter()
                        .all(|option| option.starts_with(' ') && option.trim().len() == option.len() - 1)
                );
                let options: HashSet<_> = question.options.iter().collect();
                assert_eq!(options.len(), question.options.len(), "{question:?}");
                let asked = question.prompt.lines().find(|line| line.len() > 40).unwrap_or(&question.prompt);
                let asked = asked.trim_start_matches("Question: ");
                assert!(!DOCUMENTS.iter().any(|text| text.text.contains(asked)), "{asked}");
            }
        }
    }

    #[test]
    fn tasks_do_not_overlap() {
        let mut seen = HashSet::new();
        for task in suite("standard").unwrap().tasks {
            for question in task.questions {
                assert!(seen.insert((question.prompt, question.options)), "{} repeats a question", task.name);
            }
        }
    }

    #[test]
    fn quick_is_a_quarter() {
        let (quick, standard) = (suite("quick").unwrap(), suite("standard").unwrap());
        assert_eq!(quick.texts.len() * 4, standard.texts.len());
        for category in CATEGORIES {
            assert_eq!(quick.texts.iter().filter(|text| text.category == category).count(), 2);
        }
        for (few, all) in quick.tasks.iter().zip(&standard.tasks) {
            assert_eq!(few.questions.len(), all.questions.len().div_ceil(4));
        }
    }

    #[test]
    fn an_unknown_suite_is_none() {
        assert!(suite("Standard").is_none() && suite("").is_none());
    }
}
