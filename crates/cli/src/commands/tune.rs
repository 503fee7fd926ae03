//! `bantam tune`: a quantized model's scales learn from its base.

use crate::args::Global;
use crate::output;
use crate::places::Places;
use crate::tuning::{Run, Text, Tuned, TuningArgs};
use anyhow::{bail, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::OutputFile;
use bantam_shrink::text::SourceSpec;
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
The file stays as large and in the same formats; it may come from any program. A run that is interrupted goes on when the same command is
given again.

Examples:
  bantam tune model-q4.gguf --base model.gguf -o model-q4-tuned.gguf
  bantam tune model-q3.gguf --base model.gguf --data chat=talks.jsonl:2 code=src.txt --steps 400 -o tuned.gguf")]
pub struct TuneArgs {
    /// The quantized model, a GGUF file
    model: PathBuf,
    /// What it was quantized from: a GGUF file or a Hugging Face directory
    #[arg(long, value_name = "MODEL")]
    base: PathBuf,
    /// The GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Text to learn on: files as in code=examples.txt:0.5 (text, .jsonl, .parquet) [default: the text that comes with bantam]
    #[arg(long, num_args = 1.., value_name = "FILE")]
    data: Vec<SourceSpec>,
    #[command(flatten)]
    tuning: TuningArgs,
}

pub fn run(args: &TuneArgs, global: &Global) -> anyhow::Result<()> {
    args.tuning.check()?;
    let places = Places::default().reads("the model", [&args.model]).reads("--base", [&args.base]);
    places.reads("--data", args.data.iter().map(|spec| &spec.path)).writes("-o", [&args.output]).check()?;
    let (base, student) = (Checkpoint::open(&args.base)?, Checkpoint::open(&args.model)?);
    ensure!(
        student.tensors().iter().any(|t| t.format.grid.is_some()),
        "{}: it is not quantized: it has no scales to tune",
        args.model.display()
    );
    if let Some(tensor) = student.tensors().iter().find(|t| !t.format.in_gguf()) {
        bail!(
            "{}: tensor `{}` is {}: directories for other engines are not tuned; tune a GGUF file",
            args.model.display(),
            tensor.name,
            tensor.format
        );
    }
    // A place that cannot be written is refused now, not after the training.
    drop(OutputFile::create(&args.output)?);
    let text = Text::read(&args.data, (&base, &student), &args.tuning, global)?;
    text.warn_of_overlap(&base)?;
    let (tuning, output) = (&args.tuning, &args.output);
    let tuned = Run { student: &student, base: &base, text: &text, args: tuning, output, global }.tune()?;
    let Tuned { divergence_before: before, divergence_after: after, agreement, .. } = tuned;
    ensure!(
        !tuned.was_hopeless(),
        "there is nothing to learn for its scales: parts of the text do not agree on where they should go (the cosine of their gradients is {:.2}), \
         as where errors of layers were made up for well; nothing was trained or written. Larger steps (--batch) average more text, and with \
         --learning-rate it is tried all the same",
        agreement.unwrap_or_default()
    );
    ensure!(
        tuned.helped(),
        "tuning did not help: on text held out the divergence from the base went from {before:.4} to {after:.4} in {} steps, so nothing was \
         written. Give more --data, or a lower --learning-rate",
        tuned.steps
    );
    if global.json {
        return output::json(&tuned);
    }
    output::line(format_args!(
        "{}: {}, {} steps in {:.0} s; divergence from its base on text held out {before:.4} → {after:.4} ({:+.0} %)",
        tuned.output.display(),
        output::bytes(tuned.file_bytes),
        tuned.steps,
        tuned.seconds,
        100.0 * (after / before - 1.0)
    ))?;
    output::line(format_args!("next: bantam eval {} --base {}", tuned.output.display(), args.base.display()))
}
