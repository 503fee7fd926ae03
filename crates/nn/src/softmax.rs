//! Two rows of logits compared: the inner loop of every divergence.
//!
//! With `x` a base's logits less their maximum and `y` a candidate's, the divergence of the two softmaxes is
//!
//! `KL(base ‖ candidate) = Σ exp(x) (x - y) / Σ exp(x) - ln Σ exp(x) + ln Σ exp(y)`,
//!
//! so one pass over both rows gives everything. The exponentials are f32 with relative errors of 10⁻⁷, the sums f64: a
//! token's divergence is right to about 5 · 10⁻⁸ nats, a thousandth of what the mildest 8-bit format costs, and errors of
//! either sign average out over a text. Equal rows give exactly 0. The sums run in sixteen interleaved lanes whatever the
//! processor, so that every machine gets the same bits.

const LANES: usize = 16;

/// How a candidate predicted one token, beside its base.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// KL divergence from the base's distribution to the candidate's, nats.
    pub kl: f64,
    /// Negative log-likelihood of the true token under the candidate, nats.
    pub nll: f64,
    /// The same under the base.
    pub base_nll: f64,
    /// Whether both have the same most likely token.
    pub same_top: bool,
}

/// Which model's logits are not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The base's.
    Base,
    /// The candidate's.
    Candidate,
}

/// Compares logits of `base` and `candidate`, `[vocab]` each, at a position whose next token is `target`.
///
/// # Errors
/// If logits are NaN or infinite.
///
/// # Panics
/// If the rows differ in length or `target` lies outside.
pub fn compare(base: &[f32], candidate: &[f32], target: usize) -> Result<Score, Broken> {
    assert_eq!(base.len(), candidate.len(), "base and candidate have one vocabulary");
    let (max_base, max_candidate) = (max(base), max(candidate));
    let [sum_base, sum_candidate, sum_difference] =
        pulp::Arch::new().dispatch(|| sums(base, max_base, candidate, max_candidate));
    if !(sum_base.is_finite() && sum_candidate.is_finite() && sum_difference.is_finite()) {
        return Err(if base.iter().all(|v| v.is_finite()) { Broken::Candidate } else { Broken::Base });
    }
    let (log_base, log_candidate) = (sum_base.ln(), sum_candidate.ln());
    Ok(Score {
        kl: (sum_difference / sum_base - log_base + log_candidate).max(0.0),
        nll: log_candidate - f64::from(candidate[target] - max_candidate),
        base_nll: log_base - f64::from(base[target] - max_base),
        same_top: argmax(base) == argmax(candidate),
    })
}

/// Log-probability of `target` under the softmax of `logits`, in nats, or `None` if logits are not finite.
pub fn log_probability(logits: &[f32], target: usize) -> Option<f64> {
    let max = max(logits);
    let [sum, ..] = pulp::Arch::new().dispatch(|| sums(logits, max, logits, max));
    sum.is_finite().then(|| f64::from(logits[target] - max) - sum.ln())
}

/// The index of the largest value, the first of equals.
pub fn argmax(values: &[f32]) -> usize {
    let max = max(values);
    values.iter().position(|&v| v == max).unwrap_or(0)
}

/// The largest value; NaNs are passed over.
fn max(values: &[f32]) -> f32 {
    pulp::Arch::new().dispatch(|| {
        let larger = |a: f32, b: f32| if b > a { b } else { a };
        let (lanes, tail) = values.as_chunks::<LANES>();
        let mut max = [f32::NEG_INFINITY; LANES];
        for chunk in lanes {
            for (max, &value) in max.iter_mut().zip(chunk) {
                *max = larger(*max, value);
            }
        }
        max.iter().chain(tail).copied().fold(f32::NEG_INFINITY, larger)
    })
}

/// `Σ exp(x)`, `Σ exp(y)` and `Σ exp(x) (x - y)`.
#[inline(always)]
fn sums(base: &[f32], max_base: f32, candidate: &[f32], max_candidate: f32) -> [f64; 3] {
    let mut sums = [[0.0f64; LANES]; 3];
    let ((base, base_tail), (candidate, candidate_tail)) = (base.as_chunks(), candidate.as_chunks());
    for (base, candidate) in base.iter().zip(candidate) {
        let terms = terms(base, max_base, candidate, max_candidate);
        for (sums, terms) in sums.iter_mut().zip(&terms) {
            for (sum, &term) in sums.iter_mut().zip(terms) {
                *sum += f64::from(term);
            }
        }
    }
    let mut tails = [[0.0; LANES]; 2];
    tails[0][..base_tail.len()].copy_from_slice(base_tail);
    tails[1][..candidate_tail.len()].copy_from_slice(candidate_tail);
    let terms = terms(&tails[0], max_base, &tails[1], max_candidate);
    for (sums, terms) in sums.iter_mut().zip(&terms) {
        for (sum, &term) in sums.iter_mut().zip(terms).take(base_tail.len()) {
            *sum += f64::from(term);
        }
    }
    sums.map(|lanes| lanes.iter().sum())
}

/// `exp(x)`, `exp(y)` and `exp(x) (x - y)`, lane by lane.
#[inline(always)]
fn terms(base: &[f32; LANES], max_base: f32, candidate: &[f32; LANES], max_candidate: f32) -> [[f32; LANES]; 3] {
    let mut terms = [[0.0; LANES]; 3];
    for i in 0..LANES {
        let x = base[i] - max_base;
        let y = candidate[i] - max_candidate;
        let p = exp(x);
        terms[0][i] = p;
        terms[1][i] = exp(y);
        terms[2][i] = p * (x - y);
    }
    terms
}

