//! Training a quantized model's scales: `tune`, and the last step of `quantize --effort best`.
//!
//! Where to start: [`Run::tune`]. What is learned from and judged by is in `text.rs`; `nearest.rs` keeps the best file on the way.

mod nearest;
mod text;

use crate::args::{Global, at_least_one};
use crate::judge::Judge;
use crate::{forecast, progress, training};
use anyhow::ensure;
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::output::{ScratchDir, parent};
use bantam_checkpoint::provenance::{Step, Training};
use bantam_nn::Model;
use bantam_nn::train::{AdamW, Parameters};
use bantam_shrink::distill::{Divergence, Matching, TextTask, same_tokens};
use bantam_shrink::text::Source;
use bantam_shrink::train::{Decay, Schedule, Settings, Trainer};
use bantam_shrink::tune::{LOOKED_AT, Tuning};
use clap::Args;
use nearest::{Nearest, nearest_of};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
pub use text::{Foretold, Text};

/// How scales are trained.
#[derive(Args)]
pub struct TuningArgs {
    /// Steps to make [default: 50, or as many as go through the text once]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    steps: Option<usize>,
    /// Sequences a step
    #[arg(long, default_value_t = Self::DEFAULT.batch, value_name = "N", value_parser = at_least_one())]
    batch: usize,
    /// Tokens of a sequence [default: 256, or as many as the models learned on]
    #[arg(long, value_name = "TOKENS", value_parser = at_least_one())]
    length: Option<usize>,
    /// The highest learning rate, as a share of what rounding to four bits loses: of a scale of four bits itself, of finer formats less [default: up
    /// to 0.001, the more parts of the text agree on where to go; nothing is trained if they do not]
    #[arg(long, value_name = "RATE")]
    learning_rate: Option<f32>,
    /// Chooses the order of the text
    #[arg(long, default_value_t = Self::DEFAULT.seed, value_name = "N")]
    seed: u64,
    /// Seconds from one saving of the run to the next
    #[arg(long, default_value_t = Self::DEFAULT.save_every, value_name = "SECONDS")]
    save_every: u64,
}

/// Tokens of a sequence unless it is said how many, or a model learned on fewer.
const USUAL_LENGTH: usize = 256;

impl TuningArgs {
    /// What is done unless something else is asked for.
    const DEFAULT: Self = Self { steps: None, batch: 4, length: None, learning_rate: None, seed: 0, save_every: 300 };

    /// So many steps, if it is said how many, each of about as many tokens as by default.
    pub fn of_steps(steps: Option<usize>, sources: &[Source]) -> Self {
        let lengths = || sources.iter().flat_map(|source| &source.sequences).map(|sequence| sequence.tokens.len());
        let mean = lengths().sum::<usize>() as f64 / lengths().count().max(1) as f64;
        let batch = ((Self::DEFAULT.batch * USUAL_LENGTH) as f64 / mean.max(1.0)).round() as usize;
        Self { steps, batch: batch.max(1), ..Self::DEFAULT }
    }

    /// Refuses rates that are none.
    pub fn check(&self) -> anyhow::Result<()> {
        if let Some(rate) = self.learning_rate {
            ensure!(
                rate > 0.0 && rate < 1.0,
                "--learning-rate {rate}: expected a number above 0 and below 1, as 0.0002"
            );
        }
        Ok(())
    }
}

/// Where text agrees less on where to go, there is nothing to learn. At .2 a model gained a thirteenth (BENCHMARKS.md).
const LEAST_AGREEMENT: f64 = 0.1;

/// Where it agrees so far or farther, the learning rate is the highest; below, it is in proportion.
const ENOUGH_AGREEMENT: f64 = 0.5;
const HIGHEST_RATE: f32 = 1e-3;

/// A run that is so many times as far from the base as before on the way is given up. One that is a little farther may come back as its rate falls.
const TOO_FAR: f64 = 1.25;

/// What came of it.
#[derive(Serialize)]
pub struct Tuned {
    #[serde(serialize_with = "crate::output::path")]
    pub output: PathBuf,
    pub file_bytes: u64,
    /// The cosine between gradients on two parts of the text, unless a learning rate was given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<f64>,
    /// Numbers that were trained.
    pub trained: usize,
    pub steps: u64,
    pub tokens: u64,
    pub seconds: f64,
    /// From the base, on text that was held out: in nats a token.
    pub divergence_before: f64,
    pub divergence_after: f64,
    pub losses: Vec<f32>,
}

impl Tuned {
    /// Whether it is nearer to its base than before; otherwise it was not written.
    pub fn helped(&self) -> bool {
        self.divergence_after < self.divergence_before
    }

