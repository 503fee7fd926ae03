//! The default calibration text, compiled in. Sources and licences: `data/calibration/README.md`;
//! `scripts/data/calibration.py` makes the files.

/// The documents to calibrate on if the user gives none, each with its category: eight of about 8 KB in each of `prose`,
/// `chat`, `code` and `math`. The categories take turns, so that any beginning of it is a mix.
pub fn default_text() -> impl Iterator<Item = (&'static str, &'static str)> {
    (0..PER_CATEGORY).flat_map(|i| CATEGORIES.iter().map(move |(category, documents)| (*category, documents[i])))
}

/// Documents in each category.
const PER_CATEGORY: usize = 8;

/// The documents of each category.
macro_rules! documents {
    ($($category:literal { $($name:literal,)+ })+) => {
        [$(($category, [$(include_str!(concat!("../../data/calibration/", $category, "/", $name, ".txt")),)+]),)+]
    };
}

static CATEGORIES: [(&str, [&str; PER_CATEGORY]); 4] = documents! {
    "prose" {
        "austen-emma",
        "postgresql-concurrency",
        "world-factbook",
        "shakespeare-as-you-like-it",
        "jargon-file",
        "rust-book",
        "austen-northanger-abbey",
        "python-tutorial",
    }
    "chat" {
        "topical-chat-1",
        "questions-strategy",
        "instructions-facts",
        "stories-morals",
        "topical-chat-2",
        "instructions-pairs",
        "questions-ethics",
        "topical-chat-3",
    }
    "code" {
        "python-shutil",
        "rust-crossbeam-deque",
        "javascript-sphinx-search",
        "c-libpq",
        "python-pprint",
        "rust-slab",
        "python-json-decoder",
        "rust-syn-generics",
    }
    "math" {
        "competition-number-theory-1",
        "math-qa-1",
        "grade-school",
        "physics",
        "competition-number-theory-2",
        "math-qa-2",
        "math-qa-3",
        "math-qa-4",
    }
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::Overlap;
    use std::collections::HashSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    #[test]
    fn every_beginning_is_a_mix_and_every_category_has_enough() {
        let categories: Vec<_> = default_text().map(|(category, _)| category).collect();
        assert_eq!(categories[..5], ["prose", "chat", "code", "math", "prose"]);
        for category in ["prose", "chat", "code", "math"] {
            let bytes: usize = default_text().filter(|(c, _)| *c == category).map(|(_, text)| text.len()).sum();
            assert!((60_000..75_000).contains(&bytes), "{category}: {bytes}");
        }
    }

    #[test]
    fn text_is_clean() {
        let mut seen = HashSet::new();
        for (_, text) in default_text() {
            assert!(seen.insert(text), "a document is there twice");
            assert!(text.ends_with('\n') && !text.ends_with("\n\n"));
            let odd = |c: char| c == '\u{fffd}' || (c.is_control() && c != '\n');
            assert!(!text.contains(odd), "control or replacement characters: {:?}", text.find(odd).map(|i| &text[i..]));
            assert!(text.lines().all(|line| line.trim_end_matches(' ') == line), "trailing spaces");
        }
    }

    /// All files below a folder.
    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn nothing_of_it_is_in_the_evaluation_data() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../measure/data");
        let files: Vec<_> = ["text", "choices"].iter().flat_map(|kind| files(&data.join(kind))).collect();
        assert!(files.len() >= 36);
        let texts = files.iter().map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap()));
        let mut overlap = Overlap::with(texts);
        default_text().for_each(|(_, text)| overlap.see(text));
        assert!(overlap.shares().all(|(file, share)| share == 0.0 || panic!("{file}: {share}")));
    }
}
