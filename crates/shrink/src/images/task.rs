//! Learning to tell images apart, from labels or from a teacher's probabilities.

use super::Images;
use crate::Error;
use crate::distill::{Divergence, Soft, SoftLabels};
use crate::train::{Pass, Task};
use bantam_nn::models::mlp::Mlp;
use bantam_nn::random::SplitMix64;
use bantam_nn::train::{CrossEntropy, Dropout, Objective, Parameters, Train};
use xxhash_rust::xxh3::xxh3_64;

/// What a teacher says of each image.
pub struct Teacher {
    /// `[images, classes]`.
    pub logits: Vec<f32>,
    /// T of the soft labels.
    pub temperature: f32,
    /// The weight of the soft labels beside the hard ones.
    pub soft: f32,
}

/// Batches of images in random order, epoch after epoch.
pub struct ImageTask<'a> {
    /// The network.
    pub network: &'a Mlp,
    /// What it learns from.
    pub images: &'a Images,
    /// Images a step.
    pub batch: usize,
    /// Pixels by which images are moved at random, each way.
    pub jitter: usize,
    /// Shares of the inputs and of the hidden values that are dropped.
    pub dropout: (f32, f32),
    /// Of all that is random.
    pub seed: u64,
    /// The teacher; without one the labels are learned.
    pub teacher: Option<Teacher>,
    /// The order of an epoch, with the epoch's number.
    order: (u64, Vec<u32>),
}

impl<'a> ImageTask<'a> {
    /// Labels alone, no regularization.
    pub fn new(network: &'a Mlp, images: &'a Images, batch: usize, seed: u64) -> Self {
        let (jitter, dropout, teacher, order) = (0, (0.0, 0.0), None, (u64::MAX, Vec::new()));
        Self { network, images, batch, jitter, dropout, seed, teacher, order }
    }

    /// Steps in which every image is seen once; a rest smaller than a batch is left out, another one each time.
    pub fn steps_per_epoch(&self) -> u64 {
        (self.images.len() / self.batch).max(1) as u64
    }

    /// The images of a step.
    fn chosen(&mut self, step: u64) -> Vec<usize> {
        let epoch = step / self.steps_per_epoch();
        if self.order.0 != epoch {
            let mut order: Vec<u32> = (0..self.images.len() as u32).collect();
            SplitMix64::child(self.seed, 2 * epoch).shuffle(&mut order);
            self.order = (epoch, order);
        }
        let first = (step % self.steps_per_epoch()) as usize * self.batch;
        self.order.1.iter().skip(first).take(self.batch).map(|&i| i as usize).collect()
    }

    /// The pixels of these images, moved.
    fn pixels(&self, chosen: &[usize], random: &mut SplitMix64) -> Vec<f32> {
        let mut pixels = Vec::with_capacity(chosen.len() * self.images.size());
        for &i in chosen {
            let span = 2 * self.jitter + 1;
            let shift = |random: &mut SplitMix64| random.below(span) as isize - self.jitter as isize;
            match (shift(random), shift(random)) {
                (0, 0) => pixels.extend_from_slice(self.images.image(i)),
                (down, right) => push_moved(self.images, i, down, right, &mut pixels),
            }
        }
        pixels
    }
}

/// Appends image `i`, moved; what comes in from outside is 0.
fn push_moved(images: &Images, i: usize, down: isize, right: isize, pixels: &mut Vec<f32>) {
    let image = images.image(i);
    for y in 0..images.height {
        for x in 0..images.width {
            let from = (y.checked_add_signed(-down), x.checked_add_signed(-right));
            pixels.push(match from {
                (Some(y), Some(x)) if y < images.height && x < images.width => image[y * images.width + x],
                _ => 0.0,
            });
        }
    }
}

