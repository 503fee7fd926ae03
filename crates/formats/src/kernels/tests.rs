//! Every format on every instruction set against decoding to f32.

use super::*;
use crate::format::{FORMATS, INTEGERS};
use proptest::prelude::*;

fn all() -> impl Iterator<Item = &'static Format> {
    FORMATS.iter().chain(INTEGERS).copied()
}

/// Deterministic numbers that look random, from -1 to 1.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// Rows of random blocks: every bit pattern of the quants, with scales that are finite and of moderate size.
fn blocks(format: &Format, seed: u64, weights: usize) -> Vec<u8> {
    if let Some(encode) = format.encode {
        let mut bytes = vec![0; format.bytes_of(weights).unwrap()];
        encode(&noise(seed, weights), None, &mut bytes);
        return bytes;
    }
    let mut bytes: Vec<u8> =
        noise(seed, format.bytes_of(weights).unwrap()).iter().map(|v| (v * 1e6) as i64 as u8).collect();
    for block in bytes.chunks_exact_mut(format.bytes) {
        match format.name {
            "MXFP4" => block[0] = 120 + block[0] % 8,
            "NVFP4" => block[..4].iter_mut().for_each(|b| *b = 0x20 | *b & 0x1f),
            "Q1_0" => block[..2].copy_from_slice(&half::f16::from_f32(0.25).to_le_bytes()),
            other => panic!("{other} has no encoder: say how its scales lie"),
        }
    }
    bytes
}

/// `x` as the integer products see it.
fn dequantized(activation: Activation, x: &[f32], cols: usize) -> Vec<f32> {
    let group = match activation {
        Activation::F32 => return x.to_vec(),
        Activation::Int8x32 => 32,
        Activation::Int8x256 => 256,
        Activation::Int8Token => cols,
    };
    let each = x.chunks(group).flat_map(|x| {
        let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let inverse = if largest == 0.0 { 0.0 } else { 127.0 / largest };
        let scale = if activation == Activation::Int8x32 {
            half::f16::from_f32(largest / 127.0).to_f32()
        } else {
            largest / 127.0
        };
        x.iter().map(move |v| (v * inverse).round_ties_even() * scale)
    });
    each.collect()
}

/// The product of decoded rows, with the sum of the terms' magnitudes.
fn reference(w: &Matrix<'_>, x: &[f32]) -> Vec<(f64, f64)> {
    let mut weights = vec![0.0; w.rows * w.cols];
    (w.format.decode)(w.data, &mut weights);
    let x = dequantized(w.format.product.activation, x, w.cols);
    let mut sums = Vec::new();
    for x in x.chunks_exact(w.cols) {
        for w in weights.chunks_exact(w.cols) {
            let terms = w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
            sums.push(terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs())));
        }
    }
    sums
}

/// Checks one shape on every instruction set, from data that is not aligned.
fn check(format: &'static Format, rows: usize, cols: usize, n: usize) {
    let mut data = vec![0];
    data.extend(blocks(format, (rows * cols + n) as u64, rows * cols));
    let w = Matrix { format, data: &data[1..], rows, cols };
    let x = noise(n as u64 + 7, n * cols);
    let want = reference(&w, &x);
    for level in Level::all() {
        let mut y = vec![f32::NAN; n * rows];
        matmul(&w, &x, &mut y, &mut Scratch::with_level(level));
        for (i, (y, (want, size))) in y.iter().zip(&want).enumerate() {
            let error = (f64::from(*y) - want).abs();
            assert!(
                error <= 4e-6 * size + 1e-30,
                "{format} {rows}x{cols}, {n} columns, {level:?}: row {} column {} is {y}, not {want}",
                i % rows,
                i / rows
            );
        }
    }
}

/// The shortest row that is not a whole number of steps, if the format has one.
fn odd_cols(format: &Format) -> usize {
    if format.block == 1 { 39 } else { format.block * if format.block < 256 { 3 } else { 1 } }
}

#[test]
fn agrees_with_decoding() {
    for format in all() {
        for (rows, n) in [(1, 1), (3, 2), (5, 3), (2, 4), (1, 5), (16, 6), (17, 7), (33, 13), (40, 70)] {
            for cols in [odd_cols(format), 256, 256 + 9 * format.block, 768] {
                check(format, rows, cols, n);
            }
        }
    }
}

#[test]
fn long_rows_agree_with_decoding() {
    for format in all() {
        check(format, 19, 4864, 2);
        check(format, 35, 4864, 9);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_shape_agrees_with_decoding(f in 0..FORMATS.len() + INTEGERS.len(), rows in 1usize..70, blocks in 1usize..12, n in 1usize..70) {
        let format = all().nth(f).unwrap();
        check(format, rows, format.block * if format.block == 1 { 37 * blocks } else { blocks }, n);
    }
}

#[test]
fn damaged_weights_do_not_panic_and_nan_shows() {
    for format in all() {
        let (rows, cols) = (18, 512);
        let data = vec![0xff; format.bytes_of(rows * cols).unwrap()];
        let w = Matrix { format, data: &data, rows, cols };
        let mut decoded = vec![0.0; rows * cols];
        (format.decode)(&data, &mut decoded);
        for level in Level::all() {
            for n in [1, 8] {
                let mut y = vec![0.0; n * rows];
                matmul(&w, &noise(1, n * cols), &mut y, &mut Scratch::with_level(level));
                if decoded[0].is_nan() {
                    assert!(y.iter().all(|v| v.is_nan()), "{format} {level:?}");
                }
            }
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for format in all() {
        let (rows, cols) = (515, 1024);
        let data = blocks(format, 3, rows * cols);
        let w = Matrix { format, data: &data, rows, cols };
        for n in [1, 3, 17] {
            let x = noise(5, n * cols);
            let results: Vec<Vec<f32>> = [1, 2, 5]
                .map(|threads| {
                    let mut y = vec![0.0; n * rows];
                    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                    pool.install(|| matmul(&w, &x, &mut y, &mut Scratch::default()));
                    y
                })
                .into();
            assert!(results.windows(2).all(|r| r[0] == r[1]), "{format}, {n} columns");
        }
    }
}

#[test]
fn several_matrices_at_once_are_each_alone() {
    let cols = 512;
    let formats =
        ["Q4_K", "INT8", "Q6_K", "Q8_0", "F16", "IQ4_XS", "INT4_G64"].map(|name| Format::by_name(name).unwrap());
    let data: Vec<_> = formats.iter().enumerate().map(|(i, f)| blocks(f, i as u64, (100 + i) * cols)).collect();
    let ws: Vec<_> = formats
        .iter()
        .zip(&data)
        .enumerate()
        .map(|(i, (format, data))| Matrix { format, data, rows: 100 + i, cols })
        .collect();
    for n in [1, 2, 9] {
        let x = noise(9, n * cols);
        let mut together: Vec<_> = ws.iter().map(|w| vec![0.0; n * w.rows]).collect();
        let mut scratch = Scratch::default();
        let mut ys: Vec<_> = together.iter_mut().map(Vec::as_mut_slice).collect();
        matmul_each(&ws, &x, &mut ys, &mut scratch);
        for (w, together) in ws.iter().zip(&together) {
            let mut alone = vec![0.0; n * w.rows];
            matmul(w, &x, &mut alone, &mut scratch);
            assert_eq!(&alone, together, "{}", w.format);
        }
    }
}
