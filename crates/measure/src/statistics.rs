//! Means over tokens with honest standard errors.
//!
//! The tokens of a chunk are not independent: a chunk of a hard topic is hard throughout, and what a quantized model gets
//! wrong it gets wrong again. The naive error, `s / √tokens`, takes each token for a fresh draw and comes out too small,
//! often by half. Here the *chunk* is the unit that was drawn (a cluster sample): only the spread between chunks counts.
//! And the categories are not drawn at all, they are chosen: they are strata, and how much they differ from each other is
//! no error of the overall mean. (Cochran, Sampling Techniques, 3rd ed. 1977, sections 5.3 and 9.)

use crate::results::Estimate;

/// One chunk's share: the sum of its values, and their number.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cluster {
    /// Sum of the values.
    pub sum: f64,
    /// Sum of their squares.
    pub squares: f64,
    /// Number of values.
    pub count: usize,
}

impl FromIterator<f64> for Cluster {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        values.into_iter().fold(Cluster::default(), |c, v| Cluster {
            sum: c.sum + v,
            squares: c.squares + v * v,
            count: c.count + 1,
        })
    }
}

/// The mean over all values of all strata, each value with the same weight, and its standard error.
///
/// In a stratum with a mean of `m`, `C` clusters with sums `s` of `n` values contribute
/// `C / (C - 1) · Σ (s - m n)²` to the variance of the total. A stratum that has only one cluster says nothing about the
/// spread between clusters; its values are taken as independent there, which errs on the small side.
pub fn mean<'a>(strata: impl IntoIterator<Item = &'a [Cluster]>) -> Estimate {
    let (mut sum, mut count, mut variance) = (0.0, 0usize, 0.0);
    for clusters in strata {
        let stratum_sum: f64 = clusters.iter().map(|c| c.sum).sum();
        let stratum_count: usize = clusters.iter().map(|c| c.count).sum();
        sum += stratum_sum;
        count += stratum_count;
        variance += variance_of_total(clusters, stratum_sum / stratum_count.max(1) as f64);
    }
    let count = count.max(1) as f64;
    Estimate { mean: sum / count, se: variance.sqrt() / count }
}

fn variance_of_total(clusters: &[Cluster], mean: f64) -> f64 {
    match clusters {
        [] => 0.0,
        [only] => {
            let n = only.count as f64;
            if only.count < 2 { 0.0 } else { ((only.squares - n * mean * mean) * n / (n - 1.0)).max(0.0) }
        }
        _ => {
            let c = clusters.len() as f64;
            c / (c - 1.0) * clusters.iter().map(|k| (k.sum - mean * k.count as f64).powi(2)).sum::<f64>()
        }
    }
}

/// `exp` of an estimate, its error by the delta method: `se(exp x) = exp(x) se(x)`.
pub fn exp(log: Estimate) -> Estimate {
    Estimate { mean: log.mean.exp(), se: log.mean.exp() * log.se }
}

/// The share of `hits` in `trials` independent trials: `√(p (1 - p) / (n - 1))`.
pub fn share(hits: usize, trials: usize) -> Estimate {
    let p = hits as f64 / trials.max(1) as f64;
    Estimate { mean: p, se: (p * (1.0 - p) / trials.saturating_sub(1).max(1) as f64).sqrt() }
}

/// The value below which `fraction` of the `sorted` values lie, interpolated between neighbours; 0 of nothing.
pub fn quantile(sorted: &[f64], fraction: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = fraction.clamp(0.0, 1.0) * last as f64;
    let below = at as usize;
    let above = (below + 1).min(last);
    sorted[below] + (at - below as f64) * (sorted[above] - sorted[below])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(values: &[&[f64]]) -> Vec<Cluster> {
        values.iter().map(|v| v.iter().copied().collect()).collect()
    }

    /// Normal deviates by the central limit theorem, reproducible.
    fn normals() -> impl FnMut() -> f64 {
        let mut state = 42u64;
        move || {
            (0..12)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 11) as f64 / (1u64 << 53) as f64
                })
                .sum::<f64>()
                - 6.0
        }
    }

    #[test]
    fn clusters_of_one_give_the_textbook_error() {
        let e = mean([clusters(&[&[1.0], &[2.0], &[3.0], &[6.0]]).as_slice()]);
        // s² = 14/3, se = s / 2.
        assert_eq!(e.mean, 3.0);
        assert!((e.se - (14.0f64 / 3.0).sqrt() / 2.0).abs() < 1e-12);
        let single = mean([clusters(&[&[1.0, 2.0, 3.0, 6.0]]).as_slice()]);
        assert!((single.se - e.se).abs() < 1e-12, "a single chunk falls back to its tokens");
    }

    #[test]
    fn equal_tokens_within_chunks_count_once() {
        let few = mean([clusters(&[&[1.0], &[2.0], &[6.0]]).as_slice()]);
        let many = mean([clusters(&[&[1.0; 50], &[2.0; 50], &[6.0; 50]]).as_slice()]);
        assert!((few.mean - many.mean).abs() < 1e-12 && (few.se - many.se).abs() < 1e-12, "{few:?} {many:?}");
    }

    /// The error must be the spread of the mean over repeated samples, for correlated tokens in strata of different means.
    #[test]
    fn the_error_is_the_spread_that_repetition_shows() {
        let mut normal = normals();
        let (mut means, mut variances) = (Vec::new(), 0.0);
        let repetitions = 2000;
        for _ in 0..repetitions {
            let mut stratum = |level: f64, chunks: usize| -> Vec<Cluster> {
                (0..chunks)
                    .map(|_| {
                        let topic = level + normal();
                        (0..10).map(|_| topic + 0.5 * normal()).collect()
                    })
                    .collect()
            };
            let (a, b) = (stratum(0.0, 6), stratum(20.0, 12));
            let e = mean([a.as_slice(), &b]);
            means.push(e.mean);
            variances += e.se * e.se / repetitions as f64;
        }
        let centre = means.iter().sum::<f64>() / repetitions as f64;
        let spread = means.iter().map(|m| (m - centre).powi(2)).sum::<f64>() / (repetitions - 1) as f64;
        assert!((centre - 20.0 * 12.0 / 18.0).abs() < 0.02, "{centre}");
        assert!((variances / spread - 1.0).abs() < 0.1, "estimated {variances}, seen {spread}");
    }

    #[test]
    fn perplexity_by_the_delta_method() {
        let e = exp(Estimate { mean: 2.0, se: 0.01 });
        assert!((e.mean - 2f64.exp()).abs() < 1e-12);
        let by_difference = ((2.0f64 + 0.01).exp() - (2.0f64 - 0.01).exp()) / 2.0;
        assert!((e.se - by_difference).abs() < 1e-4);
    }

    #[test]
    fn shares_and_quantiles() {
        assert_eq!(share(3, 4).mean, 0.75);
        assert!((share(3, 4).se - 0.25).abs() < 1e-12);
        assert_eq!(share(5, 5).se, 0.0);
        assert_eq!(share(0, 0), Estimate::default());
        let sorted = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(quantile(&sorted, 0.5), 2.5);
        assert_eq!(quantile(&sorted, 1.0), 4.0);
        assert!((quantile(&sorted, 0.99) - 3.97).abs() < 1e-12);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
