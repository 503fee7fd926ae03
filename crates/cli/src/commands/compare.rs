//! `bantam compare`: several candidates against one base.

use crate::args::Global;
use crate::evaluation::{Comparison, EvaluationArgs, PAGE, REPORT, earlier_report, name_among, write_report};
use crate::output;
use anyhow::bail;
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::ScratchDir;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(
    after_help = "Example:\n  bantam compare model.gguf q8.gguf q4.gguf --speed -o comparison/\n\nWhat was measured is kept, as by `bantam eval`: a comparison that was stopped goes on."
)]
pub struct CompareArgs {
    /// The model that the candidates were made from
    base: PathBuf,
    /// The models to measure
    #[arg(required = true)]
    candidates: Vec<PathBuf>,
    /// Write report.html and report.json into this directory
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
    #[command(flatten)]
    evaluation: EvaluationArgs,
}

pub fn run(args: &CompareArgs, global: &Global) -> anyhow::Result<()> {
    let base = Checkpoint::open(&args.base)?;
    let suite = args.evaluation.suite()?;
    args.output.as_deref().map(refuse_what_is_in_use).transpose()?;
    let scratch = args.output.as_deref().map(ScratchDir::near).transpose()?;
    Comparison::check(&args.candidates, &base, &suite, &args.evaluation)?;
    let mut comparison = Comparison::start(&base, &suite, &args.evaluation, args.output.is_some(), global)?;
    for candidate in &args.candidates {
        comparison.add(candidate, &name_among(candidate, &args.candidates), None)?;
    }
    let report = comparison.finish();
    if let (Some(scratch), Some(directory)) = (scratch, &args.output) {
        write_report(&report, scratch.path())?;
        scratch.deliver(directory)?;
    }
    output::report(&report, global)?;
    match &args.output {
        Some(directory) if !global.json => output::line(format_args!("report: {}", directory.join(PAGE).display())),
        _ => Ok(()),
    }
}

/// Refuses to replace a report that no earlier comparison left: `shrink` knows by its own which files it wrote.
fn refuse_what_is_in_use(directory: &Path) -> anyhow::Result<()> {
    let ours = earlier_report(directory).is_some_and(|report| report.fit.is_none());
    let in_use = [REPORT, PAGE].into_iter().find(|name| !ours && directory.join(name).exists());
    match in_use {
        Some(name) => bail!(
            "-o {}: there is a {name} that no earlier `bantam compare` left there; give another directory",
            directory.display()
        ),
        None => Ok(()),
    }
}
