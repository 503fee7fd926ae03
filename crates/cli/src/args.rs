//! The command line.

use crate::commands::{
    bench, compare, completions, convert, distill, embed, eval, experiment, generate, inspect, quantize, run, shrink,
    student, teach, train, tune,
};
use anyhow::{Context, ensure};
use bantam_checkpoint::{Checkpoint, Config};
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};
use std::num::ParseFloatError;
use std::str::FromStr;

/// Make a trained model small enough for the machine you have, and know what it cost.
#[derive(Parser)]
#[command(version, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "\
Examples:
  bantam shrink model.gguf --fit 300MB -o small/       try levels, measure each, keep the best that fits
  bantam quantize model.gguf --to Q4_K_M -o small.gguf
  bantam eval small.gguf --base model.gguf             what it lost: prose, chat, code, math
  bantam run small.gguf -p 'Why is the sky blue?'";

/// Options of every command.
#[derive(Args)]
pub struct Global {
    /// Threads to use [default: all processors]
    #[arg(long, global = true, value_name = "N", value_parser = at_least_one().range(1..=MAX_THREADS))]
    pub threads: Option<usize>,
    /// Print the result as JSON instead of text
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bars
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// More threads than any machine has processors would only make waiting longer.
const MAX_THREADS: u64 = 1024;

/// Reads a number of things of which none would make no sense.
pub fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

/// Tokens of a sequence: as many as `option` was given, `usual` if it was not, and no more than these models learned on.
pub fn sequence_length(
    option: &str,
    given: Option<usize>,
    usual: usize,
    models: &[&Checkpoint],
) -> anyhow::Result<usize> {
    let mut length = given.unwrap_or(usual);
    for model in models {
        let learned = Config::of(model)?.context_length;
        ensure!(
            given.is_none() || length <= learned,
            "{option} {length}: {} learned on at most {learned} tokens at a time; give that or less",
            model.path().display()
        );
        length = length.min(learned);
    }
    Ok(length)
}

/// Reads a number above 0.
pub fn above_zero<T>(text: &str) -> anyhow::Result<T>
where
    T: FromStr<Err = ParseFloatError> + Into<f64> + Copy,
{
    let number: T = text.parse()?;
    let value: f64 = number.into();
    ensure!(value > 0.0 && value.is_finite(), "expected a number above 0");
    Ok(number)
}

#[derive(Subcommand)]
pub enum Command {
    /// Show what a model is, what it needs, and whether it fits this machine
    Inspect(inspect::InspectArgs),
    /// Convert between GGUF files and Hugging Face directories
    Convert(convert::ConvertArgs),
    /// Round a model's weights to fewer bits
    Quantize(quantize::QuantizeArgs),
    /// Train a quantized model's scales until it says what its base says
    Tune(tune::TuneArgs),
    /// Measure what a candidate lost against its base
    Eval(eval::EvalArgs),
    /// Measure several candidates against one base, with a report
    Compare(compare::CompareArgs),
    /// Make embeddings of sentences
    Embed(embed::EmbedArgs),
    /// Generate text
    Run(run::RunArgs),
    /// Measure speed and memory
    Bench(bench::BenchArgs),
    /// Try levels, measure each, and keep the best that fits a size
    Shrink(shrink::ShrinkArgs),
    /// Make a small model to begin with, from a teacher's layers or a configuration
    Student(student::StudentArgs),
    /// Have a teacher answer prompts, for a student to be trained on
    Generate(generate::GenerateArgs),
    /// Train a model on text
    Train(train::TrainArgs),
    /// Capture what a teacher says of texts, once for all students
    Teach(teach::TeachArgs),
    /// Have a small student learn from a large teacher
    Distill(distill::DistillArgs),
    /// Train networks on images as an experiment file has them
    Experiment(experiment::ExperimentArgs),
    /// Print a shell's completion script
    Completions(completions::CompletionsArgs),
}

impl Global {
    /// The number of threads that will be used.
    pub fn thread_count(&self) -> usize {
        self.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Sets up the thread pool that all work runs on.
    pub fn start_threads(&self) -> anyhow::Result<()> {
        // This thread works too: handing each matrix product to a pool and sleeping until it is done would cost more than
        // a small product takes.
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.thread_count())
            .use_current_thread()
            .build_global()
            .context("cannot start threads")
    }
}