    /// Whether nothing was trained, since the text did not agree on where to go.
    pub fn was_hopeless(&self) -> bool {
        self.agreement.is_some_and(|agreement| agreement < LEAST_AGREEMENT)
    }
}

/// What a run is about.
pub struct Run<'a> {
    pub student: &'a Checkpoint,
    pub base: &'a Checkpoint,
    pub text: &'a Text,
    pub args: &'a TuningArgs,
    pub output: &'a Path,
    pub global: &'a Global,
}

impl Run<'_> {
    /// Trains the scales of the student on what the base says of the text, and writes it to the output if that helped on what was held out. A run
    /// that was stopped goes on.
    pub fn tune(&self) -> anyhow::Result<Tuned> {
        let Run { student, base, args, .. } = *self;
        same_tokens(base, student)?;
        let start = Instant::now();
        let (judge, student_model) = (Judge::by(base, &self.text.held_out, self.global)?, Model::load(student)?);
        let mut task = TextTask::new(&student_model, &self.text.sources, args.batch, args.seed);
        let matching = Matching { divergence: Divergence::Forward, temperature: 1.0, soft: 1.0 };
        task.teacher = Some((Box::new(judge.teacher(self.text.length)), matching));
        let mut tuning = Tuning::new(student, task)?;
        let mut shares = tuning.parameters();

        let before = judge.divergence(student)?;
        let start_of_looks = Instant::now();
        let (agreement, rate) = self.rate(&mut tuning, &mut shares)?;
        // Where no gradients were compared nothing is known of a step's time.
        let a_step = agreement.map(|_| start_of_looks.elapsed().as_secs_f64() / LOOKED_AT as f64);
        let mut tuned = Tuned {
            output: self.output.to_owned(),
            file_bytes: student.file_bytes()?,
            agreement,
            trained: shares.trained(),
            steps: 0,
            tokens: 0,
            seconds: 0.0,
            divergence_before: before,
            divergence_after: before,
            losses: Vec::new(),
        };
        if !tuned.was_hopeless() {
            let trained = self.train(&mut tuning, &mut shares, (rate, a_step), &judge, &mut tuned);
            trained.map_err(|error| given_up(error, self.output))?;
        }
        tuned.seconds = start.elapsed().as_secs_f64();
        Ok(tuned)
    }

    /// The highest learning rate, and the agreement that it follows from unless it was given.
    fn rate(&self, tuning: &mut Tuning, shares: &mut Parameters) -> anyhow::Result<(Option<f64>, f32)> {
        if let Some(rate) = self.args.learning_rate {
            return Ok((None, rate));
        }
        let bar = progress::bar(self.global, "compare gradients", LOOKED_AT, "batches");
        let agreement = tuning.agreement(shares, &mut || bar.inc(1))?;
        bar.finish_and_clear();
        Ok((Some(agreement), HIGHEST_RATE * (agreement / ENOUGH_AGREEMENT).min(1.0) as f32))
    }

    /// Makes the steps, and keeps what came of them if it is better. A run that went astray is given up on the way.
    fn train(
        &self,
        tuning: &mut Tuning,
        shares: &mut Parameters,
        (rate, a_step): (f32, Option<f64>),
        judge: &Judge<'_>,
        tuned: &mut Tuned,
    ) -> anyhow::Result<()> {
        let (steps, state) = (self.text.steps as u64, training::state_of(self.output));
        let settings = Settings {
            schedule: Schedule { peak: rate, floor: 0.0, warmup: steps / 20, steps, decay: Decay::Cosine },
            method: AdamW { weight_decay: 0.0, ..AdamW::default() }.into(),
            clip: None,
            save: Some((state.clone(), Duration::from_secs(self.args.save_every))),
        };
        let mut trainer = Trainer::new(settings, tuning, shares)?;
        training::say_resumed(&trainer, &state, self.global);
        let made = trainer.steps();
        if let Some(seconds) = a_step.filter(|_| forecast::is_wanted(self.global)) {
            forecast::say(&[(seconds * (steps - made) as f64, "train scales")]);
        }
        let judge_file = |path: &Path| judge.divergence(&Checkpoint::open(path)?);
        let mut nearest = Nearest::of(self.output, made > 0, tuned.divergence_before, &judge_file)?;
        let folder = ScratchDir::near(parent(self.output))?;
        let path = folder.path().join("tuned.gguf");
        for until in looks(steps).into_iter().filter(|until| *until >= made) {
            training::go(&mut trainer, tuning, shares, until, &state, self.global)?;
            tuning.write(self.student, shares, self.record(&trainer, rate), &path)?;
            tuned.divergence_after = judge_file(&path)?;
            nearest.take(&path, tuned.divergence_after)?;
            if tuned.divergence_after > TOO_FAR * tuned.divergence_before {
                break;
            }
        }
        (tuned.steps, tuned.tokens, tuned.losses) = (trainer.steps(), trainer.items(), trainer.losses().to_vec());
        if let Some(divergence) = nearest.deliver()? {
            (tuned.file_bytes, tuned.divergence_after) = (Checkpoint::open(self.output)?.file_bytes()?, divergence);
        }
        // The run is over, whatever came of it: another rate or other text begins anew.
        std::fs::remove_file(&state).ok();
        Ok(())
    }

    /// What the file says of the run.
    fn record(&self, trainer: &Trainer, rate: f32) -> Step {
        let a_token = training::operations_a_token(self.student) + 2.0 * training::products(self.base);
        let step = self
            .student
            .step("tune")
            .setting("base", self.base.path().file_name().unwrap_or_default().to_string_lossy())
            .setting("data", self.text.names.join(", "))
            .setting("steps", self.text.steps)
            .setting("batch", self.args.batch)
            .setting("length", self.text.length)
            .setting("learning rate", rate)
            .setting("seed", self.args.seed);
        let training = Training::new(trainer.losses(), trainer.items(), trainer.items() as f64 * a_token);
        Step { training: Some(training), ..step }
    }
}

