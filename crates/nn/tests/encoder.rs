//! A tiny random sentence encoder against transformers, its training against PyTorch and finite differences.
//! `scripts/fixtures/bert.py` makes the fixture.

use bantam_checkpoint::Checkpoint;
use bantam_nn::train::{AdamW, Optimizer, Parameters, Train};
use bantam_nn::{Backend, Encoder, Model};
use std::path::{Path, PathBuf};

const WIDTH: usize = 32;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bert")
}

fn checkpoint() -> Checkpoint {
    Checkpoint::open(folder()).unwrap()
}

fn encoder() -> Encoder {
    Encoder::load(&checkpoint()).unwrap()
}

/// What `scripts/fixtures/bert.py` had from PyTorch when it trained the encoder.
#[derive(serde::Deserialize)]
struct Training {
    lengths: Vec<usize>,
    losses: Vec<f64>,
    gradient_norms: Vec<f64>,
}

fn training() -> Training {
    serde_json::from_str(&std::fs::read_to_string(folder().join("training.json")).unwrap()).unwrap()
}

fn reference(name: &str) -> Vec<[u8; 4]> {
    let path = folder().join("reference.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let offset = |i: usize| 8 + header + json[name]["data_offsets"][i].as_u64().unwrap() as usize;
    bytes[offset(0)..offset(1)].as_chunks().0.to_vec()
}

fn floats(name: &str) -> Vec<f32> {
    reference(name).into_iter().map(f32::from_le_bytes).collect()
}

/// The reference's sentences.
fn sequences() -> Vec<Vec<u32>> {
    let tokens: Vec<u32> = reference("tokens").into_iter().map(u32::from_le_bytes).collect();
    let mut rest = &tokens[..];
    training().lengths.iter().map(|&len| rest.split_off(..len).unwrap().to_vec()).collect()
}

fn assert_near(found: &[f32], expected: &[f32], share: f32) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= share * largest, "at {i}: {f} is not {e}");
    }
}

#[test]
fn hidden_states_and_embeddings_agree_with_transformers() {
    let (encoder, mut layers, mut embeddings) = (encoder(), Vec::new(), Vec::<f32>::new());
    let mut layer = |at: usize, x: &[f32]| layers.extend([(at, x.to_vec())]);
    encoder.observe(&sequences(), &mut layer, &mut |x| embeddings.extend_from_slice(x)).unwrap();
    assert_eq!(layers.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 1, 2]);
    let layers: Vec<f32> = layers.into_iter().flat_map(|(_, x)| x).collect();
    assert_near(&layers, &floats("layers"), 1e-5);
    for row in embeddings.chunks_mut(WIDTH) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    assert_near(&embeddings, &floats("embeddings"), 1e-5);
    assert_near(&encoder.embed(&sequences()).unwrap(), &embeddings, 1e-6);
}

#[test]
fn sentences_of_a_batch_do_not_see_each_other_and_threads_change_nothing() {
    let encoder = encoder();
    let random = |i: u32| (0..1 + i * 7 % 60).map(|j| (i * 31 + j * 17) % 400).collect::<Vec<u32>>();
    let sequences: Vec<Vec<u32>> = (0..200).map(random).collect(); // more than go together
    let together = encoder.embed(&sequences).unwrap();
    let alone: Vec<f32> = sequences.iter().flat_map(|s| encoder.embed(&[s]).unwrap()).collect();
    assert_near(&together, &alone, 1e-5);
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| encoder.embed(&sequences).unwrap())
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn texts_are_cut_to_what_the_model_sees() {
    let encoder = encoder();
    let long = "flute ".repeat(500);
    let tokens = encoder.tokens(&long, usize::MAX).unwrap();
    assert_eq!((tokens.len(), tokens[0], tokens[127]), (128, 2, 3));
    assert_eq!(encoder.tokens(&long, 5).unwrap().len(), 5);
    let embeddings = encoder.embed_texts(&[&long, "", "A man is playing a flute."]).unwrap();
    for embedding in embeddings.chunks(WIDTH) {
        assert!((embedding.iter().map(|v| v * v).sum::<f32>() - 1.0).abs() < 1e-5);
    }
    let error = encoder.embed(&[vec![2, 400, 3]]).unwrap_err().to_string();
    assert!(error.contains("token 400 is not in the vocabulary"), "{error}");
    assert!(encoder.embed(&[Vec::new()]).unwrap_err().to_string().contains("0 tokens"));
    assert!(encoder.embed(&[vec![5; 129]]).unwrap_err().to_string().contains("129 tokens"));
}

#[test]
fn kinds_of_models_are_told_apart() {
    let error = Model::load(&checkpoint()).err().unwrap().to_string();
    assert!(error.contains("is an encoder"), "{error}");
    let llama = Checkpoint::open(folder().with_file_name("llama")).unwrap();
    assert!(Encoder::load(&llama).err().unwrap().to_string().contains("no encoder"));
}

struct Subject {
    encoder: Encoder,
    parameters: Parameters,
    tokens: Vec<u32>,
    lengths: Vec<usize>,
}

