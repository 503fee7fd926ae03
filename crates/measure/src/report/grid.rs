//! The report's tables as plain cells: the page and the terminal show the same ones.

use super::charts::{categories, of_category};
use super::number;
use crate::conclusion;
use crate::results::{Category, Choice, Divergence, Estimate, Evaluation, Report, Speed};
use bantam_checkpoint::provenance::Training;

/// A table: the first column names the model.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// What the table shows.
    pub title: &'static str,
    /// Column heads, one fewer than there are columns: without the model's.
    pub heads: Vec<Head>,
    /// One row a model.
    pub rows: Vec<Row>,
}

/// The head of a column.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its short name.
    pub text: String,
    /// What it means, in a sentence.
    pub meaning: String,
}

/// A model's row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The model's label.
    pub label: String,
    /// Whether this is the base, the chosen candidate, or neither.
    pub role: Role,
    /// One a column.
    pub cells: Vec<Cell>,
}

/// What a row's model is in the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// What the others are measured against.
    Base,
    /// What was chosen.
    Chosen,
    /// Any other candidate.
    Candidate,
}

impl Role {
    /// The role as a class of the style sheet.
    pub fn class(self) -> &'static str {
        match self {
            Role::Base => "base",
            Role::Chosen => "chosen",
            Role::Candidate => "",
        }
    }
}

/// A value as shown and as sorted.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    /// The value in words.
    pub text: String,
    /// Its standard error, shown smaller.
    pub error: String,
    /// What rows are sorted by; none where nothing was measured.
    pub key: Option<f64>,
}

impl Cell {
    fn new(text: String, key: f64) -> Self {
        Cell { text, error: String::new(), key: Some(key) }
    }

    fn absent() -> Self {
        Cell { text: "–".into(), error: String::new(), key: None }
    }

    fn verdict(divergence: &Divergence) -> Self {
        let verdict = conclusion::verdict(divergence);
        let doubt = if conclusion::uncertain(divergence) { "?" } else { "" };
        Cell::new(format!("{}{doubt}", verdict.name()), divergence.kl_divergence.mean)
    }

    fn estimate(estimate: Estimate) -> Self {
        let text = number::estimate(estimate);
        Self::with_error(text, estimate.mean)
    }

    fn percent(estimate: Estimate) -> Self {
        Self::with_error(number::percent_estimate(estimate), estimate.mean)
    }

    fn with_error(text: String, key: f64) -> Self {
        let (text, error) = text.split_once(" ± ").map_or((text.as_str(), ""), |(mean, se)| (mean, se));
        let error = if error.is_empty() { String::new() } else { format!("± {error}") };
        Cell { text: text.into(), error, key: Some(key) }
    }
}

fn head(text: impl Into<String>, meaning: impl Into<String>) -> Head {
    Head { text: text.into(), meaning: meaning.into() }
}

fn candidates(report: &Report) -> impl Iterator<Item = (&Evaluation, Role)> {
    report
        .evaluations
        .iter()
        .enumerate()
        .map(|(i, evaluation)| (evaluation, if report.chosen == Some(i) { Role::Chosen } else { Role::Candidate }))
}

/// How far each candidate's predictions lie from the base's.
pub fn quality(report: &Report) -> Grid {
    let categories = categories(report);
    let mut heads = vec![
        head("size", "Bytes of the file"),
        head(
            "loss",
            "The verdict on the KL divergence; with a question mark where chance may have moved it by one step",
        ),
        head(
            "KL divergence",
            "Mean over all text of the divergence from the base's next-token distribution, nats per token",
        ),
    ];
    let several = categories.len() > 1;
    if several {
        heads.extend(categories.iter().map(|c| head(c.name(), format!("Mean KL divergence on {} text", c.name()))));
    }
    heads.extend([
        head("99th percentile", "KL divergence that 1 in 100 tokens exceeds"),
        head("same top token", "Share of predictions whose most likely token is the base's"),
        head("perplexity ratio", "Perplexity of the candidate over that of the base; above 1 predicts the text worse"),
    ]);
    let row = |(evaluation, role): (&Evaluation, Role)| {
        let size = evaluation.candidate.file_bytes;
        let overall = &evaluation.overall;
        let size = Cell::new(number::bytes(size), size as f64);
        let mut cells = vec![size, Cell::verdict(overall), Cell::estimate(overall.kl_divergence)];
        if several {
            let kl = |c: &Category| of_category(evaluation, *c).map(|d| Cell::estimate(d.kl_divergence));
            cells.extend(categories.iter().map(|c| kl(c).unwrap_or_else(Cell::absent)));
        }
        cells.push(Cell::new(number::significant(overall.kl_p99), overall.kl_p99));
        cells.push(Cell::percent(overall.top1_agreement));
        cells.push(Cell::estimate(overall.perplexity_ratio));
        Row { label: evaluation.candidate.label.clone(), role, cells }
    };
    Grid { title: "Quality against the base", heads, rows: candidates(report).map(row).collect() }
}

