//! `bantam eval`: what a candidate lost against its base.

use crate::args::Global;
use crate::evaluation::{Comparison, EvaluationArgs, file_name};
use crate::{embeddings, output};
use anyhow::bail;
use bantam_checkpoint::Checkpoint;
use bantam_measure::pairs::{self, PairEvaluation, Pairs};
use bantam_measure::results::Estimate;
use bantam_nn::Encoder;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam eval small.gguf --base model.gguf
  bantam eval small.gguf --base model.gguf --text mine.txt --json

Sentence encoders are measured on pairs of sentences that people scored: how well their cosines order the pairs.
  bantam eval student.gguf --base teacher.gguf --pairs sts-test.csv

The base's outputs, and what was measured of a candidate, are kept in $BANTAM_CACHE (default ~/.cache/bantam), in the folder `base`: further candidates
cost less, and a file is measured once. Remove the folder to measure anew.")]
pub struct EvalArgs {
    /// The model to measure
    candidate: PathBuf,
    /// The model it was made from
    #[arg(long)]
    base: PathBuf,
    /// Of encoders, a file of scored pairs: score, sentence, sentence between tabs, or STS-B's columns
    #[arg(long, value_name = "FILE", conflicts_with_all = ["text", "suite", "tasks", "chunks", "context", "speed"])]
    pairs: Option<PathBuf>,
    #[command(flatten)]
    evaluation: EvaluationArgs,
}

pub fn run(args: &EvalArgs, global: &Global) -> anyhow::Result<()> {
    let base = Checkpoint::open(&args.base)?;
    let candidate = Checkpoint::open(&args.candidate)?;
    match (embeddings::are_encoders(&base, &candidate)?, &args.pairs) {
        (true, Some(pairs)) => return evaluate_pairs(args, &candidate, &base, &Pairs::read(pairs)?, global),
        (true, None) => bail!("{}: an encoder is measured on scored pairs: give --pairs FILE", base.path().display()),
        (false, Some(_)) => bail!("{}: --pairs is for sentence encoders", base.path().display()),
        (false, None) => {}
    }
    let suite = args.evaluation.suite()?;
    Comparison::check(std::slice::from_ref(&args.candidate), &base, &suite, &args.evaluation)?;
    let mut comparison = Comparison::start(&base, &suite, &args.evaluation, false, global)?;
    comparison.add(&args.candidate, &file_name(&args.candidate), None)?;
    output::report(&comparison.finish(), global)
}

fn evaluate_pairs(
    args: &EvalArgs,
    candidate: &Checkpoint,
    base: &Checkpoint,
    pairs: &Pairs,
    global: &Global,
) -> anyhow::Result<()> {
    let (ours, theirs) = (Encoder::load(candidate)?, Encoder::load(base)?);
    let result = pairs::evaluate((&ours, &args.candidate), (&theirs, &args.base), pairs)?;
    if global.json {
        return output::json(&result);
    }
    output::line(format_args!("{} scored pairs of {}\n", result.pairs, pairs.path.display()))?;
    output::line(format_args!("{:<32} {:>12} {:>10} {:>17} {:>17}", "", "parameters", "file", "Spearman", "Pearson"))?;
    for (name, model, of) in [(&args.base, base, &result.base), (&args.candidate, candidate, &result.candidate)] {
        let estimate = |e: Estimate| format!("{:.4} ± {:.4}", e.mean, e.se);
        output::line(format_args!(
            "{:<32} {:>10.2} M {:>10} {:>17} {:>17}",
            file_name(name),
            model.parameters() as f64 / 1e6,
            output::bytes(model.file_bytes()?),
            estimate(of.spearman),
            estimate(of.pearson)
        ))?;
    }
    let cosine = result.cosine.map_or(String::new(), |c| format!(" Mean cosine of their embeddings: {c:.4}."));
    output::line(format_args!("\n{}{cosine} Errors are bootstrap standard errors.", kept(&result)))
}

/// What the candidate keeps of the base, in a sentence.
fn kept(result: &PairEvaluation) -> String {
    match result.share {
        Some(Estimate { mean, se }) => {
            format!("The candidate keeps {:.1} ± {:.1} % of the base's Spearman correlation.", 100.0 * mean, 100.0 * se)
        }
        None => "Of the base's Spearman correlation no share can be told: it is 0.".to_owned(),
    }
}
