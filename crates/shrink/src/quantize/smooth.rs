//! Smoothing (SmoothQuant: Xiao et al. 2022): large input channels are made smaller and their weights larger, so that both can be
//! rounded to 8 bits.
//!
//! The model computes the same as before (`channels.rs`). How far channels are evened out is tried input by input: what is kept has the
//! least error in the layers' outputs, computed with the product that will run.

use super::channels::{Maker, divide_rows, multiply_columns};
use crate::calibrate::Walk;
use crate::{Error, students};
use bantam_checkpoint::{Checkpoint, GgufWriter, TensorInfo, provenance};
use bantam_formats::{Format, Matrix, Scratch, matmul};
use bantam_nn::Model;
use bantam_nn::layers::Linear;
use std::collections::BTreeMap;
use std::path::Path;

/// How much of the difference among channels goes from activations to weights: `s_j = max|x_j|^a / max|w_j|^(1-a)`.
const SHARES: [f32; 7] = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// Inputs on which the error is computed, at most; spread over all.
const SAMPLE: usize = 256;

/// The formats of layers that were tried: weights and activations of 8 bits.
const ROUNDED: &str = "INT8";

/// What was smoothed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Smoothed {
    /// Inputs that could be smoothed.
    pub inputs: usize,
    /// Those for which it lowers the error.
    pub smoothed: usize,
    /// The squared error of all these layers' outputs as a share of that without smoothing, averaged over inputs (by its logarithm).
    pub error: f64,
}

/// What linear layers see of the calibration text.
#[derive(Default)]
struct Input {
    layers: Vec<String>,
    /// The largest magnitude of each channel.
    largest: Vec<f32>,
    /// Some rows.
    sample: Vec<f32>,
    seen: usize,
}

/// Factors by which a tensor's columns are multiplied, and its rows (of a vector: elements) divided.
#[derive(Default)]
struct Factors {
    columns: Option<Vec<f32>>,
    rows: Option<Vec<f32>>,
}