/// `exp(x)` for `x <= 0`, to a relative error of 2 · 10⁻⁷, in operations that vectorize. Below -87, where f32 would become
/// subnormal, it stays at `exp(-87)`, about 10⁻³⁸. NaN gives NaN.
///
/// `x = n ln 2 + r` with whole `n` and `|r| <= ln 2 / 2`; `exp(r)` by Taylor's series, times 2ⁿ through the exponent bits.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding 1.5 · 2²³ leaves no bits for a fraction: the sum is rounded to a whole number, which stands in its low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few enough bits that `n * LN2_HIGH` is exact (Cody and Waite).
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN2_HIGH) - n * LN2_LOW;
    let series = 1.0
        + r * (1.0
            + r * (1.0 / 2.0
                + r * (1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r * (1.0 / 5040.0)))))));
    series * f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares in f64 by the definition, `Σ p ln(p / q)`.
    fn reference(base: &[f32], candidate: &[f32]) -> f64 {
        let log_softmax = |row: &[f32]| -> Vec<f64> {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
            let sum: f64 = row.iter().map(|&v| (v as f64 - max).exp()).sum();
            row.iter().map(|&v| v as f64 - max - sum.ln()).collect()
        };
        let (p, q) = (log_softmax(base), log_softmax(candidate));
        p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
    }

    /// Reproducible logits with a heavy head, as models have.
    fn logits(n: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        (0..n).map(|_| 4.0 * (uniform() + uniform() + uniform()) - 6.0 - uniform().max(1e-6).ln() * 2.0).collect()
    }

    #[test]
    fn exp_is_accurate_over_its_range() {
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let relative = (exp(x) as f64 / (x as f64).exp() - 1.0).abs();
            assert!(relative < 2e-7, "exp({x}) is off by {relative:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(-1e30) < 1e-37 && exp(f32::NEG_INFINITY) < 1e-37);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn two_tokens_by_hand() {
        // Base 3/4 and 1/4, candidate 1/2 and 1/2: KL = ln 2 - H(1/4).
        let base = [3f32.ln(), 0.0];
        let score = compare(&base, &[1.0, 1.0], 1).unwrap();
        let kl = 0.75 * (0.75f64 / 0.5).ln() + 0.25 * (0.25f64 / 0.5).ln();
        assert!((score.kl - kl).abs() < 1e-7, "{} is not {kl}", score.kl);
        assert!((score.nll - 2f64.ln()).abs() < 1e-7);
        assert!((score.base_nll - 4f64.ln()).abs() < 1e-7);
        assert!(score.same_top, "the first of equals counts as the most likely");
        assert!(!compare(&base, &[0.0, 1.0], 1).unwrap().same_top);
    }

    #[test]
    fn agrees_with_the_definition_in_f64() {
        for n in [1, 2, 15, 16, 17, 1000, 49_152] {
            let base = logits(n, 1);
            let other = logits(n, 2);
            for scale in [1.0f32, 0.1, 1e-2, 1e-3] {
                let candidate: Vec<f32> = base.iter().zip(&other).map(|(b, o)| b + scale * o).collect();
                let (kl, want) = (compare(&base, &candidate, 0).unwrap().kl, reference(&base, &candidate));
                assert!((kl - want).abs() < 1e-6 * want + 5e-8, "{n} tokens, noise {scale}: {kl:e} is not {want:e}");
            }
        }
    }

    #[test]
    fn a_model_does_not_diverge_from_itself() {
        let base = logits(1003, 3);
        let score = compare(&base, &base, 7).unwrap();
        assert_eq!(score.kl, 0.0);
        assert_eq!(score.nll, score.base_nll);
        assert!(score.same_top);
    }

    #[test]
    fn shifting_all_logits_changes_nothing() {
        let (base, candidate) = (logits(1003, 4), logits(1003, 5));
        // A power of two, so that the shift itself rounds little.
        let shifted: Vec<f32> = candidate.iter().map(|v| v + 16.0).collect();
        let (a, b) = (compare(&base, &candidate, 3).unwrap(), compare(&base, &shifted, 3).unwrap());
        assert!((a.kl - b.kl).abs() < 1e-6 && (a.nll - b.nll).abs() < 1e-5 && a.same_top == b.same_top);
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let logits = logits(137, 6);
        let total: f64 = (0..logits.len()).map(|t| log_probability(&logits, t).unwrap().exp()).sum();
        assert!((total - 1.0).abs() < 1e-6, "{total}");
    }

    #[test]
    fn broken_logits_are_blamed_on_the_right_model() {
        let good = logits(100, 7);
        for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut bad = good.clone();
            bad[63] = broken;
            assert_eq!(compare(&good, &bad, 0), Err(Broken::Candidate), "{broken}");
            assert_eq!(compare(&bad, &good, 0), Err(Broken::Base), "{broken}");
        }
        assert_eq!(compare(&[f32::NAN; 20], &[f32::NAN; 20], 0), Err(Broken::Base));
        assert_eq!(log_probability(&[f32::NAN; 20], 0), None);
    }
}
