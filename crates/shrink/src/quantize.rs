//! Quantizing by rounding to nearest: each weight to the closest value its format can hold, tensor by tensor.

use crate::{Error, Mix, mix::Target};
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, Metadata, TensorInfo, Value, provenance};
use bantam_formats::Format;
use rayon::prelude::*;
use std::path::Path;

/// Weights encoded before they are written: bounds the memory of the step, and gives threads enough to do.
const CHUNK: usize = 1 << 20;

/// Weights that a thread takes at a time, so that they stay in its cache: decoded, checked, encoded.
const TASK: usize = 1 << 14;

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
    /// call. Peak memory is a few chunks of 1 Mi weights, however large the model. The bytes do not depend on the number
    /// of threads.
    ///
    /// # Errors
    /// If a weight is not finite or too large for its format, or a file cannot be read or written; then nothing
    /// appears under the output's name.
    pub fn write(&self, output: &Path, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.checkpoint.refuse_overwriting(output)?;
        let mut writer = GgufWriter::create(output, &self.metadata(), &self.outputs())?;
        // Each chunk is written while the next is encoded.
        let (mut encoded, mut ready) = (Vec::new(), Vec::new());
        for (tensor, target) in self.checkpoint.tensors().iter().zip(&self.targets) {
            let data = self.checkpoint.data(&tensor.name)?;
            let row_bytes = tensor.bytes() / tensor.rows().max(1);
            let rows_per_chunk = (CHUNK / tensor.cols().max(1)).max(1);
            let mut done = 0;
            for chunk in data.chunks(rows_per_chunk * row_bytes) {
                let rows = Rows { path: self.checkpoint.path(), tensor, first: done / row_bytes, data: chunk };
                let (written, converted) =
                    rayon::join(|| writer.write(&ready), || rows.convert(target.format, &mut encoded));
                written?;
                converted?;
                std::mem::swap(&mut encoded, &mut ready);
                data.release_part(done..done + chunk.len());
                done += chunk.len();
                progress((chunk.len() / row_bytes * tensor.cols()) as u64);
            }
        }
        writer.write(&ready)?;
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
        let rows = (TASK / cols.max(1)).max(1);
        let error = self
            .data
            .par_chunks(rows * from_bytes)
            .zip(encoded.par_chunks_mut(rows * to_bytes))
            .enumerate()
            .map_init(
                || vec![0.0; rows * cols],
                |weights, (i, (source, destination))| {
                    let weights = &mut weights[..source.len() / from_bytes * cols];
                    (self.tensor.format.decode)(source, weights);
                    self.check(format, self.first + i * rows, weights)?;
                    if format == self.tensor.format {
                        destination.copy_from_slice(source);
                    } else {
                        encode(weights, None, destination);
                    }
                    Ok(())
                },
            )
            // The first in the tensor, not in time.
            .find_map_first(Result::err);
        error.map_or(Ok(()), Err)
    }

    /// Refuses weights that `format` cannot hold; `first` is the row where they begin.
    fn check(&self, format: &'static Format, first: usize, weights: &[f32]) -> Result<(), Error> {
        let largest = format.largest;
        // Without an early end, so that it vectorizes. NaN compares as false.
        if weights.iter().fold(true, |fine, w| fine & (w.abs() <= largest)) {
            return Ok(());
        }
        let Some(at) = weights.iter().position(|w| w.is_nan() || w.abs() > largest) else { return Ok(()) };
        let (path, tensor, value) = (self.path.to_owned(), self.tensor.name.clone(), weights[at]);
        let (row, col) = (first + at / self.tensor.cols(), at % self.tensor.cols());
        Err(match value.is_finite() {
            true => Error::OutOfRange { path, tensor, row, col, value, format },
            false => Error::NonFinite { path, tensor, row, col, value },
        })
    }
}
