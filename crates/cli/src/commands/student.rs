//! `bantam student`: a small model to begin with, of a teacher's layers and neurons or from a configuration.

use crate::args::{Global, at_least_one};
use crate::intermediate::Intermediate;
use crate::output;
use crate::places::Places;
use bantam_checkpoint::Checkpoint;
use bantam_measure::machine;
use bantam_nn::{Encoder, Model};
use bantam_shrink::{narrow, students};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "\
A configuration is a Hugging Face config.json; its vocab_size must be the teacher's. Example:
  {\"model_type\": \"llama\", \"hidden_size\": 512, \"intermediate_size\": 1536, \"num_hidden_layers\": 12,
   \"num_attention_heads\": 8, \"num_key_value_heads\": 4, \"vocab_size\": 49152, \"max_position_embeddings\": 2048,
   \"rms_norm_eps\": 1e-5, \"rope_theta\": 100000.0, \"tie_word_embeddings\": true}

Examples:
  bantam student teacher.gguf --layers 0-9,20-29 -o student.gguf
  bantam student teacher.gguf --layers 0-19 --feed-forward 1024 -o student.gguf
  bantam student teacher.gguf --config small.json -o student.gguf
  bantam distill --teacher teacher.gguf --student student.gguf --data book.txt -o distilled.gguf")]
pub struct StudentArgs {
    /// The teacher, whose tokenizer the student has: a GGUF file or a Hugging Face directory
    teacher: PathBuf,
    /// Take these layers of the teacher, as in 0-9,20-29
    #[arg(long, value_name = "RANGES", required_unless_present_any = ["config", "feed_forward"], conflicts_with = "config")]
    layers: Option<String>,
    /// Keep this many neurons of each feed-forward layer, those with the largest weights
    #[arg(long, value_name = "N", conflicts_with = "config", value_parser = at_least_one())]
    feed_forward: Option<usize>,
    /// Begin with random weights, in the shape of this config.json
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Chooses the random weights of --config [default: 0]
    #[arg(long, value_name = "N", conflicts_with_all = ["layers", "feed_forward"])]
    seed: Option<u64>,
    /// The GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
}

#[derive(Serialize)]
struct Made {
    #[serde(serialize_with = "crate::output::path")]
    output: PathBuf,
    file_bytes: u64,
    parameters: u64,
    teacher_parameters: u64,
}

pub fn run(args: &StudentArgs, global: &Global) -> anyhow::Result<()> {
    let places = Places::default().reads("the teacher", [&args.teacher]).reads("--config", &args.config);
    places.writes("-o", [&args.output]).check()?;
    let teacher = Checkpoint::open(&args.teacher)?;
    // What is taken of a model whose tensors are not what its hyperparameters say would be none.
    match Encoder::is(&teacher)? {
        true => drop(Encoder::load(&teacher)?),
        false => drop(Model::load(&teacher)?),
    }
    match (&args.config, &args.layers, args.feed_forward) {
        (Some(config), ..) => students::initial(
            config,
            &teacher,
            args.seed.unwrap_or_default(),
            match machine::available_memory() {
                0 => u64::MAX, // not known
                free => free,
            },
            &args.output,
        )?,
        (None, Some(layers), None) => drop(students::take_layers(&teacher, layers, &args.output)?),
        (None, Some(layers), Some(neurons)) => {
            // Before layers are copied, and under the name that the user gave.
            narrow::check(&teacher, neurons)?;
            let take = |path: &Path| {
                students::take_layers(&teacher, layers, path)?;
                Ok(())
            };
            narrow::feed_forward(&Intermediate::make(&teacher, &args.output, take)?.checkpoint, neurons, &args.output)?;
        }
        (None, None, neurons) => narrow::feed_forward(&teacher, neurons.unwrap_or_default(), &args.output)?,
    }
    let student = Checkpoint::open(&args.output)?;
    let made = Made {
        output: args.output.clone(),
        file_bytes: student.file_bytes()?,
        parameters: student.parameters(),
        teacher_parameters: teacher.parameters(),
    };
    if global.json {
        return output::json(&made);
    }
    output::line(format_args!(
        "{}: {}, {:.1} M parameters, {:.0} % of its teacher's",
        made.output.display(),
        output::bytes(made.file_bytes),
        made.parameters as f64 / 1e6,
        100.0 * made.parameters as f64 / made.teacher_parameters as f64,
    ))
}
