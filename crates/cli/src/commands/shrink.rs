//! `bantam shrink`: try levels, measure each, keep the best that fits.

use crate::allocation::{Allocated, Choosing, Widen, measured_of};
use crate::args::Global;
use crate::calibration::{CalibrationArgs, Use};
use crate::choice;
use crate::commands::quantize::{Manner, Quantized, quantize, quantize_by};
use crate::evaluation::{Comparison, EvaluationArgs, PAGE, REPORT, earlier_report, file_name, write_report};
use crate::output;
use crate::places::Places;
use crate::tuning::Foretold;
use anyhow::{Context, bail, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::{ScratchDir, beside, parent};
use bantam_measure::conclusion::{self, Verdict};
use bantam_measure::results::{Evaluation, Report};
use bantam_measure::summary::label;
use bantam_shrink::Mix;
use bantam_shrink::allocate::Budget;
use bantam_shrink::quantize::{Method, Plan, unfinished};
use bantam_shrink::text::SourceSpec;
use clap::Args;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// The levels tried, one a bit width.
const LEVELS: &str = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K";

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam shrink model.gguf --fit 300MB -o small/
  bantam shrink ./hf-directory --fit 2GiB --levels Q6_K,Q5_K_M,Q4_K_M,IQ4_XS -o small/
  bantam shrink model.gguf --fit 300MB -o small/ --calibrate
  bantam shrink model.gguf --fit 300MB -o small/ --text my-domain.txt

The directory receives the model, report.html (opens offline) and report.json. A run that was stopped goes on with the same command: what was
measured, and what --calibrate rounded, is kept.")]
pub struct ShrinkArgs {
    /// A GGUF file or a Hugging Face directory
    model: PathBuf,
    /// The largest file allowed, for example 300MB or 1.5GiB
    #[arg(long, value_name = "SIZE", value_parser = output::parse_size)]
    fit: u64,
    /// The directory to write
    #[arg(long, short, value_name = "DIR")]
    output: PathBuf,
    /// The levels to try, separated by commas (bantam quantize --list)
    #[arg(long, default_value = LEVELS, value_delimiter = ',')]
    levels: Vec<String>,
    /// Keep every level's file, not only the chosen one's
    #[arg(long)]
    keep_all: bool,
    /// Also try a file whose formats are chosen within the size, and whose weights are rounded for this text (files as in
    /// code=examples.txt:0.5, or nothing for the text that comes with bantam): minutes more, and less is lost. Levels are rounded to the nearest
    #[arg(long, num_args = 0.., value_name = "FILE")]
    calibrate: Option<Vec<SourceSpec>>,
    #[command(flatten)]
    evaluation: EvaluationArgs,
}

pub fn run(args: &ShrinkArgs, global: &Global) -> anyhow::Result<()> {
    let files = args.calibrate.as_deref();
    let calibrated_on = files.unwrap_or_default().iter().map(|spec| &spec.path);
    let places = Places::default().reads("the model", [&args.model]).reads("--calibrate", calibrated_on);
    places.writes_model("-o", &args.output).check()?;
    let base = Checkpoint::open(&args.model)?;
    let levels = levels(args, &base)?;
    if files.is_none() {
        refuse_the_impossible(&levels, args.fit, &base)?;
    }
    refuse_what_is_in_use(args, &levels)?;
    // Candidates, finished or not, are nothing the user asked for until one is chosen.
    let scratch = ScratchDir::near(&args.output)?;
    let place = |level: &str| scratch.path().join(file_of(args, level));
    // What takes long to make is kept until all is done. First, since what is asked for may not be possible.
    let work = beside(&args.output, "shrinking");
    let at_work = work.join(file_of(args, FIT));
    // Many candidates are measured to tell levels apart, which a quarter of the text does.
    let named = args.evaluation.suite.clone().unwrap_or_else(|| "quick".to_owned());
    let measured = EvaluationArgs { speed: true, suite: Some(named), ..args.evaluation.clone() };
    let suite = measured.suite()?;
    Comparison::check(&[], &base, &suite, &measured)?;
    let fitted = files.map(|files| fit(args, files, &base, &at_work, global)).transpose();
    let nothing_kept = |_: &anyhow::Error| drop(std::fs::remove_dir(&work)); // if it is empty
    let fitted = fitted.inspect_err(nothing_kept)?;
    let mut tried = Tried { comparison: Comparison::start(&base, &suite, &measured, true, global)?, best: None, args };
    if let Some(made) = fitted {
        std::fs::copy(&at_work, place(FIT)).with_context(|| format!("cannot copy {}", at_work.display()))?;
        tried.add(FIT, &place(FIT), &made)?;
    }
    for (mix, _) in &levels {
        let made = quantize(&base, mix, &place(&mix.name), global)?;
        tried.add(&mix.name, &place(&mix.name), &made)?;
    }
    let Tried { comparison, best, .. } = tried;
    let (chosen, _) = best.with_context(|| format!("nothing that was tried fits {}", output::bytes(args.fit)))?;
    let chosen = file_name(&chosen);
    let report = report(comparison, &chosen, args);
    write_report(&report, scratch.path())?;
    scratch.deliver(&args.output)?;
    if files.is_some() {
        forget(&at_work);
    }
    output::report(&report, global)?;
    if !global.json {
        conclude(&report, &args.output.join(chosen), &args.output)?;
    }
    Ok(())
}

/// Removes what was made on the way to this file, and the folder if nothing else is in it: what is another run's stays.
fn forget(file: &Path) {
    // What cannot be removed is looked at the next time, and replaced.
    for made in [file.to_owned(), unfinished(file), measured_of(file)] {
        drop(std::fs::remove_file(made));
    }
    drop(std::fs::remove_dir(parent(file)));
}

/// The candidates so far.
struct Tried<'a> {
    comparison: Comparison<'a>,
    /// The file that loses least of those that fit, with its loss.
    best: Option<(PathBuf, f64)>,
    args: &'a ShrinkArgs,
}

