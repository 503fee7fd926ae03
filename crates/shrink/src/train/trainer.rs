//! The loop over steps.

use super::Schedule;
use super::state::{self, Past};
use crate::Error;
use bantam_nn::train::{Method, Optimizer, Parameters, clip};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::Xxh3;

/// How to train.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Learning rates, and how many steps.
    pub schedule: Schedule,
    /// How gradients become steps.
    pub method: Method,
    /// The largest norm that the gradients of a step may have; larger ones are scaled down.
    pub clip: Option<f32>,
    /// Where the run is saved and resumed from, and how often.
    pub save: Option<(PathBuf, Duration)>,
}

/// One step's batch, gone through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// The mean loss.
    pub loss: f64,
    /// What was learned from: tokens, images.
    pub items: usize,
}

/// What is learned.
pub trait Task {
    /// What the task is, with all that changes its gradients: a saved run with another description is not resumed.
    fn description(&self) -> String;

    /// Adds what is trained beside the model and is no part of it, and holds fixed what is not to be trained.
    fn extend(&self, _parameters: &mut Parameters) {}

    /// Adds the gradients of the mean loss of a step's batch. The batch, and all that is random in it, is a function of
    /// the step's number, counted from 0.
    ///
    /// # Errors
    /// If data cannot be had.
    fn pass(&mut self, step: u64, parameters: &mut Parameters) -> Result<Pass, Error>;
}

/// A training run.
pub struct Trainer {
    settings: Settings,
    run: String,
    optimizer: Optimizer,
    past: Past,
    /// Held as long as the run may be saved.
    _lock: Option<state::Lock>,
}

impl Trainer {
    /// Begins a run, or goes on with the one that was saved; then `parameters` become as they were.
    ///
    /// # Errors
    /// If what was saved cannot be read, is of another run, or another process saves there.
    pub fn new(settings: Settings, task: &dyn Task, parameters: &mut Parameters) -> Result<Self, Error> {
        let Settings { schedule, method, clip, save } = &settings;
        task.extend(parameters);
        let run = format!(
            "{}; {schedule:?}; {method:?}; clip {clip:?}; from weights {:016x}",
            task.description(),
            hash(parameters)
        );
        let mut lock = save.as_ref().map(|(path, _)| state::Lock::of(path)).transpose()?;
        let mut optimizer = Optimizer::new(*method, parameters);
        let past = match save {
            Some((path, _)) => state::restore(path, &run, parameters, &mut optimizer)?,
            None => Past::default(),
        };
        lock.iter_mut().for_each(state::Lock::begin);
        Ok(Self { settings, run, optimizer, past, _lock: lock })
    }

    /// How it trains.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Steps made so far, in earlier runs too.
    pub fn steps(&self) -> u64 {
        self.optimizer.steps()
    }

    /// The loss of each step so far.
    pub fn losses(&self) -> &[f32] {
        &self.past.losses
    }

    /// What was learned from so far, in earlier runs too: tokens, images.
    pub fn items(&self) -> u64 {
        self.past.items
    }

    /// Makes the remaining steps. Calls `progress` after each with the steps made and what the step's pass was; it answers
    /// whether to go on: if not, the run is saved and can be resumed.
    ///
    /// # Errors
    /// If a loss or a gradient is not finite, data cannot be had, or the run cannot be saved.
    pub fn run(
        &mut self,
        task: &mut dyn Task,
        parameters: &mut Parameters,
        progress: &mut dyn FnMut(u64, Pass) -> bool,
    ) -> Result<(), Error> {
        let mut saved = Instant::now();
        while self.steps() < self.settings.schedule.steps {
            let step = self.steps();
            parameters.clear_gradients();
            let pass = task.pass(step, parameters)?;
            let norm = clip(parameters, self.settings.clip.unwrap_or(f32::INFINITY));
            if !(pass.loss.is_finite() && norm.is_finite()) {
                let rate = self.settings.schedule.rate(step);
                let path = self.settings.save.as_ref().map(|(path, _)| path).filter(|path| path.exists());
                let saved = path.map(|path| path.display().to_string());
                return Err(Error::Diverged { step, loss: pass.loss, norm, rate, saved });
            }
            self.optimizer.step(parameters, self.settings.schedule.rate(step));
            self.past.losses.push(pass.loss as f32);
            self.past.items += pass.items as u64;
            let go_on = progress(self.steps(), pass);
            let due = self.settings.save.as_ref().is_some_and(|(_, every)| saved.elapsed() >= *every);
            if due || !go_on || self.steps() == self.settings.schedule.steps {
                self.save(parameters)?;
                saved = Instant::now();
            }
            if !go_on {
                break;
            }
        }
        Ok(())
    }

    fn save(&self, parameters: &Parameters) -> Result<(), Error> {
        match &self.settings.save {
            Some((path, _)) => state::save(path, &self.run, &self.past, parameters, &self.optimizer),
            None => Ok(()),
        }
    }
}

