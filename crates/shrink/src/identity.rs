//! By what files that are gone on with know their model and their text.

use crate::Error;
use bantam_checkpoint::Checkpoint;
use xxhash_rust::xxh3::Xxh3;

/// A hash of a model's biases and norms: enough to tell models apart, and quick to read.
pub(crate) fn of_vectors(checkpoint: &Checkpoint) -> Result<u64, Error> {
    let mut hash = Xxh3::new();
    for tensor in checkpoint.tensors().iter().filter(|t| t.shape.len() <= 1) {
        hash.update(tensor.name.as_bytes());
        hash.update(&checkpoint.data(&tensor.name)?);
    }
    Ok(hash.digest())
}

/// Bytes of each tensor that are looked at, from its middle.
const LOOKED_AT: usize = 4096;

/// A hash of a model (its tensors' names, shapes and formats, and some of each one's bytes, since models that were trained further may keep
/// their vectors) and of sequences of tokens.
pub(crate) fn of_model_and_text(checkpoint: &Checkpoint, sequences: &[Vec<u32>]) -> Result<u64, Error> {
    let mut hash = Xxh3::new();
    for tensor in checkpoint.tensors() {
        hash.update(format!("{} {:?} {}", tensor.name, tensor.shape, tensor.format).as_bytes());
        let data = checkpoint.data(&tensor.name)?;
        let middle = &data[data.len() / 2..];
        hash.update(&middle[..middle.len().min(LOOKED_AT)]);
    }
    for sequence in sequences {
        hash.update(&(sequence.len() as u64).to_le_bytes());
        sequence.iter().for_each(|token| hash.update(&token.to_le_bytes()));
    }
    Ok(hash.digest())
}
