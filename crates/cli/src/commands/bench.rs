//! `bantam bench`: speed and memory.

use crate::args::{Global, at_least_one};
use crate::output;
use anyhow::{Context, ensure};
use bantam_checkpoint::{Checkpoint, Config};
use bantam_measure::results::Speed;
use bantam_measure::speed::{self, Workload};
use clap::Args;
use std::path::{Path, PathBuf};
use std::process::Command;

#[derive(Args)]
#[command(after_help = "Example:\n  bantam bench model.gguf --threads 4 --prompt 1024")]
pub struct BenchArgs {
    /// A GGUF file or a Hugging Face directory
    model: PathBuf,
    /// Tokens of the prompt [default: 512, or what the model's context leaves]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    prompt: Option<usize>,
    /// Tokens to generate [default: 64, or half of the model's context]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    decode: Option<usize>,
    /// Timed repetitions; the median counts
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = at_least_one())]
    repetitions: usize,
}

pub fn run(args: &BenchArgs, global: &Global) -> anyhow::Result<()> {
    let context = Config::of(&Checkpoint::open(&args.model)?)?.context_length;
    let decode = args.decode.unwrap_or(DEFAULT_DECODE.min(context / 2).max(1));
    let repetitions = args.repetitions;
    let prompt = args.prompt.unwrap_or(DEFAULT_PROMPT.min(context.saturating_sub(decode)).max(1));
    ensure!(
        prompt.saturating_add(decode) <= context,
        "{}: its context is {context} tokens; a prompt of {prompt} and {decode} more do not fit. Ask for fewer with --prompt \
         or --decode",
        args.model.display()
    );
    let speed = speed::here(&args.model, Workload { prompt, decode, repetitions })?;
    if global.json {
        return output::json(&speed);
    }
    output::line(format_args!("{}, {} threads", args.model.display(), speed.threads))?;
    output::line(format_args!("  prefill  {:>8.1} tokens/s   ({} tokens)", speed.prefill, speed.prompt_tokens))?;
    output::line(format_args!("  decode   {:>8.1} tokens/s   ({decode} tokens)", speed.decode))?;
    if let Some(peak) = speed.peak_memory {
        output::line(format_args!("  memory   {:>8} at its peak", output::bytes(peak)))?;
    }
    Ok(())
}

const DEFAULT_PROMPT: usize = 512;
const DEFAULT_DECODE: usize = 64;

/// Measures a model in a process of its own, so that its peak memory is its own.
pub fn in_fresh_process(model: &Path, global: &Global) -> anyhow::Result<Speed> {
    // Where there is such a link it leads to the program also after that was replaced by a newer one.
    let running = Path::new("/proc/self/exe");
    let program = match running.exists() {
        true => running.to_owned(),
        false => std::env::current_exe().context("cannot find bantam's own program")?,
    };
    let mut command = Command::new(program);
    command.arg("bench").arg(model).args(["--json", "--threads", &global.thread_count().to_string()]);
    Ok(speed::in_fresh_process(&mut command)?)
}
