//! Calibration and error feedback on tiny random models.

mod common;

use bantam_checkpoint::{Checkpoint, GgufWriter};
use bantam_formats::Format;
use bantam_nn::Model;
use bantam_nn::layers::Linear;
use bantam_nn::observe::{Listener, Observe};
use bantam_nn::random::SplitMix64;
use bantam_shrink::calibrate::{Inputs, Walk};
use bantam_shrink::quantize::{Importance, Method, Plan, unfinished};
use bantam_shrink::{Error, Mix};
use common::{checkpoint, difference, logits};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

fn sequences(vocab_size: usize) -> Vec<Vec<u32>> {
    let mut random = SplitMix64::new(4);
    // The last ones do not fit together with the first.
    [30, 7, 1, 1500, 600].map(|len| (0..len).map(|_| random.below(vocab_size) as u32).collect()).to_vec()
}

fn walked(model: &Model, sequences: &[&[u32]]) -> Inputs {
    let mut walk = Walk::new(model, sequences).unwrap();
    let mut inputs = Inputs::new();
    // Each layer, and the head.
    for _ in 0..=model.config().block_count {
        inputs.extend(walk.look(model, true).unwrap());
    }
    inputs
}

#[test]
fn every_linear_layer_is_seen_with_all_tokens() {
    for name in ["llama", "gemma3"] {
        let mut model = Model::load(&checkpoint(name)).unwrap();
        let sequences: Vec<Vec<u32>> =
            sequences(model.config().vocab_size).into_iter().map(|s| s[..s.len().min(60)].to_vec()).collect();
        let sequences: Vec<&[u32]> = sequences.iter().map(|s| &s[..]).collect();
        let inputs = walked(&model, &sequences);
        let tokens: usize = sequences.iter().map(|s| s.len()).sum();
        model.visit_linears_mut(&mut |linear| {
            let moments = &inputs[&linear.path];
            assert_eq!((moments.tokens(), moments.cols()), (tokens as u64, linear.weight.cols), "{}", linear.path);
        });
        // What the head sees are the hidden states that a session gives.
        let head = &inputs[&model.definition().head().path];
        let width = model.config().embedding_length;
        let mut squares = vec![0.0; width];
        for sequence in &sequences {
            let mut session = model.session_with_cache(64, Format::by_name("F32").unwrap()).unwrap();
            for hidden in session.forward(sequence).unwrap().chunks_exact(width) {
                squares.iter_mut().zip(hidden).for_each(|(s, h)| *s += h * h / tokens as f32);
            }
        }
        for (found, expected) in head.mean_squares().iter().zip(&squares) {
            assert!((found - expected).abs() <= 1e-3 * expected, "{name}: {found} is not {expected}");
        }
    }
}

#[test]
fn sequences_that_do_not_fit_together_are_seen_apart() {
    let model = Model::load(&checkpoint("llama")).unwrap();
    let sequences = sequences(model.config().vocab_size);
    let all: Vec<&[u32]> = sequences.iter().map(|s| &s[..]).collect();
    let together = walked(&model, &all);
    let apart: Vec<Inputs> = all.iter().map(|s| walked(&model, &[s])).collect();
    for (path, moments) in &together {
        let sum: f32 = apart.iter().map(|i| i[path].mean_squares()[0] * i[path].tokens() as f32).sum();
        let mean = sum / moments.tokens() as f32;
        assert!((moments.mean_squares()[0] - mean).abs() <= 1e-4 * mean, "{path}");
    }
    assert!(matches!(Walk::new(&model, &[[9999]]), Err(Error::Model(_))));
}

/// What the linear layers of layer 0 see, `[tokens, cols]`, by their paths, and the attention that tokens get there.
#[derive(Default)]
struct LayerSeen {
    inputs: BTreeMap<String, Vec<f32>>,
    received: Vec<f32>,
}

impl Listener for LayerSeen {
    fn input(&mut self, layers: &[&Linear], x: &[f32]) {
        self.inputs.extend(layers.iter().map(|layer| (layer.path.clone(), x.to_vec())));
    }

    fn attended(&mut self, received: &dyn Fn() -> Vec<f32>) {
        self.received = received();
    }
}

/// Mean squares of each channel, with tokens counted so.
fn weighed(x: &[f32], counts: &[f32]) -> Vec<f32> {
    let mut means = vec![0.0; x.len() / counts.len()];
    for (row, count) in x.chunks_exact(means.len()).zip(counts) {
        means.iter_mut().zip(row).for_each(|(mean, x)| *mean += x * x * count / counts.len() as f32);
    }
    means
}

