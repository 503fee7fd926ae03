//! `bantam quantize`: round a model's weights to fewer bits.

use crate::allocation::{Allocated, BudgetArgs, Choosing, Widen, measured_of, widen, widening};
use crate::calibration::{Calibrated, CalibrationArgs, Effort, Use};
use crate::choice::{self, Chosen};
use crate::intermediate::Intermediate;
use crate::interrupt::Interrupted;
use crate::judge::judged;
use crate::places::Places;
use crate::tuning::{self, Foretold, Tuned, TuningArgs};
use crate::{args::Global, cautions, forecast, output, progress, training};
use anyhow::{Context, bail, ensure};
use bantam_checkpoint::output::{OutputDir, OutputFile};
use bantam_checkpoint::{Checkpoint, Config};
use bantam_formats::Format;
use bantam_measure::machine;
use bantam_shrink::estimate::Rates;
use bantam_shrink::{
    Mix,
    allocate::Budget,
    quantize::{Plan, Smoothed, smooth, unfinished},
    tune,
    widen::Widening,
};
use clap::Args;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam quantize model.gguf --to Q4_K_M -o model-q4.gguf
  bantam quantize model.gguf --to Q4_K_M --calibrate -o model-q4.gguf                   on the text that comes with bantam
  bantam quantize model.gguf --to Q3_K_M --calibrate chat=talks.jsonl:2 code=src.txt -o model-q3.gguf
  bantam quantize model.gguf --to Q4_K_M --imatrix model.imatrix.gguf -o model-q4.gguf   llama.cpp's importance matrix
  bantam quantize model.gguf --to Q4_K_M --effort best -o model-q4.gguf        the best bantam can make of so many bytes
  bantam quantize model.gguf --bits 3.5 -o model-3.5.gguf                      each tensor's format chosen by what it costs
  bantam quantize model.gguf --fit 300MB --save-mix chosen.toml -o small.gguf  the same for a file's size
  bantam quantize model.gguf --fit 300MB --tokens-per-second 40 -o small.gguf  the same, and so fast on this machine
  bantam quantize model.gguf --bits 3 --sensitivity model.jsonl -o model-3.gguf                measured once for several budgets
  bantam quantize other.gguf --to chosen.toml --calibrate -o small.gguf        formats that were chosen before
  bantam quantize ./hf-directory --to Q8_0 -o model-q8.gguf
  bantam quantize model.gguf --to W4A16 --calibrate -o model-w4a16        a directory for vLLM and transformers
  bantam quantize --list")]
pub struct QuantizeArgs {
    /// A GGUF file or a Hugging Face directory
    #[arg(required_unless_present = "list")]
    model: Option<PathBuf>,
    /// The level: Q8_0, Q6_K, Q5_K_M, Q4_K_M, Q3_K_M, Q2_K, ... (--list shows all), W4A16, W8A8 or GPTQ for other engines, or a file of formats
    /// as --save-mix writes it
    #[arg(long, value_name = "LEVEL", required_unless_present_any = ["list", "bits", "fit"], conflicts_with_all = ["bits", "fit"])]
    to: Option<String>,
    #[command(flatten)]
    budget: BudgetArgs,
    /// Keep what is measured to choose formats in this file, or read it from there: a run that was stopped goes on, and other budgets
    /// need no measuring
    #[arg(long, value_name = "FILE")]
    sensitivity: Option<PathBuf>,
    /// Write the formats that were chosen as a level of your own, for --to
    #[arg(long, value_name = "FILE.toml")]
    save_mix: Option<PathBuf>,
    /// Make rows longer by channels that carry nothing, so that formats with blocks of 256 weights divide them: less may be lost below four
    /// bits, and the model becomes slower by as much as its rows grow
    #[arg(long, value_enum, value_name = "WHEN", default_value_t = Widen::Auto)]
    widen: Widen,
    /// Steps in which --effort best trains scales, as `bantam tune` does; 0 for none [default: 50, or as many as go through the text once]
    #[arg(long, value_name = "N")]
    tune_steps: Option<usize>,
    /// The GGUF file to write; for W4A16, W8A8 and GPTQ a Hugging Face directory
    #[arg(long, short, value_name = "FILE", required_unless_present = "list")]
    output: Option<PathBuf>,
    #[command(flatten)]
    calibration: CalibrationArgs,
    /// List the levels
    #[arg(long, conflicts_with_all = ["model", "to", "output"])]
    list: bool,
}