impl Task for ImageTask<'_> {
    fn description(&self) -> String {
        let said = |t: &Teacher| {
            let logits = xxh3_64(bytemuck::cast_slice(&t.logits));
            format!("{logits:016x} at temperature {}, weight {}", t.temperature, t.soft)
        };
        let teacher = self.teacher.as_ref().map_or("none".to_owned(), said);
        let Self { images, batch, jitter, dropout, seed, .. } = self;
        let images = format!("{} images {:016x}", images.len(), images.fingerprint());
        format!("{images}, batch {batch}, jitter {jitter}, dropout {dropout:?}, seed {seed}, teacher {teacher}")
    }

    fn pass(&mut self, step: u64, parameters: &mut Parameters) -> Result<Pass, Error> {
        let chosen = self.chosen(step);
        let mut random = SplitMix64::child(self.seed, 2 * step + 1);
        let pixels = self.pixels(&chosen, &mut random);
        let labels: Vec<Option<u32>> = chosen.iter().map(|&i| Some(u32::from(self.images.labels[i]))).collect();
        let dropout = Dropout { input: self.dropout.0, hidden: self.dropout.1, seed: random.next() };
        let mut pass = Train::new(parameters, &[]).with_dropout(dropout);
        let x = pass.input(&pixels, self.images.size());
        let hidden = self.network.hidden(&mut pass, x);
        let mut learn = |objective: &dyn Objective| pass.loss(self.network.head(), &hidden, objective, 1.0);
        let loss = match &self.teacher {
            None => learn(&CrossEntropy { targets: &labels }),
            Some(Teacher { logits, temperature, soft }) => {
                let classes = self.network.outputs();
                let said = |&i: &usize| Some(Soft::Logits(&logits[i * classes..(i + 1) * classes]));
                let teacher: Vec<_> = chosen.iter().map(said).collect();
                let divergence = Divergence::Forward;
                learn(&SoftLabels {
                    teacher: &teacher,
                    labels: &labels,
                    divergence,
                    temperature: *temperature,
                    soft: *soft,
                })
            }
        };
        pass.backward();
        Ok(Pass { loss, items: chosen.len() })
    }
}

/// Images whose logits are computed together.
const AT_ONCE: usize = 1000;

/// The logits of all images, `[images, classes]`.
pub fn logits(network: &Mlp, parameters: &mut Parameters, images: &Images) -> Vec<f32> {
    use bantam_nn::Backend;
    let mut logits = Vec::with_capacity(images.len() * network.outputs());
    for pixels in images.pixels.chunks(AT_ONCE * images.size()) {
        let mut pass = Train::new(parameters, &[]);
        let x = pass.input(pixels, images.size());
        let hidden = network.hidden(&mut pass, x);
        logits.extend_from_slice(&pass.linear(network.head(), &hidden));
    }
    logits
}

