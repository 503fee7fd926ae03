//! `bantam train`: learn from text alone.

use crate::args::Global;
use crate::places::Places;
use crate::training::{self, DataArgs, StepArgs};
use bantam_checkpoint::Checkpoint;
use bantam_nn::Model;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
A run that is interrupted goes on when the same command is given again.

Example:
  bantam train student.gguf --data prose=book.txt chat=talks.jsonl:0.5 --steps 2000 -o trained.gguf")]
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
}

pub fn run(args: &TrainArgs, global: &Global) -> anyhow::Result<()> {
    let places = Places::default().reads("the model", [&args.model]).reads("--data", args.data.paths());
    places.writes("-o", [&args.output]).check()?;
    let student = Checkpoint::open(&args.model)?;
    let model = Model::load(&student)?;
    let sources = args.data.read(&student, global)?;
    let mut task = args.steps.task(&model, &sources);
    let trained = training::train(
        &student,
        &|_| 0.0,
        &mut task,
        (&args.data, &args.steps),
        student.step("train"),
        &args.output,
        global,
    )?;
    training::report(&trained, global)
}
