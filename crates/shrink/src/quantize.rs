//! Quantizing by rounding to nearest: each weight to the closest value its format can hold, tensor by tensor.

use crate::{Error, Mix, mix::Target};
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, Metadata, TensorInfo, Value, provenance};
use bantam_formats::Format;
use rayon::prelude::*;
use std::path::Path;

/// Weights encoded before they are written: bounds the memory of the step, and gives threads enough to do.
const CHUNK: usize = 1 << 21;

/// The largest finite f16, which also bounds what formats with f16 scales can hold for certain.
const F16_MAX: f32 = 65504.0;

/// What quantizing a checkpoint will do: known before any weight is read.
pub struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    mix: &'a Mix,
    targets: Vec<Target>,
}

/// A tensor that could not have the format its mix asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FallBack {
    /// The tensor's name.
    pub tensor: String,
    /// The length of its rows.
    pub cols: usize,
    /// The format its mix asks for.
    pub wanted: &'static Format,
    /// The format it gets.
    pub got: &'static Format,
}

impl<'a> Plan<'a> {
    /// Decides every tensor's format.
    ///
    /// # Errors
    /// If the checkpoint's hyperparameters are missing or make no sense.
    pub fn new(checkpoint: &'a Checkpoint, mix: &'a Mix) -> Result<Self, Error> {
        let config = Config::of(checkpoint)?;
        Ok(Plan { checkpoint, mix, targets: mix.assign(checkpoint.tensors(), &config) })
    }

    /// The tensors of the output.
    pub fn outputs(&self) -> Vec<TensorInfo> {
        let pairs = self.checkpoint.tensors().iter().zip(&self.targets);
        pairs.map(|(tensor, target)| TensorInfo { format: target.format, ..tensor.clone() }).collect()
    }

    /// The size of the output file in bytes, exactly.
    pub fn file_bytes(&self) -> u64 {
        GgufWriter::file_bytes(&self.metadata(), &self.outputs())
    }

    /// The tensors whose rows their mix's format does not divide.
    pub fn fall_backs(&self) -> Vec<FallBack> {
        let pairs = self.checkpoint.tensors().iter().zip(&self.targets);
        pairs
            .filter_map(|(tensor, target)| {
                let wanted = target.instead_of?;
                Some(FallBack { tensor: tensor.name.clone(), cols: tensor.cols(), wanted, got: target.format })
            })
            .collect()
    }

    /// Weights that will be read and encoded: the unit of progress.
    pub fn weights(&self) -> u64 {
        self.checkpoint.tensors().iter().map(|t| t.len() as u64).sum()
    }

    fn metadata(&self) -> Metadata {
        let mut metadata = self.checkpoint.metadata().clone();
        metadata.set("general.file_type", Value::U32(self.mix.file_type));
        metadata.set("general.quantization_version", Value::U32(2));
        let step = self.checkpoint.step("quantize").setting("to", &self.mix.name).setting("method", "round to nearest");
        provenance::append(&mut metadata, step);
        metadata
    }

    /// Writes the quantized checkpoint to `output`. Calls `progress` with the number of weights done since the last
    /// call. Peak memory is a few chunks of 2 Mi weights, however large the model.
    ///
    /// # Errors
    /// If a weight is not finite or too large for its format, or a file cannot be read or written; then nothing
    /// appears under the output's name.
    pub fn write(&self, output: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.checkpoint.refuse_overwriting(output)?;
        let mut writer = GgufWriter::create(output, &self.metadata(), &self.outputs())?;
        let mut encoded = Vec::new();
        for (tensor, target) in self.checkpoint.tensors().iter().zip(&self.targets) {
            let data = self.checkpoint.data(&tensor.name)?;
            let row_bytes = tensor.bytes() / tensor.rows().max(1);
            let rows_per_chunk = (CHUNK / tensor.cols().max(1)).max(1);
            for (i, chunk) in data.chunks(rows_per_chunk * row_bytes).enumerate() {
                let rows = Rows { path: self.checkpoint.path(), tensor, first: i * rows_per_chunk, data: chunk };
                rows.convert(target.format, &mut encoded)?;
                writer.write(&encoded)?;
                progress((chunk.len() / row_bytes * tensor.cols()) as u64);
            }
            data.release();
        }
        Ok(writer.finish()?)
    }
}

/// Some rows of a tensor.
struct Rows<'a> {
    path: &'a Path,
    tensor: &'a TensorInfo,
    first: usize,
    data: &'a [u8],
}

impl Rows<'_> {
    /// Brings the rows into `format`, replacing the contents of `encoded`.
    fn convert(&self, format: &'static Format, encoded: &mut Vec<u8>) -> Result<(), Error> {
        let cols = self.tensor.cols();
        let from_bytes = self.tensor.format.bytes_of(cols).expect("checked on opening");
        let to_bytes = format.bytes_of(cols).expect("the mix chose a format that divides the row");
        let encode = format.encode.expect("mixes name formats that can be written");
        encoded.clear();
        encoded.resize(self.data.len() / from_bytes * to_bytes, 0);
        self.data
            .par_chunks_exact(from_bytes)
            .zip(encoded.par_chunks_exact_mut(to_bytes))
            .enumerate()
            .map_init(
                || vec![0.0; cols],
                |row, (i, (source, destination))| {
                    (self.tensor.format.decode)(source, row);
                    self.check(format, self.first + i, row)?;
                    if format == self.tensor.format {
                        destination.copy_from_slice(source);
                    } else {
                        encode(row, None, destination);
                    }
                    Ok(())
                },
            )
            .collect()
    }

    /// Refuses weights that `format` cannot hold.
    fn check(&self, format: &'static Format, row: usize, weights: &[f32]) -> Result<(), Error> {
        let limit = if matches!(format.name, "F32" | "BF16") { f32::MAX } else { F16_MAX };
        let Some(col) = weights.iter().position(|w| w.is_nan() || w.abs() > limit) else { return Ok(()) };
        let (path, tensor, value) = (self.path.to_owned(), self.tensor.name.clone(), weights[col]);
        Err(match value.is_finite() {
            true => Error::OutOfRange { path, tensor, row, col, value, format: format.name },
            false => Error::NonFinite { path, tensor, row, col, value },
        })
    }
}
