//! Quantizing to directories of integers, on tiny random models.

mod common;

use bantam_checkpoint::{Checkpoint, TensorInfo, provenance};
use bantam_nn::Model;
use bantam_nn::random::SplitMix64;
use bantam_shrink::Mix;
use bantam_shrink::quantize::{Method, Plan, smooth};
use common::{checkpoint, difference, logits};
use std::path::Path;

fn sequences(count: usize) -> Vec<Vec<u32>> {
    let mut random = SplitMix64::new(5);
    (0..count).map(|_| (0..120).map(|_| random.below(256) as u32).collect()).collect()
}

fn values(checkpoint: &Checkpoint, tensor: &TensorInfo) -> Vec<f32> {
    let mut values = vec![0.0; tensor.len()];
    (checkpoint.tensor(&tensor.name).unwrap().format.decode)(&checkpoint.data(&tensor.name).unwrap(), &mut values);
    values
}

fn write(checkpoint: &Checkpoint, level: &str, method: Method<'_>, output: &Path) -> Checkpoint {
    let plan = Plan::new(checkpoint, Mix::by_name(level).unwrap()).unwrap();
    plan.write(output, method, &mut |_| ()).unwrap();
    Checkpoint::open(output).unwrap()
}

#[test]
fn each_weight_is_what_its_format_makes_of_it() {
    let dir = tempfile::tempdir().unwrap();
    // Rows of 64; of gemma3 32 and 64.
    for (name, level, formats) in [
        ("llama", "W4A16", &["INT4_G64"][..]),
        ("llama-biases", "W8A8", &["INT8"]),
        ("qwen3", "GPTQ", &["INT4_G64"]),
        ("gemma3", "W4A16", &["INT4_G32", "INT4_G64"]),
        ("gemma3", "GPTQ", &["INT4_G32"]),
    ] {
        let model = checkpoint(name);
        let written = write(&model, level, Method::Nearest, &dir.path().join(format!("{name}-{level}")));
        let mut seen: Vec<&str> = Vec::new();
        for tensor in model.tensors() {
            let (found, source) = (written.tensor(&tensor.name).unwrap(), values(&model, tensor));
            let is_linear = tensor.shape.len() > 1 && tensor.name.starts_with("blk.");
            let expected = match is_linear {
                true => {
                    seen.push(found.format.name);
                    let mut bytes = vec![0; found.bytes()];
                    found.format.encode_rows(tensor.cols(), &source, None, &mut bytes);
                    let mut values = vec![0.0; source.len()];
                    (found.format.decode)(&bytes, &mut values);
                    values
                }
                false => source,
            };
            // Embedding and head are F16, and gemma's norms lose their last bits with the one.
            let found = values(&written, tensor);
            let near = |f: &f32, e: &f32| (f - e).abs() <= 1e-3 * e.abs().max(1e-3);
            assert!(found.iter().zip(&expected).all(|(f, e)| near(f, e)), "{name} {level}: {}", tensor.name);
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, formats, "{name} {level}");
        assert_eq!(provenance::of(written.metadata())[0].settings[0], ("to".to_owned(), level.to_owned()));
        assert!(written.quantized_as().unwrap().contains(formats[0]));
    }
}

#[test]
fn error_feedback_loses_less() {
    let (dir, model) = (tempfile::tempdir().unwrap(), checkpoint("llama"));
    let text = sequences(40);
    let expected = logits(&model, &text);
    for level in ["W4A16", "GPTQ", "W8A8"] {
        let loss = |method: Method<'_>| {
            let output = dir.path().join(format!("{level}-{}", method.name()));
            difference(&logits(&write(&model, level, method, &output), &text), &expected)
        };
        let nearest = loss(Method::Nearest);
        for method in [Method::Gptq(&text), Method::Scaling(&text)] {
            let lost = loss(method);
            println!("{level}, {}: {lost:.5}, {nearest:.5} to the nearest", method.name());
            assert!(lost < nearest, "{level}, {}: {lost} is not less than {nearest}", method.name());
        }
    }
}

#[test]
fn smoothing_changes_nothing_but_what_rounding_costs() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama", "gemma3"] {
        let (model, text) = (checkpoint(name), sequences(20));
        let path = dir.path().join(format!("{name}.gguf"));
        let mut told = 0;
        let done = smooth(&model, &text, &path, &mut |tokens| told += tokens).unwrap();
        println!("{name}: {done:?}");
        assert!(done.smoothed > 0 && done.smoothed <= done.inputs && done.error < 1.0);
        let blocks = Model::load(&model).unwrap().config().block_count;
        assert_eq!((told, done.inputs), (20 * 120 * blocks as u64, 4 * blocks));
        let smoothed = Checkpoint::open(&path).unwrap();
        let expected = logits(&model, &text);
        assert!(difference(&logits(&smoothed, &text), &expected) < 1e-9, "{name}");
        assert_eq!(provenance::of(smoothed.metadata())[0].step, "smooth");
    }
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let (dir, model, text) = (tempfile::tempdir().unwrap(), checkpoint("llama"), sequences(5));
    for level in ["W4A16", "W8A8"] {
        let [one, many] = [1, 3].map(|threads| {
            let output = dir.path().join(format!("{level}-{threads}"));
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| write(&model, level, Method::Gptq(&text), &output));
            std::fs::read(output.join("model.safetensors")).unwrap()
        });
        assert!(one == many, "{level}");
    }
}

#[test]
fn a_directory_that_is_there_is_kept() {
    let (dir, model) = (tempfile::tempdir().unwrap(), checkpoint("llama"));
    let output = dir.path().join("out");
    std::fs::create_dir(&output).unwrap();
    std::fs::write(output.join("mine.txt"), "mine").unwrap();
    let plan = Plan::new(&model, Mix::by_name("W4A16").unwrap()).unwrap();
    let error = plan.write(&output, Method::Nearest, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    assert_eq!(std::fs::read_dir(&output).unwrap().count(), 1);
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1, "nothing is left beside it");
}
