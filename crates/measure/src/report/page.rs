//! The page: what `templates/report.html` shows, made ready so that the template only places it.

use super::charts::{self, Bar};
use super::grid::{self, Grid, Role};
use super::{number, quantized_note};
use crate::conclusion::{self, Verdict};
use crate::results::{Evaluation, ModelSummary, Report, Sample, Speed};
use askama::Template;

/// The report as one self-contained HTML page: no scripts or styles from elsewhere, readable without JavaScript.
pub fn html(report: &Report) -> String {
    let (headline, lead) = headline(report);
    let page = Page {
        report,
        title: format!("{}: what shrinking costs", report.base.label),
        headline,
        lead,
        note: quantized_note(report).map(|note| capitalized(&note)),
        facts: facts(report),
        tradeoff: if report.evaluations.is_empty() {
            vec![]
        } else {
            vec![("wide", charts::tradeoff(report, 1040.0)), ("narrow", charts::tradeoff(report, 360.0))]
        },
        quality: grid::quality(report),
        perplexity: grid::perplexity(report),
        choices: grid::choices(report),
        training: grid::training(report),
        losses: losses(report),
        cost: grid::cost(report),
        bars: speed_bars(report),
        stacked: vec![("wide", charts::stacked(report, 1040.0)), ("narrow", charts::stacked(report, 360.0))],
        formats: formats(report),
        prompts: prompts(report),
        machine: machine(report),
    };
    page.render().expect("the template writes to a String, which takes everything")
}

#[derive(Template)]
#[template(path = "report.html")]
struct Page<'a> {
    report: &'a Report,
    title: String,
    headline: String,
    lead: String,
    note: Option<String>,
    facts: Vec<Fact>,
    tradeoff: Vec<(&'static str, String)>,
    quality: Grid,
    perplexity: Option<Grid>,
    choices: Option<Grid>,
    training: Option<Grid>,
    losses: Vec<Losses<'a>>,
    cost: Grid,
    bars: Vec<Panel>,
    stacked: Vec<(&'static str, String)>,
    formats: Vec<(String, String)>,
    prompts: Vec<Prompt<'a>>,
    machine: String,
}

/// A number at the head of the page.
struct Fact {
    name: &'static str,
    value: String,
    detail: String,
}

/// A figure of bars with its title.
struct Panel {
    title: &'static str,
    unit: &'static str,
    svg: String,
}

/// How a candidate's loss fell.
struct Losses<'a> {
    label: &'a str,
    step: &'a str,
    svg: String,
}

/// A prompt with its continuations.
struct Prompt<'a> {
    prompt: &'a str,
    base: &'a str,
    code: bool,
    shown: Vec<Continuation<'a>>,
    folded: Vec<Continuation<'a>>,
}

/// A candidate's continuation, split where it leaves the base's.
struct Continuation<'a> {
    label: &'a str,
    role: Role,
    same: &'a str,
    first: &'a str,
    rest: &'a str,
    note: String,
}

/// Continuations shown beside the base's; the others are folded away.
const SHOWN: usize = 3;

/// The conclusion in a sentence, and what a reader should know beside it.
fn headline(report: &Report) -> (String, String) {
    let about = |evaluation: &Evaluation| {
        // What the base was is a note of its own, right below.
        let base = ModelSummary { quantized_as: None, ..report.base.clone() };
        let sentence = conclusion::sentence(evaluation, &base);
        let paragraph = conclusion::paragraph(evaluation, &base);
        let rest = paragraph.strip_prefix(&sentence).unwrap_or(&paragraph).trim_start_matches(['.', ' ']).to_owned();
        (format!("{sentence}."), rest)
    };
    if let Some(chosen) = chosen(report) {
        return about(chosen);
    }
    if let Some(fit) = report.fit {
        let smallest = report.evaluations.iter().min_by_key(|evaluation| evaluation.candidate.file_bytes);
        let smallest = smallest.map_or(String::new(), |evaluation| {
            let ModelSummary { label, file_bytes, .. } = &evaluation.candidate;
            format!("The smallest is {label} with {}.", number::bytes(*file_bytes))
        });
        return (format!("Nothing fits {}.", number::bytes(fit)), smallest);
    }
    let good = |evaluation: &&Evaluation| conclusion::verdict(&evaluation.overall) <= Verdict::Small;
    match report.evaluations.iter().filter(good).min_by_key(|evaluation| evaluation.candidate.file_bytes) {
        Some(smallest) => {
            let (sentence, rest) = about(smallest);
            (format!("Smallest with a small loss: {sentence}"), rest)
        }
        None => (format!("{} compared with {}.", count_of(report.evaluations.len()), report.base.label), String::new()),
    }
}