impl Tried<'_> {
    /// Measures a candidate, and removes it or the one that it is better than, unless all are to be kept.
    fn add(&mut self, level: &str, file: &Path, made: &Quantized) -> anyhow::Result<()> {
        self.comparison.add(file, level, Some(made.seconds))?;
        let evaluation = self.comparison.evaluations().last().expect("one was just added");
        let loss = evaluation.overall.kl_divergence.mean;
        let better = made.file_bytes <= self.args.fit && self.best.as_ref().is_none_or(|(_, least)| loss < *least);
        let this = file.to_owned();
        let loser = if better { self.best.replace((this, loss)).map(|(old, _)| old) } else { Some(this) };
        if let (Some(loser), false) = (loser, self.args.keep_all) {
            std::fs::remove_file(&loser).with_context(|| format!("cannot remove {}", loser.display()))?;
        }
        Ok(())
    }
}

/// The report, with the candidates where they will be delivered.
fn report(comparison: Comparison<'_>, chosen: &str, args: &ShrinkArgs) -> Report {
    let mut report = comparison.finish();
    report.fit = Some(args.fit);
    report.kept = left_earlier(&args.output).unwrap_or_default();
    report.kept.retain(|name| args.output.join(name).exists());
    for (i, evaluation) in report.evaluations.iter_mut().enumerate() {
        let name = file_name(Path::new(&evaluation.candidate.path));
        if name == chosen {
            report.chosen = Some(i);
        }
        if name == chosen || args.keep_all {
            report.kept.insert(name.clone());
        }
        evaluation.candidate.path = args.output.join(name).display().to_string();
    }
    report
}

/// The names of the models that earlier runs left in the directory, by the report there; `None` if it is no such run's. What a run tried
/// and did not keep is not among them: since then it may have become the name of something else.
fn left_earlier(directory: &Path) -> Option<BTreeSet<String>> {
    let report = earlier_report(directory).filter(|report| report.fit.is_some())?;
    let mut left = report.kept;
    // Older reports say nothing of what was kept, but what was chosen was.
    let chosen = report.chosen.and_then(|i| report.evaluations.get(i));
    left.extend(chosen.map(|evaluation| file_name(Path::new(&evaluation.candidate.path))));
    Some(left)
}

/// The levels to try with their file sizes, largest first, each once. Those that would not be smaller than the base are left out.
fn levels(args: &ShrinkArgs, base: &Checkpoint) -> anyhow::Result<Vec<(&'static Mix, u64)>> {
    let base_bytes = base.file_bytes()?;
    let mut levels: Vec<(&Mix, u64)> = Vec::new();
    for name in &args.levels {
        let mix = Mix::by_name(name)?;
        ensure!(
            mix.directory.is_none(),
            "--levels {name}: it makes a directory for other engines; `bantam quantize --to {name}` does, and `bantam compare` measures it"
        );
        if levels.iter().any(|(known, _)| known.name == mix.name) {
            continue;
        }
        let bytes = Plan::new(base, mix)?.file_bytes(Method::Nearest);
        if bytes < base_bytes {
            levels.push((mix, bytes));
        }
    }
    ensure!(
        !levels.is_empty() || args.calibrate.is_some(),
        "{}: none of {} makes it smaller than it is ({}); try lower levels with --levels",
        base.path().display(),
        args.levels.join(", "),
        output::bytes(base_bytes)
    );
    levels.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    Ok(levels)
}