#[test]
fn tokens_count_by_the_attention_that_they_get_and_the_stream_that_their_outputs_are_added_to() {
    let model = Model::load(&checkpoint("llama")).unwrap();
    let (config, definition) = (model.config(), model.definition());
    let tokens = [3, 1, 4, 1, 5, 9, 2, 6];
    let mut seen = LayerSeen::default();
    let mut observe = Observe::new(config, &[tokens.len()], &mut seen).unwrap();
    let embedded = definition.embed(&mut observe, &tokens);
    let stream = definition.layer(&mut observe, 0, embedded).to_vec();
    let attended: Vec<f32> = seen.received.iter().map(|share| (1.0 + share) / 2.0).collect();
    let apart = attended.iter().map(|count| (count - 1.0).abs()).fold(0.0, f32::max);
    assert!(apart > 0.1 && (attended.iter().sum::<f32>() - tokens.len() as f32).abs() < 1e-4, "{attended:?}");
    let squares = |row: &[f32]| row.iter().map(|v| v * v).sum::<f32>() / row.len() as f32 + 1e-6;
    let added: Vec<f32> = stream.chunks_exact(config.embedding_length).map(squares).collect();
    let added: Vec<f32> = attended.iter().zip(added).map(|(count, mean)| count / mean).collect();

    let walk = || Walk::new(&model, &[tokens]).unwrap();
    let (alike, felt) = (walk().mean_squares(&model).unwrap(), walk().look(&model, false).unwrap());
    let agree = |path: &str, found: &[f32], counts: &[f32]| {
        for (found, expected) in found.iter().zip(weighed(&seen.inputs[path], counts)) {
            assert!((found - expected).abs() <= 1e-4 * expected, "{path}: {found} is not {expected}");
        }
    };
    for path in ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.ffn_up.weight"] {
        agree(path, &felt[path].mean_squares(), &attended);
    }
    agree("blk.0.ffn_down.weight", &felt["blk.0.ffn_down.weight"].mean_squares(), &added);
    // An importance matrix counts all alike.
    assert_eq!(alike.len(), seen.inputs.len());
    alike.iter().for_each(|(path, found)| agree(path, found, &[1.0; 8]));
}

fn write(checkpoint: &Checkpoint, level: &str, method: Method<'_>, threads: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out.gguf");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let plan = Plan::new(checkpoint, Mix::by_name(level).unwrap()).unwrap();
    let mut done = 0;
    pool.install(|| plan.write(&output, method, &mut |weights| done += weights)).unwrap();
    assert_eq!(done, plan.weights());
    let file = std::fs::read(output).unwrap();
    assert_eq!(file.len() as u64, plan.file_bytes(method));
    file
}

/// The weighted squared error that a file's linear layers make of their outputs on the text that `inputs` are of.
fn error(checkpoint: &Checkpoint, file: &[u8], inputs: &Inputs) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("written.gguf");
    std::fs::write(&path, file).unwrap();
    let written = Checkpoint::open(&path).unwrap();
    let values = |checkpoint: &Checkpoint, name: &str| {
        let tensor = checkpoint.tensor(name).unwrap();
        let mut values = vec![0.0; tensor.len()];
        (tensor.format.decode)(&checkpoint.data(name).unwrap(), &mut values);
        values
    };
    let mut total = 0.0;
    for (name, moments) in inputs {
        let (mean, cols) = (moments.mean(), moments.cols());
        let (old, new) = (values(checkpoint, name), values(&written, name));
        for (old, new) in old.chunks_exact(cols).zip(new.chunks_exact(cols)) {
            let e: Vec<f32> = old.iter().zip(new).map(|(a, b)| a - b).collect();
            for (i, row) in mean.chunks_exact(cols).enumerate() {
                total += f64::from(e[i]) * row.iter().zip(&e).map(|(m, e)| f64::from(m * e)).sum::<f64>();
            }
        }
    }
    total
}

#[test]
fn each_method_loses_less_of_the_outputs_than_the_one_before() {
    let checkpoint = checkpoint("llama");
    let model = Model::load(&checkpoint).unwrap();
    let sequences = sequences(model.config().vocab_size);
    let all: Vec<&[u32]> = sequences.iter().map(|s| &s[..]).collect();
    let inputs = walked(&model, &all);
    let importance: Importance = inputs.iter().map(|(path, m)| (path.clone(), m.mean_squares())).collect();
    let methods =
        [Method::Nearest, Method::Importance(&importance), Method::Gptq(&sequences), Method::Descent(&sequences)];
    let errors = methods.map(|method| error(&checkpoint, &write(&checkpoint, "Q4_0", method, 2), &inputs));
    let [nearest, importance, gptq, descent] = errors;
    assert!(importance < nearest && gptq < 0.9 * importance && descent < 0.97 * gptq, "{errors:?}");
}

