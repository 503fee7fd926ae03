//! `bantam experiment`: networks on images, taught by each other, as an experiment file has them.

use crate::args::Global;
use crate::{interrupt, output, progress};
use anyhow::Context;
use bantam_shrink::Error;
use bantam_shrink::images::{Experiment, Images, Kept, Outcome, Watch, soft_labels};
use clap::Args;
use indicatif::ProgressBar;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

#[derive(Args)]
#[command(after_help = "\
What is finished is kept in the output folder, and so is a network that is interrupted: the same command goes on from there.
If the experiment's file is changed, only those networks are trained again that were changed or whose teacher was.

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

pub fn run(args: &ExperimentArgs, global: &Global) -> anyhow::Result<()> {
    let experiment = Experiment::read(&args.experiment)?;
    let read = |set: &str| {
        let file = |kind: &str| args.images.join(format!("{set}-{kind}-ubyte"));
        Images::read(&file("images-idx3"), &file("labels-idx1"))
    };
    let (images, test) = (read("train")?, read("t10k")?);
    std::fs::create_dir_all(&args.output).with_context(|| format!("{}: cannot be made", args.output.display()))?;
    let mut outcomes = Vec::new();
    for &seed in &experiment.seeds {
        let mut run = Run { seed, folder: &args.output, global, bar: None };
        let kept = run.kept()?;
        let Some(of_seed) = experiment.run(seed, (&images, &test), &args.output, kept, &mut run)? else {
            let at = format!("with seed {seed}, saved in {}", args.output.display());
            return Err(interrupt::Interrupted { at }.into());
        };
        outcomes.extend(of_seed);
    }
    draw_soft_labels(&experiment, &test, &args.output)?;
    if global.json {
        return output::json(&outcomes);
    }
    output::print(format_args!("{}", table(&experiment, &outcomes, test.len())))
}

/// One seed's run.
struct Run<'a> {
    seed: u64,
    folder: &'a Path,
    global: &'a Global,
    /// The network that is being trained, with its bar.
    bar: Option<(String, ProgressBar)>,
}

impl Run<'_> {
    fn path(&self) -> PathBuf {
        self.folder.join(format!("seed-{}.json", self.seed))
    }

    /// What earlier runs of this seed kept.
    fn kept(&self) -> anyhow::Result<Vec<Kept>> {
        let path = self.path();
        let json = match std::fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.with_context(|| format!("{}: cannot be read", path.display()))?,
        };
        serde_json::from_slice(&json)
            .with_context(|| format!("{}: it is damaged, or another version's; give another output", path.display()))
    }
}

impl Watch for Run<'_> {
    fn step(&mut self, network: &str, done: u64, steps: u64) -> bool {
        if self.bar.as_ref().is_none_or(|(shown, _)| shown != network) {
            let bar = progress::bar(self.global, &format!("seed {}, {network}", self.seed), steps, "steps");
            self.bar = Some((network.to_owned(), bar));
        }
        if let Some((_, bar)) = &self.bar {
            bar.set_position(done);
        }
        !interrupt::requested()
    }

    fn keep(&mut self, kept: &[Kept]) -> Result<(), Error> {
        if let Some((_, bar)) = self.bar.take() {
            bar.finish_and_clear();
        }
        let path = self.path();
        let json = serde_json::to_vec_pretty(kept).map_err(std::io::Error::other);
        // Under another name first: a kill must not leave half of it.
        let part = path.with_extension("part");
        json.and_then(|json| std::fs::write(&part, json))
            .and_then(|()| std::fs::rename(&part, &path))
            .map_err(|e| Error::Data { path, problem: e.to_string() })
    }
}

/// Draws what the first teacher, trained with the first seed, says of some images.
fn draw_soft_labels(experiment: &Experiment, test: &Images, folder: &Path) -> anyhow::Result<()> {
    let taught = experiment.network.iter().find_map(|n| n.teacher.as_ref().map(|teacher| (teacher, n.temperature)));
    let Some((teacher, temperature)) = taught else { return Ok(()) };
    let at = experiment.network.iter().position(|n| n.name == *teacher).context("teachers are checked on reading")?;
    let logits = experiment.logits(folder, at, experiment.seeds[0], test)?;
    let path = folder.join("soft-labels.svg");
    std::fs::write(&path, soft_labels(test, &logits, temperature))
        .with_context(|| format!("{}: cannot be written", path.display()))
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