/// What was written.
#[derive(Serialize)]
pub struct Quantized {
    pub level: String,
    pub method: &'static str,
    #[serde(serialize_with = "crate::output::path")]
    pub output: PathBuf,
    pub file_bytes: u64,
    pub source_bytes: u64,
    pub bits_per_weight: f64,
    pub seconds: f64,
    pub fall_backs: Vec<String>,
    /// Formats chosen within a budget.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chosen: Option<Chosen>,
    /// What training its scales did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuned: Option<Tuned>,
}

pub fn run(args: &QuantizeArgs, global: &Global) -> anyhow::Result<()> {
    let (Some(model), Some(output)) = (&args.model, &args.output) else {
        return list(global);
    };
    let formats = args.to.as_ref().map(PathBuf::from).filter(|to| Mix::is_file(to));
    let places = Places::default().reads("the model", [model]).reads("--to", &formats);
    args.calibration
        .places(places.writes_model("-o", output))
        .writes("--save-mix", &args.save_mix)
        .writes("--sensitivity", &args.sensitivity)
        .check()?;
    let checkpoint = Checkpoint::open(model)?;
    cautions::of_no_tokenizer(&checkpoint, output);
    // What is named is read before anything takes time.
    let named = args.to.as_deref().map(Mix::named).transpose()?;
    args.refuse_early(named.as_ref(), &checkpoint, output)?;
    let saved = args.save_mix.as_deref().map(OutputFile::create).transpose()?;
    let start = Instant::now();
    let use_of = match (args.tunes(named.as_ref()), args.chooses(named.as_ref())) {
        (true, _) => Use::Tuning,
        (false, true) => Use::Judging,
        (false, false) => Use::Rounding,
    };
    let mut calibrated = args.calibration.calibrate(&checkpoint, use_of, global)?;
    let tuning = (use_of == Use::Tuning)
        .then(|| calibrated.for_tuning(&args.calibration, &checkpoint, args.tune_steps))
        .transpose()
        .context("--effort best trains scales at the end; --tune-steps 0 leaves that out")?;
    if let Some(least) = args.budget.tokens_per_second() {
        calibrated.settings.push(("tokens_per_second".to_owned(), least.to_string()));
    }
    let foretold = tuning.as_ref().map(|(text, tuning)| text.foretells(tuning)).unwrap_or_default();
    let Formats { mix, chosen, widened } = args.formats(&checkpoint, named, &calibrated, foretold, output, global)?;
    if let Some(mut file) = saved {
        file.write_all(mix.to_toml().as_bytes()).context("cannot write the mix")?;
        file.finish()?;
    }
    if widened.is_some() {
        calibrated.widen(&checkpoint)?;
    }
    let source = widened.as_ref().map_or(&checkpoint, |made| &made.checkpoint);
    let smoothed = smoothed(source, &mix, &calibrated, output, global)?;
    let source = smoothed.as_ref().map_or(source, |made| &made.checkpoint);
    // Where formats were chosen, how long rounding takes was said with that.
    let manner = Manner { foretold: chosen.is_some(), keep: chosen.is_some() };
    let mut quantized = quantize_by(source, &mix, &calibrated, manner, output, global)?;
    quantized.source_bytes = checkpoint.file_bytes()?;
    quantized.chosen = chosen;
    if let Some((text, tuning)) = tuning {
        quantized.tuned = train_scales(&checkpoint, &text, &tuning, output, global)?;
        quantized.file_bytes = Checkpoint::open(output)?.file_bytes()?;
    }
    if let Some(chosen) = &mut quantized.chosen {
        chosen.measured_kl_divergence = match &quantized.tuned {
            Some(tuned) => Some(tuned.divergence_before.min(tuned.divergence_after)),
            None => judged(&checkpoint, &calibrated.held_out, output, global),
        };
        if let Some(warning) = choice::wrong(chosen) {
            output::say(format_args!("{warning}"));
        }
    }
    if manner.keep && calibrated.method().text().is_some() {
        forget(&unfinished(output));
    }
    if quantized.chosen.is_some() && args.sensitivity.is_none() {
        forget(&measured_of(output));
    }
    quantized.seconds = start.elapsed().as_secs_f64();
    if global.json { output::json(&quantized) } else { show(&quantized, model) }
}

