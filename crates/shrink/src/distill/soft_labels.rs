//! Learning from a teacher's probabilities, and from labels beside them.

use super::Divergence;
use bantam_nn::train::{Objective, softmax};

/// What a teacher said about the token that follows one row.
#[derive(Clone, Copy, Debug)]
pub enum Soft<'a> {
    /// All logits.
    Logits(&'a [f32]),
    /// The logarithms of the likeliest tokens' probabilities at the temperature that is trained at. All others count as one outcome.
    Top {
        /// The tokens.
        tokens: &'a [u32],
        /// As many.
        log_probabilities: &'a [f32],
        /// The logarithm of the probability of all others.
        log_rest: f32,
    },
}

/// `soft T² D(teacher, student at T) + (1 - soft) cross-entropy`, the former on rows of which the teacher said something, the latter on rows that
/// have a label (Hinton, Vinyals, Dean 2015; the T² keeps the soft part's gradients as large at every temperature).
pub struct SoftLabels<'a> {
    /// The teacher's word on each row; rows with neither that nor a label that weighs anything do not count.
    pub teacher: &'a [Option<Soft<'a>>],
    /// The label of each row, if it has one.
    pub labels: &'a [Option<u32>],
    /// What to bring down.
    pub divergence: Divergence,
    /// T: logits are divided by it.
    pub temperature: f32,
    /// The weight of the soft part.
    pub soft: f32,
}

impl Objective for SoftLabels<'_> {
    fn loss(&self, row: usize, logits: &mut [f32]) -> f64 {
        let hard = match self.labels[row] {
            Some(label) if self.soft < 1.0 => Some(hard(logits, label as usize)),
            _ => None,
        };
        let scale = self.soft * self.temperature; // T² by the loss, 1 / T by the logits
        let divergence = match self.teacher[row] {
            None => {
                logits.fill(0.0);
                0.0
            }
            Some(Soft::Logits(teacher)) => full(self.divergence, teacher, self.temperature, logits, scale),
            Some(Soft::Top { tokens, log_probabilities, log_rest }) => {
                let p: Vec<f32> = log_probabilities.iter().map(|l| l.exp()).collect();
                top(self.divergence, tokens, (&p, log_rest.exp()), self.temperature, logits, scale)
            }
        };
        let soft = f64::from(self.soft * self.temperature * self.temperature) * divergence;
        let Some((loss, probabilities, label)) = hard else { return soft };
        let share = 1.0 - self.soft;
        logits.iter_mut().zip(&probabilities).for_each(|(g, p)| *g += share * p);
        logits[label] -= share;
        soft + f64::from(share) * loss
    }

    fn counts(&self, row: usize) -> bool {
        self.teacher[row].is_some() || self.soft < 1.0 && self.labels[row].is_some()
    }
}

/// The cross-entropy, the student's probabilities, and the label.
fn hard(logits: &[f32], label: usize) -> (f64, Vec<f32>, usize) {
    let mut probabilities = logits.to_vec();
    let log_sum = softmax(&mut probabilities, 1.0);
    (f64::from(log_sum - logits[label]), probabilities, label)
}

/// The divergence on the whole vocabulary; `logits` become its gradient by `logits / T`, times `scale`.
fn full(divergence: Divergence, teacher: &[f32], temperature: f32, logits: &mut [f32], scale: f32) -> f64 {
    let mut p = teacher.to_vec();
    softmax(&mut p, temperature);
    softmax(logits, temperature);
    let (mut loss, mut mean) = (0.0, 0.0);
    for (p, &q) in p.iter_mut().zip(&*logits) {
        let (f, g) = divergence.of(*p, q);
        loss += f64::from(f);
        mean += f64::from(q * g);
        *p = g;
    }
    let mean = mean as f32;
    logits.iter_mut().zip(&p).for_each(|(q, g)| *q *= scale * (g - mean));
    loss
}