/// Images whose likeliest class is not their label, by class.
pub fn errors(logits: &[f32], labels: &[u8]) -> Vec<usize> {
    let classes = logits.len() / labels.len().max(1);
    let mut errors = vec![0; classes];
    for (logits, &label) in logits.chunks_exact(classes).zip(labels) {
        let likeliest = (0..classes).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap_or(0);
        errors[usize::from(label)] += usize::from(likeliest != usize::from(label));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::begin;
    use crate::train::{Decay, Schedule, Settings, Trainer};
    use bantam_checkpoint::Checkpoint;
    use bantam_nn::train::AdamW;

    /// Bright spots in one of four corners, noise around.
    fn corners(count: usize, seed: u64) -> Images {
        let mut random = SplitMix64::new(seed);
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let label = random.below(4);
            let spot = [9, 14, 49, 54][label];
            pixels.extend((0..64).map(|i| random.unit() as f32 * 0.5 + if i == spot { 0.6 } else { 0.0 }));
            labels.push(label as u8);
        }
        Images { pixels, labels, height: 8, width: 8 }
    }

    struct Fixture {
        _folder: tempfile::TempDir,
        network: Mlp,
        parameters: Parameters,
    }

    fn fixture(widths: &[usize], seed: u64) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.gguf");
        begin::random(&path, widths, seed).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        let (network, parameters) = (Mlp::load(&checkpoint).unwrap(), Parameters::of(&checkpoint).unwrap());
        Fixture { _folder: folder, network, parameters }
    }

    fn train(task: &mut ImageTask<'_>, parameters: &mut Parameters, steps: u64) -> Vec<f32> {
        let schedule = Schedule { peak: 3e-3, floor: 0.0, warmup: 10, steps, decay: Decay::Cosine };
        let settings = Settings { schedule, method: AdamW::default().into(), clip: None, save: None };
        let mut trainer = Trainer::new(settings, task, parameters).unwrap();
        trainer.run(task, parameters, &mut |_, _| true).unwrap();
        trainer.losses().to_vec()
    }

    #[test]
    fn labels_are_learned_and_then_a_teacher_that_knows_them() {
        let (images, test) = (corners(600, 1), corners(400, 2));
        let mut teacher = fixture(&[64, 32, 4], 3);
        let before: usize =
            errors(&logits(&teacher.network, &mut teacher.parameters, &test), &test.labels).iter().sum();
        let mut task = ImageTask::new(&teacher.network, &images, 50, 4);
        task.dropout = (0.1, 0.3);
        train(&mut task, &mut teacher.parameters, 300);
        let after: usize = errors(&logits(&teacher.network, &mut teacher.parameters, &test), &test.labels).iter().sum();
        assert!(before > 200 && after < 40, "{before} errors of 400, trained {after}");

        // The student never sees a right label.
        let said = logits(&teacher.network, &mut teacher.parameters, &images);
        let unlabelled = Images { labels: vec![0; images.len()], ..images };
        let mut student = fixture(&[64, 16, 4], 5);
        let mut task = ImageTask::new(&student.network, &unlabelled, 50, 6);
        task.teacher = Some(Teacher { logits: said, temperature: 4.0, soft: 1.0 });
        train(&mut task, &mut student.parameters, 300);
        let taught: usize =
            errors(&logits(&student.network, &mut student.parameters, &test), &test.labels).iter().sum();
        assert!(taught < 60, "{taught} errors of 400");
    }

    /// Linear layers, rectifiers and dropout, whose draws are those of the step.
    #[test]
    fn gradients_agree_with_finite_differences() {
        let images = corners(20, 1);
        let mut fixture = fixture(&[64, 12, 10, 4], 2);
        let mut task = ImageTask::new(&fixture.network, &images, 20, 3);
        task.dropout = (0.2, 0.4);
        let parameters = &mut fixture.parameters;
        parameters.clear_gradients();
        task.pass(0, parameters).unwrap();
        let gradients: Vec<Vec<f32>> = parameters.variables().iter().map(|v| v.gradient.clone()).collect();
        for (i, gradient) in gradients.iter().enumerate() {
            // Along the gradient itself the slope is its norm.
            let norm = gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            let values = parameters.variables()[i].values.clone();
            let step = 1e-3;
            let mut at = |by: f32| {
                let moved = values.iter().zip(gradient).map(|(v, g)| v + by * g / norm).collect();
                parameters.variables_mut()[i].values = moved;
                task.pass(0, parameters).unwrap().loss
            };
            let slope = (at(step) - at(-step)) / f64::from(2.0 * step);
            parameters.variables_mut()[i].values = values;
            let path = &parameters.variables()[i].path;
            assert!((slope / f64::from(norm) - 1.0).abs() < 0.02, "{path}: {norm}, by differences {slope}");
        }
    }

    #[test]
    fn batches_are_functions_of_the_step() {
        let images = corners(30, 1);
        let fixture = fixture(&[64, 8, 4], 1);
        let mut task = ImageTask::new(&fixture.network, &images, 7, 9);
        let forth: Vec<_> = (0..8).map(|step| task.chosen(step)).collect();
        let mut back: Vec<_> = (0..8).rev().map(|step| task.chosen(step)).collect();
        back.reverse();
        assert_eq!(forth, back);
        let mut seen: Vec<usize> = forth[..4].concat();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 28, "no image twice in an epoch");
    }

    #[test]
    fn other_images_or_another_teacher_are_another_task() {
        let fixture = fixture(&[64, 8, 4], 1);
        let describe = |images: &Images, logits: Vec<f32>| {
            let mut task = ImageTask::new(&fixture.network, images, 7, 9);
            task.teacher = Some(Teacher { logits, temperature: 1.0, soft: 1.0 });
            task.description()
        };
        let (one, other, said) = (corners(30, 1), corners(30, 2), vec![1.0; 120]);
        let relabelled = Images { labels: one.labels.iter().rev().copied().collect(), ..one.clone() };
        let same = describe(&one, said.clone());
        assert_eq!(same, describe(&one.clone(), said.clone()));
        assert_ne!(same, describe(&other, said.clone()));
        assert_ne!(same, describe(&relabelled, said.clone()));
        assert_ne!(same, describe(&one, [vec![2.0, 0.0], vec![1.0; 118]].concat()), "though the sum is the same");
    }

    #[test]
    fn images_move_whole() {
        let images = Images { pixels: vec![1.0, 2.0, 3.0, 4.0], labels: vec![0], height: 2, width: 2 };
        let mut moved = Vec::new();
        push_moved(&images, 0, 1, -1, &mut moved);
        assert_eq!(moved, [0.0, 0.0, 2.0, 0.0]);
    }
}
