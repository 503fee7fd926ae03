//! `bantam compare`: several candidates against one base.

use crate::args::Global;
use crate::evaluation::{Comparison, EvaluationArgs, write_report};
use crate::output;
use anyhow::Context;
use bantam_checkpoint::Checkpoint;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "Example:\n  bantam compare model.gguf q8.gguf q4.gguf --speed -o comparison/")]
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
    // Found out before the work, not after it.
    for candidate in &args.candidates {
        Checkpoint::open(candidate)?;
    }
    if let Some(directory) = &args.output {
        std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot make the directory {}", directory.display()))?;
    }
    let mut comparison = Comparison::start(&base, &args.evaluation, args.output.is_some(), global)?;
    for candidate in &args.candidates {
        comparison.add(candidate, None, None)?;
    }
    let report = comparison.finish();
    if let Some(directory) = &args.output {
        write_report(&report, directory)?;
    }
    output::report(&report, global)?;
    if let (Some(directory), false) = (&args.output, global.json) {
        println!("report: {}", directory.join("report.html").display());
    }
    Ok(())
}
