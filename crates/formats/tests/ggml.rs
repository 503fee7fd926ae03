//! Against ggml: decoding agrees in every bit, encoding loses no more.
//!
//! The fixtures are made by `scripts/fixtures/formats.py`.

use bantam_formats::{FORMATS, Format};
use std::path::{Path, PathBuf};

/// Weights a row in the fixtures.
const WIDTH: usize = 512;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn decode(format: &Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.bytes * format.block];
    (format.decode)(bytes, &mut out);
    out
}

fn encode(format: &Format, weights: &[f32], importance: Option<&[f32]>) -> Vec<u8> {
    let mut out = vec![0; format.bytes_of(weights.len()).expect("whole blocks")];
    (format.encode.expect("an encoder"))(weights, importance, &mut out);
    out
}

#[test]
fn decodes_every_bit_as_ggml_does() {
    for format in FORMATS.iter().filter(|f| f.name != "F32") {
        let file = std::fs::read(fixture(&format!("decode/{}.bin", format.name))).expect("the fixture");
        let blocks = file.len() / (format.bytes + 4 * format.block);
        let (bytes, expected) = file.split_at(blocks * format.bytes);
        for (i, (ours, ggmls)) in decode(format, bytes).iter().zip(floats(expected)).enumerate() {
            let same = ours.to_bits() == ggmls.to_bits() || (ours.is_nan() && ggmls.is_nan());
            assert!(same, "{format} weight {i}: {ours:e}, ggml has {ggmls:e}");
        }
    }
}

/// On each of the distributions of `weights.bin`: what a format's rule weighs, and with importance also what the
/// importance alone weighs, is lost no more than by ggml.
#[test]
fn encoding_loses_no_more_than_ggml() {
    let weights = floats(&std::fs::read(fixture("weights.bin")).expect("the fixture"));
    let (weights, importance) = weights.split_at(weights.len() - WIDTH);
    let losses = std::fs::read_to_string(fixture("loss.csv")).expect("the fixture");
    let mut names: Vec<&str> = Vec::new();
    for line in losses.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let [name, distribution, with_importance, ggmls] = fields[..] else { panic!("four fields: {line}") };
        if !names.contains(&distribution) {
            names.push(distribution);
        }
        let place = names.iter().position(|n| *n == distribution).expect("just added");
        let rows = &weights[place * weights.len() / 5..][..weights.len() / 5];
        let format = Format::by_name(name).expect("a format of ours");
        let importance = (with_importance == "True").then(|| importance.repeat(rows.len() / WIDTH));
        let decoded = decode(format, &encode(format, rows, importance.as_deref()));
        let counts = importance.unwrap_or_else(|| rule(name, rows));
        let loss: f64 = (0..rows.len()).map(|i| f64::from(counts[i]) * f64::from(decoded[i] - rows[i]).powi(2)).sum();
        let ggmls: f64 = ggmls.parse().expect("a number");
        // On the grid of Q4_1 only the rounding of scales to f16 is left.
        let tolerance = if distribution == "grid" { 1e-3 } else { 1e-6 };
        assert!(loss <= ggmls * (1.0 + tolerance), "{line}: ours {loss}");
    }
    assert_eq!(names.len(), 5, "the fixture's distributions");
}

/// What a weight's squared error counts without importance, as in `scripts/fixtures/ggml.py`.
fn rule(format: &str, x: &[f32]) -> Vec<f32> {
    let rms = |group: &[f32]| (group.iter().map(|v| v * v).sum::<f32>() / group.len() as f32).sqrt();
    match format {
        "Q3_K" | "Q6_K" | "IQ4_NL" | "IQ4_XS" | "IQ3_XXS" | "IQ3_S" => x.iter().map(|v| v * v).collect(),
        "IQ2_S" => x.chunks(256).flat_map(|b| b.iter().map(move |v| 0.5 * rms(b).powi(2) + v * v)).collect(),
        "Q2_K" => x.iter().map(|v| v.abs()).collect(),
        "Q4_K" | "Q5_K" => x.chunks(32).flat_map(|g| g.iter().map(move |v| rms(g) + v.abs())).collect(),
        _ => vec![1.0; x.len()],
    }
}
