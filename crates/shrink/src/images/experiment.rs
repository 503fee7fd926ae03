//! Experiments on images as data: networks that learn from labels or from each other, several seeds of each.

use super::{ImageTask, Images, Teacher, begin, errors, logits};
use crate::train::{Decay, Schedule, Settings, Trainer};
use crate::{Error, students};
use bantam_checkpoint::Checkpoint;
use bantam_formats::Format;
use bantam_nn::models::mlp::Mlp;
use bantam_nn::train::{AdamW, Parameters};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time from one saving of a network's training to the next.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// An experiment: data, and networks in the order in which they are trained.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// What it is.
    pub title: String,
    /// Each network is trained once with each seed.
    pub seeds: Vec<u64>,
    /// The networks.
    pub network: Vec<Network>,
    /// Where it was read from.
    #[serde(skip)]
    path: PathBuf,
}

/// How one network is trained.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Its name; others may name it as their teacher.
    pub name: String,
    /// Widths of its hidden layers.
    pub hidden: Vec<usize>,
    /// How often it sees every image.
    pub epochs: u64,
    /// Images a step.
    #[serde(default = "default_batch")]
    pub batch: usize,
    /// The highest learning rate of AdamW; it falls along a cosine to 0.
    #[serde(default = "default_learning_rate")]
    pub learning_rate: f32,
    /// Shrinks matrices by this share of the learning rate each step.
    #[serde(default)]
    pub weight_decay: f32,
    /// Pixels by which images are moved at random, each way.
    #[serde(default)]
    pub jitter: usize,
    /// Shares of inputs and of hidden values that are dropped.
    #[serde(default)]
    pub dropout: (f32, f32),
    /// The network that it learns from; the labels if there is none.
    pub teacher: Option<String>,
    /// T of the soft labels.
    #[serde(default = "default_temperature")]
    pub temperature: f32,
    /// The weight of the soft labels; the rest is that of the hard ones.
    #[serde(default = "default_soft")]
    pub soft: f32,
    /// It begins with the units of its teacher that have the largest weights, not at random.
    #[serde(default)]
    pub from_teacher: bool,
    /// It sees images of these classes only.
    pub only: Option<Vec<u8>>,
    /// It sees no image of these classes.
    #[serde(default)]
    pub without: Vec<u8>,
    /// What the paper has: errors of the test set.
    #[serde(skip_serializing)]
    pub paper: Option<f64>,
}

fn default_batch() -> usize {
    128
}

fn default_learning_rate() -> f32 {
    1e-3
}

fn default_temperature() -> f32 {
    1.0
}

fn default_soft() -> f32 {
    1.0
}

/// What came of one network with one seed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The network's name.
    pub network: String,
    /// The seed.
    pub seed: u64,
    /// Numbers trained.
    pub parameters: usize,
    /// Errors of the test set.
    pub errors: usize,
    /// By class.
    pub errors_by_class: Vec<usize>,
    /// Where a class was never seen (or all but some): the change of its bias that makes the fewest errors, and those.
    pub bias: Option<BiasCorrection>,
    /// Time of training.
    pub seconds: f64,
}

/// An outcome, with all that it depends on: it stands as long as that is the same.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Kept {
    /// The network's definition, its teacher's, and the images.
    depends: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// Biases moved after training.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BiasCorrection {
    /// The classes whose biases move together.
    pub classes: Vec<u8>,
    /// By how much.
    pub change: f32,
    /// Errors of the test set then.
    pub errors: usize,
    /// By class.
    pub errors_by_class: Vec<usize>,
}

