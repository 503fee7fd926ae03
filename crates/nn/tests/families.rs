//! Tiny random models of each family against the logits that transformers computes for them.

use bantam_checkpoint::{Checkpoint, TensorInfo};
use bantam_formats::Format;
use bantam_nn::layers::Linear;
use bantam_nn::models::planned_tensors;
use bantam_nn::observe::{Listener, Observe};
use bantam_nn::{Backend, Model, Session};
use std::path::{Path, PathBuf};

/// What each fixture exercises is said in `scripts/fixtures/models.py`, which makes them.
const FAMILIES: [&str; 5] = ["llama", "llama-biases", "qwen2", "qwen3", "gemma3"];

struct Reference {
    model: Model,
    tokens: Vec<u32>,
    /// `[tokens, vocabulary]`.
    logits: Vec<f32>,
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn load(name: &str) -> Reference {
    let model = Model::load(&Checkpoint::open(folder(name)).unwrap()).unwrap();
    let bytes = std::fs::read(folder(name).join("reference.safetensors")).unwrap();
    let tensor = |name: &str| -> Vec<[u8; 4]> {
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let json: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
        let offset = |i: usize| 8 + header + json[name]["data_offsets"][i].as_u64().unwrap() as usize;
        bytes[offset(0)..offset(1)].as_chunks().0.to_vec()
    };
    Reference {
        model,
        tokens: tensor("tokens").into_iter().map(u32::from_le_bytes).collect(),
        logits: tensor("logits").into_iter().map(f32::from_le_bytes).collect(),
    }
}

/// A session whose cache rounds nothing.
fn session(model: &Model) -> Session<'_> {
    model.session_with_cache(64, Format::by_name("F32").unwrap()).unwrap()
}

/// The logits of `tokens`, given `step` at a time.
fn logits(model: &Model, session: &mut Session<'_>, tokens: &[u32], step: usize) -> Vec<f32> {
    let mut all = Vec::new();
    for tokens in tokens.chunks(step) {
        let hidden = session.forward(tokens).unwrap().to_vec();
        let mut logits = vec![f32::NAN; tokens.len() * model.config().vocab_size];
        session.logits(&hidden, &mut logits);
        all.extend(logits);
    }
    all
}

/// The largest difference, as a share of the largest value.
fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let difference = found.iter().zip(expected).fold(0f32, |m, (f, e)| {
        assert!(f.is_finite());
        m.max((f - e).abs())
    });
    difference / largest
}

#[test]
fn prefill_agrees_with_transformers() {
    for name in FAMILIES {
        let Reference { model, tokens, logits: expected } = load(name);
        let error = relative_error(&logits(&model, &mut session(&model), &tokens, tokens.len()), &expected);
        println!("{name}: {error:.1e}");
        assert!(error <= 1e-4, "{name}: relative error {error}");
    }
}

/// What was said of outputs that were added to the residual stream.
#[derive(Default)]
struct Added {
    last: String,
    /// The layer whose output it was, and what errors of each token count.
    events: Vec<(String, Vec<f32>)>,
}

impl Listener for Added {
    fn input(&mut self, layers: &[&Linear], _: &[f32]) {
        self.last = layers[0].path.clone();
    }

    fn added(&mut self, counts: &[f32]) {
        self.events.push((self.last.clone(), counts.to_vec()));
    }
}

#[test]
fn errors_of_what_is_added_to_the_stream_count_by_their_share_of_it() {
    for name in FAMILIES {
        let Reference { model, tokens, .. } = load(name);
        let (config, definition) = (model.config(), model.definition());
        let mut nobody = |_: &[&Linear], _: &[f32]| ();
        let mut observe = Observe::new(config, &[tokens.len()], &mut nobody).unwrap();
        let mut x = definition.embed(&mut observe, &tokens).to_vec();
        for layer in 0..config.block_count {
            let mut added = Added::default();
            let mut observe = Observe::new(config, &[tokens.len()], &mut added).unwrap();
            let input = observe.input(&x, config.embedding_length);
            x = definition.layer(&mut observe, layer, input).to_vec();
            let [(attention, before), (feed_forward, counts)] = &added.events[..] else {
                panic!("{name}: {} outputs are added", added.events.len());
            };
            assert_eq!(*attention, format!("blk.{layer}.attn_output.weight"), "{name}");
            assert_eq!(*feed_forward, format!("blk.{layer}.ffn_down.weight"), "{name}");
            assert!(before.iter().chain(counts).all(|c| c.is_finite() && *c > 0.0), "{name}");
            assert_eq!((before.len(), counts.len()), (tokens.len(), tokens.len()), "{name}");
            for (row, count) in x.chunks_exact(config.embedding_length).zip(counts) {
                let mean = row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32 + 1e-6;
                let by_stream_alone = (mean * count - 1.0).abs() < 1e-4;
                // Gemma normalizes the output itself too.
                assert_eq!(by_stream_alone, name != "gemma3", "{name}: {mean} times {count}");
            }
        }
    }
}