/// Perplexities of the base and each candidate, over all text and by category; none where nothing was measured.
pub fn perplexity(report: &Report) -> Option<Grid> {
    let first = report.evaluations.first()?;
    let categories = categories(report);
    let several = categories.len() > 1;
    let mut heads =
        vec![head("all", "Perplexity over all text: how many tokens the model is torn between, on average")];
    let of_categories = if several { &categories[..] } else { &[] };
    heads.extend(of_categories.iter().map(|c| head(c.name(), format!("Perplexity on {} text", c.name()))));
    let row = |label: &str, role, evaluation: &Evaluation, of: fn(&Divergence) -> Estimate| {
        let each = of_categories.iter().map(|c| of_category(evaluation, *c));
        let each = each.map(|d| d.map_or_else(Cell::absent, |d| Cell::estimate(of(d))));
        let cells = std::iter::once(Cell::estimate(of(&evaluation.overall))).chain(each).collect();
        Row { label: label.to_owned(), role, cells }
    };
    let base = row(&report.base.label, Role::Base, first, |d| d.base_perplexity);
    let others = candidates(report).map(|(e, role)| row(&e.candidate.label, role, e, |d| d.perplexity));
    Some(Grid { title: "Perplexity", heads, rows: std::iter::once(base).chain(others).collect() })
}

/// Bytes, speed and memory of the base and each candidate.
pub fn cost(report: &Report) -> Grid {
    let timed = report.base_speed.or_else(|| report.evaluations.iter().find_map(|e| e.speed));
    let prompt = timed.map_or(String::new(), |s| format!(" of {} tokens, {} threads", s.prompt_tokens, s.threads));
    let heads = vec![
        head("size", "Bytes of the file"),
        head("bits per weight", "Tensor bytes times eight over weights"),
        head("of the base", "File bytes over the base's"),
        head("decode", "Tokens generated per second"),
        head("prefill", format!("Prompt tokens processed per second: a prompt{prompt}")),
        head("peak memory", "Peak resident memory of a process that only loads and runs the model"),
    ];
    let row = |model: &crate::results::ModelSummary, speed: Option<Speed>, role| {
        let share = model.file_bytes as f64 / report.base.file_bytes as f64;
        let rate = |rate: Option<f64>| {
            rate.map_or_else(Cell::absent, |rate| Cell::new(format!("{} tok/s", number::significant(rate)), rate))
        };
        let memory = speed.and_then(|speed| speed.peak_memory);
        let cells = vec![
            Cell::new(number::bytes(model.file_bytes), model.file_bytes as f64),
            Cell::new(number::significant(model.bits_per_weight), model.bits_per_weight),
            Cell::new(format!("{} ×", number::significant(share)), share),
            rate(speed.map(|s| s.decode)),
            rate(speed.map(|s| s.prefill)),
            memory.map_or_else(Cell::absent, |bytes| Cell::new(number::bytes(bytes), bytes as f64)),
        ];
        Row { label: model.label.clone(), role, cells }
    };
    let base = row(&report.base, report.base_speed, Role::Base);
    let rows = candidates(report).map(|(e, role)| row(&e.candidate, e.speed, role));
    Grid { title: "Size, speed and memory", heads, rows: std::iter::once(base).chain(rows).collect() }
}