/// Removes what an output was to go on from, had it been stopped.
fn forget(kept: &Path) {
    // A file that stays is looked at the next time, and begun anew if it is of something else.
    drop(std::fs::remove_file(kept));
}

/// Which formats tensors get, and where they come from.
struct Formats {
    mix: Mix,
    /// If they were chosen within a budget.
    chosen: Option<Chosen>,
    /// The wider model that they are for.
    widened: Option<Intermediate>,
}

impl QuantizeArgs {
    /// Refuses places that cannot be written, before minutes of calibration, and options that nothing would come of.
    fn refuse_early(&self, level: Option<&Mix>, checkpoint: &Checkpoint, output: &Path) -> anyhow::Result<()> {
        match level.filter(|mix| mix.directory.is_some()) {
            Some(mix) => refuse_as_directory(output, mix)?,
            None => drop(OutputFile::create(output)?),
        }
        let for_choice =
            self.sensitivity.is_some() || self.save_mix.is_some() || self.budget.tokens_per_second().is_some();
        ensure!(
            self.chooses(level) || !for_choice,
            "--sensitivity, --save-mix and --tokens-per-second are for formats that are chosen: give --bits, --fit, or --effort best"
        );
        ensure!(
            self.tune_steps.is_none_or(|steps| steps == 0) || self.tunes(level),
            "--tune-steps is for --effort best, of a GGUF file; `bantam tune` trains the scales of a file that there is"
        );
        if let Some(path) = self.save_mix.as_ref().filter(|path| !Mix::is_file(path)) {
            let name = path.with_extension("toml");
            bail!("--save-mix {}: --to reads only files that are named .toml: give {}", path.display(), name.display());
        }
        match level {
            Some(mix) => self.refuse_formats(mix, checkpoint),
            None => Ok(()),
        }
    }

    /// Refuses a level whose formats this model's tensors cannot get. Says so where nothing comes of a rule of a file of formats.
    fn refuse_formats(&self, level: &Mix, checkpoint: &Checkpoint) -> anyhow::Result<()> {
        let wider = self.wider(level, checkpoint)?;
        Plan::new(wider.as_ref().unwrap_or(checkpoint), level)?;
        if let [first, others @ ..] = &level.idle(checkpoint.tensors())[..] {
            let file = self.to.as_deref().unwrap_or_default();
            let others = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
            output::say(format_args!(
                "warning: {file}: nothing comes of its rule for `{first}`{others}: this model has no matrix of that name, or it is the head, whose \
                 format `head` names"
            ));
        }
        Ok(())
    }

    /// Whether formats are chosen.
    fn chooses(&self, level: Option<&Mix>) -> bool {
        self.budget.budget().is_some() || self.chooses_within(level)
    }

    /// Whether formats are chosen within the size that this level would have; a directory for other engines has one format for all.
    fn chooses_within(&self, level: Option<&Mix>) -> bool {
        self.calibration.effort == Some(Effort::Best) && level.is_some_and(|mix| mix.directory.is_none())
    }

    /// Whether scales are trained at the end; those of a directory for other engines are not.
    fn tunes(&self, level: Option<&Mix>) -> bool {
        let best = self.calibration.effort == Some(Effort::Best) && self.tune_steps != Some(0);
        best && level.is_none_or(|mix| mix.directory.is_none())
    }

    fn formats(
        &self,
        checkpoint: &Checkpoint,
        level: Option<Mix>,
        calibrated: &Calibrated,
        tuning: Foretold,
        output: &Path,
        global: &Global,
    ) -> anyhow::Result<Formats> {
        let budget = match (self.budget.budget(), &level) {
            (None, Some(mix)) if self.chooses_within(Some(mix)) => Some(self.size_of(mix, checkpoint, calibrated)?),
            (budget, _) => budget,
        };
        if let Some(budget) = budget {
            let choosing = Choosing {
                checkpoint,
                budget,
                tokens_per_second: self.budget.tokens_per_second(),
                widen: self.widen,
                kept: self.sensitivity.as_deref(),
                calibrated,
                tuning,
            };
            let Allocated { mix, chosen, widened } = choosing.allocate(output, global)?;
            return Ok(Formats { mix, chosen: Some(chosen), widened });
        }
        let mix = level.context("give --to, --bits or --fit")?;
        let widened = self
            .widening(&mix, checkpoint)?
            .map(|widening| widen(checkpoint, &widening, output, global))
            .transpose()?;
        Ok(Formats { mix, chosen: None, widened })
    }

