//! Writing a Hugging Face directory.

use super::config::config_json;
use super::family::{Family, Name};
use super::translation::{Translation, to_halves};
use super::{CONFIG, WEIGHTS, pooling};
use crate::output::{OutputDir, OutputFile};
use crate::{Checkpoint, Config, Error, Result, TensorInfo, provenance, safetensors};
use bantam_formats::Format;
use std::fs;
use std::io::Write;
use std::path::Path;

/// The smallest magnitude that F16 rounds to infinity.
const F16_OVERFLOW: f32 = 65_520.0;

/// A tensor to write: what the checkpoint has, its names, and the format in the output.
pub(super) struct Planned<'a> {
    pub tensor: &'a TensorInfo,
    pub name: Name,
    pub format: &'static Format,
}

/// What stops a file from being written in a format.
pub(super) enum Stop {
    /// A value is larger than F16 can hold.
    Overflow,
    Failed(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}

/// Writes a checkpoint as a Hugging Face directory that transformers loads, row by row, and gives its format.
///
/// Calls `progress` with the number of weights done since the last call; should F16 turn out too narrow half way, they
/// come twice. Matrices are written in `format` (F32, F16 or BF16), by default in their own if they have one of these and else
/// in F16, or BF16 if a weight is too large for F16. Vectors stay F32. The directory appears when it is complete.
///
/// # Errors
/// If transformers has no model of this kind, a weight is NaN or infinite, the target is there and not empty, or the disk
/// refuses.
pub fn write_hf(
    checkpoint: &Checkpoint,
    dir: &Path,
    format: Option<&'static Format>,
    progress: &mut dyn FnMut(u64),
) -> Result<&'static Format> {
    checkpoint.refuse_overwriting(dir)?;
    let config = Config::of(checkpoint)?;
    let family = Family::by_architecture(&config.architecture).expect("Config::of knows the families only");
    let output = OutputDir::create(dir)?;
    let chosen = format.unwrap_or_else(|| own_format(checkpoint).unwrap_or(Format::f16()));
    let mut weights = |format| write_weights(checkpoint, family, &config, output.path(), format, progress);
    let written = match weights(chosen) {
        Err(Stop::Overflow) if format.is_none() => {
            let wider = Format::by_name("BF16").expect("BF16 is a format");
            weights(wider).map(|()| wider)
        }
        result => result.map(|()| chosen),
    };
    let format = written.map_err(|stop| match stop {
        Stop::Failed(error) => output.renamed(error),
        Stop::Overflow => Error::target(dir, format!("a weight is too large for {chosen}; write BF16 or F32.")),
    })?;
    let dtype = match format.name {
        "F32" => "float32",
        "BF16" => "bfloat16",
        _ => "float16",
    };
    let written = config_of(checkpoint, family, &config, dtype).and_then(|json| write_config(&json, output.path()));
    written.map_err(|e| output.renamed(e))?;
    if let Some(encoder) = &config.encoder {
        let written = pooling::write(output.path(), encoder.pooling, config.embedding_length, config.context_length);
        written.map_err(|e| output.renamed(e))?;
    }
    if checkpoint.metadata().get("tokenizer.ggml.tokens").is_some() {
        crate::tokenizer::write_hf_tokenizer(checkpoint, output.path()).map_err(|e| output.renamed(e))?;
    }
    output.finish()?;
    Ok(format)
}

/// The one format of all matrices, if it is one that safetensors has.
fn own_format(checkpoint: &Checkpoint) -> Option<&'static Format> {
    let mut formats = checkpoint.tensors().iter().filter(|t| !t.stays_f32()).map(|t| t.format);
    let first = formats.next().filter(|f| ["F32", "F16", "BF16"].contains(&f.name))?;
    formats.all(|f| f == first).then_some(first)
}

/// The `config.json` of a model with weights in `dtype`.
///
/// # Errors
/// If transformers cannot express it.
pub(super) fn config_of(
    checkpoint: &Checkpoint,
    family: &Family,
    config: &Config,
    dtype: &str,
) -> Result<serde_json::Value> {
    let tied = checkpoint.tensor("output.weight").is_none();
    let biases = checkpoint.tensor("blk.0.attn_q.bias").is_some();
    let factors = match checkpoint.tensor(crate::ROPE_FREQS) {
        Some(tensor) => Some(decode(tensor, &checkpoint.data(&tensor.name)?)),
        None => None,
    };
    let metadata = checkpoint.metadata();
    config_json(family, config, metadata, tied, biases, factors.as_deref(), dtype).map_err(|message| {
        Error::unsupported(checkpoint.path(), format!("transformers cannot express this model: {message}."))
    })
}

/// Writes `config.json`.
///
/// # Errors
/// If the disk refuses.
pub(super) fn write_config(json: &serde_json::Value, dir: &Path) -> Result<()> {
    let path = dir.join(CONFIG);
    fs::write(&path, format!("{json:#}\n")).map_err(Error::io(&path, "write"))
}

