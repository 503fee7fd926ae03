//! What quantizing learns about a model beforehand: text that is run through it, or importance from a file.

use crate::args::{Global, at_least_one, sequence_length};
use crate::places::Places;
use crate::tuning::{self, TuningArgs};
use crate::{data, forecast, output, progress};
use anyhow::{Context, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::imatrix::{Entry, Imatrix};
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_nn::Model;
use bantam_shrink::calibrate::{Walk, default_text};
use bantam_shrink::estimate::Rates;
use bantam_shrink::quantize::{Importance, Method, cause, check_importance};
use bantam_shrink::text::{Logprobs, Mixture, Sequence, Source, SourceSpec};
use bantam_shrink::widen::Widening;
use clap::{Args, ValueEnum};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Tokens that are run through the model if nobody says how many, and with the best effort, if there are as many.
const TOKENS: usize = 16_384;
const MANY_TOKENS: usize = 65_536;

/// Tokens that a choice of formats is judged by, if that leaves most of the text: no more than one in so many.
const HELD_OUT: usize = 4096;
const ONE_IN: usize = 8;

/// Tokens of a sequence if nobody says how many.
const LENGTH: usize = 512;

/// How weights are rounded, and what is learned about the model for it.
#[derive(Args, Default)]
pub struct CalibrationArgs {
    /// Run text through the model to learn which errors matter: files as in code=examples.txt:0.5 (text, .jsonl, .parquet), or nothing for the text
    /// that comes with bantam
    #[arg(long, num_args = 0.., value_name = "FILE")]
    calibrate: Option<Vec<SourceSpec>>,
    /// Read which errors matter from llama.cpp's importance matrix
    #[arg(long, value_name = "FILE", conflicts_with = "calibrate")]
    imatrix: Option<PathBuf>,
    /// Write what was learned as an importance matrix for llama.cpp; in the older form where the file is named .dat
    #[arg(long, value_name = "FILE")]
    save_imatrix: Option<PathBuf>,
    /// How to round [default: by --effort; without it importance with --imatrix, scaling with --calibrate, --bits or --fit, else nearest]
    #[arg(long, value_name = "METHOD")]
    method: Option<MethodName>,
    /// How much time to take for it
    #[arg(long, value_enum, value_name = "EFFORT")]
    pub effort: Option<Effort>,
    /// Tokens of text to run through the model, if there are as many [default: 16384, with --effort best 65536]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    calibration_tokens: Option<usize>,
    /// Tokens of a sequence of that text [default: 512]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    calibration_length: Option<usize>,
}

/// How much time to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Effort {
    /// Seconds: each weight by itself, with importance if there is a matrix or text to learn it from (a minute or more)
    Fast,
    /// Minutes: with error feedback, on the text that comes with bantam if none is given
    Balanced,
    /// The longest: on more text, each tensor's format chosen within the size that the level would have, and scales trained as by `tune`
    Best,
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
    /// The same, and then each weight and scale is chosen again beside all others
    Descent,
    /// The same, and channels are scaled before where that helps
    Scaling,
}

/// What text is for, beside rounding; each holds for the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Use {
    /// Nothing.
    Rounding,
    /// Choosing formats.
    Choosing,
    /// Measuring what became of the choice.
    Judging,
    /// Training scales.
    Tuning,
}

/// What was learned.
pub struct Calibrated {
    method: MethodName,
    importance: Importance,
    /// Sequences of tokens, where the method or the choice of formats needs text.
    pub text: Vec<Vec<u32>>,
    /// What is held out of the text to judge by.
    pub held_out: Vec<Sequence>,
    /// All else of it, to train scales on.
    sources: Vec<Source>,
    /// For the record.
    pub settings: Vec<(String, String)>,
}

impl Default for Calibrated {
    fn default() -> Self {
        Self {
            method: MethodName::Nearest,
            importance: Importance::new(),
            text: Vec::new(),
            held_out: Vec::new(),
            sources: Vec::new(),
            settings: Vec::new(),
        }
    }
}

