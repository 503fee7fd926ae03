//! The training backend against PyTorch and against finite differences, on the tiny models of every family.

use bantam_checkpoint::Checkpoint;
use bantam_nn::Model;
use bantam_nn::train::{AdamW, CrossEntropy, Optimizer, Parameters, Train};
use std::path::{Path, PathBuf};

const FAMILIES: [&str; 5] = ["llama", "llama-biases", "qwen2", "qwen3", "gemma3"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

struct Subject {
    model: Model,
    parameters: Parameters,
    tokens: Vec<u32>,
    targets: Vec<Option<u32>>,
    reference: Reference,
}

/// What `scripts/fixtures/training.py` had from PyTorch.
#[derive(serde::Deserialize)]
struct Reference {
    lengths: Vec<usize>,
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
}

fn subject(name: &str) -> Subject {
    let checkpoint = Checkpoint::open(folder(name)).unwrap();
    let reference: Reference =
        serde_json::from_str(&std::fs::read_to_string(folder(name).join("training.json")).unwrap()).unwrap();
    let bytes = std::fs::read(folder(name).join("reference.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offset = |i: usize| 8 + header + json["tokens"]["data_offsets"][i].as_u64().unwrap() as usize;
    let tokens: Vec<u32> = bytes[offset(0)..offset(1)].as_chunks().0.iter().map(|&b| u32::from_le_bytes(b)).collect();
    let mut targets = Vec::new();
    let mut rest = &tokens[..];
    for &len in &reference.lengths {
        targets.extend(rest[1..len].iter().map(|&t| Some(t)).chain([None]));
        rest = &rest[len..];
    }
    let mut parameters = Parameters::of(&checkpoint).unwrap();
    parameters.freeze(|path| path == "rope_freqs.weight");
    Subject { model: Model::load(&checkpoint).unwrap(), parameters, tokens, targets, reference }
}

impl Subject {
    /// The loss, with its gradients in the parameters.
    fn loss(&mut self) -> f64 {
        self.parameters.clear_gradients();
        let mut pass = Train::new(&mut self.parameters, &self.reference.lengths);
        let hidden = self.model.definition().hidden(&mut pass, &self.tokens);
        let objective = CrossEntropy { targets: &self.targets };
        let loss = pass.loss(self.model.definition().head(), &hidden, &objective, 1.0);
        pass.backward();
        loss
    }
}

#[test]
fn gradients_and_steps_agree_with_pytorch() {
    for name in FAMILIES {
        let mut subject = subject(name);
        let settings = AdamW { weight_decay: 0.1, ..AdamW::default() };
        let mut optimizer = Optimizer::new(settings, &subject.parameters);
        for (step, &expected) in subject.reference.losses.clone().iter().enumerate() {
            let loss = subject.loss();
            assert!((loss / expected - 1.0).abs() < 1e-5, "{name}, step {step}: loss {loss} is not {expected}");
            if step == 0 {
                let trained = subject.parameters.variables().iter().filter(|v| v.trained());
                let norm = |g: &[f32]| g.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
                let mut norms: Vec<f64> = trained.map(|v| norm(&v.gradient)).collect();
                norms.sort_by(f64::total_cmp);
                assert_eq!(norms.len(), subject.reference.gradient_norms.len(), "{name}: all parameters are trained");
                for (found, expected) in norms.iter().zip(&subject.reference.gradient_norms) {
                    assert!((found / expected - 1.0).abs() < 1e-4, "{name}: gradient norm {found} is not {expected}");
                }
            }
            optimizer.step(&mut subject.parameters, 3e-3);
        }
    }
}

#[test]
fn every_parameter_receives_a_gradient() {
    for name in FAMILIES {
        let mut subject = subject(name);
        subject.loss();
        for variable in subject.parameters.variables().iter().filter(|v| v.trained()) {
            assert!(variable.received_gradient(), "{name}: {}", variable.path);
            assert!(variable.gradient.iter().any(|&g| g != 0.0), "{name}: {} has gradient 0", variable.path);
        }
    }
}

/// The slope of the loss along a random direction of one variable, by central differences.
#[test]
fn gradients_agree_with_finite_differences() {
    for name in FAMILIES {
        let mut subject = subject(name);
        subject.loss();
        let gradients: Vec<Vec<f32>> = subject.parameters.variables().iter().map(|v| v.gradient.clone()).collect();
        let mut random = 12345u32;
        for (i, gradient) in gradients.iter().enumerate().filter(|(_, g)| !g.is_empty()) {
            let direction: Vec<f32> = gradient
                .iter()
                .map(|_| {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (random >> 8) as f32 / (1 << 23) as f32 - 1.0
                })
                .collect();
            let slope: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
            let size =
                (direction.iter().map(|d| d * d).sum::<f32>() * gradient.iter().map(|g| g * g).sum::<f32>()).sqrt();
            // Steps that change the loss by about the same, whatever the variable.
            let step = 3e-3 / size * (direction.len() as f32).sqrt();
            let values = subject.parameters.variables()[i].values.clone();
            let mut at = |factor: f32| {
                let moved = values.iter().zip(&direction).map(|(v, d)| v + factor * step * d).collect();
                subject.parameters.variables_mut()[i].values = moved;
                subject.loss()
            };
            let found = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
            subject.parameters.variables_mut()[i].values = values;
            let path = &subject.parameters.variables()[i].path;
            let error = (found - slope).abs() / f64::from(size / (direction.len() as f32).sqrt());
            assert!(error < 2e-2, "{name}: {path}: slope {slope}, by differences {found}, error {error}");
        }
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let losses = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut subject = subject("gemma3");
            let mut optimizer = Optimizer::new(AdamW::default(), &subject.parameters);
            let step = |_| {
                let loss = subject.loss();
                optimizer.step(&mut subject.parameters, 1e-2);
                loss.to_bits()
            };
            (0..3).map(step).collect::<Vec<_>>()
        })
    };
    assert_eq!(losses(1), losses(3));
}
