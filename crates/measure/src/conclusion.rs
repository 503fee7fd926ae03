//! What the numbers mean, in plain words.
//!
//! A verdict is a band of the mean KL divergence, in nats per token. The bounds are conventions, set by what they look like
//! in use: at [`NEGLIGIBLE`] the two models choose differently about once in twenty-five tokens, mostly between near
//! equals (8-bit formats); below [`SMALL`] lie good 5- and 6-bit files, below [`NOTICEABLE`] usual 4-bit ones, below
//! [`SEVERE`] 3-bit and 2-bit ones, whose text is fluent and often wrong; beyond, or when the perplexity has grown by
//! [`RUINED`], text falls apart. A number that lies within two standard errors of a bound is called uncertain.

use crate::results::{Category, Choice, Divergence, Estimate, Evaluation, ModelSummary};

/// Below: negligible.
pub const NEGLIGIBLE: f64 = 0.01;
/// Below: small.
pub const SMALL: f64 = 0.05;
/// Below: noticeable.
pub const NOTICEABLE: f64 = 0.2;
/// Below: severe; from here on: unusable.
pub const SEVERE: f64 = 1.0;
/// Perplexity over the base's from which a candidate is unusable, whatever its divergence.
pub const RUINED: f64 = 2.0;

/// How much a candidate lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Hardly to be told apart.
    Negligible,
    /// Seen in measurements.
    Small,
    /// Seen in use, now and then.
    Noticeable,
    /// Often worse.
    Severe,
    /// Not worth running.
    Unusable,
}

impl Verdict {
    /// The lower-case name.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Negligible => "negligible",
            Verdict::Small => "small",
            Verdict::Noticeable => "noticeable",
            Verdict::Severe => "severe",
            Verdict::Unusable => "unusable",
        }
    }

    fn of(kl: f64, ratio: f64) -> Verdict {
        match kl {
            _ if ratio > RUINED => Verdict::Unusable,
            kl if kl < NEGLIGIBLE => Verdict::Negligible,
            kl if kl < SMALL => Verdict::Small,
            kl if kl < NOTICEABLE => Verdict::Noticeable,
            kl if kl < SEVERE => Verdict::Severe,
            _ => Verdict::Unusable,
        }
    }

    /// What it does, for a sentence: "loses ... on prose".
    fn adverb(self) -> &'static str {
        match self {
            Verdict::Negligible => "next to nothing",
            Verdict::Small => "little",
            Verdict::Noticeable => "noticeably",
            Verdict::Severe => "severely",
            Verdict::Unusable => "too much to be usable",
        }
    }
}

/// Judges a divergence.
pub fn verdict(divergence: &Divergence) -> Verdict {
    shifted(divergence, 0.0)
}

/// Whether the estimate lies within two standard errors of another verdict.
pub fn uncertain(divergence: &Divergence) -> bool {
    shifted(divergence, -2.0) != shifted(divergence, 2.0)
}

/// The verdict if the truth lay so many standard errors above the estimate.
fn shifted(divergence: &Divergence, errors: f64) -> Verdict {
    let at = |estimate: Estimate| estimate.mean + errors * estimate.se;
    Verdict::of(at(divergence.kl_divergence), at(divergence.perplexity_ratio))
}

/// One line for a table or a headline, such as "Q4_K_M: a quarter of the size; loses little on prose and chat, noticeably
/// on math".
pub fn sentence(evaluation: &Evaluation, base: &ModelSummary) -> String {
    let size = size(evaluation.candidate.file_bytes, base.file_bytes);
    format!("{}: {size}; {}", evaluation.candidate.label, losses(evaluation))
}

