//! `bantam bench`: speed and memory.

use crate::{args::Global, output};
use anyhow::Context;
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
    /// Tokens of the prompt
    #[arg(long, default_value_t = 512, value_name = "TOKENS")]
    prompt: usize,
    /// Tokens to generate
    #[arg(long, default_value_t = 64, value_name = "TOKENS")]
    decode: usize,
    /// Timed repetitions; the median counts
    #[arg(long, default_value_t = 3, value_name = "N")]
    repetitions: usize,
}

pub fn run(args: &BenchArgs, global: &Global) -> anyhow::Result<()> {
    let BenchArgs { prompt, decode, repetitions, .. } = *args;
    let speed = speed::here(&args.model, Workload { prompt, decode, repetitions })?;
    if global.json {
        return output::json(&speed);
    }
    println!("{}, {} threads", args.model.display(), speed.threads);
    println!("  prefill  {:>8.1} tokens/s   ({} tokens)", speed.prefill, speed.prompt_tokens);
    println!("  decode   {:>8.1} tokens/s   ({decode} tokens)", speed.decode);
    if let Some(peak) = speed.peak_memory {
        println!("  memory   {:>8} at its peak", output::bytes(peak));
    }
    Ok(())
}

/// Measures a model in a process of its own, so that its peak memory is its own.
pub fn in_fresh_process(model: &Path, global: &Global) -> anyhow::Result<Speed> {
    let program = std::env::current_exe().context("cannot find bantam's own program")?;
    let mut command = Command::new(program);
    command.arg("bench").arg(model).args(["--json", "--threads", &global.thread_count().to_string()]);
    Ok(speed::in_fresh_process(&mut command)?)
}
