//! Against ggml: decoding agrees in every bit, encoding loses no more.
//!
//! The fixtures are made by `scripts/fixtures/formats.py`.

use bantam_formats::{FORMATS, Format};
use std::path::{Path, PathBuf};

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
