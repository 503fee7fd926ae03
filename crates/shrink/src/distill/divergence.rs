//! How far a student's distribution is from its teacher's, and which way that pushes the student.
//!
//! Every divergence here is a sum over outcomes, `D = Σ f(p, q)` with `p` the teacher's and `q` the student's probability,
//! so that one formula serves all: with `g = ∂f/∂q`, the gradient by the student's logit `z_j` is `q_j (g_j - Σ q g)`.

use std::str::FromStr;

/// A divergence between the teacher's `p` and the student's `q`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Divergence {
    /// `KL(p ‖ q)`: the student must cover all that the teacher finds likely (Hinton, Vinyals, Dean 2015).
    Forward,
    /// `KL(q ‖ p)`: the student must not say what the teacher finds unlikely (Gu et al. 2024, MiniLLM).
    Reverse,
    /// `KL(p ‖ α p + (1 - α) q)`, whose gradients stay bounded (Ko et al. 2024, DistiLLM).
    Skewed {
        /// The teacher's share in the mixture, from 0 to below 1; DistiLLM has 0.1.
        alpha: f32,
    },
    /// `KL(q ‖ (1 - α) p + α q)`, the same the other way.
    SkewedReverse {
        /// The student's share in the mixture, from 0 to below 1.
        alpha: f32,
    },
    /// `β KL(p ‖ m) + (1 - β) KL(q ‖ m)` with `m = β p + (1 - β) q` (Agarwal et al. 2024, GKD); ½ is Jensen and Shannon's.
    JensenShannon {
        /// The teacher's weight, between 0 and 1: at either nothing diverges. (Divided by them the limits are forward and reverse.)
        beta: f32,
    },
}

/// Below this a probability counts as this much, so that no logarithm is infinite.
const FLOOR: f32 = 1e-30;

impl Divergence {
    /// `f` and `g = ∂f/∂q` of one outcome.
    #[inline]
    pub fn of(self, p: f32, q: f32) -> (f32, f32) {
        let (p, q) = (p.max(FLOOR), q.max(FLOOR));
        match self {
            Divergence::Forward => (p * (p / q).ln(), -p / q),
            Divergence::Reverse => {
                let log = (q / p).ln();
                (q * log, log + 1.0)
            }
            Divergence::Skewed { alpha } => {
                let m = alpha * p + (1.0 - alpha) * q;
                (p * (p / m).ln(), -(1.0 - alpha) * p / m)
            }
            Divergence::SkewedReverse { alpha } => {
                let m = (1.0 - alpha) * p + alpha * q;
                let log = (q / m).ln();
                (q * log, log + 1.0 - alpha * q / m)
            }
            Divergence::JensenShannon { beta } => {
                let m = beta * p + (1.0 - beta) * q;
                let log = (q / m).ln();
                (beta * p * (p / m).ln() + (1.0 - beta) * q * log, (1.0 - beta) * log)
            }
        }
    }
}

/// A name that is not a divergence's.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is no divergence; there are forward, reverse, skewed, skewed-reverse and jensen-shannon, the last three with an \
     optional share, as in skewed:0.1: at least 0 and below 1, jensen-shannon's above 0 too (beyond, every student is as good)"
)]
pub struct UnknownDivergence(String);

impl FromStr for Divergence {
    type Err = UnknownDivergence;

    /// Reads `forward`, `reverse`, `skewed:0.1`, `skewed-reverse:0.1`, `jensen-shannon:0.5`; a share left out is that.
    fn from_str(text: &str) -> Result<Self, UnknownDivergence> {
        let unknown = || UnknownDivergence(text.to_owned());
        let (name, share) = text.split_once(':').map_or((text, None), |(name, share)| (name, Some(share)));
        // At 1 a mixture is what it is compared with, whatever the student says.
        let share = share.map(|s| s.parse::<f32>().ok().filter(|s| (0.0..1.0).contains(s)).ok_or_else(unknown));
        let share = share.transpose()?;
        match (name, share) {
            ("forward", None) => Ok(Divergence::Forward),
            ("reverse", None) => Ok(Divergence::Reverse),
            ("skewed", alpha) => Ok(Divergence::Skewed { alpha: alpha.unwrap_or(0.1) }),
            ("skewed-reverse", alpha) => Ok(Divergence::SkewedReverse { alpha: alpha.unwrap_or(0.1) }),
            ("jensen-shannon", beta) if beta != Some(0.0) => {
                Ok(Divergence::JensenShannon { beta: beta.unwrap_or(0.5) })
            }
            _ => Err(unknown()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Divergence; 5] = [
        Divergence::Forward,
        Divergence::Reverse,
        Divergence::Skewed { alpha: 0.1 },
        Divergence::SkewedReverse { alpha: 0.3 },
        Divergence::JensenShannon { beta: 0.4 },
    ];

    #[test]
    fn slopes_agree_with_finite_differences() {
        for divergence in ALL {
            for (p, q) in [(0.3f32, 0.2f32), (0.01, 0.4), (0.5, 0.02)] {
                let h = q * 1e-2;
                let found = (divergence.of(p, q + h).0 - divergence.of(p, q - h).0) / (2.0 * h);
                let slope = divergence.of(p, q).1;
                assert!(
                    (found - slope).abs() < 2e-3 * slope.abs().max(1.0),
                    "{divergence:?} {p} {q}: {slope}, {found}"
                );
            }
        }
    }

    #[test]
    fn distributions_that_are_equal_do_not_diverge_and_others_do() {
        let (p, q) = ([0.7, 0.2, 0.1], [0.1, 0.3, 0.6]);
        for divergence in ALL {
            let sum = |q: &[f32]| p.iter().zip(q).map(|(&p, &q)| divergence.of(p, q).0).sum::<f32>();
            assert!(sum(&p).abs() < 1e-6 && sum(&q) > 0.05, "{divergence:?}");
        }
        // By hand: 0.7 ln 7 + 0.2 ln (2/3) + 0.1 ln (1/6).
        let forward: f32 = p.iter().zip(&q).map(|(&p, &q)| Divergence::Forward.of(p, q).0).sum();
        assert!((forward - 1.101_870_1).abs() < 1e-5, "{forward}");
    }

    #[test]
    fn names_are_read_and_wrong_ones_answered() {
        assert_eq!("forward".parse(), Ok(Divergence::Forward));
        assert_eq!("skewed".parse(), Ok(Divergence::Skewed { alpha: 0.1 }));
        assert_eq!("jensen-shannon:0.25".parse(), Ok(Divergence::JensenShannon { beta: 0.25 }));
        for wrong in [
            "forwards",
            "forward:0.5",
            "skewed:2",
            "skewed:x",
            "",
            "skewed:1",
            "skewed-reverse:1",
            "jensen-shannon:0",
            "jensen-shannon:1",
        ] {
            let answer = wrong.parse::<Divergence>().unwrap_err().to_string();
            assert!(answer.contains("jensen-shannon"), "{answer}");
        }
    }
}
