//! What `train` and `distill` have in common: data, steps, progress, saving and resuming.

use crate::args::{Global, at_least_one, sequence_length};
use crate::{data, interrupt, output, progress};
use anyhow::{Context, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::beside;
use bantam_checkpoint::provenance::{Step, Training};
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_formats::Format;
use bantam_nn::Model;
use bantam_nn::train::{AdamW, Parameters, Sgd};
use bantam_shrink::distill::TextTask;
use bantam_shrink::students;
use bantam_shrink::text::{Logprobs, Source, SourceSpec};
use bantam_shrink::train::{Decay, Schedule, Settings, Task, Trainer};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is learned from.
#[derive(Args)]
pub struct DataArgs {
    /// Files to learn from: text, or .jsonl or .parquet with `text`, `messages`, or `prompt` and `completion`; a category may stand before and a weight after, as in
    /// code=examples.txt:0.5 (1 for files without one, if any has one; otherwise all are drawn as if in one file)
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub data: Vec<SourceSpec>,
    /// Tokens of a sequence [default: 256, or as many as the model learned on]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    length: Option<usize>,
}

impl DataArgs {
    /// The files.
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.data.iter().map(|spec| &spec.path)
    }

    /// Tokens of a sequence that all these models go through.
    pub fn length(&self, models: &[&Checkpoint]) -> anyhow::Result<usize> {
        sequence_length("--length", self.length, 256, models)
    }

    /// Reads all files into sequences of up to `length` of a model's tokens, and says so where they hold what bantam measures on.
    pub fn read(
        &self,
        model: &Checkpoint,
        length: usize,
        logprobs: Logprobs,
        global: &Global,
    ) -> anyhow::Result<Vec<Source>> {
        let sources = data::read(&self.data, model, length, logprobs, global)?;
        data::say_what_is_cut(&sources, length, global);
        let sequences = sources.iter().flat_map(|source| &source.sequences).map(|sequence| &sequence.tokens[..]);
        data::warn_of_overlap(sequences, &Tokenizer::of(model)?, "learned from");
        Ok(sources)
    }
}

/// How gradients become steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Optimizer {
    /// Each number by its own gradients' size
    Adamw,
    /// Along the gradients, with a momentum of 0.9: one number less to keep for each weight
    Sgd,
}

/// How steps are made.
#[derive(Args, Clone)]
pub struct StepArgs {
    /// Steps to make
    #[arg(long, default_value_t = 1000, value_name = "N", value_parser = at_least_one())]
    pub steps: usize,
    /// Sequences a step
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = at_least_one())]
    pub batch: usize,
    /// Sequences gone through together, for less memory; the gradients of a step's parts add up [default: all of a step]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    pub at_once: Option<usize>,
    /// The highest learning rate [default: 0.0003; with --optimizer sgd 0.03]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f32>,
    /// Steps in which the learning rate rises [default: a twentieth]
    #[arg(long, value_name = "N")]
    warmup: Option<u64>,
    /// The share of the learning rate that is left at the end
    #[arg(long, default_value_t = 0.1, value_name = "SHARE")]
    floor: f32,
    /// How gradients become steps
    #[arg(long, value_enum, value_name = "METHOD", default_value_t = Optimizer::Adamw)]
    optimizer: Optimizer,
    /// Shrinks matrices by this share of the learning rate each step
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    weight_decay: f32,
    /// The share of what each layer adds that is dropped, against learning small data by heart
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub dropout: f32,
    /// The largest norm of a step's gradients
    #[arg(long, default_value_t = 1.0, value_name = "NORM")]
    clip: f32,
    /// Chooses the order of the data
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Seconds from one saving of the run to the next
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    save_every: u64,
    /// The format of the matrices written: F32, F16, BF16
    #[arg(long, default_value = "F16", value_name = "FORMAT")]
    format: String,
}

