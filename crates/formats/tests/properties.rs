//! What holds for every format, whatever the input.

use bantam_formats::{FORMATS, Format, INTEGERS, Matrix, Scratch, matmul};
use proptest::prelude::*;

/// A whole number of blocks in every format.
const LEN: usize = 512;

fn all() -> impl Iterator<Item = &'static Format> {
    FORMATS.iter().chain(INTEGERS).copied()
}

fn decode(format: &Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / format.bytes * format.block];
    (format.decode)(bytes, &mut out);
    out
}

fn encode(format: &Format, weights: &[f32], importance: Option<&[f32]>) -> Option<Vec<u8>> {
    let mut out = vec![0; format.bytes_of(weights.len()).expect("whole blocks")];
    (format.encode?)(weights, importance, &mut out);
    Some(out)
}

fn largest(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |a, b| a.max(b.abs()))
}

/// The largest error a weight may have, relative to the largest weight of its block.
fn tolerance(format: &Format) -> f32 {
    // Scales included, so that Q4_1 has 5 bits and Q5_1 has 6.
    // Points of a code book spare most of eight weights at the cost of one, which may be small and become large.
    if format.grid.as_ref().is_some_and(|grid| grid.vector > 1) {
        return 1.7;
    }
    match format.bits() as u32 {
        0..3 => 0.7,
        3..5 => 0.35,
        5..8 => 0.2,
        8 => 0.015,
        _ => 0.005,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn round_trip_stays_near(scale in -2f32..2.0, seed in prop::collection::vec(-1f32..1.0, LEN)) {
        let weights: Vec<f32> = seed.iter().map(|v| v * 10f32.powf(scale)).collect();
        for format in all() {
            let Some(bytes) = encode(format, &weights, None) else { continue };
            let decoded = decode(format, &bytes);
            // Weights that share a scale.
            let together = if format.per_row { LEN } else { format.block.max(32) };
            for (x, y) in weights.chunks(together).zip(decoded.chunks(together)) {
                // The last term: the spacing of subnormal f16 scales, times codes and levels.
                let bound = largest(x) * tolerance(format) + 3e-5;
                for (x, y) in x.iter().zip(y) {
                    prop_assert!((x - y).abs() <= bound, "{} took {} to {}, beyond {}", format, x, y, bound);
                }
            }
        }
    }

    #[test]
    fn any_bytes_decode_and_multiply_to_the_same(
        bytes in prop::collection::vec(any::<u8>(), 4 * LEN),
        mut x in prop::collection::vec(-127i8..=127, LEN),
    ) {
        // Integers of which one in each group is the largest: their quantization is exact.
        x.iter_mut().step_by(32).for_each(|x| *x = 127);
        let x: Vec<f32> = x.into_iter().map(f32::from).collect();
        for format in all() {
            let data = &bytes[..format.bytes_of(LEN).expect("whole blocks")];
            let terms: Vec<f64> = decode(format, data).iter().zip(&x).map(|(w, x)| f64::from(w * x)).collect();
            let mut y = [0.0];
            matmul(&Matrix { format, data, rows: 1, cols: LEN }, &x, &mut y, &mut Scratch::default());
            // Infinite or undefined scales, which random bytes may hold, need only not crash.
            let bound = 1e-4 * terms.iter().map(|t| t.abs()).sum::<f64>();
            let same = bound.is_nan() || bound > 1e30 || (f64::from(y[0]) - terms.iter().sum::<f64>()).abs() <= bound;
            prop_assert!(same, "{}: {} is not {}", format, y[0], terms.iter().sum::<f64>());
        }
    }

    #[test]
    fn any_weights_encode_to_finite_ones(
        bits in prop::collection::vec(any::<u32>(), LEN),
        importance in prop::collection::vec(any::<u32>(), LEN),
    ) {
        let [weights, importance] = [bits, importance].map(|v| v.into_iter().map(f32::from_bits).collect::<Vec<_>>());
        for format in all().filter(|f| f.block > 1) {
            for importance in [None, Some(importance.as_slice())] {
                let Some(bytes) = encode(format, &weights, importance) else { continue };
                prop_assert!(decode(format, &bytes).iter().all(|v| v.is_finite()), "{}", format);
            }
        }
    }
}

#[test]
fn zeros_and_negligible_weights_become_zeros() {
    for tiny in [0.0, f32::from_bits(1), 1e-30, 1e-13] {
        for format in all().filter(|f| f.block > 1) {
            let Some(bytes) = encode(format, &[tiny; LEN], None) else { continue };
            assert!(decode(format, &bytes).iter().all(|v| *v == 0.0), "{format} of {tiny:e}");
        }
    }
}

#[test]
fn constant_blocks_stay_constant() {
    for value in [0.03125, -0.5, 1000.0] {
        for format in all() {
            let Some(bytes) = encode(format, &[value; LEN], None) else { continue };
            for v in decode(format, &bytes) {
                assert!((v - value).abs() <= 3e-3 * value.abs(), "{format} took {value} to {v}");
            }
        }
    }
}

#[test]
fn ternary_weights_stay_as_they_are() {
    let scales = [0.03125, 1.7e-3, 65504.0, 6e-8].map(|d| half::f16::from_f32(d).to_f32());
    let importance: Vec<f32> = (0..LEN).map(|i| (i % 11) as f32 * 0.37).collect();
    for name in ["TQ1_0", "TQ2_0"] {
        let format = Format::by_name(name).expect("a format of ours");
        for (scale, zeros) in scales.into_iter().flat_map(|d| [2, 3, 40].map(|zeros| (d, zeros))) {
            let weights: Vec<f32> = (0..LEN)
                .map(|i| if i % zeros == 0 { 0.0 } else { scale * (1.0 - 2.0 * (i * i / 7 % 2) as f32) })
                .collect();
            for importance in [None, Some(importance.as_slice())] {
                let bytes = encode(format, &weights, importance).expect("an encoder");
                assert_eq!(decode(format, &bytes), weights, "{format} with scale {scale}");
            }
        }
    }
}

#[test]
fn importance_decides_whose_error_counts() {
    let weights: Vec<f32> = (0..LEN).map(|i| ((i * 7919 % 1000) as f32 / 500.0 - 1.0) * 0.05).collect();
    let importance: Vec<f32> = (0..LEN).map(|i| if i % 4 == 0 { 100.0 } else { 1.0 }).collect();
    let loss = |format: &Format, importance_used: Option<&[f32]>| {
        let decoded = decode(format, &encode(format, &weights, importance_used).expect("an encoder"));
        (0..LEN).map(|i| f64::from(importance[i]) * f64::from(decoded[i] - weights[i]).powi(2)).sum::<f64>()
    };
    for format in FORMATS.iter().filter(|f| f.block > 1 && f.encode.is_some()) {
        assert!(loss(format, Some(&importance)) < loss(format, None), "{format}");
    }
}

#[test]
fn zero_importance_falls_back_to_the_format_rule() {
    let weights: Vec<f32> = (0..LEN).map(|i| (i as f32).sin() * 0.1).collect();
    for format in all() {
        let with = encode(format, &weights, Some(&[0.0; LEN]));
        assert_eq!(with, encode(format, &weights, None), "{format}");
    }
}

#[test]
fn layouts_have_ggml_sizes() {
    let sizes: Vec<_> = FORMATS.iter().map(|f| (f.name, f.id, f.block, f.bytes)).collect();
    let expected = [
        ("F32", 0, 1, 4),
        ("F16", 1, 1, 2),
        ("BF16", 30, 1, 2),
        ("Q8_0", 8, 32, 34),
        ("Q6_K", 14, 256, 210),
        ("Q5_K", 13, 256, 176),
        ("Q5_1", 7, 32, 24),
        ("Q5_0", 6, 32, 22),
        ("Q4_K", 12, 256, 144),
        ("Q4_1", 3, 32, 20),
        ("Q4_0", 2, 32, 18),
        ("IQ4_NL", 20, 32, 18),
        ("IQ4_XS", 23, 256, 136),
        ("NVFP4", 40, 64, 36),
        ("MXFP4", 39, 32, 17),
        ("Q3_K", 11, 256, 110),
        ("IQ3_S", 21, 256, 110),
        ("IQ3_XXS", 18, 256, 98),
        ("Q2_K", 10, 256, 84),
        ("IQ2_S", 22, 256, 82),
        ("IQ2_XS", 17, 256, 74),
        ("IQ2_XXS", 16, 256, 66),
        ("Q2_0", 42, 64, 18),
        ("TQ2_0", 35, 256, 66),
        ("TQ1_0", 34, 256, 54),
        ("Q1_0", 41, 128, 18),
    ];
    assert_eq!(sizes, expected);
    assert!(FORMATS.iter().all(|f| f.in_gguf()) && INTEGERS.iter().all(|f| !f.in_gguf()));
}
