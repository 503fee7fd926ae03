//! Whether evaluation text is in the calibration text, by the runs of words that both have.
//!
//! A result measured on text that the model was calibrated on looks better than it is. Runs of words are compared as
//! language models' training data is for contamination; 12 words in a row are hardly ever the same by chance.

use std::collections::HashSet;
use xxhash_rust::xxh3::xxh3_64;

/// Words in a row that count as the same text.
pub const RUN: usize = 12;

/// Evaluation text, and how much of it has been seen in calibration text. What it holds does not grow with the latter, which
/// can be as long as one likes.
pub struct Overlap {
    /// The runs of each category's texts, in order, hashed; one that is repeated is there as often.
    categories: Vec<(String, Vec<u64>)>,
    /// Runs that no calibration text has had so far.
    unseen: HashSet<u64>,
}

impl Overlap {
    /// The evaluation texts, each with its category; several may be of one.
    pub fn with<C: Into<String>, T: AsRef<str>>(texts: impl IntoIterator<Item = (C, T)>) -> Self {
        let mut categories: Vec<(String, Vec<u64>)> = Vec::new();
        for (category, text) in texts {
            let category = category.into();
            let at = categories.iter().position(|(name, _)| *name == category).unwrap_or_else(|| {
                categories.push((category, Vec::new()));
                categories.len() - 1
            });
            categories[at].1.extend(runs(text.as_ref()));
        }
        let unseen = categories.iter().flat_map(|(_, runs)| runs).copied().collect();
        Self { categories, unseen }
    }

    /// Takes note of a document that is calibrated on.
    pub fn see(&mut self, document: &str) {
        runs(document).for_each(|run| {
            self.unseen.remove(&run);
        });
    }

    /// By category, in the order in which they came: the share of its runs of [`RUN`] words, 0 to 1, that documents
    /// seen so far have too. 0 for a category whose texts are all shorter than a run.
    pub fn shares(&self) -> impl Iterator<Item = (&str, f64)> {
        self.categories.iter().map(|(category, runs)| {
            let seen = runs.iter().filter(|run| !self.unseen.contains(run)).count();
            (category.as_str(), seen as f64 / runs.len().max(1) as f64)
        })
    }
}

/// The hash of each run of words: lower-case, split at everything that is neither letter nor digit.
fn runs(text: &str) -> impl Iterator<Item = u64> {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    // Of the last `RUN` words a polynomial in an odd number, modulo 2⁶⁴: the next run's follows from it in two products.
    const BASE: u64 = 0x9E37_79B9_7F4A_7C15;
    let first_factor = BASE.wrapping_pow(RUN as u32);
    let (mut window, mut hash) = ([0u64; RUN], 0u64);
    let hashes = words.enumerate().map(move |(i, word)| {
        let word = xxh3_64(word.to_lowercase().as_bytes());
        let gone = std::mem::replace(&mut window[i % RUN], word);
        hash = hash.wrapping_mul(BASE).wrapping_add(word).wrapping_sub(gone.wrapping_mul(first_factor));
        hash
    });
    hashes.skip(RUN - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` words, different from those of other first numbers.
    fn words(first: usize, count: usize) -> String {
        (first..first + count).map(|i| format!("w{i}")).collect::<Vec<_>>().join(" ")
    }

    fn shares(evaluation: &[(&str, &str)], calibration: &[&str]) -> Vec<f64> {
        let mut overlap = Overlap::with(evaluation.iter().copied());
        calibration.iter().for_each(|document| overlap.see(document));
        overlap.shares().map(|(_, share)| share).collect()
    }

    #[test]
    fn shares_are_of_runs_by_category() {
        let (prose, more, code) = (words(0, 31), words(100, 31), words(200, 13));
        let evaluation = [("prose", &prose[..]), ("code", &code), ("prose", &more)];
        // Twenty runs in each prose text, two in the code.
        assert_eq!(shares(&evaluation, &[]), [0.0, 0.0]);
        assert_eq!(shares(&evaluation, &[&words(0, 31)]), [0.5, 0.0]);
        assert_eq!(shares(&evaluation, &[&words(10, 14), "x"]), [3.0 / 40.0, 0.0]);
        assert_eq!(shares(&evaluation, &[&words(201, 12), &words(200, 12)]), [0.0, 1.0]);
        assert_eq!(
            shares(&evaluation, &[&words(0, 11), &words(11, 11)]),
            [0.0, 0.0],
            "no run goes over a document's end"
        );
    }

    #[test]
    fn case_and_what_is_between_words_do_not_matter() {
        let text = "The quick, brown fox\njumps over the lazy dog -- and Über alles: 42 times";
        let same = "… the  QUICK brown-fox jumps/over the lazy dog and über ALLES 42 times!";
        assert_eq!(shares(&[("prose", text)], &[same]), [1.0]);
        let other = "the quick brown fox jumps over the lazy cat and über alles 42 times";
        assert_eq!(shares(&[("prose", text)], &[other]), [0.0]);
    }

    #[test]
    fn a_run_is_known_wherever_it_stands() {
        let run = words(0, RUN);
        for before in [0, 1, 5, 11, 12, 13, 40] {
            let document = format!("{} {run} {}", words(1000, before), words(2000, 3));
            assert_eq!(shares(&[("prose", &run)], &[&document]), [1.0], "after {before} words");
        }
    }

    #[test]
    fn texts_shorter_than_a_run_have_no_share() {
        assert_eq!(shares(&[("chat", &words(0, RUN - 1)), ("math", "")], &[&words(0, RUN)]), [0.0, 0.0]);
    }
}