impl StepArgs {
    /// What a step learns from these sources: labels, until it is given a teacher.
    pub fn task<'a>(&self, student: &'a Model, sources: &'a [Source]) -> TextTask<'a> {
        let mut task = TextTask::new(student, sources, self.batch, self.seed);
        task.dropout = (self.dropout, self.dropout);
        task.at_once = self.at_once.unwrap_or(self.batch);
        task
    }

    fn settings(&self, state: PathBuf) -> anyhow::Result<Settings> {
        for (name, value) in [("--learning-rate", self.rate()), ("--clip", self.clip)] {
            ensure!(value > 0.0 && value.is_finite(), "{name} {value}: expected a number above 0");
        }
        for (name, value) in [("--floor", self.floor), ("--weight-decay", self.weight_decay)] {
            ensure!((0.0..=1.0).contains(&value), "{name} {value}: expected a share within 0 and 1");
        }
        ensure!((0.0..1.0).contains(&self.dropout), "--dropout {}: expected a share below 1", self.dropout);
        let steps = self.steps as u64;
        Ok(Settings {
            schedule: Schedule {
                peak: self.rate(),
                floor: self.floor,
                warmup: self.warmup.unwrap_or(steps / 20).min(steps),
                steps,
                decay: Decay::Cosine,
            },
            method: match self.optimizer {
                Optimizer::Adamw => {
                    AdamW { betas: (0.9, 0.95), weight_decay: self.weight_decay, ..AdamW::default() }.into()
                }
                Optimizer::Sgd => Sgd { momentum: 0.9, weight_decay: self.weight_decay }.into(),
            },
            clip: Some(self.clip),
            save: Some((state, Duration::from_secs(self.save_every))),
        })
    }

    /// The highest learning rate.
    fn rate(&self) -> f32 {
        self.learning_rate.unwrap_or(match self.optimizer {
            Optimizer::Adamw => 3e-4,
            Optimizer::Sgd => 0.03,
        })
    }

    fn format(&self) -> anyhow::Result<&'static Format> {
        let format = ["F32", "F16", "BF16"].into_iter().find(|name| name.eq_ignore_ascii_case(&self.format));
        let format = format.with_context(|| format!("--format {}: training writes F32, F16 or BF16", self.format))?;
        Ok(Format::by_name(format).expect("these are formats"))
    }
}

/// What came of a run.
#[derive(Serialize)]
pub struct Trained {
    #[serde(serialize_with = "crate::output::path")]
    output: PathBuf,
    file_bytes: u64,
    steps: u64,
    tokens: u64,
    /// In matrix products with weights, the teacher's too: of a cache its one pass over each sequence.
    flops: f64,
    /// Of this run; a resumed run's earlier ones are not counted.
    seconds: f64,
    tokens_per_second: f64,
    losses: Vec<f32>,
}

/// Trains `student` on `task` and writes `output`. The state of the run lies beside it until it is done: the same command
/// goes on from there.
///
/// `others` says what operations were made for so many tokens beside the student's own passes: a teacher's.
pub fn train(
    student: &Checkpoint,
    others: &dyn Fn(f64) -> f64,
    task: &mut dyn Task,
    (data, args): (&DataArgs, &StepArgs),
    step: Step,
    output: &Path,
    global: &Global,
) -> anyhow::Result<Trained> {
    let format = args.format()?;
    ensure!(!output.is_dir(), "{}: the output is a directory; give a file's name", output.display());
    let state = state_of(output);
    let mut parameters = Parameters::of(student)?;
    // Factors of the rotary frequencies are part of the architecture and have no gradient.
    parameters.freeze(|path| path == bantam_checkpoint::ROPE_FREQS);
    let settings = args.settings(state.clone())?;
    let mut trainer = Trainer::new(settings, task, &mut parameters)?;
    say_resumed(&trainer, &state, global);
    let start = Instant::now();
    let before = trainer.items();
    go(&mut trainer, task, &mut parameters, args.steps as u64, &state, global)?;
    let tokens = trainer.items() - before;
    let seconds = start.elapsed().as_secs_f64();
    let items = trainer.items() as f64;
    let flops = items * operations_a_token(student) + others(items);
    let step = step
        .setting("data", data::names(&data.data).join(", "))
        .setting("steps", args.steps)
        .setting("batch", args.batch)
        .setting("optimizer", format!("{:?}", args.optimizer))
        .setting("learning rate", args.rate())
        .setting("seed", args.seed);
    let step = Step { training: Some(Training::new(trainer.losses(), trainer.items(), flops)), ..step };
    students::write(student, &parameters, format, step, output)?;
    std::fs::remove_file(&state).ok();
    Ok(Trained {
        output: output.to_owned(),
        file_bytes: Checkpoint::open(output)?.file_bytes()?,
        steps: trainer.steps(),
        tokens: trainer.items(),
        flops,
        seconds,
        tokens_per_second: tokens as f64 / seconds.max(1e-9),
        losses: trainer.losses().to_vec(),
    })
}