    /// How the model becomes wider for this level, if it does.
    fn widening(&self, level: &Mix, checkpoint: &Checkpoint) -> anyhow::Result<Option<Widening>> {
        let wanted = self.widen == Widen::Always || self.widen == Widen::Auto && level.widen;
        if wanted { widening(checkpoint, self.widen) } else { Ok(None) }
    }

    /// That wider model, before it is written.
    fn wider(&self, level: &Mix, checkpoint: &Checkpoint) -> anyhow::Result<Option<Checkpoint>> {
        Ok(self.widening(level, checkpoint)?.map(|widening| widening.planned(checkpoint)))
    }

    /// The size that this level's file would have, for formats to be chosen within.
    fn size_of(&self, level: &Mix, checkpoint: &Checkpoint, calibrated: &Calibrated) -> anyhow::Result<Budget> {
        let wider = self.wider(level, checkpoint)?;
        let plan = Plan::new(wider.as_ref().unwrap_or(checkpoint), level)?.with_settings(&calibrated.settings);
        Ok(Budget::File(plan.file_bytes(calibrated.method())))
    }
}

/// Trains the scales of the output, which is complete and stays as it is if that does not help, cannot be done here, or is stopped.
fn train_scales(
    base: &Checkpoint,
    text: &tuning::Text,
    args: &TuningArgs,
    output: &Path,
    global: &Global,
) -> anyhow::Result<Option<Tuned>> {
    let student = Checkpoint::open(output)?;
    if student.tensors().iter().all(|t| t.format.grid.is_none()) {
        return Ok(None);
    }
    let (needed, there) = (tune::memory(&student), machine::available_memory());
    if there > 0 && needed > there {
        let (needed, there) = (output::bytes(needed), output::bytes(there));
        output::say(format_args!(
            "note: its scales were not trained: that takes {needed} of memory, and {there} are free here"
        ));
        return Ok(None);
    }
    if !global.quiet && !global.json {
        let output = output.display();
        output::say(format_args!("{output} is complete, and stays if you stop here; now its scales are trained"));
    }
    let run = tuning::Run { student: &student, base, text, args, output, global };
    let of_another = |e: &anyhow::Error| matches!(e.downcast_ref(), Some(bantam_shrink::Error::TrainingState { .. }));
    let tuned = run.tune().or_else(|e| match of_another(&e) {
        true => {
            output::set_aside(&training::state_of(output));
            run.tune()
        }
        false => Err(e),
    });
    match tuned {
        Ok(tuned) => Ok(Some(tuned)),
        Err(e) if e.is::<Interrupted>() => Err(e),
        Err(e) => {
            let why = tuning::why_not(&e, base.path(), output);
            output::say(format_args!("note: {} is complete, but its scales were not trained: {why}", output.display()));
            Ok(None)
        }
    }
}

/// Refuses an output that cannot be a directory.
fn refuse_as_directory(output: &Path, mix: &Mix) -> anyhow::Result<()> {
    ensure!(
        output.extension().is_none_or(|e| !e.eq_ignore_ascii_case("gguf")),
        "{}: {} makes a Hugging Face directory, not a GGUF file; give a directory's name",
        output.display(),
        mix.name
    );
    drop(OutputDir::create(output)?);
    Ok(())
}

fn show(quantized: &Quantized, model: &Path) -> anyhow::Result<()> {
    if let Some(chosen) = &quantized.chosen {
        choice::show(chosen)?;
    }
    let output = quantized.output.display();
    output::line(format_args!(
        "{output}: {} → {}, {:.2} bits per weight, in {:.1} s",
        output::bytes(quantized.source_bytes),
        output::bytes(quantized.file_bytes),
        quantized.bits_per_weight,
        quantized.seconds
    ))?;
    for fall_back in &quantized.fall_backs {
        output::line(format_args!("  {fall_back}"))?;
    }
    match &quantized.tuned {
        None => (),
        Some(tuned) if tuned.was_hopeless() => output::line(format_args!(
            "scales were not trained: parts of the text do not agree on where they should go, so that nothing is to be gained"
        ))?,
        Some(tuned) => {
            let Tuned { divergence_before: before, divergence_after: after, .. } = tuned;
            let kept = if tuned.helped() { "" } else { ", so that they were left as they were" };
            output::line(format_args!(
                "scales trained: divergence from the base on text held out {before:.4} → {after:.4} ({:+.0} %){kept}",
                100.0 * (after / before - 1.0)
            ))?;
        }
    }
    output::line(format_args!("next: bantam eval {output} --base {}", model.display()))
}