#[test]
fn channels_are_scaled_without_a_change_of_what_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    // With heads that share values, biases, norms of heads and norms behind layers; heads of their own and tied.
    for name in ["llama", "llama-biases", "qwen2", "qwen3", "gemma3"] {
        let checkpoint = checkpoint(name);
        let mut random = SplitMix64::new(8);
        let sequences: Vec<Vec<u32>> = (0..12).map(|_| (0..100).map(|_| random.below(256) as u32).collect()).collect();
        let expected = logits(&checkpoint, &sequences);
        // Weights of 8 bits, which run in half precision here: what rounding activations costs is not asked.
        let written = |method: Method<'_>| {
            let path = dir.path().join(format!("{name}-{}.gguf", method.name()));
            std::fs::write(&path, write(&checkpoint, "Q8_0", method, 2)).unwrap();
            let half = path.with_extension("half.gguf");
            let plan = Checkpoint::open(&path).unwrap();
            Plan::new(&plan, Mix::by_name("F16").unwrap()).unwrap().write(&half, Method::Nearest, &mut |_| ()).unwrap();
            Checkpoint::open(&half).unwrap()
        };
        let [plain, scaled] = [Method::Descent(&sequences), Method::Scaling(&sequences)].map(written);
        let [lost, with_scales] = [&plain, &scaled].map(|written| difference(&logits(written, &sequences), &expected));
        assert!(lost > 0.0 && with_scales < 1.2 * lost, "{name}: {with_scales} lost, {lost} without");
        let changed = |tensor: &&bantam_checkpoint::TensorInfo| {
            *scaled.data(&tensor.name).unwrap() != *checkpoint.data(&tensor.name).unwrap()
        };
        let vectors = checkpoint.tensors().iter().filter(|t| t.shape.len() == 1);
        let changed: Vec<&str> = vectors.filter(changed).map(|t| &t.name[..]).collect();
        println!("{name}: {lost:.3e} {with_scales:.3e} {changed:?}");
        for kind in ["attn_norm", "ffn_norm"] {
            assert!(changed.iter().any(|name| name.contains(kind)), "{name}: {changed:?}");
        }
        let others = changed
            .iter()
            .filter(|n| !["attn_norm.w", "ffn_norm.w", "attn_v.bias", "output_norm"].iter().any(|k| n.contains(k)));
        assert_eq!(others.count(), 0, "{name}: {changed:?}");
    }
}

#[test]
fn calibrated_bytes_do_not_depend_on_the_number_of_threads() {
    for name in ["llama", "gemma3"] {
        let checkpoint = checkpoint(name);
        let sequences = sequences(Model::load(&checkpoint).unwrap().config().vocab_size);
        let [one, many] = [1, 3].map(|threads| write(&checkpoint, "Q4_0", Method::Scaling(&sequences[..3]), threads));
        assert!(one == many, "{name}");
    }
}

#[test]
fn importance_of_another_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, output) = (checkpoint("llama"), dir.path().join("out.gguf"));
    let plan = Plan::new(&checkpoint, Mix::by_name("Q4_0").unwrap()).unwrap();
    let cols = checkpoint.tensor("blk.0.attn_q.weight").unwrap().cols();
    for (name, len, named) in [
        ("blk.99.attn_q.weight", cols, "no tensor blk.99.attn_q.weight"),
        ("blk.0.attn_q.weight", cols + 1, "input channels"),
    ] {
        let importance = Importance::from([(name.to_owned(), vec![1.0; len])]);
        let error = plan.write(&output, Method::Importance(&importance), &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "nothing is left");
}

#[test]
fn layers_are_rounded_for_the_embedding_that_the_file_has() {
    let checkpoint = checkpoint("llama");
    let sequences = sequences(Model::load(&checkpoint).unwrap().config().vocab_size);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let made = |from: &Checkpoint, mix: &str, method: Method<'_>, to: &str| {
        std::fs::write(path("mix.toml"), mix).unwrap();
        let mix = Mix::named(path("mix.toml").to_str().unwrap()).unwrap();
        Plan::new(from, &mix).unwrap().write(&path(to), method, &mut |_| ()).unwrap();
        Checkpoint::open(path(to)).unwrap()
    };
    let embedding = "{ tensor = \"token_embd\", format = \"Q4_0\" }";
    let all = "default = \"Q4_0\"\nhead = \"Q4_0\"\n";
    let at_once = made(&checkpoint, all, Method::Gptq(&sequences), "at-once.gguf");
    let only = format!("default = \"F32\"\nhead = \"F32\"\nrules = [{embedding}]\n");
    let first = made(&checkpoint, &only, Method::Nearest, "embedding.gguf");
    let after = made(&first, all, Method::Gptq(&sequences), "after.gguf");
    for tensor in at_once.tensors() {
        assert!(*at_once.data(&tensor.name).unwrap() == *after.data(&tensor.name).unwrap(), "{}", tensor.name);
    }
}