/// Writes `model` to `output` (a GGUF file, what changed in F32) with its inputs smoothed for these sequences of tokens. `progress` is told of
/// tokens that went through a layer.
///
/// # Errors
/// If the model cannot be run, or a file cannot be read or written.
pub fn smooth(
    model: &Checkpoint,
    sequences: &[Vec<u32>],
    output: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<Smoothed, Error> {
    model.refuse_overwriting(output)?;
    let loaded = Model::load(model)?;
    let mut walk = Walk::new(&loaded, sequences)?;
    let (mut factors, mut done) = (BTreeMap::new(), Smoothed::default());
    let every = (walk.tokens() as usize).div_ceil(SAMPLE).max(1);
    let config = loaded.config();
    for _ in 0..config.block_count {
        let mut inputs: Vec<Input> = Vec::new();
        walk.show(&loaded, &mut |layers: &[&Linear], x: &[f32]| {
            let paths: Vec<String> = layers.iter().map(|l| l.path.clone()).collect();
            let at = inputs.iter().position(|i| i.layers == paths).unwrap_or_else(|| {
                inputs.push(Input { layers: paths, ..Input::default() });
                inputs.len() - 1
            });
            inputs[at].see(x, layers[0].weight.cols, every);
        })?;
        for input in &inputs {
            if let Some(maker) = Maker::of(model, config, &input.layers[0]) {
                smooth_input(model, input, &maker, &mut factors, &mut done)?;
            }
        }
        progress(walk.tokens());
    }
    done.error = (done.error / done.inputs.max(1) as f64).exp();
    write(model, &factors, done, output)?;
    Ok(done)
}

/// Finds the factors of one input, if smoothing it lowers the error.
fn smooth_input(
    model: &Checkpoint,
    input: &Input,
    maker: &Maker,
    factors: &mut BTreeMap<String, Factors>,
    done: &mut Smoothed,
) -> Result<(), Error> {
    let cols = input.largest.len();
    if !format(ROUNDED).divides(cols) {
        return Ok(());
    }
    let mut weights = Vec::new();
    for path in &input.layers {
        let tensor = model.tensor(path).expect("the model's layers are the checkpoint's tensors");
        weights.push(students::values(model, tensor)?);
    }
    let mut heaviest = vec![0f32; cols];
    for row in weights.iter().flat_map(|w| w.chunks_exact(cols)) {
        heaviest.iter_mut().zip(row).for_each(|(m, w)| *m = m.max(w.abs()));
    }
    let plain = error(&weights, &input.sample, &vec![1.0; cols]);
    let tried = SHARES.map(|share| {
        let mut scales = scales(&input.largest, &heaviest, share);
        maker.even(&mut scales);
        (error(&weights, &input.sample, &scales), scales)
    });
    let (least, scales) = tried.into_iter().min_by(|a, b| a.0.total_cmp(&b.0)).expect("several were tried");
    done.inputs += 1;
    if least.is_nan() || least >= plain {
        return Ok(());
    }
    done.smoothed += 1;
    done.error += (least / plain).max(f64::MIN_POSITIVE).ln();
    for path in &input.layers {
        factors.entry(path.clone()).or_default().columns = Some(scales.clone());
    }
    let rows = maker.of_rows(&scales);
    for path in &maker.tensors {
        factors.entry(path.clone()).or_default().rows = Some(rows.clone());
    }
    Ok(())
}

/// The factors of the channels, whose geometric mean is 1. A channel that nothing is known of keeps its scale.
fn scales(largest: &[f32], heaviest: &[f32], share: f32) -> Vec<f32> {
    let known = |x: f32, w: f32| x > 0.0 && w > 0.0;
    let log = |x: f32, w: f32| if known(x, w) { share * x.ln() - (1.0 - share) * w.ln() } else { 0.0 };
    let logs: Vec<f32> = largest.iter().zip(heaviest).map(|(x, w)| log(*x, *w)).collect();
    let count = largest.iter().zip(heaviest).filter(|(x, w)| known(**x, **w)).count();
    let mean = logs.iter().sum::<f32>() / count.max(1) as f32;
    let each = logs.iter().zip(largest.iter().zip(heaviest));
    each.map(|(log, (x, w))| if known(*x, *w) { (log - mean).exp() } else { 1.0 }).collect()
}

/// The squared error of the layers' outputs with these factors, in the arithmetic that will run.
fn error(weights: &[Vec<f32>], x: &[f32], scales: &[f32]) -> f64 {
    let cols = scales.len();
    let (exact, rounded) = (format("F32"), format(ROUNDED));
    let smoothed: Vec<f32> = x.chunks_exact(cols).flat_map(|x| x.iter().zip(scales).map(|(x, s)| x / s)).collect();
    let mut scratch = Scratch::default();
    let mut sum = 0.0;
    for weights in weights {
        let rows = weights.len() / cols;
        let heavier: Vec<f32> =
            weights.chunks_exact(cols).flat_map(|w| w.iter().zip(scales).map(|(w, s)| w * s)).collect();
        let mut blocks = vec![0; rows * rounded.bytes_of(cols).expect("the caller saw to it")];
        rounded.encode_rows(cols, &heavier, None, &mut blocks);
        let n = x.len() / cols;
        let (mut y, mut approximate) = (vec![0.0; n * rows], vec![0.0; n * rows]);
        let data = bytemuck::cast_slice(weights);
        matmul(&Matrix { format: exact, data, rows, cols }, x, &mut y, &mut scratch);
        matmul(&Matrix { format: rounded, data: &blocks, rows, cols }, &smoothed, &mut approximate, &mut scratch);
        sum += y.iter().zip(&approximate).map(|(y, a)| f64::from(y - a).powi(2)).sum::<f64>();
    }
    sum
}

fn format(name: &str) -> &'static Format {
    Format::by_name(name).expect("a format of ours")
}

impl Input {
    /// Takes in rows, of which every so many is kept.
    fn see(&mut self, x: &[f32], cols: usize, every: usize) {
        self.largest.resize(cols, 0.0);
        for row in x.chunks_exact(cols) {
            self.largest.iter_mut().zip(row).for_each(|(m, v)| *m = m.max(v.abs()));
            if self.seen.is_multiple_of(every) {
                self.sample.extend_from_slice(row);
            }
            self.seen += 1;
        }
    }
}

/// Writes the model with these factors.
fn write(model: &Checkpoint, factors: &BTreeMap<String, Factors>, done: Smoothed, output: &Path) -> Result<(), Error> {
    let mut metadata = model.metadata().clone();
    let inputs = format!("{} of {}", done.smoothed, done.inputs);
    provenance::append(&mut metadata, model.step("smooth").setting("inputs", inputs));
    let info = |t: &TensorInfo| {
        let keeps = !factors.contains_key(&t.name) && t.format.in_gguf();
        TensorInfo { format: if keeps { t.format } else { format("F32") }, ..t.clone() }
    };
    let infos: Vec<TensorInfo> = model.tensors().iter().map(info).collect();
    let mut writer = GgufWriter::create(output, &metadata, &infos)?;
    for (tensor, info) in model.tensors().iter().zip(&infos) {
        let Some(factors) = factors.get(&tensor.name) else {
            let data = model.data(&tensor.name)?;
            match info.format == tensor.format {
                true => writer.write(&data)?,
                false => writer.write(bytemuck::cast_slice(&students::values(model, tensor)?))?,
            }
            continue;
        };
        let mut values = students::values(model, tensor)?;
        if let Some(columns) = &factors.columns {
            multiply_columns(&mut values, columns);
        }
        if let Some(rows) = &factors.rows {
            divide_rows(&mut values, rows);
        }
        writer.write(bytemuck::cast_slice(&values))?;
    }
    Ok(writer.finish()?)
}
