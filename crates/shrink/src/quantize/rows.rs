//! Weights taken each by itself, rows at a time.

use crate::{Error, students};
use bantam_checkpoint::{Checkpoint, TensorInfo};
use bantam_formats::Format;
use rayon::prelude::*;
use std::path::Path;

/// Weights that a thread takes at a time, so that they stay in its cache: decoded, checked, encoded.
const TASK: usize = 1 << 14;

/// Some rows of a tensor.
pub(super) struct Rows<'a> {
    pub path: &'a Path,
    pub tensor: &'a TensorInfo,
    /// Where in the tensor they begin.
    pub first: usize,
    pub data: &'a [u8],
    /// How much the errors of each column matter.
    pub importance: Option<&'a [f32]>,
}

impl Rows<'_> {
    /// Brings the rows into `format`, replacing the contents of `encoded`.
    pub fn convert(&self, format: &'static Format, encoded: &mut Vec<u8>) -> Result<(), Error> {
        let cols = self.tensor.cols();
        let from_bytes = self.tensor.format.bytes_of(cols).expect("checked on opening");
        let to_bytes = format.bytes_of(cols).expect("the mix chose a format that divides the row");
        encoded.clear();
        encoded.resize(self.data.len() / from_bytes * to_bytes, 0);
        let rows = (TASK / cols.max(1)).max(1);
        let importance = self.importance.map(|of_row| of_row.repeat(rows));
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
                    check(self.path, self.tensor, format, self.first + i * rows, weights)?;
                    if format == self.tensor.format {
                        destination.copy_from_slice(source);
                    } else {
                        let importance = importance.as_ref().map(|v| &v[..weights.len()]);
                        format.encode_rows(cols, weights, importance, destination);
                    }
                    Ok(())
                },
            )
            // The first in the tensor, not in time.
            .find_map_first(Result::err);
        error.map_or(Ok(()), Err)
    }
}

/// The cause of an error: where activations or predictions were not finite the first weight that is not; if there is none, they overflowed, and
/// it is said in which file.
pub fn cause(checkpoint: &Checkpoint, error: Error) -> Error {
    let sound = |tensor| check(checkpoint.path(), tensor, Format::f32(), 0, &students::values(checkpoint, tensor)?);
    match error {
        Error::Activations { architecture, tensor, channel, .. } => {
            let path = Some(checkpoint.path().to_owned());
            let overflow = Error::Activations { path, architecture, tensor, channel };
            checkpoint.tensors().iter().find_map(|tensor| sound(tensor).err()).unwrap_or(overflow)
        }
        Error::Predictions { .. } => checkpoint.tensors().iter().find_map(|t| sound(t).err()).unwrap_or(error),
        error => error,
    }
}

/// Refuses weights that `format` cannot hold; `first` is the row of `tensor` where they begin.
pub(crate) fn check(
    path: &Path,
    tensor: &TensorInfo,
    format: &'static Format,
    first: usize,
    weights: &[f32],
) -> Result<(), Error> {
    let largest = format.largest;
    // Without an early end, so that it vectorizes. NaN compares as false.
    if weights.iter().fold(true, |fine, w| fine & (w.abs() <= largest)) {
        return Ok(());
    }
    let Some(at) = weights.iter().position(|w| w.is_nan() || w.abs() > largest) else { return Ok(()) };
    let (path, name, value) = (path.to_owned(), tensor.name.clone(), weights[at]);
    let (row, col) = (first + at / tensor.cols(), at % tensor.cols());
    Err(match value.is_finite() {
        true => Error::OutOfRange { path, tensor: name, row, col, value, format },
        false => Error::NonFinite { path, tensor: name, row, col, value },
    })
}