/// A hash of all values, by which a run knows what it began with.
fn hash(parameters: &Parameters) -> u64 {
    let mut hash = Xxh3::new();
    for variable in parameters.variables() {
        hash.update(variable.path.as_bytes());
        for values in variable.values.chunks(1 << 12) {
            hash.update(&values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        }
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Decay;
    use bantam_nn::train::AdamW;

    /// Pulls two numbers to targets that change with the step.
    struct Pull;

    impl Task for Pull {
        fn description(&self) -> String {
            "pull".to_owned()
        }

        fn pass(&mut self, step: u64, parameters: &mut Parameters) -> Result<Pass, Error> {
            let variable = &mut parameters.variables_mut()[0];
            let mut loss = 0.0;
            for (i, (w, g)) in variable.values.iter().zip(&mut variable.gradient).enumerate() {
                let target = (step as f32 * 0.7 + i as f32).sin();
                *g += w - target;
                loss += f64::from((w - target) * (w - target)) / 2.0;
            }
            Ok(Pass { loss, items: 2 })
        }
    }

    fn settings(save: Option<PathBuf>) -> Settings {
        Settings {
            schedule: Schedule { peak: 0.05, floor: 0.0, warmup: 5, steps: 40, decay: Decay::Cosine },
            method: AdamW { weight_decay: 0.01, ..AdamW::default() }.into(),
            clip: Some(0.5),
            save: save.map(|path| (path, Duration::from_secs(3600))),
        }
    }

    fn parameters() -> Parameters {
        let mut parameters = Parameters::default();
        parameters.insert("w", &[1, 2], vec![1.0, -2.0]);
        parameters
    }

    #[test]
    fn a_run_that_was_stopped_goes_on_as_if_it_had_not() {
        let mut whole = parameters();
        let mut trainer = Trainer::new(settings(None), &Pull, &mut whole).unwrap();
        trainer.run(&mut Pull, &mut whole, &mut |_, _| true).unwrap();

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.gguf");
        for stop in [7, 8, 23, 40] {
            let mut parameters = parameters();
            let mut part = Trainer::new(settings(Some(path.clone())), &Pull, &mut parameters).unwrap();
            part.run(&mut Pull, &mut parameters, &mut |steps, _| steps < stop).unwrap();
            assert_eq!(part.steps(), stop);
        }
        let mut resumed = parameters();
        let last = Trainer::new(settings(Some(path)), &Pull, &mut resumed).unwrap();
        assert_eq!((last.losses(), last.items()), (trainer.losses(), 80));
        assert_eq!(resumed.variables()[0].values, whole.variables()[0].values);
    }

    #[test]
    fn the_state_of_another_run_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let same = settings(Some(folder.path().join("state.gguf")));
        let mut parameters_then = parameters();
        let mut trainer = Trainer::new(same.clone(), &Pull, &mut parameters_then).unwrap();
        trainer.run(&mut Pull, &mut parameters_then, &mut |_, _| false).unwrap();
        let second = Trainer::new(same.clone(), &Pull, &mut parameters()).err().unwrap();
        assert!(matches!(second, Error::InUse { .. }), "{second}");
        drop(trainer);
        let refused = |settings, mut parameters: Parameters| {
            let error = Trainer::new(settings, &Pull, &mut parameters).err().unwrap().to_string();
            assert!(error.contains("state.gguf") && error.contains("another run"), "{error}");
        };
        refused(Settings { clip: None, ..same.clone() }, parameters());
        let mut others = parameters();
        others.variables_mut()[0].values[1] = -3.0;
        refused(same, others);
    }

    #[test]
    fn a_loss_that_is_not_a_number_ends_the_run() {
        struct Broken;
        impl Task for Broken {
            fn description(&self) -> String {
                "broken".to_owned()
            }

            fn pass(&mut self, step: u64, parameters: &mut Parameters) -> Result<Pass, Error> {
                let pass = Pull.pass(step, parameters)?;
                Ok(if step == 3 { Pass { loss: f64::NAN, ..pass } } else { pass })
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.gguf");
        let saving = Settings { save: Some((path.clone(), Duration::ZERO)), ..settings(None) };
        for (settings, advice) in [(settings(None), "lower learning rate"), (saving, "delete ")] {
            let mut parameters = parameters();
            let mut trainer = Trainer::new(settings, &Broken, &mut parameters).unwrap();
            let error = trainer.run(&mut Broken, &mut parameters, &mut |_, _| true).unwrap_err().to_string();
            assert!(error.contains("step 3") && error.contains(advice), "{error}");
            assert!(parameters.variables()[0].values.iter().all(|v| v.is_finite()));
        }
        assert!(path.exists());
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.gguf");
        let save = || settings(Some(path.clone()));
        let mut begun = parameters();
        Trainer::new(save(), &Pull, &mut begun).unwrap().run(&mut Pull, &mut begun, &mut |_, _| false).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        let mut open = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut restored = parameters();
            let values = match Trainer::new(save(), &Pull, &mut restored) {
                Ok(_) => &begun, // what was damaged was padding
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.contains("state.gguf") && error.contains("delete the file"), "{error}");
                    refused += 1;
                    &parameters()
                }
            };
            assert_eq!(restored.variables()[0].values, values.variables()[0].values);
        };
        open(&whole[..whole.len() - 40]);
        // Two values, and two averages of each, are the end of the file, each of 32 bytes with its padding.
        for at in whole.len() - 96..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            open(&bytes);
        }
        assert_eq!(refused, 1 + 3 * 8);
    }
}
