//! How fast each format encodes and decodes, on one thread.
//!
//! ```text
//! cargo run --release -p bantam-formats --example encode_speed [FORMAT...]
//! cargo run --release -p bantam-formats --example encode_speed -- --raw FORMAT WEIGHTS OUT [IMPORTANCE]
//! ```
//!
//! The second form encodes a file of little-endian f32 to the format's bytes and prints the seconds it took;
//! `scripts/bench/encode_against_ggml.py` compares that with ggml.

use bantam_formats::{FORMATS, Format, Grid};
use std::error::Error;
use std::time::Instant;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|a| a == "--raw") {
        return encode_file(&args[1..]);
    }
    let weights = gaussian(1 << 21);
    let title = "(million weights per second; together: error feedback's rounding, of weights that choose together)";
    println!("{:8} {:>14} {:>14} {:>14}   {title}", "format", "encode", "decode", "together");
    for format in FORMATS.iter().filter(|f| args.is_empty() || args.iter().any(|a| a.eq_ignore_ascii_case(f.name))) {
        let mut bytes = vec![0; format.bytes_of(weights.len()).ok_or("the format does not divide the data")?];
        let encode = match format.encode {
            Some(encode) => format!("{:.1}", rate(weights.len(), || encode(&weights, None, &mut bytes))),
            None => "read only".into(),
        };
        let mut decoded = vec![0.0; weights.len()];
        let decode = rate(weights.len(), || (format.decode)(&bytes, &mut decoded));
        let together = format
            .grid
            .as_ref()
            .filter(|grid| grid.vector > 1)
            .map_or(String::new(), |grid| format!("{:.1}", rate(weights.len(), || round_together(grid, &weights))));
        println!("{:8} {encode:>14} {decode:>14.1} {together:>14}", format.name);
    }
    Ok(())
}

/// Rounds weights as error feedback does, at a scale that brings most of them within the levels.
fn round_together(grid: &Grid, weights: &[f32]) {
    let scale = 0.05 / f32::from(grid.levels[grid.levels.len() - 1] - grid.levels[grid.levels.len() / 2 - 1]);
    let (mut positions, mut quants, counts) = (vec![0.0; grid.vector], vec![0; grid.vector], vec![1.0; grid.vector]);
    for weights in weights.chunks_exact(grid.vector) {
        positions.iter_mut().zip(weights).for_each(|(p, w)| *p = grid.position(*w, scale, 0.0));
        grid.nearest_together(&positions, &counts, &mut quants);
    }
}

/// Million weights per second, the best of five.
fn rate(weights: usize, mut run: impl FnMut()) -> f64 {
    let seconds = |_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    };
    weights as f64 / 1e6 / (0..5).map(seconds).fold(f64::MAX, f64::min)
}

fn encode_file(args: &[String]) -> Result<(), Box<dyn Error>> {
    let [format, weights, out, importance @ ..] = args else {
        return Err("expected: --raw FORMAT WEIGHTS OUT [IMPORTANCE]".into());
    };
    let format = Format::by_name(format).ok_or("no such format")?;
    let weights = read(weights)?;
    let importance = importance.first().map(|path| read(path)).transpose()?;
    let mut bytes = vec![0; format.bytes_of(weights.len()).ok_or("the format does not divide the data")?];
    let encode = format.encode.ok_or("the format is read only")?;
    let rate = rate(weights.len(), || encode(&weights, importance.as_deref(), &mut bytes));
    println!("{}", weights.len() as f64 / 1e6 / rate);
    std::fs::write(out, bytes)?;
    Ok(())
}

fn read(path: &str) -> Result<Vec<f32>, Box<dyn Error>> {
    Ok(std::fs::read(path)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
}

/// Weights such as models have: the sum of twelve uniform numbers is nearly Gaussian.
fn gaussian(n: usize) -> Vec<f32> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..n).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 0.02).collect()
}