/// Accuracy on each multiple-choice task; none where no task was run.
pub fn choices(report: &Report) -> Option<Grid> {
    let tasks = &report.evaluations.iter().find(|e| !e.choices.is_empty())?.choices;
    let mut heads = vec![
        head("all", "Accuracy over all questions"),
        head("lost", "Questions that only the base answers right"),
        head("gained", "Questions that only the candidate answers right"),
    ];
    heads.extend(tasks.iter().map(|task| {
        let chance = number::percent(task.chance);
        head(
            task.task.replace('_', " "),
            format!("{}: {} questions, guessing gives {chance}", task.category.name(), task.questions),
        )
    }));
    // Accuracy over all, `flips`, accuracy on each task.
    let cells = |choices: &[Choice], of: fn(&Choice) -> Estimate, flips: [Cell; 2]| {
        let each = tasks.iter().map(|task| choices.iter().find(|c| c.task == task.task));
        let each = each.map(|choice| choice.map_or_else(Cell::absent, |choice| Cell::percent(of(choice))));
        let all = pooled(choices, of).map_or_else(Cell::absent, Cell::percent);
        std::iter::once(all).chain(flips).chain(each).collect()
    };
    let base = cells(tasks, |choice| choice.base_accuracy, [Cell::absent(), Cell::absent()]);
    let base = Row { label: report.base.label.clone(), role: Role::Base, cells: base };
    let row = |(evaluation, role): (&Evaluation, Role)| {
        let sum = |of: fn(&Choice) -> usize| {
            let sum: usize = evaluation.choices.iter().map(of).sum();
            if evaluation.choices.is_empty() { Cell::absent() } else { Cell::new(sum.to_string(), sum as f64) }
        };
        let flips = [sum(|choice| choice.lost), sum(|choice| choice.gained)];
        let cells = cells(&evaluation.choices, |choice| choice.accuracy, flips);
        Row { label: evaluation.candidate.label.clone(), role, cells }
    };
    let rows = std::iter::once(base).chain(candidates(report).map(row)).collect();
    Some(Grid { title: "Multiple choice", heads, rows })
}

/// What the candidates learned and what that took; none where none was trained.
pub fn training(report: &Report) -> Option<Grid> {
    let heads = vec![
        head("learned by", "The step that trained it: distill from a teacher, train on labels"),
        head("steps", "Steps of the optimizer"),
        head("tokens", "Tokens gone through, each time they came"),
        head(
            "operations",
            "Multiplications and additions in matrix products with weights, a teacher's too if it was asked",
        ),
        head("loss at first", "Mean loss of the first steps; a divergence where it was distilled"),
        head("at last", "Mean loss of the last steps"),
    ];
    let row = |label: &str, role, step: &str, training: &Training| {
        let loss = |loss: Option<&f32>| {
            loss.map_or_else(Cell::absent, |&l| Cell::new(number::significant(l.into()), l.into()))
        };
        let step = Cell { text: step.to_owned(), error: String::new(), key: None };
        let cells = vec![
            step,
            Cell::new(number::count(training.steps), training.steps as f64),
            Cell::new(number::count(training.tokens), training.tokens as f64),
            Cell::new(format!("{:.2e}", training.flops), training.flops),
            loss(training.losses.first()),
            loss(training.losses.last()),
        ];
        Row { label: label.to_owned(), role, cells }
    };
    let rows: Vec<Row> = candidates(report)
        .flat_map(|(e, role)| e.candidate.training.iter().map(move |(step, t)| row(&e.candidate.label, role, step, t)))
        .collect();
    (!rows.is_empty()).then_some(Grid { title: "Training", heads, rows })
}

/// Accuracy over all questions of several tasks, which are independent samples.
pub fn pooled(choices: &[Choice], of: fn(&Choice) -> Estimate) -> Option<Estimate> {
    let questions: f64 = choices.iter().map(|choice| choice.questions as f64).sum();
    let mean: f64 = choices.iter().map(|choice| of(choice).mean * choice.questions as f64).sum();
    let variance: f64 = choices.iter().map(|choice| (of(choice).se * choice.questions as f64).powi(2)).sum();
    (questions > 0.0).then(|| Estimate { mean: mean / questions, se: variance.sqrt() / questions })
}
