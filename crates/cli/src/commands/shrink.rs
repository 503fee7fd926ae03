//! `bantam shrink`: try levels, measure each, keep the best that fits.

use crate::args::Global;
use crate::calibration::CalibrationArgs;
use crate::commands::quantize::{self, QuantizeArgs, Quantized, quantize};
use crate::evaluation::{Comparison, EvaluationArgs, file_name, write_report};
use crate::output;
use crate::places::Places;
use anyhow::{Context, bail, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::ScratchDir;
use bantam_measure::conclusion::{self, Verdict};
use bantam_measure::results::{Evaluation, Report};
use bantam_shrink::Mix;
use bantam_shrink::quantize::{Method, Plan};
use clap::Args;
use std::path::{Path, PathBuf};

/// The levels tried, one a bit width.
const LEVELS: &str = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K";

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam shrink model.gguf --fit 300MB -o small/
  bantam shrink ./hf-directory --fit 2GiB --levels Q6_K,Q5_K_M,Q4_K_M,IQ4_XS -o small/
  bantam shrink model.gguf --fit 300MB -o small/ --effort balanced
  bantam shrink model.gguf --fit 300MB -o small/ --text my-domain.txt

With --effort (or --calibrate) a file that `bantam quantize --fit` makes is among what is tried: minutes more, and less is lost.

The directory receives the model, report.html (opens offline) and report.json.")]
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
    #[command(flatten)]
    calibration: CalibrationArgs,
    #[command(flatten)]
    evaluation: EvaluationArgs,
}

pub fn run(args: &ShrinkArgs, global: &Global) -> anyhow::Result<()> {
    args.calibration.places(Places::default().reads("the model", [&args.model])).check()?;
    let base = Checkpoint::open(&args.model)?;
    let levels = levels(args, &base)?;
    refuse_the_impossible(&levels, args.fit, &base)?;
    refuse_what_is_in_use(args, &levels)?;
    // Candidates, finished or not, are nothing the user asked for until one is chosen.
    let scratch = ScratchDir::near(&args.output)?;
    let measured = EvaluationArgs { speed: true, ..args.evaluation.clone() };
    let mut comparison = Comparison::start(&base, &measured, true, global)?;
    let mut best: Option<(String, f64)> = None;
    for mix in candidates(args, &levels) {
        let name = candidate_name(args, mix);
        let file = scratch.path().join(&name);
        let made = match mix {
            Some(mix) => quantize(&base, mix, &file, global)?,
            None => fit(args, &base, &file, global)?,
        };
        comparison.add(&file, Some(mix.map_or(FIT, |mix| &mix.name)), Some(made.seconds))?;
        let evaluation = comparison.evaluations().last().expect("one was just added");
        let loss = evaluation.overall.kl_divergence.mean;
        let better = made.file_bytes <= args.fit && best.as_ref().is_none_or(|(_, least)| loss < *least);
        let loser = if better { best.replace((name, loss)).map(|(old, _)| old) } else { Some(name) };
        if let (Some(loser), false) = (loser, args.keep_all) {
            let loser = scratch.path().join(loser);
            std::fs::remove_file(&loser).with_context(|| format!("cannot remove {}", loser.display()))?;
        }
    }

    let (chosen, _) = best.expect("a level that fits was tried");
    let report = report(comparison, &chosen, args);
    write_report(&report, scratch.path())?;
    scratch.deliver(&args.output)?;
    output::report(&report, global)?;
    if !global.json {
        conclude(&report, &args.output.join(chosen), &args.output)?;
    }
    Ok(())
}

/// The report, with the candidates where they will be delivered.
fn report(comparison: Comparison<'_>, chosen: &str, args: &ShrinkArgs) -> Report {
    let mut report = comparison.finish();
    report.fit = Some(args.fit);
    for (i, evaluation) in report.evaluations.iter_mut().enumerate() {
        let name = file_name(Path::new(&evaluation.candidate.path));
        if name == chosen {
            report.chosen = Some(i);
        }
        evaluation.candidate.path = args.output.join(name).display().to_string();
    }
    report
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
        !levels.is_empty(),
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
            "{} cannot be made to fit {}: the smallest level, {}, takes {} ({} bytes). Allow that much with --fit {smallest}, or \
             choose a smaller model",
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

/// What is tried: formats chosen within the size if that is asked for (first, since its options may not go together), and
/// the levels.
fn candidates<'a>(
    args: &ShrinkArgs,
    levels: &'a [(&'static Mix, u64)],
) -> impl Iterator<Item = Option<&'static Mix>> + use<'a> {
    args.calibration.given().then_some(None).into_iter().chain(levels.iter().map(|(mix, _)| Some(*mix)))
}

/// What a candidate's file is called.
fn candidate_name(args: &ShrinkArgs, mix: Option<&Mix>) -> String {
    format!("{}-{}.gguf", stem(&args.model), mix.map_or(FIT, |mix| &mix.name))
}

/// Makes a file of at most the size, its formats chosen and rounded with calibration.
fn fit(args: &ShrinkArgs, base: &Checkpoint, file: &Path, global: &Global) -> anyhow::Result<Quantized> {
    let made = QuantizeArgs::fitting(args.fit, args.calibration.clone()).make(base, file, global)?;
    if !global.json && !global.quiet {
        quantize::show(&made)?;
    }
    Ok(made)
}

/// The name of the report that says what a directory is.
const REPORT: &str = "report.json";

/// Refuses to replace files of a directory that is not an earlier run's, which left a report there.
fn refuse_what_is_in_use(args: &ShrinkArgs, levels: &[(&'static Mix, u64)]) -> anyhow::Result<()> {
    let names = candidates(args, levels).map(|mix| candidate_name(args, mix));
    let there = |name: &String| args.output.join(name).exists();
    match names.chain(["report.html".to_owned()]).find(there).filter(|_| !args.output.join(REPORT).exists()) {
        Some(name) => bail!(
            "-o {}: there is a {name}, and no {REPORT} of an earlier run beside it; give another directory",
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
    output::line(format_args!("report: {}", directory.join("report.html").display()))?;
    output::line(format_args!("next:   bantam run {}", file.display()))
}

/// The model's name without `.gguf` or folders.
fn stem(path: &Path) -> String {
    let name = path.file_stem().or(path.file_name());
    name.map_or_else(|| "model".to_owned(), |n| n.to_string_lossy().into_owned())
}
