//! `bantam train`: learn from text alone.

use crate::args::Global;
use crate::places::Places;
use crate::training::{self, DataArgs, StepArgs};
use anyhow::{Context, ensure};
use bantam_checkpoint::{Checkpoint, provenance};
use bantam_nn::Model;
use bantam_shrink::text::Logprobs;
use clap::Args;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "\
A run that is interrupted goes on when the same command is given again.

Examples:
  bantam train student.gguf --data prose=book.txt chat=talks.jsonl:0.5 --steps 2000 -o trained.gguf
  bantam train student.gguf --data book.txt --operations-of distilled.gguf -o labels.gguf
  bantam compare teacher.gguf distilled.gguf labels.gguf -o report/")]
pub struct TrainArgs {
    /// The model to begin with: a GGUF file or a Hugging Face directory
    model: PathBuf,
    /// The GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    steps: StepArgs,
    /// As many steps as fit into the operations that this file's last training took, its teacher's too: what labels alone give at the same cost [instead of --steps]
    #[arg(long, value_name = "FILE", conflicts_with = "steps")]
    operations_of: Option<PathBuf>,
}

pub fn run(args: &TrainArgs, global: &Global) -> anyhow::Result<()> {
    let places = Places::default().reads("the model", [&args.model]).reads("--data", args.data.paths());
    let places = places.reads("--operations-of", &args.operations_of);
    places.writes("-o", [&args.output]).check()?;
    let student = Checkpoint::open(&args.model)?;
    let model = Model::load(&student)?;
    let length = args.data.length(&[&student])?;
    let sources = args.data.read(&student, length, Logprobs::Ignored, global)?;
    let mut steps = args.steps.clone();
    let mut task = steps.task(&model, &sources);
    if let Some(path) = &args.operations_of {
        let tokens = operations_of(path)? / training::operations_a_token(&student);
        steps.steps = task.steps_within(tokens);
        ensure!(steps.steps > 0, "{}: its operations are not enough for a step; lower --batch", path.display());
    }
    let trained = training::train(
        &student,
        &|_| 0.0,
        &mut task,
        (&args.data, &steps),
        student.step("train").setting("length", length),
        &args.output,
        global,
    )?;
    training::report(&trained, global)
}

/// The operations that a file's last training took.
fn operations_of(path: &Path) -> anyhow::Result<f64> {
    let steps = provenance::of(Checkpoint::open(path)?.metadata());
    let training = steps.into_iter().rev().find_map(|step| step.training);
    let training = training.with_context(|| {
        format!("{}: says nothing of its training; expected a file that bantam distill or train wrote", path.display())
    })?;
    Ok(training.flops)
}
