//! Students: small models to begin with.

use crate::quantize::check;
use crate::{Error, Mix};
use bantam_checkpoint::metadata::Array;
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, Metadata, TensorInfo, Value, provenance};
use bantam_formats::Format;
use bantam_nn::models::{attention_scale, planned_tensors};
use bantam_nn::random::SplitMix64;
use bantam_nn::train::Parameters;
use std::path::Path;

/// Writes a student of some of a teacher's layers, in F32: `layers` in their new order, as in `0-9,20-29`; returns their numbers.
///
/// # Errors
/// If the teacher lacks a layer or none is named, or a file cannot be read or written.
pub fn take_layers(teacher: &Checkpoint, layers: &str, output: &Path) -> Result<Vec<usize>, Error> {
    teacher.refuse_overwriting(output)?;
    let error = |problem: String| Error::Layers { path: teacher.path().to_owned(), layers: layers.to_owned(), problem };
    let config = Config::of(teacher)?;
    let count = config.block_count;
    let taken = parse(layers, count).map_err(error)?;
    if let Some(window) = &config.sliding_window {
        same_reach(&window.layers, &taken).map_err(error)?;
    }
    let mut metadata = teacher.metadata().clone();
    choose_layers(&mut metadata, &taken, count);
    metadata.set("general.file_type", Value::U32(0));
    provenance::append(&mut metadata, teacher.step("take layers").setting("layers", layers));
    let queries = attention_scale(&config) / attention_scale(&Config { block_count: taken.len(), ..config.clone() });
    let f32 = Format::f32();
    let outside = teacher.tensors().iter().filter(|t| layer_of(&t.name).is_none()).map(|t| (t.name.clone(), t));
    let inside = taken.iter().enumerate().flat_map(|(new, old)| {
        let of = teacher.tensors().iter().filter_map(|t| layer_of(&t.name).map(|(at, rest)| (at, rest, t)));
        of.filter(|(at, ..)| at == old).map(move |(_, rest, t)| (format!("blk.{new}.{rest}"), t)).collect::<Vec<_>>()
    });
    let tensors: Vec<(String, &TensorInfo)> = outside.chain(inside).collect();
    let infos: Vec<TensorInfo> = tensors
        .iter()
        .map(|(name, t)| TensorInfo { name: name.clone(), shape: t.shape.clone(), format: f32 })
        .collect();
    let mut writer = GgufWriter::create(output, &metadata, &infos)?;
    for (_, tensor) in tensors {
        // The number of layers tells families how scores are scaled: queries make up for it.
        let scale = if tensor.name.ends_with("attn_q_norm.weight") { queries } else { 1.0 };
        let values = values(teacher, tensor)?;
        writer.write(&values.iter().flat_map(|v| (scale * v).to_le_bytes()).collect::<Vec<u8>>())?;
    }
    writer.finish()?;
    Ok(taken)
}

/// The spread of a new student's weights (Radford et al. 2019).
const SPREAD: f64 = 0.02;

