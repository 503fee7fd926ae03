//! The training backend against PyTorch and against finite differences, on the tiny models of every family.

use bantam_checkpoint::{Checkpoint, TensorData};
use bantam_formats::Format;
use bantam_nn::layers::{Activation, Linear};
use bantam_nn::random::SplitMix64;
use bantam_nn::train::{AdamW, CrossEntropy, Optimizer, Parameters, Train};
use bantam_nn::weights::{Parameter, Weight};
use bantam_nn::{Backend, Model};
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

/// A random layer whose values are among the parameters: training finds them there by the paths, and asks the layer for nothing else.
fn linear(stem: &str, outputs: usize, inputs: usize, parameters: &mut Parameters, random: &mut SplitMix64) -> Linear {
    let [weight, bias] = ["weight", "bias"].map(|kind| format!("{stem}.{kind}"));
    let mut normal = |len: usize| (0..len).map(|_| (random.normal() / (inputs as f64).sqrt()) as f32).collect();
    parameters.insert(&weight, &[outputs, inputs], normal(outputs * inputs));
    parameters.insert(&bias, &[outputs], normal(outputs));
    let empty = Weight { format: Format::f32(), data: TensorData::Owned([].into()), rows: outputs, cols: inputs };
    Linear { path: weight, weight: empty, bias: Some(Parameter { path: bias, values: Vec::new() }) }
}

/// The models above are so small that each of their products stays on one thread.
#[test]
fn products_that_are_shared_among_threads_change_nothing() {
    // None a multiple of the tiles that products are made of.
    const ROWS: usize = 161;
    const INPUTS: usize = 259;
    const WIDTH: usize = 389;
    const CLASSES: usize = 131;
    const { assert!(CLASSES < INPUTS && ROWS * WIDTH * CLASSES > 4 * gemm::DEFAULT_THREADING_THRESHOLD) };
    let trained = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            assert_eq!(rayon::current_num_threads(), threads);
            let (mut parameters, mut random) = (Parameters::default(), SplitMix64::new(6));
            let mut layer = |stem, outputs, inputs| linear(stem, outputs, inputs, &mut parameters, &mut random);
            let layers = [layer("first", WIDTH, INPUTS), layer("second", WIDTH, WIDTH)];
            let head = layer("head", CLASSES, WIDTH);
            let inputs: Vec<f32> = (0..ROWS * INPUTS).map(|_| random.normal() as f32).collect();
            let targets: Vec<Option<u32>> = (0..ROWS).map(|row| Some((row % CLASSES) as u32)).collect();
            let mut optimizer = Optimizer::new(AdamW::default(), &parameters);
            let mut step = || {
                parameters.clear_gradients();
                let mut pass = Train::new(&mut parameters, &[ROWS]);
                let mut x = pass.input(&inputs, INPUTS);
                for layer in &layers {
                    let y = pass.linear(layer, &x);
                    x = pass.activate(Activation::Relu, y);
                }
                let loss = pass.loss(&head, &x, &CrossEntropy { targets: &targets }, 1.0);
                drop(x);
                pass.backward();
                optimizer.step(&mut parameters, 1e-3);
                loss
            };
            let losses = [step(), step()];
            assert!(losses[0].is_finite() && losses[1] != losses[0], "{losses:?}");
            let values = parameters.variables().iter().flat_map(|v| &v.values);
            (losses.map(f64::to_bits), values.map(|v| v.to_bits()).collect::<Vec<u32>>())
        })
    };
    assert!(trained(1) == trained(3), "losses or weights differ");
}
