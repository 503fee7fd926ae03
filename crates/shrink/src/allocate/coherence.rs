//! Whether the errors of a model's tensors add up as independent ones do.
//!
//! A tensor's divergence is taken to follow from the square of its layer's error, and the model's to be the sum of its tensors'. Both are
//! so for errors that have nothing in common. A model that was trained a little after it had been quantized shows where they are not:
//! rounding to the grid that it came from takes back what it learned, in every row a little, and all of it together.
//!
//! The same errors with the signs of rows drawn by chance have the same squares and nothing in common. So the divergence of the model
//! with all its tensors rounded, over that of the model with signs drawn, is how many times as much rounding costs as squares say.

use super::probe::{Probe, half};
use super::{Choice, Sensitivity, candidates, parted, probe};
use crate::mix::quantizable_role;
use crate::widen::Widening;
use crate::{Error, students};
use bantam_checkpoint::{Checkpoint, TensorInfo};
use bantam_formats::{FORMATS, Format};
use bantam_nn::Model;
use bantam_nn::random::SplitMix64;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;

/// Errors are made smaller until they are no larger than this share of a tensor's weights (in the root mean square), about half of what four
/// bits do: a divergence is proportional to the squares of small errors only.
const SMALL: f64 = 0.04;

/// Divergences, in nats per token, that mean nothing.
const NOTHING: f64 = 1e-6;

/// A choice of formats that costs so many times what squares say is looked at format by format.
const SUSPECT: f64 = 1.5;

/// A format that costs so many times what squares say is dearer. On models that were not trained after they had been packaged it is 0.7 to
/// 1.8 by chance, on one that was 17 to 26 for the formats of its grid and 0.9 to 1.6 for others (BENCHMARKS.md).
const DEARER: f64 = 3.0;

/// A format that costs more than is predicted of its tensors one by one.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Dearer {
    /// The format.
    #[serde(serialize_with = "super::format_name")]
    pub format: &'static Format,
    /// How many times as much.
    pub times: f64,
}

/// A model to be rounded as a whole: all weights to the nearest for a choice, and again for each of its formats where that is suspect.
///
/// Memory is for the model at two bytes per weight (mapped, if the file has them so), for a layer twice more so, and for three copies of the
/// largest tensor in f32.
pub struct Coherence<'a> {
    checkpoint: &'a Checkpoint,
    widening: Option<Widening>,
    model: Model,
    probe: Probe<'a>,
    /// Formats that were looked at.
    known: Vec<Dearer>,
}

impl<'a> Coherence<'a> {
    /// Of this model, seen on the part of these sequences that [`measure`](super::measure) judges by.
    ///
    /// # Errors
    /// If the model cannot be run, or what it computes is not finite.
    pub fn of(checkpoint: &'a Checkpoint, sequences: &'a [Vec<u32>]) -> Result<Self, Error> {
        let mut model = Model::load(checkpoint)?;
        probe::sharpen(&mut model);
        let [_, held_out] = parted(sequences);
        let probe = Probe::new(checkpoint, &model, held_out)?;
        Ok(Self { checkpoint, widening: Widening::of(checkpoint)?, model, probe, known: Vec::new() })
    }