/// Says so before any work when no level fits.
fn refuse_the_impossible(levels: &[(&'static Mix, u64)], fit: u64, base: &Checkpoint) -> anyhow::Result<()> {
    let (mix, smallest) = levels.iter().min_by_key(|(_, bytes)| *bytes).expect("levels are not empty");
    if *smallest > fit {
        bail!(
            "{} cannot be made to fit {}: the smallest level, {}, takes {} ({} bytes). Allow that much with --fit {smallest}, \
             add --calibrate, which chooses formats tensor by tensor, or choose a smaller model",
            base.path().display(),
            output::bytes(fit),
            mix.name,
            output::bytes(*smallest),
            smallest
        );
    }
    Ok(())
}

/// What stands for a level where formats are chosen within the size.
const FIT: &str = "fit";

/// What a level's file is called.
fn file_of(args: &ShrinkArgs, level: &str) -> String {
    format!("{}-{level}.gguf", label(&args.model))
}

/// Makes a file of at most the size, its formats chosen and its weights rounded with calibration, as `quantize --fit` does. What was measured and
/// rounded for it stays beside it.
fn fit(
    args: &ShrinkArgs,
    files: &[SourceSpec],
    base: &Checkpoint,
    file: &Path,
    global: &Global,
) -> anyhow::Result<Quantized> {
    let start = Instant::now();
    let work = parent(file);
    std::fs::create_dir_all(work).with_context(|| format!("cannot make {}", work.display()))?;
    let mut calibrated = CalibrationArgs::of_files(files).calibrate(base, Use::Choosing, global)?;
    let choosing = Choosing {
        checkpoint: base,
        budget: Budget::File(args.fit),
        tokens_per_second: None,
        widen: Widen::Auto,
        kept: None,
        calibrated: &calibrated,
        tuning: Foretold::default(),
    };
    let Allocated { mix, chosen, widened } = choosing.allocate(file, global)?;
    if widened.is_some() {
        calibrated.widen(base)?;
    }
    let source = widened.as_ref().map_or(base, |made| &made.checkpoint);
    let made = quantize_by(source, &mix, &calibrated, Manner { foretold: true, keep: true }, file, global)?;
    if !global.json && !global.quiet {
        choice::show(&chosen)?;
    }
    Ok(Quantized { seconds: start.elapsed().as_secs_f64(), ..made })
}

/// Refuses to replace files that no earlier run left: one says in its report what it wrote.
fn refuse_what_is_in_use(args: &ShrinkArgs, levels: &[(&'static Mix, u64)]) -> anyhow::Result<()> {
    let earlier = left_earlier(&args.output);
    let names = levels.iter().map(|(mix, _)| &mix.name[..]).chain([FIT]).map(|level| file_of(args, level));
    let ours = |name: &String| {
        earlier.as_ref().is_some_and(|left| left.contains(name) || [REPORT, PAGE].contains(&name.as_str()))
    };
    let in_use = |name: &String| args.output.join(name).exists() && !ours(name);
    match names.chain([REPORT.to_owned(), PAGE.to_owned()]).find(in_use) {
        Some(name) => bail!(
            "-o {}: there is a {name} that no earlier run of `bantam shrink` left there; give another directory",
            args.output.display()
        ),
        None => Ok(()),
    }
}

fn conclude(report: &Report, file: &Path, directory: &Path) -> anyhow::Result<()> {
    let chosen: &Evaluation = &report.evaluations[report.chosen.expect("a level was chosen")];
    output::line(format_args!("{}", conclusion::sentence(chosen, &report.base)))?;
    if conclusion::verdict(&chosen.overall) == Verdict::Unusable {
        output::say(format_args!(
            "warning: what fits {} has become unusable: use a smaller model at a higher level, or allow more",
            output::bytes(report.fit.unwrap_or_default())
        ));
    }
    output::line(format_args!("model:  {}", file.display()))?;
    output::line(format_args!("report: {}", directory.join(PAGE).display()))?;
    output::line(format_args!("next:   bantam run {}", file.display()))
}