fn subject() -> Subject {
    let sequences = sequences();
    Subject {
        encoder: encoder(),
        parameters: Parameters::of(&checkpoint()).unwrap(),
        tokens: sequences.concat(),
        lengths: sequences.iter().map(Vec::len).collect(),
    }
}

impl Subject {
    /// The mean of one minus the cosine with rows of a sine, with its gradients in the parameters.
    fn loss(&mut self) -> f64 {
        self.parameters.clear_gradients();
        let mut pass = Train::new(&mut self.parameters, &self.lengths);
        let hidden = self.encoder.definition().hidden(&mut pass, &self.tokens, &mut |_, _| ());
        let pooled = pass.pool(self.encoder.pooling(), &hidden);
        let (mut loss, mut gradient) = (0.0, Vec::new());
        let n = self.lengths.len();
        for (i, x) in pooled.chunks(WIDTH).enumerate() {
            let target: Vec<f64> = (0..WIDTH).map(|j| f64::from(((i * WIDTH + j) as f32).sin())).collect();
            let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            let x: Vec<f64> = x.iter().map(|&x| x.into()).collect();
            let (norm, target_norm) = (dot(&x, &x).sqrt(), dot(&target, &target).sqrt());
            let cosine = dot(&x, &target) / (norm * target_norm);
            loss += (1.0 - cosine) / n as f64;
            let slope = |(x, t): (&f64, &f64)| -((t / target_norm - cosine * x / norm) / norm / n as f64) as f32;
            gradient.extend(x.iter().zip(&target).map(slope));
        }
        pass.set_off(&pooled, &gradient);
        pass.backward();
        loss
    }
}

#[test]
fn gradients_and_steps_agree_with_pytorch() {
    let (mut subject, reference) = (subject(), training());
    let mut optimizer = Optimizer::new(AdamW { weight_decay: 0.1, ..AdamW::default() }, &subject.parameters);
    for (step, &expected) in reference.losses.iter().enumerate() {
        let loss = subject.loss();
        assert!((loss / expected - 1.0).abs() < 2e-5, "step {step}: loss {loss} is not {expected}");
        if step == 0 {
            let norm = |g: &[f32]| g.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>().sqrt();
            // A key's bias adds the same to all scores of a query: its gradient is rounding alone.
            let (keys, others): (Vec<_>, Vec<_>) =
                subject.parameters.variables().iter().partition(|v| v.path.ends_with("attn_k.bias"));
            assert!(keys.len() == 3 && keys.iter().all(|v| norm(&v.gradient) < 1e-6));
            let mut norms: Vec<f64> = others.iter().map(|v| norm(&v.gradient)).collect();
            norms.sort_by(f64::total_cmp);
            assert_eq!(norms.len(), reference.gradient_norms.len(), "all parameters are trained");
            for (found, expected) in norms.iter().zip(&reference.gradient_norms) {
                assert!((found / expected - 1.0).abs() < 1e-4, "gradient norm {found} is not {expected}");
            }
            // Where a gradient is rounding alone, Adam's steps are, too.
            subject.parameters.freeze(|path| path.ends_with("attn_k.bias"));
            optimizer = Optimizer::new(AdamW { weight_decay: 0.1, ..AdamW::default() }, &subject.parameters);
        }
        optimizer.step(&mut subject.parameters, 3e-3);
    }
}

#[test]
fn every_parameter_receives_a_gradient() {
    let mut subject = subject();
    subject.loss();
    for variable in subject.parameters.variables() {
        assert!(variable.received_gradient(), "{}", variable.path);
        assert!(variable.gradient.iter().any(|&g| g != 0.0), "{} has gradient 0", variable.path);
    }
}

/// The slope of the loss along a random direction of one variable, by central differences.
#[test]
fn gradients_agree_with_finite_differences() {
    let mut subject = subject();
    subject.loss();
    let gradients: Vec<Vec<f32>> = subject.parameters.variables().iter().map(|v| v.gradient.clone()).collect();
    let mut random = bantam_nn::random::SplitMix64::new(5);
    for (i, gradient) in gradients.iter().enumerate() {
        let path = subject.parameters.variables()[i].path.clone();
        if path.ends_with("attn_k.bias") {
            continue; // The loss does not depend on it.
        }
        let direction: Vec<f32> = gradient.iter().map(|_| random.unit() as f32 - 0.5).collect();
        let slope: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        let norm = |x: &[f32]| x.iter().map(|x| x * x).sum::<f32>().sqrt();
        let size = norm(&direction) * norm(gradient) / (direction.len() as f32).sqrt();
        let step = 5e-4 / size;
        let values = subject.parameters.variables()[i].values.clone();
        let mut at = |factor: f32| {
            let moved = values.iter().zip(&direction).map(|(v, d)| v + factor * step * d).collect();
            subject.parameters.variables_mut()[i].values = moved;
            subject.loss()
        };
        let found = (at(1.0) - at(-1.0)) / (2.0 * f64::from(step));
        subject.parameters.variables_mut()[i].values = values;
        let error = (found - slope).abs() / f64::from(size);
        assert!(error < 2e-2, "{path}: slope {slope}, by differences {found}, error {error}");
    }
}
