//! `bantam quantize`: round a model's weights to fewer bits.

use crate::calibration::{Calibrated, CalibrationArgs};
use crate::{args::Global, output, progress};
use bantam_checkpoint::Checkpoint;
use bantam_shrink::{
    Mix,
    quantize::{FallBack, Plan},
};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam quantize model.gguf --to Q4_K_M -o model-q4.gguf
  bantam quantize model.gguf --to Q4_K_M --calibrate -o model-q4.gguf                   on the text that comes with bantam
  bantam quantize model.gguf --to Q3_K_M --calibrate chat=talks.jsonl:2 code=src.txt -o model-q3.gguf
  bantam quantize model.gguf --to Q4_K_M --imatrix model.imatrix.gguf -o model-q4.gguf   llama.cpp's importance matrix
  bantam quantize ./hf-directory --to Q8_0 -o model-q8.gguf
  bantam quantize --list")]
pub struct QuantizeArgs {
    /// A GGUF file or a Hugging Face directory
    #[arg(required_unless_present = "list")]
    model: Option<PathBuf>,
    /// The level: Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_M, Q2_K, ... (--list shows all)
    #[arg(long, value_name = "LEVEL", required_unless_present = "list")]
    to: Option<String>,
    /// The GGUF file to write
    #[arg(long, short, value_name = "FILE", required_unless_present = "list")]
    output: Option<PathBuf>,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// List the levels
    #[arg(long)]
    list: bool,
}

/// What was written.
#[derive(Serialize)]
pub struct Quantized {
    pub level: String,
    pub method: &'static str,
    pub output: PathBuf,
    pub file_bytes: u64,
    pub source_bytes: u64,
    pub seconds: f64,
    pub fall_backs: Vec<String>,
}

pub fn run(args: &QuantizeArgs, global: &Global) -> anyhow::Result<()> {
    let (Some(model), Some(to), Some(output)) = (&args.model, &args.to, &args.output) else {
        return list(global);
    };
    let checkpoint = Checkpoint::open(model)?;
    let mix = Mix::by_name(to)?;
    checkpoint.refuse_overwriting(output)?;
    let calibrated = args.calibration.calibrate(&checkpoint, global)?;
    let quantized = quantize_by(&checkpoint, mix, &calibrated, output, global)?;
    if global.json {
        return output::json(&quantized);
    }
    output::line(format_args!(
        "{}: {} → {} in {:.1} s",
        output.display(),
        output::bytes(quantized.source_bytes),
        output::bytes(quantized.file_bytes),
        quantized.seconds
    ))?;
    for fall_back in &quantized.fall_backs {
        output::line(format_args!("  {fall_back}"))?;
    }
    output::line(format_args!("next: bantam eval {} --base {}", output.display(), model.display()))?;
    Ok(())
}

/// Quantizes to the nearest with a progress bar.
pub fn quantize(
    checkpoint: &Checkpoint,
    mix: &'static Mix,
    output: &Path,
    global: &Global,
) -> anyhow::Result<Quantized> {
    quantize_by(checkpoint, mix, &Calibrated::default(), output, global)
}

fn quantize_by(
    checkpoint: &Checkpoint,
    mix: &'static Mix,
    calibrated: &Calibrated,
    output: &Path,
    global: &Global,
) -> anyhow::Result<Quantized> {
    let start = Instant::now();
    let method = calibrated.method();
    let plan = Plan::new(checkpoint, mix)?.with_settings(&calibrated.settings);
    let bar = progress::bar(global, &format!("quantize {}", mix.name), plan.weights(), "weights");
    plan.write(output, method, &mut |weights| bar.inc(weights))?;
    bar.finish_and_clear();
    Ok(Quantized {
        level: mix.name.clone(),
        method: method.name(),
        output: output.to_owned(),
        file_bytes: plan.file_bytes(method),
        source_bytes: checkpoint.file_bytes()?,
        seconds: start.elapsed().as_secs_f64(),
        fall_backs: describe(&plan.fall_backs()),
    })
}

/// One line for each kind of fall-back: `Q4_K → Q5_0 in 120 tensors: their rows of 576 are no multiple of 256`.
fn describe(fall_backs: &[FallBack]) -> Vec<String> {
    let mut kinds: Vec<(&FallBack, usize)> = Vec::new();
    for fall_back in fall_backs {
        let same = |kind: &&mut (&FallBack, usize)| {
            (kind.0.wanted, kind.0.got, kind.0.cols) == (fall_back.wanted, fall_back.got, fall_back.cols)
        };
        match kinds.iter_mut().find(same) {
            Some(kind) => kind.1 += 1,
            None => kinds.push((fall_back, 1)),
        }
    }
    let line = |(f, count): &(&FallBack, usize)| {
        let tensors = if *count == 1 { format!("in {}", f.tensor) } else { format!("in {count} tensors") };
        let (wanted, got) = (f.wanted.name, f.got.name);
        format!("{wanted} → {got} {tensors}: rows of {} are no multiple of {}", f.cols, f.wanted.block)
    };
    kinds.iter().map(line).collect()
}

fn list(global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::json(&Mix::all().iter().map(|m| (m.name.as_str(), m.about.as_str())).collect::<Vec<_>>());
    }
    Mix::all().iter().try_for_each(|mix| output::line(format_args!("{:<8} {}", mix.name, mix.about)))
}
