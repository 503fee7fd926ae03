//! Measures the matrix products: for each format decoding (one column, GB/s of weights) and prefill (many columns,
//! GFLOP/s), on shapes of SmolLM2-135M and Qwen2.5-0.5B, beside the speed at which memory can be read at all.
//!
//! ```text
//! cargo run --release -p bantam-formats --example matmul_speed [FORMAT…]
//! ```
//! Threads: `RAYON_NUM_THREADS`. Instruction set: the best, or `LEVEL=scalar|avx2|avx512-vnni|neon`.

use bantam_formats::kernels::{Level, parallel};
use bantam_formats::{FORMATS, Format, Matrix, Scratch, matmul};
use std::time::Instant;

/// Rows and columns, and whether they are measured with many activations too.
const SHAPES: [(usize, usize, bool); 4] =
    [(1536, 576, true), (49152, 576, false), (4864, 896, true), (896, 4864, true)];

/// Columns of activations in prefill.
const PREFILL: usize = 48;

fn main() {
    let names: Vec<String> = std::env::args().skip(1).collect();
    let level = match std::env::var("LEVEL") {
        Ok(name) => Level::all().into_iter().find(|l| l.name() == name).expect("this machine has the level"),
        Err(_) => Level::best(),
    };
    println!("{}, {} threads, memory reads {:.1} GB/s", level.name(), rayon::current_num_threads(), read_speed());
    println!("{:8} {:>14} {:>12} {:>14}", "format", "rows x cols", "decode GB/s", "prefill GF/s");
    // In one section, as the layers of a model.
    parallel::section(|| {
        for format in
            FORMATS.iter().filter(|f| names.is_empty() || names.iter().any(|n| n.eq_ignore_ascii_case(f.name)))
        {
            for (rows, cols, many) in SHAPES {
                if format.divides(cols) {
                    measure(level, format, rows, cols, many);
                }
            }
        }
    });
}

/// Measures one shape and prints its line.
fn measure(level: Level, format: &'static Format, rows: usize, cols: usize, many: bool) {
    // Enough matrices that they do not all stay in the caches, as the layers of a model do not.
    let bytes = format.bytes_of(rows * cols).expect("the format divides the columns");
    let copies = (256 << 20) / bytes + 1;
    let data: Vec<u8> = (0..bytes * copies).map(|i| ((i * 2_654_435_761) >> 9) as u8 & 0x3f).collect();
    let matrices: Vec<_> = data.chunks_exact(bytes).map(|data| Matrix { format, data, rows, cols }).collect();
    let mut scratch = Scratch::with_level(level);

    let x: Vec<f32> = (0..cols * PREFILL).map(|i| (i as f32 * 0.37).sin()).collect();
    let mut y = vec![0.0; rows];
    let decode =
        typical(matrices.iter().cycle().take(3 * copies).map(|w| time(|| matmul(w, &x[..cols], &mut y, &mut scratch))));
    let mut y = vec![0.0; rows * PREFILL];
    let prefill = many.then(|| typical((0..20).map(|_| time(|| matmul(&matrices[0], &x, &mut y, &mut scratch)))));
    println!(
        "{:8} {:>14} {:>12.1} {:>14}",
        format.name,
        format!("{rows} x {cols}"),
        bytes as f64 / decode / 1e9,
        prefill.map_or(String::new(), |t| format!("{:.0}", 2.0 * (rows * cols * PREFILL) as f64 / t / 1e9)),
    );
}

/// Seconds that `f` takes.
fn time(f: impl FnOnce()) -> f64 {
    let start = Instant::now();
    f();
    start.elapsed().as_secs_f64()
}

/// The time below which a tenth of the runs stay: other processes disturb most runs on a busy machine, not all.
fn typical(times: impl Iterator<Item = f64>) -> f64 {
    let mut times: Vec<f64> = times.collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 10]
}

/// GB/s of reading a large buffer with all threads.
fn read_speed() -> f64 {
    use rayon::prelude::*;
    let data = vec![1u64; 32 << 20];
    let pieces = data.chunks(1 << 18).cycle().take(512);
    let seconds = typical(pieces.map(|piece| {
        time(|| {
            let sum: u64 = piece.par_chunks(1 << 14).map(|c| c.iter().fold(0, |a, v| a ^ v)).sum();
            std::hint::black_box(sum);
        })
    }));
    (8 << 18) as f64 / seconds / 1e9
}