fn decode(tensor: &TensorInfo, bytes: &[u8]) -> Vec<f32> {
    let mut numbers = vec![0f32; tensor.len()];
    (tensor.format.decode)(bytes, &mut numbers);
    numbers
}

/// Writes `model.safetensors`.
fn write_weights(
    checkpoint: &Checkpoint,
    family: &Family,
    config: &Config,
    dir: &Path,
    format: &'static Format,
    progress: &mut dyn FnMut(u64),
) -> Result<(), Stop> {
    let planned = plan(checkpoint, family, format)?;
    let path = dir.join(WEIGHTS);
    let mut file = OutputFile::create(&path)?;
    let said = checkpoint.metadata().str(provenance::KEY).map(|record| (provenance::KEY, record));
    let named = planned.iter().map(|p| (&p.name.hf[..], p.format.name, &p.tensor.shape[..]));
    file.write_all(&safetensors::header(named, said.as_slice())).map_err(Error::io(&path, "write"))?;
    for planned in &planned {
        let translation = Translation::to_hf(family, &planned.tensor.name, config);
        let data = checkpoint.data(&planned.tensor.name)?;
        check_heads(checkpoint, planned.tensor, translation)?;
        write_tensor(&mut file, &path, checkpoint, planned, translation, &data)?;
        data.release();
        progress(planned.tensor.len() as u64);
    }
    Ok(file.finish()?)
}

/// The tensors in the output's order: F32 first, so that every tensor is aligned.
fn plan<'a>(checkpoint: &'a Checkpoint, family: &Family, format: &'static Format) -> Result<Vec<Planned<'a>>> {
    let wanted = checkpoint.tensors().iter().filter(|t| t.name != crate::ROPE_FREQS);
    let mut planned = wanted
        .map(|tensor| {
            let name = family.by_gguf_name(&tensor.name).ok_or_else(|| {
                let message = format!("tensor {} has no name in transformers' {}.", tensor.name, family.class);
                Error::unsupported(checkpoint.path(), message)
            })?;
            let format = if tensor.shape.len() <= 1 { Format::f32() } else { format };
            Ok(Planned { tensor, name, format })
        })
        .collect::<Result<Vec<_>>>()?;
    planned.sort_by_key(|p| std::cmp::Reverse(p.format.bytes));
    Ok(planned)
}

/// That heads divide the rows to be reordered.
///
/// # Errors
/// If they do not.
pub(super) fn check_heads(checkpoint: &Checkpoint, tensor: &TensorInfo, translation: Translation) -> Result<()> {
    match translation.heads {
        Some(heads)
            if !tensor.shape.first().is_some_and(|rows| rows.is_multiple_of(2 * heads))
                || tensor.shape.len() == 1 && tensor.format.block != 1 =>
        {
            let message = format!(
                "tensor {} of shape {:?} does not have {heads} heads of rows that can be reordered.",
                tensor.name, tensor.shape
            );
            Err(Error::malformed(checkpoint.path(), message))
        }
        _ => Ok(()),
    }
}

/// Writes one tensor, a row at a time.
///
/// # Errors
/// If a weight is not finite, F16 cannot hold it, or the disk refuses.
pub(super) fn write_tensor(
    file: &mut impl Write,
    path: &Path,
    checkpoint: &Checkpoint,
    planned: &Planned<'_>,
    translation: Translation,
    data: &[u8],
) -> Result<(), Stop> {
    let Planned { tensor, format, .. } = planned;
    // The elements of a vector are its rows where heads are reordered (a bias).
    let rows = if translation.heads.is_some() { tensor.shape[0] } else { tensor.rows() };
    let stored_bytes = data.len() / rows;
    let mut numbers = vec![0f32; tensor.len() / rows];
    let mut bytes = vec![0; numbers.len() * format.bytes];
    let encode = format.encode.expect("F32, F16 and BF16 can be written");
    for row in 0..rows {
        let source = translation.heads.map_or(row, |heads| to_halves(row, rows / heads));
        (tensor.format.decode)(&data[source * stored_bytes..][..stored_bytes], &mut numbers);
        if translation.add != 0.0 {
            numbers.iter_mut().for_each(|n| *n += translation.add);
        }
        if let Some(column) = numbers.iter().position(|n| !n.is_finite()) {
            let message = format!(
                "tensor {}, row {source}, column {column} is {}; weights must be finite numbers. The model is broken: \
                 fetch or convert it again.",
                tensor.name, numbers[column]
            );
            return Err(Error::malformed(checkpoint.path(), message).into());
        }
        if format.name == "F16" && numbers.iter().any(|n| n.abs() >= F16_OVERFLOW) {
            return Err(Stop::Overflow);
        }
        encode(&numbers, None, &mut bytes);
        file.write_all(&bytes).map_err(Error::io(path, "write"))?;
    }
    Ok(())
}