impl Calibrated {
    /// The method that this is for.
    pub fn method(&self) -> Method<'_> {
        match self.method {
            MethodName::Nearest => Method::Nearest,
            MethodName::Importance => Method::Importance(&self.importance),
            MethodName::Gptq => Method::Gptq(&self.text),
            MethodName::Descent => Method::Descent(&self.text),
            MethodName::Scaling => Method::Scaling(&self.text),
        }
    }

    /// The text that it was learned from, to train scales on and judge them by, and how to train them, in so many steps if it is said how many.
    pub fn for_tuning(
        &mut self,
        args: &CalibrationArgs,
        checkpoint: &Checkpoint,
        steps: Option<usize>,
    ) -> anyhow::Result<(tuning::Text, TuningArgs)> {
        let sources = std::mem::take(&mut self.sources);
        let (tuning, length) = (TuningArgs::of_steps(steps, &sources), args.length(checkpoint)?);
        Ok((tuning::Text::of(names(args.files()), sources, self.held_out.clone(), (length, &tuning))?, tuning))
    }

    /// What was learned, for the wider model that this one becomes.
    pub fn widen(&mut self, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        if let Some(widening) = Widening::of(checkpoint)? {
            self.importance = widening.importance(checkpoint, &self.importance);
        }
        Ok(())
    }
}

impl CalibrationArgs {
    /// What there is to say for these files (none for the text that comes with bantam) and nothing else.
    pub fn of_files(files: &[SourceSpec]) -> Self {
        Self { calibrate: Some(files.to_vec()), ..Self::default() }
    }