impl Experiment {
    /// Reads an experiment from TOML, and checks what it names.
    ///
    /// # Errors
    /// If the file cannot be read, or says something that makes no sense; with the line where TOML knows it.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let error = |problem: String| Error::Data { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
        let experiment: Self = toml::from_str(&text).map_err(|e| error(e.to_string()))?;
        experiment.check().map_err(error)?;
        Ok(Self { path: path.to_owned(), ..experiment })
    }

    /// Checks that the experiment can be made with these images.
    fn fits(&self, images: &Images, test: &Images) -> Result<(), String> {
        let shape = |images: &Images| format!("{} x {}", images.height, images.width);
        if (images.height, images.width) != (test.height, test.width) {
            return Err(format!(
                "the test images are {}, those to learn from {}; both need one size",
                shape(test),
                shape(images)
            ));
        }
        let largest = images.classes().saturating_sub(1);
        if test.classes() > images.classes() {
            let found = test.classes() - 1;
            return Err(format!(
                "the test images have a class {found}, those to learn from the classes 0 to {largest} alone"
            ));
        }
        for network in &self.network {
            let at = |what: String| Err(format!("network `{}`: {what}", network.name));
            let named = network.only.iter().flatten().chain(&network.without);
            if let Some(class) = named.copied().find(|&class| usize::from(class) > largest) {
                return at(format!("there is no class {class}; the images have the classes 0 to {largest}"));
            }
            if network.seen(images).is_empty() {
                return at(format!("`only` and `without` leave it no image of the classes 0 to {largest}"));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        if self.seeds.is_empty() || self.network.is_empty() {
            return Err("an experiment needs seeds and networks".to_owned());
        }
        for (i, network) in self.network.iter().enumerate() {
            let at = |what: String| Err(format!("network `{}`: {what}", network.name));
            let before = |name: &String| self.network[..i].iter().any(|n| n.name == *name);
            if self.network[..i].iter().any(|n| stem(&n.name) == stem(&network.name)) {
                return at("there is another of that name, or whose file would have the same name".to_owned());
            }
            if stem(&network.name).is_empty() {
                return at("a name needs a letter or a digit: its file is called by it".to_owned());
            }
            if let Some(teacher) = network.teacher.as_ref().filter(|t| !before(t)) {
                return at(format!("its teacher `{teacher}` must come before it"));
            }
            if network.hidden.contains(&0) || network.epochs == 0 || network.batch == 0 {
                return at("widths, epochs and batch are at least 1".to_owned());
            }
            let shares = [network.dropout.0, network.dropout.1];
            if shares.iter().any(|s| !(0.0..1.0).contains(s)) || !(0.0..=1.0).contains(&network.soft) {
                return at("dropout lies within 0 and below 1, soft within 0 and 1".to_owned());
            }
            if !(network.temperature > 0.0 && network.learning_rate > 0.0) {
                return at("temperature and learning rate are above 0".to_owned());
            }
            if network.from_teacher {
                self.narrows(i).or_else(|what| at(what.to_owned()))?;
            }
        }
        Ok(())
    }

    /// Whether the network's teacher has what it is to begin with.
    fn narrows(&self, network: usize) -> Result<(), &'static str> {
        let own = &self.network[network].hidden;
        let teacher =
            &self.network[self.teacher(network).ok_or("`from_teacher` is of a teacher, and it has none")?].hidden;
        match own.len() == teacher.len() && std::iter::zip(own, teacher).all(|(own, teacher)| own <= teacher) {
            true => Ok(()),
            false => Err("`from_teacher` needs a teacher of as many layers and no fewer units"),
        }
    }

    /// Where the weights of a network lie.
    pub fn weights(&self, folder: &Path, network: usize, seed: u64) -> PathBuf {
        folder.join(format!("{}-seed-{seed}.gguf", stem(&self.network[network].name)))
    }

    /// What a trained network says of images, `[images, classes]`.
    ///
    /// # Errors
    /// If its weights cannot be read.
    pub fn logits(&self, folder: &Path, network: usize, seed: u64, images: &Images) -> Result<Vec<f32>, Error> {
        let (model, mut parameters) = load(&self.weights(folder, network, seed))?;
        Ok(logits(&model, &mut parameters, images))
    }

    /// Where the network's teacher is in the list.
    fn teacher(&self, network: usize) -> Option<usize> {
        let name = self.network[network].teacher.as_ref()?;
        self.network.iter().position(|n| n.name == *name)
    }

    /// All that a network's outcome depends on beside the seed: what is said of it and of its teacher, and the images.
    fn depends(&self, network: usize, data: &str) -> String {
        let said = serde_json::to_string(&self.network[network]).expect("numbers and names are JSON");
        let teacher = self.teacher(network).map_or(data.to_owned(), |teacher| self.depends(teacher, data));
        format!("{said}\n{teacher}")
    }

    /// Trains the networks that are not in `kept` with one seed, and answers what came of all; nothing if `watch` says to
    /// stop. `folder` takes all weights.
    /// `watch` is told how training goes and what is to be kept.
    ///
    /// # Errors
    /// If the experiment cannot be made with these images, a run diverges, or a file cannot be read or written.
    pub fn run(
        &self,
        seed: u64,
        (images, test): (&Images, &Images),
        folder: &Path,
        mut kept: Vec<Kept>,
        watch: &mut dyn Watch,
    ) -> Result<Option<Vec<Outcome>>, Error> {
        self.fits(images, test).map_err(|problem| Error::Data { path: self.path.clone(), problem })?;
        let data = format!("images {:016x}, test {:016x}", images.fingerprint(), test.fingerprint());
        let (mut trained, mut outcomes): (Vec<(Mlp, Parameters)>, _) = (Vec::new(), Vec::new());
        for (i, network) in self.network.iter().enumerate() {
            let (path, depends) = (self.weights(folder, i, seed), self.depends(i, &data));
            if let Some(found) = kept.iter().find(|kept| kept.depends == depends && path.exists()) {
                outcomes.push(found.outcome.clone());
                trained.push(load(&path)?);
                continue;
            }
            // What lies in that file is about to be replaced.
            let before = kept.len();
            kept.retain(|kept| stem(&kept.outcome.network) != stem(&network.name));
            if kept.len() < before {
                watch.keep(&kept)?;
            }
            let start = std::time::Instant::now();
            let seen = network.seen(images);
            let teacher = self.teacher(i).map(|at| {
                let (teacher, parameters) = &mut trained[at];
                let logits = logits(teacher, parameters, &seen);
                Teacher { logits, temperature: network.temperature, soft: network.soft }
            });
            let widths = network.widths(&seen, images.classes());
            let start_at = path.with_extension("initial");
            match self.teacher(i).filter(|_| network.from_teacher) {
                Some(at) => begin::narrowed(&start_at, &widths, &trained[at].1)?,
                None => begin::random(&start_at, &widths, seed)?,
            }
            if !network.train(seed, &seen, teacher, (&start_at, &path), watch)? {
                return Ok(None);
            }
            let (model, mut parameters) = load(&path)?;
            let outcome = network.judge(seed, &model, &mut parameters, test, start.elapsed());
            outcomes.push(outcome.clone());
            trained.push((model, parameters));
            kept.push(Kept { depends, outcome });
            watch.keep(&kept)?;
        }
        Ok(Some(outcomes))
    }
}

