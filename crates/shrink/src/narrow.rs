//! Narrower feed-forward layers: the neurons with the largest weights stay.
//!
//! A neuron's weight is the product of the norms of what it reads with (its rows of the gate and of the way up) and of what it
//! writes with (its column of the way down): scaling one and dividing another by it changes nothing, and the product does not
//! change either.

use crate::Error;
use crate::students::{layer_of, values};
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, TensorInfo, Value, provenance};
use bantam_formats::Format;
use std::path::Path;

/// Tensors of a layer's neurons: those with a row or a number for each, and the one with a column.
const READS: [&str; 2] = ["ffn_gate.weight", "ffn_up.weight"];
const BIASES: [&str; 2] = ["ffn_gate.bias", "ffn_up.bias"];
const WRITES: &str = "ffn_down.weight";

/// Writes `model` in F32 with `neurons` neurons in each feed-forward layer.
///
/// # Errors
/// If the model has not more neurons, or a file cannot be read or written.
pub fn feed_forward(model: &Checkpoint, neurons: usize, output: &Path) -> Result<(), Error> {
    model.refuse_overwriting(output)?;
    let config = check(model, neurons)?;
    let all = config.feed_forward_length;
    let chosen = |layer| weights(model, layer, all).map(|weights| largest(&weights, neurons));
    let chosen: Vec<Vec<usize>> = (0..config.block_count).map(chosen).collect::<Result<_, _>>()?;
    let mut metadata = model.metadata().clone();
    metadata.set(&format!("{}.feed_forward_length", config.architecture), Value::U32(neurons as u32));
    metadata.set("general.file_type", Value::U32(0));
    provenance::append(&mut metadata, model.step("narrow feed-forward").setting("neurons", neurons));
    let format = Format::f32();
    let infos: Vec<TensorInfo> = model
        .tensors()
        .iter()
        .map(|tensor| {
            let mut shape = tensor.shape.clone();
            match part_of(&tensor.name) {
                Some((_, WRITES)) => shape[1] = neurons,
                Some(_) => shape[0] = neurons,
                None => {}
            }
            TensorInfo { name: tensor.name.clone(), shape, format }
        })
        .collect();
    let mut writer = GgufWriter::create(output, &metadata, &infos)?;
    for tensor in model.tensors() {
        let values = values(model, tensor)?;
        let kept: Vec<f32> = match part_of(&tensor.name) {
            Some((layer, WRITES)) => {
                values.chunks_exact(all).flat_map(|row| chosen[layer].iter().map(|&i| row[i])).collect()
            }
            Some((layer, _)) => {
                let width = values.len() / all;
                chosen[layer].iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
            }
            None => values,
        };
        writer.write(&kept.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>())?;
    }
    Ok(writer.finish()?)
}

/// Checks that the model's feed-forward layers have more neurons than that, and answers its configuration.
///
/// # Errors
/// If not, or if it is no model.
pub fn check(model: &Checkpoint, neurons: usize) -> Result<Config, Error> {
    let config = Config::of(model)?;
    let all = config.feed_forward_length;
    if neurons == 0 || neurons >= all {
        return Err(Error::Width { path: model.path().to_owned(), all, asked: neurons });
    }
    Ok(config)
}

/// The layer of a tensor that belongs to its neurons, and which it is.
fn part_of(name: &str) -> Option<(usize, &str)> {
    layer_of(name).filter(|(_, part)| READS.contains(part) || BIASES.contains(part) || *part == WRITES)
}

/// The weight of each neuron of a layer.
fn weights(model: &Checkpoint, layer: usize, all: usize) -> Result<Vec<f64>, Error> {
    let mut weights = vec![1.0; all];
    for part in READS.iter().chain([&WRITES]) {
        let Some(tensor) = model.tensor(&format!("blk.{layer}.{part}")) else { continue };
        let values = values(model, tensor)?;
        let mut squares = vec![0.0; all];
        if *part == WRITES {
            for row in values.chunks_exact(all) {
                squares.iter_mut().zip(row).for_each(|(s, &v)| *s += f64::from(v) * f64::from(v));
            }
        } else {
            let rows = values.chunks_exact(values.len() / all);
            let square = |row: &[f32]| row.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
            squares.iter_mut().zip(rows).for_each(|(s, row)| *s = square(row));
        }
        weights.iter_mut().zip(squares).for_each(|(w, s)| *w *= s.sqrt());
    }
    Ok(weights)
}

/// The `count` with the largest weights, in their order.
pub(crate) fn largest(weights: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
    order.truncate(count);
    order.sort_unstable();
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_layer_has_of_its_neurons_is_known() {
        for part in ["ffn_gate.weight", "ffn_gate.bias", "ffn_up.weight", "ffn_up.bias", "ffn_down.weight"] {
            assert_eq!(part_of(&format!("blk.3.{part}")), Some((3, part)));
        }
        for other in ["blk.3.ffn_down.bias", "blk.3.ffn_norm.weight", "blk.3.attn_q.bias", "output.weight"] {
            assert_eq!(part_of(other), None, "{other}");
        }
    }
}