/// Quantizes to the nearest with a progress bar.
pub fn quantize(checkpoint: &Checkpoint, mix: &Mix, output: &Path, global: &Global) -> anyhow::Result<Quantized> {
    quantize_by(checkpoint, mix, &Calibrated::default(), Manner { foretold: true, keep: false }, output, global)
}

/// The model with its inputs smoothed, where the mix rounds activations and there is text to see them on.
fn smoothed(
    checkpoint: &Checkpoint,
    mix: &Mix,
    calibrated: &Calibrated,
    output: &Path,
    global: &Global,
) -> anyhow::Result<Option<Intermediate>> {
    let Some(text) = calibrated.method().text() else { return Ok(None) };
    if !mix.rounds_tokens() {
        return Ok(None);
    }
    let tokens = text.iter().map(|s| s.len() as u64).sum::<u64>() * Config::of(checkpoint)?.block_count as u64;
    let bar = progress::bar(global, "smooth", tokens, "tokens");
    let made = Intermediate::make(checkpoint, output, |path| {
        let Smoothed { inputs, smoothed, error } = smooth(checkpoint, text, path, &mut |tokens| bar.inc(tokens))?;
        bar.finish_and_clear();
        if !global.quiet && !global.json {
            output::say(format_args!(
                "smoothed {smoothed} of {inputs} inputs; the squared error of those layers falls to {error:.2} of what it was"
            ));
        }
        Ok(())
    })?;
    Ok(Some(made))
}

/// What goes with quantizing.
#[derive(Clone, Copy)]
pub struct Manner {
    /// How long it takes was said before.
    pub foretold: bool,
    /// Rounded layers stay beside the output when it is finished, since more is to be done with it.
    pub keep: bool,
}

/// Quantizes by a method.
pub fn quantize_by(
    checkpoint: &Checkpoint,
    mix: &Mix,
    calibrated: &Calibrated,
    manner: Manner,
    output: &Path,
    global: &Global,
) -> anyhow::Result<Quantized> {
    let start = Instant::now();
    let method = calibrated.method();
    let plan = Plan::new(checkpoint, mix)?.with_settings(&calibrated.settings).keeping_rounded(manner.keep);
    let unfinished = unfinished(output);
    if method.text().is_some() && unfinished.exists() && !global.quiet && !global.json {
        output::say(format_args!(
            "a stopped run left rounded layers in {0}: if it was the same run they are gone on with, otherwise they are kept with .other after their name",
            unfinished.display()
        ));
    }
    cautions::of_plan(&plan, method);
    if let Some(text) = method.text()
        && !manner.foretold
        && forecast::is_wanted(global)
    {
        let formats: BTreeMap<String, &Format> = plan.outputs().into_iter().map(|t| (t.name, t.format)).collect();
        let seconds = Rates::of(checkpoint, text)?.rounding(method, |tensor| formats[&tensor.name]);
        forecast::say(&[(seconds, "round")]);
    }
    let bar = progress::bar(global, &format!("quantize {}", mix.name), plan.weights(), "weights");
    plan.write(output, method, &mut |weights| bar.inc(weights))?;
    bar.finish_and_clear();
    Ok(Quantized {
        level: mix.name.clone(),
        method: method.name(),
        output: output.to_owned(),
        file_bytes: Checkpoint::open(output)?.file_bytes()?,
        source_bytes: checkpoint.file_bytes()?,
        bits_per_weight: plan.bits_per_weight(),
        seconds: start.elapsed().as_secs_f64(),
        fall_backs: cautions::fall_backs(&plan),
        chosen: None,
        tuned: None,
    })
}

fn list(global: &Global) -> anyhow::Result<()> {
    if global.json {
        return output::json(&Mix::all().iter().map(|m| (m.name.as_str(), m.about.as_str())).collect::<Vec<_>>());
    }
    Mix::all().iter().try_for_each(|mix| output::line(format_args!("{:<8} {}", mix.name, mix.about)))
}
