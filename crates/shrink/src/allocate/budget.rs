//! From what a user allows to a mix.

use super::choose::{choose, least};
use super::{Choice, Sensitivity};
use crate::{Error, Mix};
use bantam_checkpoint::Checkpoint;
use bantam_formats::Format;

/// What a user allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bits per weight, scales included, over all of the model's weights.
    Bits(f64),
    /// Bytes of the file.
    File(u64),
}

/// The mix that loses least within a budget.
#[derive(Clone, Debug)]
pub struct Allocation {
    /// Names the format of each tensor.
    pub mix: Mix,
    /// What was chosen for each tensor measured, in their order.
    pub choices: Vec<Choice>,
}

impl Allocation {
    /// The divergence of the whole model as it is predicted, in nats per token: the sum over tensors.
    pub fn divergence(&self) -> f64 {
        self.choices.iter().map(|c| c.divergence).sum()
    }
}

impl Budget {
    /// About how many bits a weight of this model has within it.
    pub fn bits(self, checkpoint: &Checkpoint) -> f64 {
        match self {
            Budget::Bits(bits) => bits,
            Budget::File(bytes) => 8.0 * bytes as f64 / checkpoint.parameters().max(1) as f64,
        }
    }

    /// The best mix for the tensors measured, those of `checkpoint`; `weights` is how many there were before it was widened, and `file_bytes`
    /// says how large a mix makes the file.
    ///
    /// # Errors
    /// If the narrowest formats need more, or as `file_bytes` does.
    pub fn allocate(
        self,
        checkpoint: &Checkpoint,
        weights: usize,
        measured: &[Sensitivity],
        file_bytes: &dyn Fn(&Mix) -> Result<u64, Error>,
    ) -> Result<Allocation, Error> {
        match self {
            Budget::Bits(bits) => {
                let of_others = |t: &&bantam_checkpoint::TensorInfo| measured.iter().all(|m| m.tensor != t.name);
                let others: usize = checkpoint.tensors().iter().filter(of_others).map(|t| t.bytes()).sum();
                let allowed = ((bits * weights as f64 / 8.0) as u64).checked_sub(others as u64);
                let chosen = allowed.and_then(|allowed| choose(measured, allowed));
                chosen.map(|chosen| self.allocation(measured, &chosen)).ok_or_else(|| Error::Bits {
                    path: checkpoint.path().to_owned(),
                    asked: bits,
                    least: (least(measured) + others as u64) as f64 * 8.0 / weights as f64,
                })
            }
            Budget::File(bytes) => {
                let narrowest = choose(measured, least(measured)).expect("it is the least");
                let smallest = file_bytes(&self.allocation(measured, &narrowest).mix)?;
                let mut spare = bytes.checked_sub(smallest).ok_or_else(|| Error::Bytes {
                    path: checkpoint.path().to_owned(),
                    asked: bytes,
                    least: smallest,
                })?;
                loop {
                    let chosen = choose(measured, least(measured) + spare).expect("it is more than the least");
                    let allocation = self.allocation(measured, &chosen);
                    // Tensors are padded to whole lines: a few bytes more or less.
                    match file_bytes(&allocation.mix)?.checked_sub(bytes) {
                        None | Some(0) => return Ok(allocation),
                        Some(excess) => spare = spare.saturating_sub(excess),
                    }
                }
            }
        }
    }

    fn allocation(self, measured: &[Sensitivity], chosen: &[usize]) -> Allocation {
        let choices: Vec<Choice> = measured.iter().zip(chosen).map(|(tensor, &at)| tensor.choices[at]).collect();
        let tensors: Vec<(&str, &'static Format)> =
            measured.iter().zip(&choices).map(|(tensor, choice)| (&tensor.tensor[..], choice.format)).collect();
        let name = match self {
            Budget::Bits(bits) => format!("{bits} bits"),
            Budget::File(bytes) => format!("{bytes} bytes"),
        };
        let about = format!("each tensor's format chosen by how far it moves the predictions, for {name}");
        Allocation { mix: Mix::of_tensors(name, about, &tensors), choices }
    }
}
