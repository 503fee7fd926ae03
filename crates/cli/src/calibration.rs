//! What quantizing learns about a model beforehand: text that is run through it, or importance from a file.

use crate::args::{Global, at_least_one};
use crate::output;
use anyhow::ensure;
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::chat_template::ChatTemplate;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_nn::Model;
use bantam_shrink::calibrate::Walk;
use bantam_shrink::quantize::{Importance, Method};
use bantam_shrink::text::{Mixture, Source, SourceSpec};
use clap::{Args, ValueEnum};

/// How weights are rounded, and what is learned about the model for it.
#[derive(Args)]
pub struct CalibrationArgs {
    /// Run text through the model to learn which errors matter: files as [CATEGORY=]FILE[:WEIGHT] (text, .jsonl, .parquet)
    #[arg(long, num_args = 1.., value_name = "FILE")]
    calibrate: Vec<SourceSpec>,
    /// How to round [default: gptq with --calibrate, else nearest]
    #[arg(long, value_name = "METHOD")]
    method: Option<MethodName>,
    /// Tokens of text to run through the model
    #[arg(long, default_value_t = 16_384, value_name = "N", value_parser = at_least_one())]
    calibration_tokens: usize,
    /// Tokens of a sequence of that text
    #[arg(long, default_value_t = 512, value_name = "TOKENS", value_parser = at_least_one())]
    calibration_length: usize,
}

/// A method by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum MethodName {
    /// Each weight to the nearest
    Nearest,
    /// Scales that spare important input channels
    Importance,
    /// Later weights make up for the errors of earlier ones
    Gptq,
}

/// What was learned.
#[derive(Default)]
pub struct Calibrated {
    text: Vec<Vec<u32>>,
    importance: Option<Importance>,
    /// For the record.
    pub settings: Vec<(String, String)>,
}

impl Calibrated {
    /// The sequences of its text.
    pub fn sequences(&self) -> Vec<&[u32]> {
        self.text.iter().map(|s| &s[..]).collect()
    }

    /// The method that this is for.
    pub fn method<'a>(&'a self, sequences: &'a [&'a [u32]]) -> Method<'a> {
        match (&self.importance, sequences.is_empty()) {
            (Some(importance), _) => Method::Importance(importance),
            (None, true) => Method::Nearest,
            (None, false) => Method::Gptq(sequences),
        }
    }
}

impl CalibrationArgs {
    /// Learns what the method needs to know.
    pub fn calibrate(&self, checkpoint: &Checkpoint, global: &Global) -> anyhow::Result<Calibrated> {
        let method = self.method.unwrap_or(match self.calibrate.is_empty() {
            true => MethodName::Nearest,
            false => MethodName::Gptq,
        });
        if method == MethodName::Nearest {
            ensure!(self.calibrate.is_empty(), "--method nearest needs no text: leave out --calibrate");
            return Ok(Calibrated::default());
        }
        ensure!(!self.calibrate.is_empty(), "this method needs text to calibrate on: give --calibrate FILE");
        let text = self.text(checkpoint, global)?;
        let tokens: usize = text.iter().map(Vec::len).sum();
        let files: Vec<String> = self.calibrate.iter().map(describe).collect();
        let settings = vec![
            ("calibration".to_owned(), files.join(", ")),
            ("calibration_tokens".to_owned(), tokens.to_string()),
            ("calibration_length".to_owned(), self.calibration_length.to_string()),
        ];
        if method == MethodName::Gptq {
            return Ok(Calibrated { text, importance: None, settings });
        }
        let importance = importance(checkpoint, &text, global)?;
        Ok(Calibrated { text: Vec::new(), importance: Some(importance), settings })
    }

    /// Sequences drawn from all files by their weights, none of them twice.
    fn text(&self, checkpoint: &Checkpoint, global: &Global) -> anyhow::Result<Vec<Vec<u32>>> {
        let tokenizer = Tokenizer::of(checkpoint)?;
        let template = ChatTemplate::of(checkpoint)?;
        let read = |spec: &SourceSpec| Source::read(spec.clone(), &tokenizer, template.as_ref(), self.calibration_length);
        let sources = self.calibrate.iter().map(read).collect::<Result<Vec<_>, _>>()?;
        let there: usize = sources.iter().map(|s| s.sequences.len()).sum();
        let mut mixture = Mixture::new(&sources, 0);
        let (mut taken, mut tokens, mut seen) = (Vec::new(), 0, std::collections::BTreeSet::new());
        for draw in 0.. {
            if tokens >= self.calibration_tokens || seen.len() == there {
                break;
            }
            let (source, at) = mixture.draw(draw);
            if seen.insert((source, at)) {
                let sequence = &sources[source].sequences[at].tokens;
                tokens += sequence.len();
                taken.push(sequence.clone());
            }
        }
        if tokens < self.calibration_tokens && !global.quiet {
            let asked = self.calibration_tokens;
            output::say(format_args!("note: the calibration text has {tokens} tokens, fewer than the {asked} asked for"));
        }
        Ok(taken)
    }
}

/// A file without its folders: what the record says must not depend on where a user keeps his files.
fn describe(spec: &SourceSpec) -> String {
    let name = spec.path.file_name().unwrap_or_default().to_string_lossy();
    let weight = spec.weight.map_or_else(String::new, |w| format!(":{w}"));
    format!("{}={name}{weight}", spec.category)
}

fn importance(checkpoint: &Checkpoint, text: &[Vec<u32>], global: &Global) -> anyhow::Result<Importance> {
    let model = Model::load(checkpoint)?;
    let sequences: Vec<&[u32]> = text.iter().map(|s| &s[..]).collect();
    let mut walk = Walk::new(&model, &sequences)?;
    let layers = model.config().block_count;
    let bar = crate::progress::bar(global, "calibrate", walk.tokens() * (layers as u64 + 1), "tokens");
    let mut importance = Importance::new();
    for layer in 0..=layers {
        let inputs = if layer < layers { walk.look(&model, true)? } else { walk.look_at_head(&model)? };
        importance.extend(inputs.iter().map(|(path, moments)| (path.clone(), moments.mean_squares())));
        bar.inc(walk.tokens());
    }
    bar.finish_and_clear();
    Ok(importance)
}
