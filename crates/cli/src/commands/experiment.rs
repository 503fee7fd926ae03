//! `bantam experiment`: networks on images, taught by each other, as an experiment file has them.

use crate::args::Global;
use crate::{output, progress};
use anyhow::Context;
use bantam_shrink::images::{Experiment, Images, Outcome};
use clap::Args;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "\
Seeds that are finished are kept in the output folder: the same command goes on with the others.

Example:
  bantam experiment recipes/hinton-mnist/experiment.toml --images mnist/ -o hinton/")]
pub struct ExperimentArgs {
    /// The experiment, a TOML file
    experiment: PathBuf,
    /// Folder of the IDX files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte
    #[arg(long, value_name = "FOLDER")]
    images: PathBuf,
    /// Folder for the results and the networks
    #[arg(long, short, value_name = "FOLDER")]
    output: PathBuf,
}

/// The outcomes of one seed, with the experiment that they are of.
#[derive(Serialize, Deserialize)]
struct Kept {
    experiment: String,
    outcomes: Vec<Outcome>,
}

pub fn run(args: &ExperimentArgs, global: &Global) -> anyhow::Result<()> {
    let experiment = Experiment::read(&args.experiment)?;
    let text = std::fs::read_to_string(&args.experiment)?;
    let read = |set: &str| {
        let file = |kind: &str| args.images.join(format!("{set}-{kind}-ubyte"));
        Images::read(&file("images-idx3"), &file("labels-idx1"))
    };
    let (images, test) = (read("train")?, read("t10k")?);
    std::fs::create_dir_all(&args.output).with_context(|| format!("{}: cannot be made", args.output.display()))?;
    let mut outcomes = Vec::new();
    for &seed in &experiment.seeds {
        let path = args.output.join(format!("seed-{seed}.json"));
        match kept(&path, &text) {
            Some(kept) => outcomes.extend(kept),
            None => {
                let ran = run_seed(&experiment, seed, &images, &test, &args.output, global)?;
                let kept = Kept { experiment: text.clone(), outcomes: ran };
                std::fs::write(&path, serde_json::to_vec_pretty(&kept)?)
                    .with_context(|| format!("{}: cannot be written", path.display()))?;
                outcomes.extend(kept.outcomes);
            }
        }
    }
    if global.json {
        return output::json(&outcomes);
    }
    output::print(format_args!("{}", table(&experiment, &outcomes, test.len())))
}

/// What was kept of a seed of the same experiment.
fn kept(path: &Path, experiment: &str) -> Option<Vec<Outcome>> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    (kept.experiment == experiment).then_some(kept.outcomes)
}

fn run_seed(
    experiment: &Experiment,
    seed: u64,
    images: &Images,
    test: &Images,
    folder: &Path,
    global: &Global,
) -> anyhow::Result<Vec<Outcome>> {
    let mut current: Option<(String, ProgressBar)> = None;
    let outcomes = experiment.run(seed, (images, test), folder, &mut |name, done, steps| {
        if current.as_ref().is_none_or(|(shown, _)| shown != name) {
            let bar = progress::bar(global, &format!("seed {seed}, {name}"), steps, "steps");
            if let Some((_, before)) = current.replace((name.to_owned(), bar)) {
                before.finish_and_clear();
            }
        }
        if let Some((_, bar)) = &current {
            bar.set_position(done);
        }
    })?;
    if let Some((_, bar)) = current {
        bar.finish_and_clear();
    }
    Ok(outcomes)
}

/// A Markdown table: of each network the median of its seeds beside the paper's number.
fn table(experiment: &Experiment, outcomes: &[Outcome], test: usize) -> String {
    let mut lines = vec![
        format!("{}; test errors of {test}, median of {} seeds", experiment.title, experiment.seeds.len()),
        String::new(),
        "| network | parameters | paper | errors | each seed | with the bias moved | seconds |".to_owned(),
        "|---|--:|--:|--:|---|---|--:|".to_owned(),
    ];
    for network in &experiment.network {
        let of: Vec<&Outcome> = outcomes.iter().filter(|o| o.network == network.name).collect();
        let errors: Vec<f64> = of.iter().map(|o| o.errors as f64).collect();
        let each: Vec<String> = errors.iter().map(|e| e.to_string()).collect();
        let moved: Vec<_> = of.iter().filter_map(|o| o.bias.as_ref()).collect();
        let moved_errors = median(moved.iter().map(|b| b.errors as f64).collect());
        let moved_by = median(moved.iter().map(|b| f64::from(b.change)).collect());
        let moved = moved_errors.zip(moved_by).map_or(String::new(), |(e, by)| format!("{e:.0} (by {by:+.1})"));
        lines.push(format!(
            "| {} | {:.2} M | {} | {:.0} | {} | {moved} | {:.0} |",
            network.name,
            of.first().map_or(0.0, |o| o.parameters as f64 / 1e6),
            network.paper.map_or(String::new(), |p| p.to_string()),
            median(errors).unwrap_or(f64::NAN),
            each.join(", "),
            median(of.iter().map(|o| o.seconds).collect()).unwrap_or(f64::NAN),
        ));
    }
    lines.join("\n") + "\n"
}

/// The middle value; of an even number the mean of the two.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (n > 0).then(|| (values[(n - 1) / 2] + values[n / 2]) / 2.0)
}
