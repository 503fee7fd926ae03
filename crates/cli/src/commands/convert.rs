//! `bantam convert`: between GGUF files and Hugging Face directories.

use crate::args::Global;
use crate::cautions;
use crate::commands::quantize::quantize;
use crate::places::Places;
use crate::{output, progress};
use anyhow::ensure;
use bantam_checkpoint::{Checkpoint, TensorInfo, hf};
use bantam_formats::Format;
use bantam_shrink::Mix;
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam convert ./hf-directory model.gguf --dtype f16
  bantam convert model.gguf ./hf-directory

An output that ends in .gguf becomes a GGUF file, any other a Hugging Face directory.")]
pub struct ConvertArgs {
    /// A GGUF file or a Hugging Face directory
    input: PathBuf,
    /// The GGUF file (ends in .gguf) or Hugging Face directory to write
    output: PathBuf,
    /// Number format of the matrices [default: of a GGUF file f16; of a Hugging Face directory what they have, if it is one of these]
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dtype {
    F16,
    Bf16,
    F32,
}

impl Dtype {
    fn format(self) -> &'static Format {
        let name = match self {
            Dtype::F16 => "F16",
            Dtype::Bf16 => "BF16",
            Dtype::F32 => "F32",
        };
        Format::by_name(name).expect("a format of ours")
    }
}

#[derive(Serialize)]
struct Converted {
    #[serde(serialize_with = "crate::output::path")]
    output: PathBuf,
    file_bytes: u64,
    dtype: &'static str,
}

pub fn run(args: &ConvertArgs, global: &Global) -> anyhow::Result<()> {
    Places::default().reads("the input", [&args.input]).writes_model("the output", &args.output).check()?;
    let checkpoint = Checkpoint::open(&args.input)?;
    let format = args.dtype.map(Dtype::format);
    let dtype = if args.output.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) {
        let format = format.unwrap_or_else(|| Dtype::F16.format());
        cautions::of_no_tokenizer(&checkpoint, &args.output);
        quantize(&checkpoint, Mix::by_name(format.name)?, &args.output, global)?;
        format.name
    } else {
        let path = args.output.display();
        ensure!(
            !args.output.is_file(),
            "{path}: is a file; a Hugging Face model is a directory, and a GGUF file ends in .gguf"
        );
        let bar = progress::bar(global, "convert", checkpoint.parameters(), "weights");
        let written = hf::write_hf(&checkpoint, &args.output, format, &mut |weights| bar.inc(weights))?;
        bar.finish_and_clear();
        written.name
    };
    let wider = |t: &TensorInfo| !t.stays_f32() && ["BF16", "F32"].contains(&t.format.name);
    let narrowed = format.is_none() && dtype == "F16" && checkpoint.tensors().iter().any(wider);
    if narrowed && !global.quiet {
        let what = "the original's BF16 or F32 matrices became F16, which has a smaller range";
        output::say(format_args!("note: {what}; --dtype bf16 or --dtype f32 keeps theirs"));
    }
    let file_bytes = Checkpoint::open(&args.output)?.file_bytes()?;
    if global.json {
        return output::json(&Converted { output: args.output.clone(), file_bytes, dtype });
    }
    let (path, source) = (args.output.display(), args.input.display());
    let (from, to) = (output::bytes(checkpoint.file_bytes()?), output::bytes(file_bytes));
    output::line(format_args!("{path}: matrices in {dtype}, {to} ({source}: {from})"))
}