/// [`sentence`], and what a reader should know beside it: accuracy lost, unusable or uncertain results, what the base was.
pub fn paragraph(evaluation: &Evaluation, base: &ModelSummary) -> String {
    let mut sentences = vec![sentence(evaluation, base)];
    sentences.push(format!(
        "It chooses the base's next token {} of the time, and its perplexity is {:.3} times the base's (± {:.3})",
        percent(evaluation.overall.top1_agreement.mean),
        evaluation.overall.perplexity_ratio.mean,
        evaluation.overall.perplexity_ratio.se,
    ));
    sentences.extend(evaluation.choices.iter().filter_map(accuracy));
    let uncertain = list(evaluation.categories.iter().filter(|(_, d)| uncertain(d)).map(|(c, _)| place(*c)));
    if let Some(uncertain) = uncertain {
        sentences.push(format!(
            "More text could move the verdict on {uncertain}, which lies within two standard errors of another"
        ));
    }
    if verdict(&evaluation.overall) == Verdict::Unusable {
        sentences.push("Do not use it: choose a larger format or a smaller model".to_owned());
    }
    if let Some(quantized) = &base.quantized_as {
        sentences.push(format!(
            "The base itself had been quantized ({quantized}): what that cost is not in these numbers, and a format that can \
             hold its grid looks better here than it would on full-precision weights"
        ));
    }
    sentences.join(". ") + "."
}

/// "loses little on prose and chat, noticeably on math", the mildest loss first.
fn losses(evaluation: &Evaluation) -> String {
    let overall = verdict(&evaluation.overall);
    let of = |loss| list(evaluation.categories.iter().filter(|(_, d)| verdict(d) == loss).map(|(c, _)| place(*c)));
    let levels = [Verdict::Negligible, Verdict::Small, Verdict::Noticeable, Verdict::Severe, Verdict::Unusable];
    let parts: Vec<String> =
        levels.into_iter().filter_map(|loss| Some(format!("{} on {}", loss.adverb(), of(loss)?))).collect();
    match parts.as_slice() {
        [] | [_] => format!("loses {}", overall.adverb()),
        parts => format!("loses {}", parts.join(", ")),
    }
}

/// A sentence about a task whose accuracy fell or rose by more than chance explains.
///
/// Under the hypothesis that nothing changed, each flipped question went either way with equal chance (McNemar's test):
/// lost less gained has a standard deviation of the root of their sum.
fn accuracy(choice: &Choice) -> Option<String> {
    let (lost, gained) = (choice.lost as f64, choice.gained as f64);
    if (lost - gained).abs() <= 2.0 * (lost + gained).sqrt() {
        return None;
    }
    let verb = if lost > gained { "falls" } else { "rises" };
    Some(format!(
        "On {} its accuracy {verb} from {} to {} ({} of {} questions lost, {} gained; guessing gives {})",
        choice.task,
        percent(choice.base_accuracy.mean),
        percent(choice.accuracy.mean),
        choice.lost,
        choice.questions,
        choice.gained,
        percent(choice.chance),
    ))
}

/// A size beside the base's, in words.
fn size(bytes: u64, base: u64) -> String {
    let ratio = bytes as f64 / base.max(1) as f64;
    let near = |fraction: f64| (ratio / fraction - 1.0).abs() < 0.06;
    let fractions = [
        (1.0, "the same size"),
        (0.75, "three quarters of the size"),
        (2.0 / 3.0, "two thirds of the size"),
        (0.5, "half the size"),
        (1.0 / 3.0, "a third of the size"),
        (0.25, "a quarter of the size"),
        (0.2, "a fifth of the size"),
        (1.0 / 6.0, "a sixth of the size"),
        (0.125, "an eighth of the size"),
    ];
    match fractions.into_iter().find(|&(fraction, _)| near(fraction)) {
        Some((_, words)) => words.to_owned(),
        None => format!("{} of the size", percent(ratio)),
    }
}

