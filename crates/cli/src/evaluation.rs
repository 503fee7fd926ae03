//! Measuring candidates against a base: what `eval`, `compare` and `shrink` share.

use crate::{
    args::{Global, at_least_one},
    commands::bench,
    progress::Bars,
};
use anyhow::{Context, bail};
use bantam_checkpoint::output::OutputFile;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_checkpoint::{Checkpoint, calendar, provenance};
use bantam_measure::base::check_context;
use bantam_measure::evaluate::same_vocabulary;
use bantam_measure::results::{Evaluation, Report};
use bantam_measure::{Base, Options, Suite, Text, data, evaluate, machine};
use bantam_nn::Model;
use clap::Args;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// On what to measure.
#[derive(Args, Clone)]
pub struct EvaluationArgs {
    /// Measure on these UTF-8 text files instead of the built-in text
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub text: Vec<PathBuf>,
    /// Built-in text and tasks: standard or quick, a quarter of it [default: standard; of `bantam shrink` quick]
    #[arg(long, value_name = "SUITE")]
    pub suite: Option<String>,
    /// Multiple-choice tasks of the suite: all or none
    #[arg(long, value_parser = ["all", "none"], default_value = "all")]
    pub tasks: String,
    /// Tokens per chunk of text
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    pub context: usize,
    /// Read only the first N chunks of each text
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub chunks: Option<usize>,
    /// Also measure speed and memory, each model in a process of its own
    #[arg(long)]
    pub speed: bool,
}

/// Files of records, not of running text.
const RECORDS: [&str; 6] = ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"];

impl EvaluationArgs {
    /// What is measured on.
    pub fn suite(&self) -> anyhow::Result<Suite> {
        let name = self.suite.as_deref().unwrap_or(data::SUITES[0]);
        let Some(built_in) = data::suite(name) else {
            bail!("there is no suite `{name}`; there are {}", data::SUITES.join(", "));
        };
        let tasks = if self.tasks == "all" { built_in.tasks } else { Vec::new() };
        if self.text.is_empty() {
            return Ok(Suite { texts: built_in.texts, tasks });
        }
        // Their punctuation would be measured as text.
        let of_records =
            |path: &&PathBuf| path.extension().is_some_and(|e| RECORDS.iter().any(|of| e.eq_ignore_ascii_case(of)));
        if let Some(path) = self.text.iter().find(of_records) {
            bail!(
                "--text {}: running text is measured on, not records; give a .txt file of their texts",
                path.display()
            );
        }
        let texts = self.text.iter().map(Text::read).collect::<Result<_, _>>()?;
        Ok(Suite { texts, tasks })
    }

    fn options(&self, samples: bool) -> Options {
        Options { context: self.context, chunks: self.chunks, samples, ..Options::default() }
    }
}

/// A comparison under way: a prepared base, and a report that grows by one evaluation for each candidate.
pub struct Comparison<'g> {
    base: Base,
    report: Report,
    global: &'g Global,
    speed: bool,
}

impl<'g> Comparison<'g> {
    /// Has the base's outputs ready.
    pub fn start(
        base: &Checkpoint,
        suite: &Suite,
        args: &EvaluationArgs,
        samples: bool,
        global: &'g Global,
    ) -> anyhow::Result<Self> {
        let prepared = Base::prepare(base, suite, &args.options(samples), &Bars::new(global, "base"))?;
        let base_speed = args.speed.then(|| bench::in_fresh_process(base.path(), global)).transpose()?;
        let report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            date: now(),
            command: std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" "),
            machine: machine::detect(),
            base: prepared.summary().clone(),
            base_speed,
            context: prepared.context(),
            texts: prepared.texts(),
            evaluations: Vec::new(),
            fit: None,
            chosen: None,
            kept: BTreeSet::new(),
        };
        Ok(Comparison { base: prepared, report, global, speed: args.speed })
    }

    /// Refuses what cannot be measured, or not against this base: found out before the work on the base, not after it.
    pub fn check(
        candidates: &[PathBuf],
        base: &Checkpoint,
        suite: &Suite,
        args: &EvaluationArgs,
    ) -> anyhow::Result<()> {
        let (tokenizer, model) = (Tokenizer::of(base)?, Model::load(base)?);
        for candidate in candidates {
            let checkpoint = Checkpoint::open(candidate)?;
            let ours = (Tokenizer::of(&checkpoint)?, Model::load(&checkpoint)?);
            same_vocabulary((candidate, &ours.0, &ours.1), (base.path(), &tokenizer, &model))?;
            check_context(candidate, args.context, ours.1.config().context_length)?;
        }
        Ok(Base::check(base, suite, &args.options(false))?)
    }

    /// Measures one candidate and adds it to the report under this label.
    pub fn add(&mut self, candidate: &Path, label: &str, seconds_to_make: Option<f64>) -> anyhow::Result<()> {
        let checkpoint = Checkpoint::open(candidate)?;
        let mut evaluation = evaluate(&checkpoint, &mut self.base, &Bars::new(self.global, label))?;
        evaluation.candidate.label = label.to_owned();
        evaluation.seconds_to_make = seconds_to_make;
        evaluation.made_by = provenance::of(checkpoint.metadata()).iter().map(ToString::to_string).collect();
        if self.speed {
            evaluation.speed = Some(bench::in_fresh_process(candidate, self.global)?);
        }
        self.report.evaluations.push(evaluation);
        Ok(())
    }

    /// The evaluations so far.
    pub fn evaluations(&self) -> &[Evaluation] {
        &self.report.evaluations
    }

    /// The report, largest candidate first.
    pub fn finish(mut self) -> Report {
        self.report.evaluations.sort_by_key(|e| std::cmp::Reverse(e.candidate.file_bytes));
        self.report
    }
}

/// The last part of a path, for showing.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned())
}

/// What a candidate is called beside others: its file's name, or where several have that one, its path as it was given.
pub fn name_among(candidate: &Path, all: &[PathBuf]) -> String {
    let name = file_name(candidate);
    match all.iter().filter(|other| file_name(other) == name).count() {
        0 | 1 => name,
        _ => candidate.display().to_string(),
    }
}

/// The report, for people and for machines.
pub const PAGE: &str = "report.html";
pub const REPORT: &str = "report.json";

/// The report that lies in a directory, if there is one.
pub fn earlier_report(directory: &Path) -> Option<Report> {
    std::fs::read(directory.join(REPORT)).ok().and_then(|json| serde_json::from_slice(&json).ok())
}

/// Writes `report.html` and `report.json` into a directory, each whole or not at all.
pub fn write_report(report: &Report, directory: &Path) -> anyhow::Result<()> {
    let write = |name: &str, content: &[u8]| {
        let path = directory.join(name);
        let mut file = OutputFile::create(&path)?;
        file.write_all(content).with_context(|| format!("{}: cannot write", path.display()))?;
        file.finish().map_err(anyhow::Error::from)
    };
    write(PAGE, bantam_measure::report::html(report).as_bytes())?;
    write(REPORT, &serde_json::to_vec_pretty(report)?)
}

/// The time in RFC 3339, in UTC.
fn now() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = calendar::date(days);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}
