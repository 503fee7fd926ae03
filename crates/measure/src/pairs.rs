//! Encoders measured on pairs of sentences that people scored: how well the cosines of their embeddings order the pairs.
//!
//! Spearman's correlation (of ranks) is the usual number for sentence encoders (Cer et al. 2017), Pearson's stands beside it.
//! Standard errors are bootstrap ones (Efron 1979): pairs are drawn anew, the same ones for base and candidate, so that the
//! error of their difference and ratio is that of a paired comparison.

use crate::results::Estimate;
use crate::{Error, Result};
use bantam_nn::Encoder;
use bantam_nn::random::SplitMix64;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Scored pairs of sentences.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairs {
    /// The file.
    pub path: PathBuf,
    /// The score of each pair.
    pub scores: Vec<f64>,
    /// The sentences of each pair.
    pub sentences: Vec<[String; 2]>,
}

/// How well an encoder's cosines go with the scores.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Correlations {
    /// Of ranks.
    pub spearman: Estimate,
    /// Of values.
    pub pearson: Estimate,
}

/// A candidate beside its base, on the same pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PairEvaluation {
    /// How many pairs.
    pub pairs: usize,
    /// The base's.
    pub base: Correlations,
    /// The candidate's.
    pub candidate: Correlations,
    /// The candidate's Spearman correlation as a share of the base's; `None` where the base's is 0.
    pub share: Option<Estimate>,
    /// The mean cosine between the candidate's and the base's embedding of a sentence, if they are equally wide.
    pub cosine: Option<f64>,
}

/// Times that pairs are drawn anew.
const DRAWS: u64 = 1000;

impl Pairs {
    /// Reads a file of tab-separated lines: a score and two sentences, or STS-B's own columns, of which the fifth is the score and
    /// the sixth and seventh are the sentences. A first line that names the columns is left out.
    ///
    /// # Errors
    /// If the file cannot be read, a line has other columns or no number for a score, or the scores order nothing.
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let offset = e.utf8_error().valid_up_to();
            Error::NotUtf8 { path: path.to_owned(), offset, byte: e.as_bytes()[offset] }
        })?;
        let mut pairs = Self { path: path.to_owned(), scores: Vec::new(), sentences: Vec::new() };
        let error = |line: usize, problem: String| Error::Pairs { path: path.to_owned(), line, problem };
        for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let columns: Vec<&str> = line.split('\t').collect();
            let (score, a, b) = match columns[..] {
                [score, a, b] => (score, a, b),
                [_, _, _, _, score, a, b, ..] => (score, a, b),
                _ => {
                    let problem = format!(
                        "{} columns between tabs; expected score, sentence, sentence, or STS-B's seven",
                        columns.len()
                    );
                    return Err(error(i + 1, problem));
                }
            };
            match score.trim().parse::<f64>() {
                Ok(score) if score.is_finite() => pairs.scores.push(score),
                _ if i == 0 && score.trim().eq_ignore_ascii_case("score") => continue,
                _ => return Err(error(i + 1, format!("the score is {score:?}, which is no number"))),
            }
            pairs.sentences.push([a.trim().to_owned(), b.trim().to_owned()]);
        }
        if pairs.scores.iter().all(|score| *score == pairs.scores[0]) {
            return Err(error(text.lines().count(), "fewer than two different scores, which order nothing".to_owned()));
        }
        Ok(pairs)
    }

    /// The cosine of each pair by an encoder, and all embeddings.
    fn cosines(&self, encoder: &Encoder, path: &Path) -> Result<(Vec<f64>, Vec<f32>)> {
        let texts: Vec<&String> = self.sentences.iter().flatten().collect();
        let embeddings = encoder.embed_texts(&texts).map_err(|e| Error::of_embedding(e, path, &texts))?;
        let width = encoder.width();
        let cosines = embeddings.chunks_exact(2 * width).map(|pair| dot(&pair[..width], &pair[width..])).collect();
        Ok((cosines, embeddings))
    }
}