fn place(category: Category) -> &'static str {
    match category {
        Category::Own => "your text",
        other => other.name(),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

/// "a, b and c".
fn list(items: impl Iterator<Item = &'static str>) -> Option<String> {
    let items: Vec<_> = items.collect();
    let (last, rest) = items.split_last()?;
    Some(if rest.is_empty() { (*last).to_owned() } else { format!("{} and {last}", rest.join(", ")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divergence(kl: f64, se: f64) -> Divergence {
        Divergence {
            tokens: 1000,
            perplexity: Estimate { mean: 11.0, se: 0.5 },
            base_perplexity: Estimate { mean: 10.0, se: 0.5 },
            perplexity_ratio: Estimate { mean: 1.1, se: 0.01 },
            kl_divergence: Estimate { mean: kl, se },
            kl_median: kl / 2.0,
            kl_p99: kl * 10.0,
            top1_agreement: Estimate { mean: 0.9, se: 0.01 },
        }
    }

    fn summary(label: &str, file_bytes: u64, quantized_as: Option<&str>) -> ModelSummary {
        ModelSummary {
            label: label.into(),
            path: String::new(),
            architecture: "llama".into(),
            file_bytes,
            parameters: 1,
            bits_per_weight: 4.5,
            bytes_by_format: Vec::new(),
            quantized_as: quantized_as.map(str::to_owned),
            training: vec![],
        }
    }

    fn evaluation(overall: f64, categories: &[(Category, f64)]) -> Evaluation {
        Evaluation {
            candidate: summary("Q4_K_M", 26, None),
            overall: divergence(overall, 1e-4),
            categories: categories.iter().map(|&(c, kl)| (c, divergence(kl, 1e-4))).collect(),
            choices: Vec::new(),
            speed: None,
            samples: Vec::new(),
            made_by: Vec::new(),
            seconds_to_make: None,
        }
    }

    #[test]
    fn bands_have_the_documented_bounds() {
        let loss = |kl| verdict(&divergence(kl, 0.0));
        assert_eq!(loss(0.0), Verdict::Negligible);
        assert_eq!((loss(0.0099), loss(0.01)), (Verdict::Negligible, Verdict::Small));
        assert_eq!((loss(0.049), loss(0.05)), (Verdict::Small, Verdict::Noticeable));
        assert_eq!((loss(0.19), loss(0.2)), (Verdict::Noticeable, Verdict::Severe));
        assert_eq!((loss(0.99), loss(1.0)), (Verdict::Severe, Verdict::Unusable));
        let mut ruined = divergence(0.1, 0.0);
        ruined.perplexity_ratio.mean = 2.1;
        assert_eq!(verdict(&ruined), Verdict::Unusable);
    }

    #[test]
    fn a_bound_within_two_standard_errors_is_uncertain() {
        assert!(uncertain(&divergence(0.045, 0.004)));
        assert!(!uncertain(&divergence(0.03, 0.004)));
        let mut near_ruin = divergence(0.6, 0.01);
        near_ruin.perplexity_ratio = Estimate { mean: 1.95, se: 0.05 };
        assert!(uncertain(&near_ruin));
    }

    #[test]
    fn the_sentence_names_size_and_categories_from_mild_to_bad() {
        let categories =
            [(Category::Prose, 0.03), (Category::Chat, 0.02), (Category::Code, 0.3), (Category::Math, 0.1)];
        assert_eq!(
            sentence(&evaluation(0.08, &categories), &summary("F16", 100, None)),
            "Q4_K_M: a quarter of the size; loses little on prose and chat, noticeably on math, severely on code"
        );
        let equal = [(Category::Prose, 0.002), (Category::Code, 0.001)];
        assert_eq!(
            sentence(&evaluation(0.0015, &equal), &summary("F16", 64, None)),
            "Q4_K_M: 41 % of the size; loses next to nothing"
        );
    }

    #[test]
    fn the_paragraph_warns() {
        let mut unusable = evaluation(1.5, &[(Category::Own, 1.5)]);
        unusable.choices.push(Choice {
            task: "social_iqa".into(),
            category: Category::Chat,
            questions: 100,
            chance: 0.33,
            accuracy: Estimate { mean: 0.4, se: 0.05 },
            base_accuracy: Estimate { mean: 0.6, se: 0.05 },
            lost: 25,
            gained: 5,
        });
        let text = paragraph(&unusable, &summary("F16", 100, Some("Q4_1")));
        for words in ["Do not use it", "had been quantized (Q4_1)", "from 60 % to 40 %", "90 % of the time"] {
            assert!(text.contains(words), "{words} is not in: {text}");
        }
        unusable.choices[0].gained = 20;
        assert!(!paragraph(&unusable, &summary("F16", 100, None)).contains("accuracy"), "five of 45 flips are chance");
    }
}