/// A run that diverged is over: what it left beside the output, which would only diverge again, is removed. Any other is gone on with.
fn given_up(error: anyhow::Error, output: &Path) -> anyhow::Error {
    use bantam_shrink::Error::Diverged;
    match error.downcast() {
        Ok(Diverged { step, loss, norm, rate, saved }) => {
            std::fs::remove_file(nearest_of(output)).ok();
            // Only what cannot be removed is left to the user.
            let saved = saved.filter(|_| std::fs::remove_file(training::state_of(output)).is_err());
            Diverged { step, loss, norm, rate, saved }.into()
        }
        Ok(other) => other.into(),
        Err(error) => error,
    }
}

/// Why `quantize --effort best` did not train scales, with what can be done about it: a learning rate is an option of `tune` alone.
pub fn why_not(error: &anyhow::Error, base: &Path, output: &Path) -> String {
    match error.downcast_ref() {
        Some(bantam_shrink::Error::Diverged { step, loss, norm, rate, .. }) => format!(
            "training diverged at step {step} (loss {loss}, gradient norm {norm}, learning rate {rate}). `bantam tune {} --base {} \
             --learning-rate 0.0001 -o FILE` trains them in smaller steps; --tune-steps 0 leaves that out",
            output.display(),
            base.display()
        ),
        _ => format!("{error:#}"),
    }
}

/// After which steps held-out text is looked at: a run that its rate has driven away shows it long before the end.
fn looks(steps: u64) -> Vec<u64> {
    [steps / 4, steps / 2, steps].into_iter().filter(|until| *until > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::Parser;

    fn diverged(saved: Option<String>) -> bantam_shrink::Error {
        bantam_shrink::Error::Diverged { step: 30, loss: f64::NAN, norm: 1.0, rate: 1e-3, saved }
    }

    #[test]
    fn of_a_run_that_diverged_nothing_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out.gguf");
        let left = [training::state_of(&output), nearest_of(&output)];
        left.iter().for_each(|path| std::fs::write(path, "x").unwrap());
        let stopped = || bantam_shrink::Error::InUse { path: output.clone() };
        let said = given_up(stopped().into(), &output).to_string();
        assert!(said == stopped().to_string() && left.iter().all(|path| path.exists()), "{said}");
        let saved = || Some(left[0].display().to_string());
        let said = given_up(diverged(saved()).into(), &output).to_string();
        assert!(said == diverged(None).to_string() && !left.iter().any(|path| path.exists()), "{said}");
        // What cannot be removed is named as before.
        let said = given_up(diverged(saved()).into(), &output).to_string();
        assert_eq!(said, diverged(saved()).to_string());
    }

    #[test]
    fn what_is_advised_where_training_diverged_can_be_done() {
        let error = diverged(Some("out.gguf.training".to_owned())).into();
        let why = why_not(&error, Path::new("model.gguf"), Path::new("out.gguf"));
        assert!(why.contains("step 30") && why.contains("--tune-steps 0") && !why.contains("delete"), "{why}");
        let command = why.split('`').nth(1).expect("a command is advised");
        assert!(command.starts_with("bantam tune out.gguf --base model.gguf --learning-rate "), "{why}");
        let without = "bantam quantize model.gguf --to Q4_0 --effort best --tune-steps 0 -o out.gguf";
        for command in [command, without] {
            assert!(Cli::try_parse_from(command.split(' ')).is_ok(), "{command}");
        }
    }
}