    /// Of the formats that are chosen for these tensors those that are dearer than was predicted. None if the choice as a whole is not. Calls
    /// `progress` with how much is done of how much, as far as is known.
    ///
    /// # Errors
    /// If the model's tensors cannot be read, or what it computes is not finite.
    pub fn dearer(
        &mut self,
        tensors: &[Sensitivity],
        choices: &[Choice],
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Vec<Dearer>, Error> {
        let chosen: BTreeMap<&str, &'static Format> =
            tensors.iter().zip(choices).map(|(tensor, choice)| (&tensor.tensor[..], choice.format)).collect();
        let layers = self.model.config().block_count;
        let as_chosen = |tensor: &TensorInfo| chosen.get(&tensor.name[..]).copied();
        if self.times_of(&as_chosen, &mut |layer| progress(layer, layers))? < SUSPECT {
            return Ok(Vec::new());
        }
        let formats = FORMATS.iter().filter(|format| chosen.values().any(|chosen| chosen == *format));
        let unknown: Vec<_> = formats.filter(|f| self.known.iter().all(|known| known.format != **f)).copied().collect();
        for (at, &format) in unknown.iter().enumerate() {
            let mut progress = |layer| progress((1 + at) * layers + layer, (1 + unknown.len()) * layers);
            let times = self.times_of(&|_| Some(format), &mut progress)?;
            self.known.push(Dearer { format, times });
        }
        let dearer = self.known.iter().filter(|known| known.times > DEARER);
        Ok(dearer.filter(|known| chosen.values().any(|chosen| *chosen == known.format)).copied().collect())
    }

    /// How many times the divergence is with all tensors in this format, each weight to the nearest, what it would be if their errors had nothing
    /// in common; those whose rows it does not divide, also if they were longer, stay as they are.
    ///
    /// # Errors
    /// As [`dearer`](Self::dearer).
    pub fn times(&mut self, format: &'static Format) -> Result<f64, Error> {
        self.times_of(&|_| Some(format), &mut |_| ())
    }

    /// The same with each tensor in a format of its own.
    fn times_of(
        &mut self,
        format: &dyn Fn(&TensorInfo) -> Option<&'static Format>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<f64, Error> {
        let (checkpoint, widening) = (self.checkpoint, self.widening.as_ref());
        let moved = |tensor: &TensorInfo| match format(tensor) {
            Some(format) => moved(checkpoint, widening, tensor, format),
            None => Ok(None),
        };
        let [together, apart] = self.probe.with_all(&mut self.model, &moved, progress)?;
        Ok((together + NOTHING) / (apart + NOTHING))
    }
}

/// A tensor's weights moved by a part of the errors that a format makes of them, and moved so with the rows' signs drawn, in half precision.
/// `None` if the format is not for it.
fn moved(
    checkpoint: &Checkpoint,
    widening: Option<&Widening>,
    tensor: &TensorInfo,
    format: &'static Format,
) -> Result<Option<[Vec<u8>; 2]>, Error> {
    if quantizable_role(tensor).is_none() || format == tensor.format {
        return Ok(None);
    }
    let cols = tensor.cols();
    let origin = match widening.and_then(|widening| widening.columns(tensor)) {
        _ if candidates(tensor).contains(&format) => (0..cols).map(Some).collect(),
        Some(wider) if format.encode.is_some() && format.divides(wider.len()) => wider,
        _ => return Ok(None),
    };
    let weights = students::values(checkpoint, tensor)?;
    let mut errors = vec![0.0; weights.len()];
    let rows = errors.par_chunks_exact_mut(cols).zip(weights.par_chunks_exact(cols));
    rows.for_each(|(errors, row)| round(row, &origin, format, errors));
    let squares = |values: &[f32]| values.iter().map(|v| f64::from(v * v)).sum::<f64>();
    let share = (squares(&errors) / squares(&weights)).sqrt();
    let part = if share > SMALL { (SMALL / share) as f32 } else { 1.0 };
    let at = checkpoint.tensors().iter().position(|t| t.name == tensor.name).expect("it is one of them");
    let mut random = SplitMix64::child(0, at as u64);
    let signs: Vec<f32> = (0..tensor.rows()).map(|_| if random.below(2) == 0 { part } else { -part }).collect();
    let apart: Vec<f32> = weights.iter().zip(&errors).enumerate().map(|(i, (w, e))| w + signs[i / cols] * e).collect();
    let apart = half(&apart);
    errors.iter_mut().zip(&weights).for_each(|(e, w)| *e = w + part * *e);
    Ok(Some([half(&errors), apart]))
}

/// What rounding to the nearest adds to a row whose channels come from these.
fn round(row: &[f32], origin: &[Option<usize>], format: &Format, errors: &mut [f32]) {
    let mut wide: Vec<f32> = origin.iter().map(|from| from.map_or(0.0, |i| row[i])).collect();
    let mut blocks = vec![0; format.bytes_of(wide.len()).expect("it divides the row")];
    format.encode_rows(wide.len(), &wide, None, &mut blocks);
    (format.decode)(&blocks, &mut wide);
    for (from, rounded) in origin.iter().zip(&wide) {
        if let Some(i) = from {
            errors[*i] = rounded - row[*i];
        }
    }
}