/// Who looks on while an experiment runs.
pub trait Watch {
    /// Called after each step with the network's name, the steps done and their number; answers whether to go on. If not, the
    /// network's training is saved and the next run goes on with it.
    fn step(&mut self, network: &str, done: u64, steps: u64) -> bool;

    /// Called after each network, and before one is trained in the place of another, with all that is to be kept of the seed.
    ///
    /// # Errors
    /// If it cannot be kept.
    fn keep(&mut self, kept: &[Kept]) -> Result<(), Error>;
}

/// A network's name as a file has it: letters and digits, lines between.
fn stem(name: &str) -> String {
    let parts = name.split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty());
    parts.collect::<Vec<_>>().join("-").to_lowercase()
}

/// A network with its weights.
fn load(path: &Path) -> Result<(Mlp, Parameters), Error> {
    let checkpoint = Checkpoint::open(path)?;
    Ok((Mlp::load(&checkpoint)?, Parameters::of(&checkpoint)?))
}

impl Network {
    fn seen(&self, images: &Images) -> Images {
        images
            .only(|label| self.only.as_ref().is_none_or(|only| only.contains(&label)) && !self.without.contains(&label))
    }

    /// What the trained network makes of the test images.
    fn judge(&self, seed: u64, model: &Mlp, parameters: &mut Parameters, test: &Images, time: Duration) -> Outcome {
        let said = logits(model, parameters, test);
        let errors_by_class = errors(&said, &test.labels);
        Outcome {
            network: self.name.clone(),
            seed,
            parameters: parameters.trained(),
            errors: errors_by_class.iter().sum(),
            errors_by_class,
            bias: self.unequal().map(|classes| correct_bias(said, &test.labels, classes)),
            seconds: time.as_secs_f64(),
        }
    }

