//! `bantam tune`: a quantized model's scales learn from its base.

use crate::args::{Global, at_least_one};
use crate::{calibration, output, training};
use anyhow::ensure;
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::ScratchDir;
use bantam_checkpoint::provenance::Training;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_nn::Model;
use bantam_nn::train::AdamW;
use bantam_shrink::distill::{Divergence, Matching, ModelTeacher, TextTask, same_tokens};
use bantam_shrink::text::{Sequence, Source, SourceSpec};
use bantam_shrink::train::{Decay, Schedule, Settings, Trainer};
use bantam_shrink::tune::{Tuning, divergence};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
    /// Steps to make
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = at_least_one())]
    steps: usize,
    /// Sequences a step
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = at_least_one())]
    batch: usize,
    /// Tokens of a sequence
    #[arg(long, default_value_t = 256, value_name = "TOKENS", value_parser = at_least_one())]
    length: usize,
    /// The highest learning rate, as a share of what rounding to four bits loses: of a scale of four bits itself, of finer formats less
    #[arg(long, default_value_t = 1e-3, value_name = "RATE")]
    learning_rate: f32,
    /// Chooses the order of the text
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Seconds from one saving of the run to the next
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    save_every: u64,
}

/// What came of it.
#[derive(Serialize)]
struct Tuned {
    output: PathBuf,
    file_bytes: u64,
    /// Numbers that were trained.
    trained: usize,
    steps: u64,
    tokens: u64,
    seconds: f64,
    /// From the base, on text that was held out: in nats a token.
    divergence_before: f64,
    divergence_after: f64,
    losses: Vec<f32>,
}

/// Tokens that the base tells of each position; all others are one outcome.
const KEPT: usize = 256;

/// Every so many sequences one is held out, up to so many in all.
const HELD_OUT: (usize, usize) = (8, 16);

pub fn run(args: &TuneArgs, global: &Global) -> anyhow::Result<()> {
    ensure!(
        args.learning_rate > 0.0 && args.learning_rate < 1.0,
        "--learning-rate {}: expected a share",
        args.learning_rate
    );
    let (base, student) = (Checkpoint::open(&args.base)?, Checkpoint::open(&args.model)?);
    base.refuse_overwriting(&args.output)?;
    student.refuse_overwriting(&args.output)?;
    ensure!(
        student.tensors().iter().any(|t| t.format.grid.is_some()),
        "{}: it is not quantized: it has no scales to tune",
        args.model.display()
    );
    same_tokens(&base, &student)?;
    let tokenizer = Tokenizer::of(&base)?;
    let mut sources = calibration::sources(&args.data, &base, &tokenizer, args.length)?;
    let held_out = hold_out(&mut sources);
    ensure!(
        !held_out.is_empty(),
        "the text has too few sequences to learn on and hold some out: give more, or a lower --length"
    );
    calibration::warn_of_overlap(sources.iter().flat_map(|s| &s.sequences).map(|s| &s.tokens[..]), &tokenizer);

    let start = Instant::now();
    let (base_model, student_model) = (Model::load(&base)?, Model::load(&student)?);
    let teacher = || ModelTeacher::new(&base_model, &args.base.display().to_string(), args.length, KEPT, 1.0);
    let held_out: Vec<(u64, &Sequence)> = held_out.iter().map(|s| (0, s)).collect();
    let before = divergence(&student, &mut teacher(), &held_out)?;
    let mut task = TextTask::new(&student_model, &sources, args.batch, args.seed);
    let matching = Matching { divergence: Divergence::Forward, temperature: 1.0, soft: 1.0 };
    task.teacher = Some((Box::new(teacher()), matching));
    let mut tuning = Tuning::new(&student, task)?;
    let mut shares = tuning.parameters();
    let (trained, steps, state) = (shares.trained(), args.steps as u64, training::state_of(&args.output));
    let settings = Settings {
        schedule: Schedule { peak: args.learning_rate, floor: 0.0, warmup: steps / 20, steps, decay: Decay::Cosine },
        method: AdamW { weight_decay: 0.0, ..AdamW::default() }.into(),
        clip: None,
        save: Some((state.clone(), Duration::from_secs(args.save_every))),
    };
    let mut trainer = Trainer::new(settings, &tuning, &mut shares)?;
    training::go(&mut trainer, &mut tuning, &mut shares, steps, &state, global)?;

    let flops = trainer.items() as f64 * (6.0 * training::products(&student) + 2.0 * training::products(&base));
    let mut step = student
        .step("tune")
        .setting("base", args.base.file_name().unwrap_or_default().to_string_lossy())
        .setting("data", calibration::names(&args.data).join(", "))
        .setting("steps", args.steps)
        .setting("batch", args.batch)
        .setting("length", args.length)
        .setting("learning rate", args.learning_rate)
        .setting("seed", args.seed);
    step.training = Some(Training::new(trainer.losses(), trainer.items(), flops));
    // Beside the output first: it becomes the output only if it is better.
    let beside = args.output.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = ScratchDir::near(beside)?;
    let tuned = folder.path().join("tuned.gguf");
    tuning.write(&student, &shares, step, &tuned)?;
    let after = divergence(&Checkpoint::open(&tuned)?, &mut teacher(), &held_out)?;
    ensure!(
        after < before,
        "tuning did not help: on text held out the divergence from the base went from {before:.4} to {after:.4}, so nothing was written. \
         Give more --data, or a lower --learning-rate, and delete {}",
        state.display()
    );
    std::fs::rename(&tuned, &args.output)?;
    std::fs::remove_file(&state).ok();
    report(
        &Tuned {
            output: args.output.clone(),
            file_bytes: Checkpoint::open(&args.output)?.file_bytes()?,
            trained,
            steps,
            tokens: trainer.items(),
            seconds: start.elapsed().as_secs_f64(),
            divergence_before: before,
            divergence_after: after,
            losses: trainer.losses().to_vec(),
        },
        args,
        global,
    )
}

/// Takes sequences out that nothing is learned from.
fn hold_out(sources: &mut [Source]) -> Vec<Sequence> {
    let (every, most) = HELD_OUT;
    let each = (most / sources.len().max(1)).max(1);
    let mut held_out = Vec::new();
    for source in sources {
        let (mut at, mut taken) = (0, 0);
        let take = |_: &mut Sequence| {
            at += 1;
            let take = at % every == 0 && taken < each;
            taken += usize::from(take);
            take
        };
        held_out.extend(source.sequences.extract_if(.., take));
    }
    held_out
}

fn report(tuned: &Tuned, args: &TuneArgs, global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::json(tuned);
    }
    let Tuned { divergence_before: before, divergence_after: after, .. } = tuned;
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