/// Writes a student with random weights, in F32: the hyperparameters of a Hugging Face `config.json`, the tokenizer of
/// `teacher`. Matrices are normal with a spread of 0.02, those that write into the residual stream narrower by the root of
/// how many do (GPT-2's); norms are 1, biases 0. It may take `room` bytes.
///
/// # Errors
/// If the configuration cannot be read, is of no known family, for other tokens or too large, or the file cannot be written.
pub fn initial(config: &Path, teacher: &Checkpoint, seed: u64, room: u64, output: &Path) -> Result<(), Error> {
    teacher.refuse_overwriting(output)?;
    let (planned, tied) = bantam_checkpoint::hf::planned(config, teacher)?;
    let tensors = new_tensors(&planned, tied, config, room)?;
    let mut metadata = planned.metadata().clone();
    metadata.set("general.file_type", Value::U32(0));
    // What was done to the teacher was not done to these weights.
    metadata.remove(provenance::KEY);
    let step = teacher
        .step("random weights")
        .setting("config", config.file_name().unwrap_or_default().to_string_lossy())
        .setting("seed", seed);
    let step = provenance::Step { source_quantized_as: None, ..step };
    provenance::append(&mut metadata, step);
    let residual = SPREAD / (2.0 * Config::of(&planned)?.block_count as f64).sqrt();
    let mut writer = GgufWriter::create(output, &metadata, &tensors)?;
    for (i, tensor) in tensors.iter().enumerate() {
        if planned.tensor(&tensor.name).is_some() {
            writer.write(&planned.data(&tensor.name)?)?;
            continue;
        }
        let mut random = SplitMix64::child(seed, i as u64);
        let into_residual = ["attn_output.weight", "ffn_down.weight"].iter().any(|name| tensor.name.ends_with(name));
        let spread = if into_residual { residual } else { SPREAD };
        let mut value = || match (tensor.shape.len(), tensor.name.ends_with(".bias")) {
            (1, true) => 0.0,
            (1, false) => 1.0,
            _ => (random.normal() * spread) as f32,
        };
        for start in (0..tensor.len()).step_by(PART) {
            let len = PART.min(tensor.len() - start);
            writer.write(&(0..len).flat_map(|_| value().to_le_bytes()).collect::<Vec<u8>>())?;
        }
    }
    Ok(writer.finish()?)
}

/// Random weights written at a time.
const PART: usize = 1 << 20;

/// The tensors of a new model, unless they are more than there is room for.
fn new_tensors(planned: &Checkpoint, tied: bool, config: &Path, room: u64) -> Result<Vec<TensorInfo>, Error> {
    let fits = |needed: u128| match needed > u128::from(room) {
        true => Err(Error::TooLarge { path: config.to_owned(), needed: needed as f64 / 1e9, room: room as f64 / 1e9 }),
        false => Ok(()),
    };
    // So many layers cannot even be listed.
    let shape = Config::of(planned)?;
    fits(4 * shape.block_count as u128 * shape.embedding_length as u128)?;
    let new = planned_tensors(planned, tied)?;
    let tensors: Vec<TensorInfo> = planned.tensors().iter().cloned().chain(new).collect();
    fits(tensors.iter().map(|t| 4 * t.shape.iter().map(|&n| n as u128).product::<u128>()).sum())?;
    Ok(tensors)
}

/// Writes trained parameters as a checkpoint: the tensors and metadata of `student`, the values of `parameters`, in `format`.
/// What must stay F32 (vectors) does.
///
/// # Errors
/// If the format cannot hold a value, or the file cannot be written.
///
/// # Panics
/// If the parameters are not the student's, or the format cannot be written or does not divide the rows.
pub fn write(
    student: &Checkpoint,
    parameters: &Parameters,
    format: &'static Format,
    step: provenance::Step,
    output: &Path,
) -> Result<(), Error> {
    student.refuse_overwriting(output)?;
    let f32 = Format::f32();
    let infos: Vec<TensorInfo> = student
        .tensors()
        .iter()
        .map(|t| TensorInfo { format: if t.stays_f32() { f32 } else { format }, ..t.clone() })
        .collect();
    let mut metadata = student.metadata().clone();
    metadata.set("general.file_type", Value::U32(Mix::by_name(format.name)?.file_type()));
    provenance::append(&mut metadata, step);
    let variable = |tensor: &TensorInfo| parameters.get(&tensor.name).expect("the student's parameters");
    for tensor in &infos {
        check(student.path(), tensor, tensor.format, 0, &variable(tensor).values)?;
    }
    let mut writer = GgufWriter::create(output, &metadata, &infos)?;
    for tensor in &infos {
        let encode = tensor.format.encode.expect("a format that can be written");
        let mut bytes = vec![0; tensor.bytes()];
        let row_bytes = tensor.bytes() / tensor.rows();
        for (row, bytes) in variable(tensor).values.chunks(tensor.cols()).zip(bytes.chunks_mut(row_bytes)) {
            encode(row, None, bytes);
        }
        writer.write(&bytes)?;
    }
    Ok(writer.finish()?)
}