    /// Learns what the method needs to know. Where text is needed for more than that, the text that comes with bantam is taken if none is given.
    pub fn calibrate(&self, checkpoint: &Checkpoint, use_of: Use, global: &Global) -> anyhow::Result<Calibrated> {
        let choosing = use_of >= Use::Choosing;
        let method = self.method.unwrap_or(match (self.effort, &self.imatrix) {
            (Some(Effort::Balanced | Effort::Best), _) => MethodName::Scaling,
            (_, Some(_)) => MethodName::Importance,
            (Some(Effort::Fast), None) if self.calibrate.is_some() => MethodName::Importance,
            (Some(Effort::Fast), None) => MethodName::Nearest,
            (None, None) if self.calibrate.is_some() || choosing => MethodName::Scaling,
            (None, None) => MethodName::Nearest,
        });
        self.check(method, choosing)?;
        let needs_text = match method {
            MethodName::Nearest => choosing,
            MethodName::Importance => choosing || self.imatrix.is_none(),
            MethodName::Gptq | MethodName::Descent | MethodName::Scaling => true,
        };
        ensure!(
            needs_text || self.calibration_tokens.is_none() && self.calibration_length.is_none(),
            "--calibration-tokens and --calibration-length are of text to calibrate on: give --calibrate"
        );
        let mut calibrated = Calibrated { method, ..Calibrated::default() };
        let mut names = Vec::new();
        if needs_text {
            let ours = choosing || self.effort.is_some_and(|effort| effort != Effort::Fast);
            let files = self.calibrate.as_deref().or(ours.then_some(&[]));
            let files = files.context("this method needs text to calibrate on: give --calibrate")?;
            let mut sources = sources(files, checkpoint, self.length(checkpoint)?, global)?;
            names = self::names(files);
            (calibrated.text, calibrated.held_out) = self.draw(&mut sources, use_of, global);
            let (text, tokenizer) = (calibrated.text.iter().map(|s| &s[..]), Tokenizer::of(checkpoint)?);
            data::warn_of_overlap(text, &tokenizer, "calibrated on");
            calibrated.settings = self.settings(&calibrated.text, &names, checkpoint)?;
            // From one that has none left nothing could be drawn, whatever its weight.
            sources.retain(|source| use_of == Use::Tuning && !source.sequences.is_empty());
            calibrated.sources = sources;
        }
        if method == MethodName::Importance {
            let imatrix = match &self.imatrix {
                Some(path) => {
                    let imatrix = Imatrix::read(path)?;
                    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                    let settings = [("imatrix", name), ("imatrix_calibration", imatrix.datasets.join(", "))];
                    calibrated.settings.extend(settings.map(|(key, value)| (key.to_owned(), value)));
                    imatrix
                }
                None => observe(checkpoint, &calibrated.text, self.length(checkpoint)?, names, global)?,
            };
            if let Some(path) = &self.save_imatrix {
                match path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("dat")) {
                    true => imatrix.write_legacy(path)?,
                    false => imatrix.write(path)?,
                }
            }
            calibrated.importance = imatrix.entries.iter().map(|(name, e)| (name.clone(), e.mean_squares())).collect();
            if let Some(path) = &self.imatrix {
                check_importance(checkpoint, &calibrated.importance).with_context(|| path.display().to_string())?;
            }
        }
        Ok(calibrated)
    }

    /// Its files among a command's.
    pub fn places<'a>(&'a self, places: Places<'a>) -> Places<'a> {
        let places = places.reads("--calibrate", self.files().iter().map(|spec| &spec.path));
        places.reads("--imatrix", &self.imatrix).writes("--save-imatrix", &self.save_imatrix)
    }

    /// The files to calibrate on; none stands for the text that comes with bantam.
    pub fn files(&self) -> &[SourceSpec] {
        self.calibrate.as_deref().unwrap_or_default()
    }

    /// Tokens of a sequence: no more than the model learned on.
    pub fn length(&self, checkpoint: &Checkpoint) -> anyhow::Result<usize> {
        sequence_length("--calibration-length", self.calibration_length, LENGTH, &[checkpoint])
    }

    /// Refuses options that the method has no use for.
    fn check(&self, method: MethodName, choosing: bool) -> anyhow::Result<()> {
        let (text, saves) = (self.calibrate.is_some(), self.save_imatrix.is_some());
        match method {
            MethodName::Nearest => {
                ensure!(!saves || self.method.is_some(), "--save-imatrix needs --calibrate --method importance");
                ensure!(
                    !saves && self.imatrix.is_none() && (choosing || !text),
                    "--method nearest learns nothing: leave out --calibrate, --imatrix and --save-imatrix"
                );
                ensure!(
                    choosing || self.effort.is_none_or(|effort| effort == Effort::Fast),
                    "--method nearest takes no time: leave out --effort"
                );
            }
            MethodName::Importance => ensure!(
                !saves || self.imatrix.is_none(),
                "--save-imatrix needs --calibrate: with --imatrix there is a file already"
            ),
            MethodName::Gptq | MethodName::Descent | MethodName::Scaling => {
                ensure!(
                    self.imatrix.is_none(),
                    "the method {} needs text, of which an importance matrix keeps too little: give --calibrate instead of --imatrix, or --effort fast",
                    method.to_possible_value().expect("none is hidden").get_name()
                );
                ensure!(!saves, "--save-imatrix needs --method importance");
            }
        }
        Ok(())
    }

    /// Draws sequences from all files by their weights, none of them twice. Where the result is judged, some of those that come next are taken out
    /// of their sources for it, as far as most of the text is left.
    fn draw(&self, sources: &mut [Source], use_of: Use, global: &Global) -> (Vec<Vec<u32>>, Vec<Sequence>) {
        let enough = self.calibration_tokens.unwrap_or(TOKENS);
        let wanted = match (self.calibration_tokens, self.effort) {
            (None, Some(Effort::Best)) => MANY_TOKENS,
            _ => enough,
        };
        let lengths = || sources.iter().flat_map(|source| &source.sequences).map(|sequence| sequence.tokens.len());
        let (all, longest) = (lengths().sum::<usize>(), lengths().max().unwrap_or(0));
        // A quick look is not judged for long; what is trained needs something to be judged by.
        let most = if use_of == Use::Tuning { HELD_OUT } else { HELD_OUT.min(wanted) };
        let reserve = most.min(all / ONE_IN);
        let reserve = if use_of >= Use::Judging && longest <= reserve { reserve } else { 0 };
        let (mut drawn, mut tokens, mut taken) = (Vec::new(), 0, vec![0; sources.len()]);
        let (mut next, mut judged) = (BTreeSet::new(), 0);
        for (source, at) in Mixture::new(sources, 0).each_once() {
            let sequence = &sources[source].sequences[at].tokens;
            if tokens < wanted && (drawn.is_empty() || tokens + sequence.len() <= all - reserve) {
                tokens += sequence.len();
                taken[source] += 1;
                drawn.push(sequence.clone());
            } else if judged + sequence.len() <= reserve {
                judged += sequence.len();
                next.insert((source, at));
            } else {
                break;
            }
        }
        let mut held_out = Vec::new();
        for (source, Source { sequences, .. }) in sources.iter_mut().enumerate() {
            let mut places = 0..;
            held_out.extend(sequences.extract_if(.., |_| next.contains(&(source, places.next().expect("endless")))));
        }
        if !global.quiet {
            say_what_ran_out(sources, &taken);
        }
        if all < enough && !global.quiet {
            output::say(format_args!(
                "note: the calibration text has {all} tokens, fewer than {enough}: more text, and less would be lost"
            ));
        }
        (drawn, held_out)
    }

    /// What a record says of the text.
    fn settings(
        &self,
        text: &[Vec<u32>],
        names: &[String],
        checkpoint: &Checkpoint,
    ) -> anyhow::Result<Vec<(String, String)>> {
        let tokens: usize = text.iter().map(Vec::len).sum();
        let length = self.length(checkpoint)?.to_string();
        let settings = [("calibration", names.join(", ")), ("tokens", tokens.to_string()), ("length", length)];
        Ok(settings.map(|(key, value)| (key.to_owned(), value)).to_vec())
    }
}