#[test]
fn of_a_run_that_never_can_be_finished_no_layers_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let [plain, broken, output] = ["plain.gguf", "broken.gguf", "out.gguf"].map(|name| folder.path().join(name));
    let fixture = checkpoint("llama");
    let f32 = Mix::by_name("F32").unwrap();
    Plan::new(&fixture, f32).unwrap().write(&plain, Method::Nearest, &mut |_| ()).unwrap();
    // The head is rounded last: all layers are by then.
    let sound = Checkpoint::open(&plain).unwrap();
    let mut writer = GgufWriter::create(&broken, sound.metadata(), sound.tensors()).unwrap();
    for tensor in sound.tensors() {
        let mut data = sound.data(&tensor.name).unwrap().to_vec();
        if tensor.name == "output.weight" {
            data[..4].copy_from_slice(&1e6f32.to_le_bytes());
        }
        writer.write(&data).unwrap();
    }
    writer.finish().unwrap();
    let model = Checkpoint::open(&broken).unwrap();
    let sequences = sequences(Model::load(&model).unwrap().config().vocab_size);
    let plan = Plan::new(&model, Mix::by_name("Q8_0").unwrap()).unwrap();
    let mut was_there = false;
    let mut progress = |_| was_there |= unfinished(&output).exists();
    let error = plan.write(&output, Method::Gptq(&sequences), &mut progress).unwrap_err();
    assert!(matches!(&error, Error::OutOfRange { tensor, .. } if tensor == "output.weight"), "{error}");
    assert!(was_there && !unfinished(&output).exists());
}

#[test]
fn a_run_that_was_stopped_goes_on() {
    let checkpoint = checkpoint("llama");
    let sequences = sequences(Model::load(&checkpoint).unwrap().config().vocab_size);
    let plan = Plan::new(&checkpoint, Mix::by_name("Q4_0").unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let [whole, output] = ["whole.gguf", "output.gguf"].map(|name| folder.path().join(name));
    // Writes, counts what is done, and stops after so many layers' tensors.
    let write = |output: &Path, stop_after: usize| {
        let mut done = 0;
        let mut progress = |_| {
            done += 1;
            assert!(done <= stop_after, "stopped");
        };
        let ran = catch_unwind(AssertUnwindSafe(|| plan.write(output, Method::Scaling(&sequences), &mut progress)));
        (ran.is_ok_and(|written| written.is_ok()), done)
    };
    let (finished, steps) = write(&whole, usize::MAX);
    assert!(finished && !unfinished(&whole).exists());

    let (finished, _) = write(&output, steps - 2);
    assert!(!finished && !output.exists() && unfinished(&output).exists());
    let kept = std::fs::read(unfinished(&output)).unwrap();
    let (finished, fewer) = write(&output, usize::MAX);
    assert!(finished && fewer < steps, "{fewer} steps of {steps}");
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&output).unwrap() && !unfinished(&output).exists());

    // What is not of this run, or damaged, is not used, and kept: it may be hours of another.
    let other = Plan::new(&checkpoint, Mix::by_name("Q5_0").unwrap()).unwrap();
    std::fs::write(unfinished(&output), &kept).unwrap();
    other.write(&output, Method::Scaling(&sequences), &mut |_| ()).unwrap();
    assert!(std::fs::metadata(&output).unwrap().len() > std::fs::metadata(&whole).unwrap().len());
    let aside = folder.path().join("output.gguf.rounding.other");
    assert!(std::fs::read(&aside).unwrap() == kept && !unfinished(&output).exists());
    let mut damaged = kept.clone();
    *damaged.iter_mut().nth_back(100).unwrap() ^= 1;
    std::fs::write(unfinished(&output), &damaged).unwrap();
    assert!(write(&output, usize::MAX) == (true, steps));
    assert!(std::fs::read(folder.path().join("output.gguf.rounding.other2")).unwrap() == damaged);
    assert!(std::fs::read(&aside).unwrap() == kept, "nothing that was put aside is replaced");
    assert!(std::fs::read(&whole).unwrap() == std::fs::read(&output).unwrap());

    // No text leaves no record behind that could be gone on with.
    for _ in 0..2 {
        let refused = plan.write(&output, Method::Gptq(&[]), &mut |_| ()).unwrap_err().to_string();
        assert!(refused.contains("text"), "{refused}");
    }
}
