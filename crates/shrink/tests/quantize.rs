//! Quantizing whole files: what is refused, and that the bytes do not depend on threads.

use bantam_checkpoint::{Checkpoint, GgufWriter, Metadata, TensorInfo, Value};
use bantam_formats::Format;
use bantam_shrink::quantize::{Method, Plan};
use bantam_shrink::{Error, Mix};
use std::path::Path;

const ROWS: usize = 4500;
const COLS: usize = 544; // Not a whole number of blocks of 256, nor of sixteen blocks of 32.

/// A file with the hyperparameters of a llama and one matrix in F32.
fn checkpoint(path: &Path, weights: &[f32]) -> Checkpoint {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String("llama".into()));
    for (key, value) in [
        ("attention.head_count", 4),
        ("embedding_length", 544),
        ("block_count", 1),
        ("context_length", 64),
        ("feed_forward_length", 544),
        ("vocab_size", 4500),
    ] {
        metadata.set(&format!("llama.{key}"), Value::U32(value));
    }
    metadata.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    let format = Format::by_name("F32").unwrap();
    let tensor = TensorInfo { name: "token_embd.weight".into(), shape: vec![ROWS, COLS], format };
    let mut writer = GgufWriter::create(path, &metadata, &[tensor]).unwrap();
    writer.write(&weights.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
    writer.finish().unwrap();
    Checkpoint::open(path).unwrap()
}

fn weights() -> Vec<f32> {
    (0..ROWS * COLS).map(|i| ((i * 7919 % 100_003) as f32 / 5e4 - 1.0) * 0.05).collect()
}

fn quantize(checkpoint: &Checkpoint, level: &str, output: &Path, threads: usize) -> Result<u64, Error> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let mut done = 0;
    let plan = Plan::new(checkpoint, Mix::by_name(level).unwrap())?;
    pool.install(|| plan.write(output, Method::Nearest, &mut |weights| done += weights))?;
    assert_eq!(done, plan.weights());
    Ok(plan.file_bytes(Method::Nearest))
}

#[test]
fn bytes_do_not_depend_on_the_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let model = checkpoint(&dir.path().join("model.gguf"), &weights());
    for level in ["Q4_0", "Q4_K_M", "Q8_0"] {
        let [one, many] = [1, 3].map(|threads| {
            let output = dir.path().join(format!("{level}-{threads}.gguf"));
            let bytes = quantize(&model, level, &output, threads).unwrap();
            let file = std::fs::read(output).unwrap();
            assert_eq!(file.len() as u64, bytes);
            file
        });
        assert!(one == many, "{level}");
    }
}

/// What is said of a weight, and that no output is left, whichever thread finds it.
fn refused(place: usize, weight: f32, level: &str) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let mut weights = weights();
    weights[place] = weight;
    // A second one, later: the first must be named.
    weights[ROWS * COLS - 1] = weight;
    let model = checkpoint(&dir.path().join("model.gguf"), &weights);
    let error = quantize(&model, level, &dir.path().join("out.gguf"), 2).unwrap_err();
    let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["model.gguf"], "nothing but the input is left");
    let message = error.to_string();
    assert!(message.contains("model.gguf") && message.contains("token_embd.weight"), "{message}");
    assert!(message.contains(&format!("row {}, column {}", place / COLS, place % COLS)), "{message}");
    error
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for level in ["F16", "Q4_0", "Q4_K_M"] {
        for weight in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = refused(2_300_017, weight, level);
            assert!(matches!(error, Error::NonFinite { .. }) && error.to_string().contains("again"), "{error}");
        }
    }
}

#[test]
fn weights_beyond_the_format_are_refused() {
    for level in ["F16", "Q8_0"] {
        let error = refused(17, 1e30, level);
        assert!(matches!(error, Error::OutOfRange { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains("65504") && message.contains("BF16"), "{message}");
    }
}