/// A tensor's weights, decoded.
pub(crate) fn values(model: &Checkpoint, tensor: &TensorInfo) -> Result<Vec<f32>, Error> {
    let data = model.data(&tensor.name)?;
    let mut values = vec![0.0; tensor.len()];
    (tensor.format.decode)(&data, &mut values);
    data.release();
    Ok(values)
}

/// The layer of a tensor, and its name within.
pub(crate) fn layer_of(name: &str) -> Option<(usize, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// Layers by ranges, each below `count`.
fn parse(layers: &str, count: usize) -> Result<Vec<usize>, String> {
    let mut taken = Vec::new();
    for range in layers.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < count => taken.extend(first..=last),
            (Ok(_), Ok(last)) if last >= count => return Err(format!("it has the layers 0 to {}", count - 1)),
            _ => return Err(format!("`{range}` is no range; give layers as in 0-9,20-29")),
        }
    }
    Ok(taken)
}

/// Refuses layers that would see another part of the text than before: families with sliding windows fix by a layer's
/// place whether it sees everything.
fn same_reach(windowed: &[bool], taken: &[usize]) -> Result<(), String> {
    let reach = |layer: usize| if windowed[layer] { "a window" } else { "everything" };
    match taken.iter().enumerate().find(|&(new, &old)| windowed.get(new) != windowed.get(old)) {
        None => Ok(()),
        Some((new, &old)) if new < windowed.len() => Err(format!(
            "layer {old} sees {}, and would be layer {new}, which sees {}; choose layers that keep this pattern",
            reach(old),
            reach(new)
        )),
        Some(_) => Err(format!("they are more than its {} layers", windowed.len())),
    }
}

/// Brings the number of layers, and what is said layer by layer, in line with the layers taken.
fn choose_layers(metadata: &mut Metadata, taken: &[usize], count: usize) {
    let architecture = metadata.str("general.architecture").unwrap_or_default().to_owned();
    metadata.set(&format!("{architecture}.block_count"), Value::U32(taken.len() as u32));
    let keys: Vec<String> =
        metadata.iter().map(|(key, _)| key.to_owned()).filter(|key| key.starts_with(&architecture)).collect();
    for key in keys {
        let chosen = match metadata.get(&key) {
            Some(Value::Array(Array::Bool(all))) if all.len() == count => Array::Bool(pick(all, taken)),
            Some(Value::Array(Array::U32(all))) if all.len() == count => Array::U32(pick(all, taken)),
            Some(Value::Array(Array::I32(all))) if all.len() == count => Array::I32(pick(all, taken)),
            _ => continue,
        };
        metadata.set(&key, Value::Array(chosen));
    }
}

fn pick<T: Copy>(all: &[T], taken: &[usize]) -> Vec<T> {
    taken.iter().map(|&i| all[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_keep_what_they_see() {
        let windowed = [true, true, false, true, true, false];
        assert_eq!(same_reach(&windowed, &[0, 4, 5]), Ok(()));
        let error = same_reach(&windowed, &[0, 2, 5]).unwrap_err();
        assert!(error.contains("layer 2 sees everything") && error.contains("layer 1"), "{error}");
        assert!(same_reach(&windowed, &[0, 1, 2, 3, 4, 5, 0]).unwrap_err().contains("more than"));
    }

    #[test]
    fn layers_are_read_as_ranges() {
        assert_eq!(parse("0-2,5, 4", 6), Ok(vec![0, 1, 2, 5, 4]));
        for (wrong, why) in
            [("0-6", "0 to 5"), ("3-1", "no range"), ("", "no range"), ("a", "no range"), ("9", "0 to 5")]
        {
            assert!(parse(wrong, 6).unwrap_err().contains(why), "{wrong}");
        }
    }
}
