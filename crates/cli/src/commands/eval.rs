//! `bantam eval`: what a candidate lost against its base.

use crate::args::Global;
use crate::evaluation::{Comparison, EvaluationArgs};
use crate::output;
use bantam_checkpoint::Checkpoint;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam eval small.gguf --base model.gguf
  bantam eval small.gguf --base model.gguf --text mine.txt --json

The base's outputs are kept in $BANTAM_CACHE (default ~/.cache/bantam), so further candidates cost less.")]
pub struct EvalArgs {
    /// The model to measure
    candidate: PathBuf,
    /// The model it was made from
    #[arg(long)]
    base: PathBuf,
    #[command(flatten)]
    evaluation: EvaluationArgs,
}

pub fn run(args: &EvalArgs, global: &Global) -> anyhow::Result<()> {
    let base = Checkpoint::open(&args.base)?;
    Comparison::check_candidate(&args.candidate)?;
    let mut comparison = Comparison::start(&base, &args.evaluation, false, global)?;
    comparison.add(&args.candidate, None, None)?;
    output::report(&comparison.finish(), global)
}