    /// The classes whose biases are wrong because the others were not seen as often as they come.
    fn unequal(&self) -> Option<Vec<u8>> {
        self.only.clone().or_else(|| (!self.without.is_empty()).then(|| self.without.clone()))
    }

    /// Pixels, units of the hidden layers, classes.
    fn widths(&self, images: &Images, classes: usize) -> Vec<usize> {
        [images.size()].into_iter().chain(self.hidden.iter().copied()).chain([classes]).collect()
    }

    /// Trains what is in the first file and writes it to the second; `false` if it was told to stop before.
    fn train(
        &self,
        seed: u64,
        seen: &Images,
        teacher: Option<Teacher>,
        (start, path): (&Path, &Path),
        watch: &mut dyn Watch,
    ) -> Result<bool, Error> {
        let state = path.with_extension("training");
        let checkpoint = Checkpoint::open(start)?;
        let (model, mut parameters) = (Mlp::load(&checkpoint)?, Parameters::of(&checkpoint)?);
        let mut task = ImageTask::new(&model, seen, self.batch.min(seen.len()), seed);
        (task.jitter, task.dropout, task.teacher) = (self.jitter, self.dropout, teacher);
        let steps = self.epochs * task.steps_per_epoch();
        let settings = Settings {
            schedule: Schedule {
                peak: self.learning_rate,
                floor: 0.0,
                warmup: (steps / 50).min(500),
                steps,
                decay: Decay::Cosine,
            },
            method: AdamW { weight_decay: self.weight_decay, ..AdamW::default() }.into(),
            clip: None,
            save: Some((state.clone(), SAVE_EVERY)),
        };
        let mut trainer = match Trainer::new(settings.clone(), &task, &mut parameters) {
            // What was saved is of the network as it was said to be before.
            Err(Error::TrainingState { .. }) => {
                std::fs::remove_file(&state)
                    .map_err(|e| Error::Data { path: state.clone(), problem: e.to_string() })?;
                Trainer::new(settings, &task, &mut parameters)
            }
            begun => begun,
        }?;
        trainer.run(&mut task, &mut parameters, &mut |done, _| watch.step(&self.name, done, steps))?;
        if trainer.steps() < steps {
            return Ok(false);
        }
        let f32 = Format::f32();
        students::write(&checkpoint, &parameters, f32, checkpoint.step("train").setting("seed", seed), path)?;
        // What is left behind does no harm.
        let _ = (std::fs::remove_file(start), std::fs::remove_file(state));
        Ok(true)
    }
}