/// Where a run that writes `output` is saved until it is done.
pub fn state_of(output: &Path) -> PathBuf {
    beside(output, "training")
}

/// Says so where a run goes on from what was saved.
pub fn say_resumed(trainer: &Trainer, state: &Path, global: &Global) {
    if trainer.steps() > 0 && !global.quiet {
        output::say(format_args!("note: going on from step {}, saved in {}", trainer.steps(), state.display()));
    }
}

/// Makes the steps that remain until `until` are made, with a progress bar.
pub fn go(
    trainer: &mut Trainer,
    task: &mut dyn Task,
    parameters: &mut Parameters,
    until: u64,
    state: &Path,
    global: &Global,
) -> anyhow::Result<()> {
    if trainer.steps() >= until {
        return Ok(());
    }
    let bar = progress::bar(global, "train", trainer.settings().schedule.steps, "steps");
    bar.set_position(trainer.steps());
    let (mut mean, mut tokens, start) = (None, 0, Instant::now());
    trainer.run(task, parameters, &mut |steps, pass| {
        let smooth = mean.map_or(pass.loss, |m: f64| 0.95 * m + 0.05 * pass.loss);
        mean = Some(smooth);
        tokens += pass.items;
        let rate = tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
        bar.set_position(steps);
        bar.set_message(format!("loss {smooth:.4}, {rate:.0} tokens/s"));
        steps < until && !interrupt::requested()
    })?;
    bar.finish_and_clear();
    if trainer.steps() < until {
        let at = format!("at step {}, saved in {}", trainer.steps(), state.display());
        return Err(interrupt::Interrupted { at }.into());
    }
    Ok(())
}

/// Operations in which a model learns from a token: forth, and twice as many back.
pub fn operations_a_token(model: &Checkpoint) -> f64 {
    6.0 * products(model)
}

/// Weights that a token is multiplied with: all matrices, the embedding only where it is the head too. (Encoders have no head.)
pub fn products(model: &Checkpoint) -> f64 {
    let tied = ["output.weight", "position_embd.weight"].iter().all(|name| model.tensor(name).is_none());
    let matrices = model.tensors().iter().filter(|t| !t.stays_f32() && (tied || t.name != "token_embd.weight"));
    matrices.map(|t| t.len() as f64).sum()
}

/// Says what came of a run.
pub fn report(trained: &Trained, global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::json(trained);
    }
    let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
    let part = (trained.losses.len() / 20).max(1);
    let (first, last) = (mean(&trained.losses[..part]), mean(&trained.losses[trained.losses.len() - part..]));
    if last > first && trained.losses.len() > 1 {
        output::say(format_args!(
            "warning: the loss rose from {first:.4} to {last:.4}: it is worse than before; lower --learning-rate"
        ));
    }
    output::line(format_args!(
        "{}: {}, {} steps in {:.0} s ({:.0} tokens/s), {:.3e} operations, loss {:.4} → {:.4}",
        trained.output.display(),
        output::bytes(trained.file_bytes),
        trained.steps,
        trained.seconds,
        trained.tokens_per_second,
        trained.flops,
        first,
        last,
    ))
}