/// Says so where a file has fewer sequences than its weight asks for, and others filled up.
fn say_what_ran_out(sources: &[Source], taken: &[usize]) {
    let weights: Option<Vec<f64>> = sources.iter().map(|s| s.spec.weight).collect();
    let Some(weights) = weights else { return };
    let (all, sum): (usize, f64) = (taken.iter().sum(), weights.iter().sum());
    let used_up = |(source, taken): (&Source, &usize)| *taken == source.sequences.len();
    if sources.iter().zip(taken).all(used_up) {
        return;
    }
    for ((source, taken), weight) in sources.iter().zip(taken).zip(weights) {
        let asked = weight / sum * all as f64;
        if used_up((source, taken)) && (*taken as f64) < asked - 1.0 {
            output::say(format_args!(
                "note: {} has {taken} sequences, where its weight asks for {asked:.0}; the other files fill up",
                source.spec.path.display()
            ));
        }
    }
}

/// The sequences of these files, or of the text that comes with bantam if there are none.
pub fn sources(
    files: &[SourceSpec],
    model: &Checkpoint,
    length: usize,
    global: &Global,
) -> anyhow::Result<Vec<Source>> {
    if files.is_empty() {
        return default_sources(&Tokenizer::of(model)?, length);
    }
    data::read(files, model, length, Logprobs::Ignored, global)
}

/// What the text is called where none is given.
const OURS: &str = "the text that comes with bantam";

/// What the text is called in the record.
pub fn names(files: &[SourceSpec]) -> Vec<String> {
    match files.is_empty() {
        true => vec![OURS.to_owned()],
        false => data::names(files),
    }
}

/// The text that comes with bantam, its categories in equal parts.
fn default_sources(tokenizer: &Tokenizer, length: usize) -> anyhow::Result<Vec<Source>> {
    let mut categories: Vec<(&str, Vec<&str>)> = Vec::new();
    for (category, text) in default_text() {
        match categories.iter_mut().find(|(name, _)| *name == category) {
            Some((_, texts)) => texts.push(text),
            None => categories.push((category, vec![text])),
        }
    }
    let source = |(category, texts): (&str, Vec<&str>)| {
        let spec = SourceSpec { category: category.to_owned(), path: OURS.into(), weight: Some(1.0) };
        Source::of_texts(spec, texts, tokenizer, length)
    };
    Ok(categories.into_iter().map(source).collect::<Result<_, _>>()?)
}