/// The one change of these classes' biases that makes the fewest errors on the test set, as the paper has it.
fn correct_bias(said: Vec<f32>, labels: &[u8], classes: Vec<u8>) -> BiasCorrection {
    let per = said.len() / labels.len();
    let moved = |change: f32| {
        let mut said = said.clone();
        for row in said.chunks_exact_mut(per) {
            classes.iter().for_each(|&c| row[usize::from(c)] += change);
        }
        errors(&said, labels)
    };
    let best = (-200..=200)
        .map(|i| i as f32 * 0.1)
        .map(|change| (change, moved(change)))
        .min_by_key(|(change, errors)| (errors.iter().sum::<usize>(), (change.abs() * 10.0) as usize));
    let (change, errors_by_class) = best.expect("there are changes to try");
    BiasCorrection { classes, change, errors: errors_by_class.iter().sum(), errors_by_class }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Experiment, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("experiment.toml");
        std::fs::write(&path, text).unwrap();
        Experiment::read(&path).map_err(|e| e.to_string())
    }

    #[test]
    fn experiments_are_read_and_nonsense_is_named() {
        let network =
            |more: &str| format!("title = 't'\nseeds = [1]\n[[network]]\nname = 'a'\nhidden = [3]\nepochs = 1\n{more}");
        let experiment = read(&network("dropout = [0.2, 0.5]")).unwrap();
        assert_eq!((experiment.network[0].dropout, experiment.network[0].batch), ((0.2, 0.5), 128));
        for (wrong, why) in [
            ("teacher = 'b'", "must come before"),
            ("dropout = [0.2, 1.0]", "dropout"),
            ("temperature = 0.0", "temperature"),
            ("from_teacher = true", "it has none"),
            ("[[network]]\nname = 'b'\nhidden = [4]\nepochs = 1\nteacher = 'a'\nfrom_teacher = true", "no fewer units"),
            ("colour = 'red'", "colour"),
            ("[[network]]\nname = '?'\nhidden = [3]\nepochs = 1", "a letter or a digit"),
            ("[[network]]\nname = 'A,'\nhidden = [3]\nepochs = 1", "the same name"),
            ("[[network]]\nname = 'a'\nhidden = [3]\nepochs = 1", "another of that name"),
        ] {
            let error = read(&network(wrong)).unwrap_err();
            assert!(error.contains(why) && error.contains("experiment.toml"), "{error}");
        }
        assert!(read("title = 't'\nseeds = []\nnetwork = []").unwrap_err().contains("needs seeds"));
    }

    #[test]
    fn images_that_do_not_fit_are_named() {
        let images = |labels: &[u8], width: usize| Images {
            pixels: vec![0.0; labels.len() * width],
            labels: labels.to_vec(),
            height: 1,
            width,
        };
        let train = images(&[0, 1, 2], 4);
        let fits = |more: &str, test: &Images| {
            let network = "title = 't'\nseeds = [1]\n[[network]]\nname = 'a'\nhidden = [3]\nepochs = 1\n";
            read(&format!("{network}{more}")).unwrap().fits(&train, test)
        };
        assert_eq!(fits("only = [0, 2]", &images(&[1, 2], 4)), Ok(()));
        for (more, test, why) in [
            ("", images(&[1], 5), "1 x 5"),
            ("", images(&[1, 3], 4), "class 3"),
            ("only = []", train.clone(), "no image"),
            ("without = [0, 1, 2]", train.clone(), "no image"),
            ("only = [1, 200]", train.clone(), "no class 200"),
        ] {
            let error = fits(more, &test).unwrap_err();
            assert!(error.contains(why), "{more}: {error}");
        }
    }

    #[test]
    fn a_bias_that_was_never_raised_is_found() {
        // Class 1 is always two below what it should be.
        let labels: Vec<u8> = (0..40).map(|i| i % 2).collect();
        let said = labels.iter().flat_map(|&l| if l == 0 { [1.0, -2.0] } else { [0.0, -1.0] }).collect();
        let found = correct_bias(said, &labels, vec![1]);
        assert!(found.errors == 0 && found.change >= 1.0 && found.change < 3.0, "{found:?}");
    }
}