fn count_of(candidates: usize) -> String {
    if candidates == 1 { "One candidate".into() } else { format!("{candidates} candidates") }
}

fn chosen(report: &Report) -> Option<&Evaluation> {
    report.chosen.and_then(|i| report.evaluations.get(i))
}

fn share(model: &ModelSummary, base: &ModelSummary) -> String {
    number::percent(model.file_bytes as f64 / base.file_bytes as f64)
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

fn facts(report: &Report) -> Vec<Fact> {
    let base = Fact {
        name: "base",
        value: number::bytes(report.base.file_bytes),
        detail: format!(
            "{}, {} weights, {} bits each",
            report.base.architecture,
            number::count(report.base.parameters),
            number::significant(report.base.bits_per_weight)
        ),
    };
    let mut facts = vec![base];
    if let Some(fit) = report.fit {
        facts.push(Fact { name: "size limit", value: number::bytes(fit), detail: "for the file".into() });
    }
    if let Some(chosen) = chosen(report) {
        let top1 = number::percent(chosen.overall.top1_agreement.mean);
        facts.extend([
            Fact {
                name: "chosen",
                value: number::bytes(chosen.candidate.file_bytes),
                detail: format!(
                    "{}, {} of the base's bytes",
                    chosen.candidate.label,
                    share(&chosen.candidate, &report.base)
                ),
            },
            Fact {
                name: "same top token",
                value: top1,
                detail: format!("KL divergence {}", number::estimate(chosen.overall.kl_divergence)),
            },
        ]);
        if let (Some(speed), Some(base)) = (chosen.speed, report.base_speed) {
            facts.push(Fact {
                name: "decode",
                value: format!("{} ×", number::significant(speed.decode / base.decode)),
                detail: format!(
                    "{} tokens per second, base {}",
                    number::significant(speed.decode),
                    number::significant(base.decode)
                ),
            });
        }
    }
    facts
}

/// Decode, prefill and memory, as far as any was measured.
fn speed_bars(report: &Report) -> Vec<Panel> {
    let rate = |value: f64| number::significant(value);
    [
        panel(report, "Decode", "tokens per second, longer is better", |speed| Some(speed.decode), rate),
        panel(report, "Prefill", "prompt tokens per second, longer is better", |speed| Some(speed.prefill), rate),
        panel(
            report,
            "Peak memory",
            "of a process that runs the model, shorter is better",
            |speed| speed.peak_memory.map(|bytes| bytes as f64),
            |bytes| number::bytes(bytes as u64),
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn panel(
    report: &Report,
    title: &'static str,
    unit: &'static str,
    value: impl Fn(Speed) -> Option<f64>,
    words: impl Fn(f64) -> String,
) -> Option<Panel> {
    let bar = |label: &str, speed: Option<Speed>, class| {
        let value = speed.and_then(&value);
        let text = value.map_or_else(|| "not measured".into(), &words);
        Bar { label: label.into(), value, text, class }
    };
    let mut bars = vec![bar(&format!("{} (base)", report.base.label), report.base_speed, "base")];
    bars.extend(report.evaluations.iter().enumerate().map(|(i, evaluation)| {
        let class = if report.chosen == Some(i) { "chosen" } else { "" };
        bar(&evaluation.candidate.label, evaluation.speed, class)
    }));
    let measured = bars.iter().any(|bar| bar.value.is_some());
    measured.then(|| Panel { title, unit, svg: charts::bars(&format!("{title}, {unit}"), &bars) })
}

fn losses(report: &Report) -> Vec<Losses<'_>> {
    let candidates = report.evaluations.iter().map(|evaluation| &evaluation.candidate);
    let all = candidates.flat_map(|model| model.training.iter().map(move |(step, training)| (model, step, training)));
    let panel =
        |(model, step, training): (&'_ ModelSummary, &'_ String, &'_ _)| charts::losses(&model.label, step, training);
    all.map(|each| Losses { label: &each.0.label, step: each.1, svg: panel(each) }).collect()
}

fn formats(report: &Report) -> Vec<(String, String)> {
    let formats = charts::formats(report);
    let of = formats.len();
    formats.into_iter().enumerate().map(|(index, name)| (name, charts::format_fill(index, of))).collect()
}

/// Each prompt of the first evaluation that has samples, with what the base and every candidate made of it.
fn prompts(report: &Report) -> Vec<Prompt<'_>> {
    let Some(first) = report.evaluations.iter().find(|evaluation| !evaluation.samples.is_empty()) else {
        return vec![];
    };
    let shown = shown(report);
    first
        .samples
        .iter()
        .map(|sample| {
            let of = |i: usize| {
                let evaluation = &report.evaluations[i];
                let its = evaluation.samples.iter().find(|its| its.prompt == sample.prompt)?;
                Some(continuation(evaluation, role(report, i), its))
            };
            let all = 0..report.evaluations.len();
            Prompt {
                prompt: &sample.prompt,
                base: &sample.base,
                code: sample.base.contains("\n    "),
                shown: all.clone().filter(|i| shown.contains(i)).filter_map(of).collect(),
                folded: all.filter(|i| !shown.contains(i)).filter_map(of).collect(),
            }
        })
        .collect()
}

fn role(report: &Report, index: usize) -> Role {
    if report.chosen == Some(index) { Role::Chosen } else { Role::Candidate }
}

/// Which candidates stand beside the base: the chosen one, the smallest, the largest, then the others by size.
fn shown(report: &Report) -> Vec<usize> {
    let last = report.evaluations.len().saturating_sub(1);
    let mut order: Vec<usize> = report.chosen.into_iter().chain([last, 0]).chain(0..report.evaluations.len()).collect();
    let mut seen = std::collections::HashSet::new();
    order.retain(|i| seen.insert(*i));
    order.truncate(SHOWN);
    order
}

fn continuation<'a>(evaluation: &'a Evaluation, role: Role, sample: &'a Sample) -> Continuation<'a> {
    let (same, first, rest) = split_at_divergence(&sample.base, &sample.candidate);
    let note = if first.is_empty() && rest.is_empty() && same.len() == sample.base.len() {
        "the same as the base, to the last character".into()
    } else {
        match same.split_whitespace().count() {
            0 => "differs from the first word".into(),
            1 => "leaves the base after 1 word".into(),
            words => format!("leaves the base after {words} words"),
        }
    };
    Continuation { label: &evaluation.candidate.label, role, same, first, rest, note }
}

/// A candidate's text in three: what it shares with the base, the first word that differs, and the rest.
fn split_at_divergence<'a>(base: &str, candidate: &'a str) -> (&'a str, &'a str, &'a str) {
    let common = base.chars().zip(candidate.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
    let (same, different) = candidate.split_at(common);
    if different.is_empty() {
        return (same, "", "");
    }
    // Back to the start of the word, so that the mark is on a whole one.
    let word = same
        .rfind(|c: char| !c.is_alphanumeric())
        .map_or(0, |at| at + same[at..].chars().next().map_or(1, char::len_utf8));
    let word = if different.starts_with(char::is_alphanumeric) { word } else { common };
    let (same, different) = candidate.split_at(word);
    let blank = different.len() - different.trim_start().len();
    let end = different[blank..].find(char::is_whitespace).map_or(different.len(), |at| blank + at);
    let (first, rest) = different.split_at(end);
    (same, first, rest)
}

fn machine(report: &Report) -> String {
    let machine = &report.machine;
    let features = if machine.features.is_empty() { String::new() } else { format!(", {}", machine.features) };
    format!("{}, {} logical processors, {}{features}", machine.processor, machine.cores, number::bytes(machine.memory))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{extreme, sample};
    use crate::results::Category;
    use bantam_checkpoint::provenance::Training;

    #[test]
    fn nothing_from_a_file_becomes_markup() {
        let mut report = sample();
        report.base.label = "<img src=x onerror=alert(1)>".into();
        report.command = "bantam </code><script>alert(2)</script>".into();
        for page in extreme().iter().chain([&report]).map(html) {
            assert_eq!(page.matches("<script").count(), 1);
            assert!(!page.contains("<img") && !page.contains("in</b>"));
        }
        assert!(
            html(&report).contains("&lt;script&gt;alert(&#39;x&#39;)") || html(&report).contains("&#60;script&#62;")
        );
    }

    #[test]
    fn the_chosen_one_has_a_ring_whatever_was_measured_on() {
        let mut report = sample();
        for categories in [4, 1] {
            report
                .evaluations
                .iter_mut()
                .for_each(|e| e.categories.retain(|(c, _)| categories > 1 || *c == Category::Code));
            report.texts.retain(|text| categories > 1 || text.category == Category::Code);
            // The wide picture and the narrow one.
            assert_eq!(html(&report).matches("class=\"ring\"").count(), 2, "{categories} categories");
        }
    }

    #[test]
    fn the_page_asks_for_nothing_from_elsewhere() {
        let page = html(&sample());
        for outside in ["src=", "href=", "url(", "@import", "http://", "https://", "fetch("] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.len() < 400_000, "{} bytes", page.len());
    }

    #[test]
    fn every_table_says_that_the_base_was_quantized() {
        let page = html(&sample());
        assert_eq!(
            page.matches("The base was itself quantized (Q4_1, Q8_0)").count(),
            1 + page.matches("class=\"tabled\"").count()
        );
        let mut report = sample();
        report.base.quantized_as = None;
        assert!(!html(&report).contains("itself quantized"));
    }

    #[test]
    fn a_trained_candidate_shows_how_its_loss_fell() {
        let mut report = sample();
        assert!(!html(&report).contains("id=\"training\""));
        let training = Training { steps: 600, tokens: 1_200_000, flops: 3.5e15, losses: vec![2.5, 1.5, 1.25] };
        report.evaluations[1].candidate.training = vec![("distill".into(), training)];
        let page = html(&report);
        assert!(page.contains("id=\"training\"") && page.contains("from 2.50 to 1.25"));
        assert!(page.contains("3.50e15") && page.contains("1.20 M"), "its cost");
        // Those that learned have a curve of their own.
        let lines = |report: &Report| html(report).matches("<polyline class=\"line\"").count();
        assert_eq!(lines(&report), 2 * lines(&sample()));
    }

    #[test]
    fn perplexities_are_the_bases_first_then_by_category() {
        let report = sample();
        let grid = grid::perplexity(&report).unwrap();
        assert_eq!(grid.heads.len(), 1 + report.evaluations[0].categories.len());
        assert_eq!(grid.rows.len(), 1 + report.evaluations.len());
        let first = &report.evaluations[0];
        assert_eq!(
            (grid.rows[0].role, grid.rows[0].cells[0].key),
            (Role::Base, Some(first.overall.base_perplexity.mean))
        );
        assert_eq!(grid.rows[1].cells[2].key, Some(first.categories[1].1.perplexity.mean));
        assert!(html(&report).contains("Perplexity on prose text"));
    }

    #[test]
    fn what_was_not_measured_is_left_out() {
        let mut report = sample();
        report.base_speed = None;
        for evaluation in &mut report.evaluations {
            (evaluation.speed, evaluation.choices, evaluation.samples) = (None, vec![], vec![]);
        }
        let page = html(&report);
        assert!(!page.contains("Multiple choice") && !page.contains("What they say") && !page.contains("Prefill"));
    }

    #[test]
    fn no_coordinate_is_nonsense() {
        for page in extreme().iter().map(html) {
            for svg in page.split("<svg").skip(1).map(|svg| svg.split("</svg>").next().unwrap()) {
                let attributes = svg.split('"').skip(1).step_by(2);
                let numeric = attributes.filter(|value| {
                    value.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == 'N' || c == 'i')
                });
                for value in numeric.filter(|value| value.parse::<f64>().is_ok()) {
                    assert!(value.parse::<f64>().unwrap().is_finite(), "{value} in {svg}");
                }
            }
        }
    }

    #[test]
    fn divergence_is_found_at_whole_words() {
        assert_eq!(split_at_divergence("the blue sky", "the blue sky"), ("the blue sky", "", ""));
        assert_eq!(split_at_divergence("the blue sky", "the black sea"), ("the ", "black", " sea"));
        assert_eq!(split_at_divergence("the blue", "the blue sky"), ("the blue", " sky", ""));
        assert_eq!(split_at_divergence("é blau", "é blå x"), ("é ", "blå", " x"));
        assert_eq!(split_at_divergence("", "a b"), ("", "a", " b"));
        assert_eq!(split_at_divergence("abc", ""), ("", "", ""));
    }

    /// Writes the pages that `scripts/report/look.sh` takes pictures of.
    #[test]
    fn pages_to_look_at() {
        let Ok(folder) = std::env::var("BANTAM_REPORT_PAGES") else { return };
        std::fs::create_dir_all(&folder).unwrap();
        for (index, report) in [sample()].iter().chain(&extreme()).enumerate() {
            std::fs::write(format!("{folder}/{index}.html"), html(report)).unwrap();
        }
    }
}
