//! From predictions of single tokens to [`Divergence`], and how a text is cut into predictions.
//!
//! The protocol is that of llama.cpp's `llama-perplexity --kl-divergence`, so that numbers can be compared: the text is
//! tokenized as a whole and cut into chunks of `context` tokens; a chunk's first token is replaced by the beginning-of-text
//! token where the model wants one; the model reads the chunk, and its predictions at positions `context / 2` to
//! `context - 2` are scored, so that every prediction has at least half a context before it. What does not fill a
//! chunk is left out.

use crate::results::Divergence;
use crate::statistics::{self, Cluster};
use bantam_nn::softmax::{Broken, Score, compare};
use rayon::prelude::*;
use std::ops::Range;

/// The scores of one chunk, in order.
pub type Chunk = Vec<Score>;

/// The positions of a chunk of `context` tokens whose predictions are scored.
pub fn scored(context: usize) -> Range<usize> {
    context / 2..context - 1
}

/// Scores predictions of `targets` from logits of base and candidate, `[targets.len(), vocab]` each.
///
/// # Errors
/// The first position with logits that are not finite, and whose they are.
pub fn score(base: &[f32], candidate: &[f32], targets: &[u32]) -> Result<Vec<Score>, (usize, Broken)> {
    let vocab = base.len() / targets.len().max(1);
    let scores: Vec<_> = (0..targets.len())
        .into_par_iter()
        .map(|i| {
            let row = i * vocab..(i + 1) * vocab;
            compare(&base[row.clone()], &candidate[row], targets[i] as usize).map_err(|broken| (i, broken))
        })
        .collect();
    // Collected first, so that the error is the first in the text and not the first in time.
    scores.into_iter().collect()
}

/// Sums up the scores of several strata (categories), each a list of chunks.
pub fn summarize<'a>(strata: impl IntoIterator<Item = &'a [Chunk]>) -> Divergence {
    let strata: Vec<&[Chunk]> = strata.into_iter().collect();
    let mean = |value: fn(&Score) -> f64| {
        let clusters: Vec<Vec<Cluster>> =
            strata.iter().map(|chunks| chunks.iter().map(|c| c.iter().map(value).collect()).collect()).collect();
        statistics::mean(clusters.iter().map(Vec::as_slice))
    };
    let mut kl: Vec<f64> = strata.iter().copied().flatten().flatten().map(|s| s.kl).collect();
    kl.sort_by(f64::total_cmp);
    Divergence {
        tokens: kl.len(),
        perplexity: statistics::exp(mean(|s| s.nll)),
        base_perplexity: statistics::exp(mean(|s| s.base_nll)),
        perplexity_ratio: statistics::exp(mean(|s| s.nll - s.base_nll)),
        kl_divergence: mean(|s| s.kl),
        kl_median: statistics::quantile(&kl, 0.5),
        kl_p99: statistics::quantile(&kl, 0.99),
        top1_agreement: mean(|s| f64::from(u8::from(s.same_top))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(kl: f64, nll: f64, base_nll: f64, same_top: bool) -> Score {
        Score { kl, nll, base_nll, same_top }
    }

    #[test]
    fn half_a_context_comes_before_every_scored_prediction() {
        assert_eq!(scored(512), 256..511);
        assert_eq!(scored(512).len(), 255);
        assert_eq!(scored(4), 2..3);
    }

    #[test]
    fn summary_by_hand() {
        let chunks = vec![
            vec![token(0.1, 1.0, 0.5, true), token(0.3, 3.0, 2.5, false)],
            vec![token(0.2, 2.0, 2.0, true), token(0.6, 4.0, 3.0, true)],
        ];
        let d = summarize([chunks.as_slice()]);
        assert_eq!(d.tokens, 4);
        assert!((d.kl_divergence.mean - 0.3).abs() < 1e-12);
        // Chunk means 0.2 and 0.4: se = |0.4 - 0.2| / 2.
        assert!((d.kl_divergence.se - 0.1).abs() < 1e-12);
        assert!((d.perplexity.mean - 2.5f64.exp()).abs() < 1e-12);
        // Chunk means 2 and 3 of the log-likelihood.
        assert!((d.perplexity.se - 2.5f64.exp() * 0.5).abs() < 1e-12);
        assert!((d.perplexity_ratio.mean - 0.5f64.exp()).abs() < 1e-12);
        assert!(d.perplexity_ratio.se < 1e-12, "both chunks lose half a nat");
        assert!((d.kl_median - 0.25).abs() < 1e-12);
        assert_eq!(d.top1_agreement.mean, 0.75);
        assert!((d.top1_agreement.se - 0.25).abs() < 1e-12);
    }

    #[test]
    fn scores_follow_their_rows() {
        let base = [0.0, 1.0, 1.0, 0.0];
        let scores = score(&base, &[0.0, 1.0, 0.0, 1.0], &[1, 0]).unwrap();
        assert_eq!(scores[0].kl, 0.0);
        assert!(scores[0].same_top && !scores[1].same_top && scores[1].kl > 0.1);
        let broken = [0.0, 1.0, 0.0, f32::NAN];
        assert_eq!(score(&base, &broken, &[1, 0]), Err((1, Broken::Candidate)));
    }
}