/// Runs text through the model; returns the mean squares of what its linear layers see.
fn observe(
    checkpoint: &Checkpoint,
    text: &[Vec<u32>],
    length: usize,
    datasets: Vec<String>,
    global: &Global,
) -> anyhow::Result<Imatrix> {
    let model = Model::load(checkpoint)?;
    if forecast::is_wanted(global) {
        forecast::say(&[(Rates::of(checkpoint, text)?.observing(), "calibrate")]);
    }
    let mut walk = Walk::new(&model, text)?;
    let (layers, tokens) = (model.config().block_count, walk.tokens());
    let bar = progress::bar(global, "calibrate", tokens * (layers as u64 + 1), "tokens");
    let mut entries = BTreeMap::new();
    // Of each layer, and of the head.
    for _ in 0..=layers {
        let entry = |means: Vec<f32>| Entry::new(means.iter().map(|v| v * tokens as f32).collect(), vec![tokens]);
        let means = walk.mean_squares(&model).map_err(|error| cause(checkpoint, error))?;
        entries.extend(means.into_iter().map(|(path, means)| (path, entry(means))));
        bar.inc(tokens);
    }
    bar.finish_and_clear();
    Ok(Imatrix { datasets, chunk_tokens: Some(length), chunks: text.len(), entries })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    /// Files of so many sequences of 100 tokens, each known by its token.
    fn files(sequences: &[u32]) -> Vec<Source> {
        let mut token = 0;
        let mut sequence = || {
            token += 1;
            Sequence { tokens: vec![token; 100], learned: vec![true; 100], told: Vec::new() }
        };
        let spec = || SourceSpec { category: "text".into(), path: PathBuf::new(), weight: Some(1.0) };
        let mut source = |n: &u32| Source {
            spec: spec(),
            sequences: (0..*n).map(|_| sequence()).collect(),
            unanswered: (0, 0),
            cut: 0,
        };
        sequences.iter().map(&mut source).collect()
    }

    #[test]
    fn what_is_judged_by_is_calibrated_on_and_learned_from_nowhere() {
        let global = Cli::try_parse_from(["bantam", "inspect", "model.gguf", "--quiet"]).unwrap().global;
        let draw = |sequences: &[u32], tokens: usize, use_of: Use| {
            let args = CalibrationArgs { calibration_tokens: Some(tokens), ..CalibrationArgs::default() };
            let mut sources = files(sequences);
            let (drawn, held_out) = args.draw(&mut sources, use_of, &global);
            let drawn: BTreeSet<u32> = drawn.iter().map(|tokens| tokens[0]).collect();
            let held_out: BTreeSet<u32> = held_out.iter().map(|sequence| sequence.tokens[0]).collect();
            let left: BTreeSet<u32> = sources.iter().flat_map(|s| &s.sequences).map(|s| s.tokens[0]).collect();
            assert!(drawn.is_subset(&left) && held_out.is_disjoint(&left), "{drawn:?} {held_out:?}");
            assert_eq!((left.len() + held_out.len()) as u32, sequences.iter().sum::<u32>());
            (drawn, held_out.len())
        };
        // There is enough: what is drawn does not depend on what is done with the rest.
        let (drawn, held_out) = draw(&[40, 60], 2000, Use::Judging);
        assert_eq!((drawn.len(), held_out), (20, 12));
        assert_eq!(draw(&[40, 60], 2000, Use::Choosing), (drawn, 0));
        // All of it is wanted: an eighth stays.
        assert_eq!(draw(&[24, 16], 9000, Use::Tuning).1, 5);
        assert_eq!(draw(&[24, 16], 9000, Use::Rounding).0.len(), 40);
        // Judging takes no more than calibrating, and an eighth of little is nothing.
        assert_eq!(draw(&[400], 300, Use::Judging).1, 3);
        for few in [1, 7] {
            let (drawn, held_out) = draw(&[few], 9000, Use::Judging);
            assert_eq!((drawn.len() as u32, held_out), (few, 0));
        }
    }
}