/// The divergence on the likeliest tokens, of the teacher's probabilities `p`, and the rest as one outcome; `logits` become its gradient as in [`full`].
fn top(
    divergence: Divergence,
    tokens: &[u32],
    (p, p_rest): (&[f32], f32),
    temperature: f32,
    logits: &mut [f32],
    scale: f32,
) -> f64 {
    softmax(logits, temperature);
    let q: Vec<f32> = tokens.iter().map(|&t| logits[t as usize]).collect();
    let sum = |x: &[f32]| x.iter().map(|&x| f64::from(x)).sum::<f64>();
    // From the numbers that the gradients are made of: 1 less the sum, both rounded, may be anything beside a rest of 1e-8.
    let q_rest = (sum(logits) - sum(&q)).max(f64::from(f32::MIN_POSITIVE)) as f32;
    let (f_rest, g_rest) = divergence.of(p_rest, q_rest);
    let (mut loss, mut mean) = (f64::from(f_rest), f64::from(q_rest * g_rest));
    let slopes: Vec<f32> = p
        .iter()
        .zip(&q)
        .map(|(&p, &q)| {
            let (f, g) = divergence.of(p, q);
            loss += f64::from(f);
            mean += f64::from(q * g);
            g
        })
        .collect();
    let mean = mean as f32;
    logits.iter_mut().for_each(|q| *q *= scale * (g_rest - mean));
    for ((&token, q), g) in tokens.iter().zip(q).zip(slopes) {
        logits[token as usize] = scale * q * (g - mean);
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEACHER: [f32; 6] = [1.0, -0.5, 2.0, 0.3, -2.0, 0.0];
    const STUDENT: [f32; 6] = [0.2, 0.4, 1.0, -1.0, 0.1, 0.6];
    const DIVERGENCES: [Divergence; 5] = [
        Divergence::Forward,
        Divergence::Reverse,
        Divergence::Skewed { alpha: 0.1 },
        Divergence::SkewedReverse { alpha: 0.3 },
        Divergence::JensenShannon { beta: 0.5 },
    ];

    fn soft_labels<'a>(
        teacher: &'a [Option<Soft<'a>>],
        divergence: Divergence,
        temperature: f32,
        soft: f32,
    ) -> SoftLabels<'a> {
        SoftLabels { teacher, labels: &[Some(3)], divergence, temperature, soft }
    }

    /// The likeliest `k` at a temperature.
    fn likeliest(k: usize, temperature: f32) -> (Vec<u32>, Vec<f32>, f32) {
        let mut p = TEACHER.to_vec();
        softmax(&mut p, temperature);
        let mut order: Vec<u32> = (0..6).collect();
        order.sort_by(|&a, &b| p[b as usize].total_cmp(&p[a as usize]));
        order.truncate(k);
        let log = order.iter().map(|&t| p[t as usize].ln()).collect();
        order.iter().for_each(|&t| p[t as usize] = 0.0);
        (order, log, p.iter().sum::<f32>().ln())
    }

    #[test]
    fn gradients_agree_with_finite_differences() {
        for divergence in DIVERGENCES {
            for (temperature, soft) in [(1.0, 1.0), (4.0, 0.7)] {
                let (tokens, log_probabilities, log_rest) = likeliest(3, temperature);
                let top = Soft::Top { tokens: &tokens, log_probabilities: &log_probabilities, log_rest };
                for teacher in [Soft::Logits(&TEACHER), top] {
                    let teacher = [Some(teacher)];
                    let objective = soft_labels(&teacher, divergence, temperature, soft);
                    let mut gradient = STUDENT;
                    objective.loss(0, &mut gradient);
                    for i in 0..6 {
                        let at = |h: f32| {
                            let mut logits = STUDENT;
                            logits[i] += h;
                            objective.loss(0, &mut logits)
                        };
                        let found = (at(1e-2) - at(-1e-2)) / 2e-2;
                        let expected = f64::from(gradient[i]);
                        assert!(
                            (found - expected).abs() < 1e-3,
                            "{divergence:?} at {temperature}, {teacher:?}, {i}: {expected}, by differences {found}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn where_the_teacher_is_silent_the_label_is_learned_by_its_weight() {
        let loss = |teacher, soft| {
            let mut gradient = STUDENT;
            let teacher = [teacher];
            let objective = soft_labels(&teacher, Divergence::Forward, 2.0, soft);
            let loss = objective.counts(0).then(|| objective.loss(0, &mut gradient));
            (loss, gradient)
        };
        // The whole weight on the label is its cross-entropy alone.
        let (label, of_label) = loss(Some(Soft::Logits(&TEACHER)), 0.0);
        let (silent, of_silent) = loss(None, 0.25);
        assert!((silent.unwrap() - 0.75 * label.unwrap()).abs() < 1e-6, "{silent:?} {label:?}");
        assert!(of_silent.iter().zip(&of_label).all(|(a, b)| (a - 0.75 * b).abs() < 1e-6), "{of_silent:?}");
        assert_eq!(loss(None, 1.0).0, None, "nothing is said and the label weighs nothing");
    }

    #[test]
    fn all_tokens_as_the_likeliest_are_the_whole_distribution() {
        for divergence in DIVERGENCES {
            let (tokens, log_probabilities, log_rest) = likeliest(6, 2.0);
            assert_eq!(log_rest, f32::NEG_INFINITY);
            let loss = |teacher| {
                let mut logits = STUDENT;
                let loss = soft_labels(&[Some(teacher)], divergence, 2.0, 1.0).loss(0, &mut logits);
                (loss, logits)
            };
            let (full, full_gradient) = loss(Soft::Logits(&TEACHER));
            let (top, top_gradient) =
                loss(Soft::Top { tokens: &tokens, log_probabilities: &log_probabilities, log_rest });
            assert!((full - top).abs() < 1e-5, "{divergence:?}: {full} and {top}");
            assert!(full_gradient.iter().zip(&top_gradient).all(|(a, b)| (a - b).abs() < 1e-5), "{divergence:?}");
        }
    }

    #[test]
    fn gradients_are_small_where_both_are_all_but_certain() {
        const VOCAB: usize = 20_000;
        // A token with all but 1e-9 to 1e-6 of the probability, as where a text has one way on; the student is a little surer, or less sure.
        for (lead, other) in [(32.0, 31.0), (28.0, 29.0), (24.0, 26.0)] {
            let row =
                |lead: f32| (0..VOCAB).map(|i| if i == 5 { lead } else { (i % 7) as f32 / 8.0 }).collect::<Vec<f32>>();
            let probabilities = |row: &[f32]| -> Vec<f64> {
                let sum: f64 = row.iter().map(|&z| f64::from(z).exp()).sum();
                row.iter().map(|&z| f64::from(z).exp() / sum).collect()
            };
            let (teacher, student) = (row(lead), row(other));
            let (p, q) = (probabilities(&teacher), probabilities(&student));
            let tokens: Vec<u32> = [5].into_iter().chain((6..VOCAB as u32).step_by(7).take(63)).collect();
            let log_probabilities: Vec<f32> = tokens.iter().map(|&t| p[t as usize].ln() as f32).collect();
            let rest = |x: &[f64]| (0..VOCAB).filter(|&i| !tokens.contains(&(i as u32))).map(|i| x[i]).sum::<f64>();
            let (p_rest, q_rest) = (rest(&p), rest(&q));
            for divergence in DIVERGENCES {
                let log_rest = p_rest.ln() as f32;
                let top = Soft::Top { tokens: &tokens, log_probabilities: &log_probabilities, log_rest };
                let mut gradient = student.clone();
                soft_labels(&[Some(top)], divergence, 1.0, 1.0).loss(0, &mut gradient);
                let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
                // By the forward divergence the gradient is q - p, the rest as one outcome.
                let bound = 20.0 * (p_rest + q_rest) + 1e-6;
                assert!(norm < bound, "{divergence:?}, rests of {p_rest:e} and {q_rest:e}: a gradient of {norm:e}");
            }
        }
    }

    #[test]
    fn a_student_equal_to_its_teacher_has_nothing_to_learn() {
        for divergence in DIVERGENCES {
            let mut logits = TEACHER;
            let loss = soft_labels(&[Some(Soft::Logits(&TEACHER))], divergence, 3.0, 1.0).loss(0, &mut logits);
            assert!(loss.abs() < 1e-5 && logits.iter().all(|g| g.abs() < 1e-5), "{divergence:?}: {loss}, {logits:?}");
        }
    }

    #[test]
    fn hot_soft_labels_match_logits() {
        // Hinton et al., equation 4: at a high temperature the gradient is (z - v) / N, logits being centred.
        let mut gradient = STUDENT;
        soft_labels(&[Some(Soft::Logits(&TEACHER))], Divergence::Forward, 1000.0, 1.0).loss(0, &mut gradient);
        let centre = |x: &[f32]| x.iter().sum::<f32>() / 6.0;
        for i in 0..6 {
            let expected = (STUDENT[i] - centre(&STUDENT) - TEACHER[i] + centre(&TEACHER)) / 6.0;
            assert!((gradient[i] - expected).abs() < 2e-3, "{i}: {} is not {expected}", gradient[i]);
        }
    }
}
