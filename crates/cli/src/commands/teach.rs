//! `bantam teach`: capture what a teacher says of texts, once for all students.

use crate::args::{Global, above_zero, at_least_one};
use crate::embeddings::{self, Captured};
use crate::places::Places;
use crate::training::DataArgs;
use crate::{interrupt, output, progress};
use anyhow::{bail, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_nn::{Encoder, Model};
use bantam_shrink::distill::{Cache, ModelTeacher, Teacher};
use bantam_shrink::identity;
use bantam_shrink::text::{Logprobs, Source};
use clap::Args;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
#[command(after_help = "\
A capture that is interrupted goes on when the same command is given again. With more text what is new is added.

Example:
  bantam teach teacher.gguf --data book.txt -o teacher.cache
  bantam distill --teacher teacher.gguf --layers 0-9 --data book.txt --cache teacher.cache -o student.gguf")]
pub struct TeachArgs {
    /// The teacher: a GGUF file or a Hugging Face directory
    teacher: PathBuf,
    /// The file to keep its words in
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    word: WordArgs,
    /// Of language models, keep the hidden states after these layers too, as in 9,19,29: what `distill --match hidden` asks for
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    hidden: Vec<usize>,
}

/// How much of a teacher's word is kept.
#[derive(Args, Clone, Copy)]
pub struct WordArgs {
    /// Likeliest tokens kept of each position; the others count as one [default: 64]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    top: Option<usize>,
    /// Logits of teacher and student are divided by this [default: 1]
    #[arg(long, value_name = "T", value_parser = above_zero::<f32>)]
    temperature: Option<f32>,
}

/// Tokens kept of each position where nothing else is said.
const TOP: usize = 64;

impl WordArgs {
    /// Whether anything of this was asked for.
    pub fn given(&self) -> bool {
        self.top.is_some() || self.temperature.is_some()
    }

    /// T of the soft labels.
    pub fn temperature(&self) -> f32 {
        self.temperature.unwrap_or(1.0)
    }

    /// The teacher, to be asked for sequences of up to `length` tokens.
    pub fn teacher<'m>(
        &self,
        model: &'m Model,
        checkpoint: &Checkpoint,
        length: usize,
    ) -> anyhow::Result<ModelTeacher<'m>> {
        let (top, temperature) = (self.top.unwrap_or(TOP), self.temperature());
        Ok(ModelTeacher::new(model, &identity::name(checkpoint)?, length, top, temperature))
    }

    /// The cache of a teacher's word.
    pub fn cache(&self, path: &Path, teacher: &ModelTeacher<'_>) -> anyhow::Result<Cache> {
        Ok(Cache::open(path, &teacher.description(), teacher.kept(), teacher.hidden_numbers())?)
    }
}

#[derive(Serialize)]
struct Taught {
    #[serde(serialize_with = "crate::output::path")]
    output: PathBuf,
    file_bytes: u64,
    sequences: usize,
    /// Captured now; the others were there.
    tokens: u64,
    seconds: f64,
}

pub fn run(args: &TeachArgs, global: &Global) -> anyhow::Result<()> {
    let places = Places::default().reads("the teacher", [&args.teacher]).reads("--data", args.data.paths());
    places.writes("-o", [&args.output]).check()?;
    let checkpoint = Checkpoint::open(&args.teacher)?;
    let start = Instant::now();
    let captured = if Encoder::is(&checkpoint)? {
        let of_language_models = args.word.given() || !args.hidden.is_empty();
        ensure!(
            !of_language_models,
            "the teacher is an encoder, whose embeddings are kept: --top, --temperature and --hidden are for language models"
        );
        embeddings::capture(&checkpoint, &args.data, &args.output, global)?
    } else {
        capture(args, &checkpoint, global)?
    };
    let taught = Taught {
        output: args.output.clone(),
        file_bytes: std::fs::metadata(&args.output)?.len(),
        sequences: captured.sequences,
        tokens: captured.tokens,
        seconds: start.elapsed().as_secs_f64(),
    };
    if global.json {
        return output::json(&taught);
    }
    output::line(format_args!(
        "{}: {}, {} sequences, {} tokens captured in {:.0} s ({:.0} tokens/s)",
        taught.output.display(),
        output::bytes(taught.file_bytes),
        taught.sequences,
        taught.tokens,
        taught.seconds,
        taught.tokens as f64 / taught.seconds.max(1e-9)
    ))
}

/// Keeps what a language model says.
fn capture(args: &TeachArgs, checkpoint: &Checkpoint, global: &Global) -> anyhow::Result<Captured> {
    let model = Model::load(checkpoint)?;
    let length = args.data.length(&[checkpoint])?;
    let sources = args.data.read(checkpoint, length, Logprobs::Ignored, global)?;
    let layers = model.config().block_count;
    if let Some(layer) = args.hidden.iter().find(|&&layer| layer >= layers) {
        bail!("--hidden: there is no layer {layer}; the teacher has the layers 0 to {}", layers - 1);
    }
    let mut teacher = args.word.teacher(&model, checkpoint, length)?.with_hidden(&args.hidden);
    let mut cache = args.word.cache(&args.output, &teacher)?;
    let total: usize = sources.iter().map(Source::tokens).sum();
    let bar = progress::bar(global, "teach", total as u64, "tokens");
    let (mut sequences, mut tokens) = (0, 0);
    for sequence in sources.iter().flat_map(|s| &s.sequences) {
        sequences += 1;
        if !cache.has(&sequence.tokens) {
            let said = teacher.says(0, &sequence.tokens)?;
            cache.keep(&sequence.tokens, &said)?;
            tokens += sequence.tokens.len() as u64;
        }
        bar.inc(sequence.tokens.len() as u64);
        if interrupt::requested() {
            let at = format!("after {} sequences, kept in {}", cache.len(), args.output.display());
            return Err(interrupt::Interrupted { at }.into());
        }
    }
    bar.finish_and_clear();
    Ok(Captured { sequences, tokens })
}