#[test]
fn layer_by_layer_every_linear_layer_shows_its_input_once() {
    for name in FAMILIES {
        let Reference { mut model, tokens, logits: expected } = load(name);
        let (mut paths, mut inputs) = (Vec::new(), Vec::new());
        let mut listener = |layers: &[&Linear], x: &[f32]| {
            for layer in layers {
                assert_eq!(x.len(), tokens.len() * layer.weight.cols, "{name}: {}", layer.path);
                paths.push(layer.path.clone());
            }
            inputs.push(x.to_vec());
        };
        let mut observe = Observe::new(model.config(), &[tokens.len()], &mut listener).unwrap();
        let (config, definition) = (model.config(), model.definition());
        let mut x = definition.embed(&mut observe, &tokens).to_vec();
        for layer in 0..config.block_count {
            // Each layer from numbers that were kept, as calibration does it.
            let input = observe.input(&x, config.embedding_length);
            x = definition.layer(&mut observe, layer, input).to_vec();
        }
        let input = observe.input(&x, config.embedding_length);
        let hidden = definition.norm(&mut observe, &input);
        let logits = observe.linear(definition.head(), &hidden).to_vec();
        let error = relative_error(&logits, &expected);
        assert!(error <= 1e-4, "{name}: relative error {error}");
        assert_eq!(inputs.last(), Some(&hidden.to_vec()), "the head sees the normed states");
        let mut all = Vec::new();
        model.visit_linears_mut(&mut |linear| all.push(linear.path.clone()));
        assert_eq!(paths, all, "{name}");
        // A head that is tied goes by its embedding's name.
        let checkpoint = Checkpoint::open(folder(name)).unwrap();
        let head = checkpoint.tensor("output.weight").map_or("token_embd.weight", |_| "output.weight");
        assert_eq!(paths.last().unwrap(), head, "{name}");
    }
}

#[test]
fn cached_decoding_agrees_with_transformers() {
    for name in FAMILIES {
        let Reference { model, tokens, logits: expected } = load(name);
        for step in [1, 5] {
            let error = relative_error(&logits(&model, &mut session(&model), &tokens, step), &expected);
            assert!(error <= 1e-4, "{name} by {step}: relative error {error}");
        }
    }
}

#[test]
fn long_contexts_do_not_depend_on_how_their_tokens_come() {
    for name in FAMILIES {
        let model = load(name).model;
        let tokens: Vec<u32> = (0..300).map(|i| i * 31 % model.config().vocab_size as u32).collect();
        let run = |step| {
            let mut session = model.session_with_cache(300, Format::by_name("F32").unwrap()).unwrap();
            logits(&model, &mut session, &tokens, step)
        };
        let at_once = run(300);
        for step in [1, 7] {
            let error = relative_error(&run(step), &at_once);
            assert!(error <= 1e-4, "{name} by {step}: relative error {error}");
        }
    }
}

#[test]
fn the_default_cache_is_nearly_exact() {
    for name in FAMILIES {
        let Reference { model, tokens, logits: expected } = load(name);
        let error = relative_error(&logits(&model, &mut model.session(64), &tokens, 1), &expected);
        assert!(error <= 1e-2, "{name}: relative error {error}");
    }
}

#[test]
fn truncating_takes_back() {
    let Reference { model, tokens, logits: expected } = load("gemma3");
    let mut session = session(&model);
    session.forward(&tokens[..10]).unwrap();
    session.forward(&[1; 7]).unwrap();
    session.truncate(10);
    assert_eq!(session.position(), 10);
    let rest = logits(&model, &mut session, &tokens[10..], 3);
    assert!(relative_error(&rest, &expected[10 * model.config().vocab_size..]) <= 1e-4);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    for name in FAMILIES {
        let Reference { model, tokens, .. } = load(name);
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| logits(&model, &mut model.session(64), &tokens, 8))
        };
        assert_eq!(run(1), run(3), "{name}");
    }
}

#[test]
fn a_full_context_and_foreign_tokens_are_refused_and_change_nothing() {
    let Reference { model, tokens, .. } = load("llama");
    let mut session = model.session(20);
    session.forward(&tokens[..15]).unwrap();
    let error = session.forward(&tokens[..6]).unwrap_err();
    assert_eq!(error.to_string(), "the context of 20 tokens is full: 21 are needed");
    let error = session.forward(&[0, 288]).unwrap_err();
    assert!(error.to_string().contains("token 288 is not in the vocabulary of 288 tokens"), "{error}");
    assert_eq!(session.position(), 15);
    session.forward(&tokens[..5]).unwrap();
}

#[test]
fn a_cache_format_that_does_not_fit_is_refused() {
    let model = load("gemma3").model; // heads of 16
    let error = model.session_with_cache(64, Format::by_name("Q8_0").unwrap()).err().unwrap();
    assert!(error.to_string().contains("its blocks of 32 do not divide heads of 16"), "{error}");
}

/// A model that is planned from its configuration alone has the tensors that the real one has.
#[test]
fn a_planned_model_has_the_tensors_of_the_real_one() {
    for name in ["llama", "qwen2"] {
        let real = Checkpoint::open(folder(name)).unwrap();
        let (planned, tied) = bantam_checkpoint::hf::planned(&folder(name).join("config.json"), &real).unwrap();
        let sorted = |tensors: &[TensorInfo]| {
            let mut all: Vec<_> = tensors.iter().map(|t| (t.name.clone(), t.shape.clone())).collect();
            all.sort();
            all
        };
        let tensors = [planned.tensors(), &planned_tensors(&planned, tied).unwrap()].concat();
        assert_eq!(sorted(&tensors), sorted(real.tensors()), "{name}");
    }
}