/// Measures a candidate and its base, each with its file for messages.
///
/// # Errors
/// If a model's embeddings are not finite.
pub fn evaluate(candidate: (&Encoder, &Path), base: (&Encoder, &Path), pairs: &Pairs) -> Result<PairEvaluation> {
    let (base_cosines, base_embeddings) = pairs.cosines(base.0, base.1)?;
    let (candidate_cosines, candidate_embeddings) = pairs.cosines(candidate.0, candidate.1)?;
    let width = base.0.width();
    let rows = base_embeddings.chunks_exact(width).zip(candidate_embeddings.chunks_exact(width));
    let cosine = (candidate.0.width() == width)
        .then(|| rows.map(|(a, b)| dot(a, b)).sum::<f64>() / (2 * pairs.scores.len()) as f64);
    let measure = |chosen: &[usize]| {
        let of = |values: &[f64]| chosen.iter().map(|&i| values[i]).collect::<Vec<f64>>();
        let (scores, base, candidate) = (of(&pairs.scores), of(&base_cosines), of(&candidate_cosines));
        let ranked = ranks(&scores);
        let spearmans = [&base, &candidate].map(|cosines| pearson(&ranks(cosines), &ranked));
        let pearsons = [&base, &candidate].map(|cosines| pearson(cosines, &scores));
        [spearmans[0], spearmans[1], pearsons[0], pearsons[1], spearmans[1] / spearmans[0]]
    };
    let n = pairs.scores.len();
    let mean = measure(&(0..n).collect::<Vec<_>>());
    let draw = |i| {
        let mut random = SplitMix64::child(1, i);
        measure(&(0..n).map(|_| random.below(n)).collect::<Vec<_>>())
    };
    let draws: Vec<[f64; 5]> = (0..DRAWS).map(draw).collect();
    let estimate = |i: usize| Estimate { mean: mean[i], se: deviation(draws.iter().map(|d| d[i])) };
    Ok(PairEvaluation {
        pairs: n,
        base: Correlations { spearman: estimate(0), pearson: estimate(2) },
        candidate: Correlations { spearman: estimate(1), pearson: estimate(3) },
        share: share(mean[4], draws.iter().map(|d| d[4])),
        cosine,
    })
}

/// A share of the base with its standard error. Draws in which the base's correlation is 0, as where all pairs have one score, tell
/// of none and are left out; `None` if no share is left, or no two of them to differ.
fn share(mean: f64, draws: impl Iterator<Item = f64> + Clone) -> Option<Estimate> {
    let draws = draws.filter(|share| share.is_finite());
    (mean.is_finite() && draws.clone().count() > 1).then(|| Estimate { mean, se: deviation(draws) })
}

/// Pearson's correlation; 0 where one side does not vary.
pub fn pearson(a: &[f64], b: &[f64]) -> f64 {
    let n = a.len() as f64;
    let (a_mean, b_mean) = (a.iter().sum::<f64>() / n, b.iter().sum::<f64>() / n);
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (a, b) in a.iter().zip(b) {
        let (a, b) = (a - a_mean, b - b_mean);
        ab += a * b;
        aa += a * a;
        bb += b * b;
    }
    if aa * bb == 0.0 { 0.0 } else { ab / (aa * bb).sqrt() }
}

/// Spearman's correlation: Pearson's of the ranks.
pub fn spearman(a: &[f64], b: &[f64]) -> f64 {
    pearson(&ranks(a), &ranks(b))
}

/// The rank of each value; equal ones share their mean rank.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_unstable_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for equal in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = first as f64 + (equal.len() - 1) as f64 / 2.0;
        equal.iter().for_each(|&i| ranks[i] = rank);
        first += equal.len();
    }
    ranks
}

/// The standard deviation.
fn deviation(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let n = values.clone().count() as f64;
    let mean = values.clone().sum::<f64>() / n;
    (values.map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_by_hand_and_with_ties() {
        // numpy.corrcoef, of the ranks and of the values.
        let (a, b) = ([1.0, 2.0, 2.0, 4.0, 5.0], [3.0, 1.0, 4.0, 4.0, 9.0]);
        assert!((spearman(&a, &b) - 0.763_157_894_736_842_1).abs() < 1e-12, "{}", spearman(&a, &b));
        assert!((pearson(&a, &b) - 0.784_046_983_414_218_9).abs() < 1e-12, "{}", pearson(&a, &b));
        assert_eq!(pearson(&a, &[1.0; 5]), 0.0);
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 0.0]), [2.5, 1.0, 2.5, 0.0]);
    }

    #[test]
    fn draws_without_a_share_do_not_count() {
        let estimate = share(0.5, [0.4, f64::NAN, 0.6, f64::INFINITY].into_iter()).unwrap();
        assert!(estimate.mean == 0.5 && (estimate.se - 0.02f64.sqrt()).abs() < 1e-12, "{estimate:?}");
        assert_eq!(share(f64::NAN, [0.4, 0.6].into_iter()), None);
        assert_eq!(share(0.5, [f64::NAN, 0.6].into_iter()), None);
    }

    #[test]
    fn both_layouts_are_read_and_wrong_lines_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pairs.tsv");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Pairs::read(&path).map_err(|e| e.to_string())
        };
        let short = read("score\ta\tb\n1.5\tone two\tthree\n\n4\tx\ty\n").unwrap();
        assert_eq!(
            (&short.scores[..], &short.sentences[0]),
            (&[1.5, 4.0][..], &["one two".to_owned(), "three".to_owned()])
        );
        let long = read("g\tf\ty\t1\t1.5\tone\ttwo\ng\tf\ty\t2\t2\tx\ty\tsource\n").unwrap();
        assert_eq!(long.sentences[1], ["x", "y"]);
        for (text, why) in [
            ("1\ta\tb\nno\ta\tb\n", "line 2: the score is \"no\""),
            ("1\ta\n", "line 1: 2 columns"),
            ("1\ta\tb\n1\tc\td\n", "two different scores"),
            ("", "two different scores"),
        ] {
            assert!(read(text).unwrap_err().contains(why), "{text:?}: {}", read(text).unwrap_err());
        }
    }
}
