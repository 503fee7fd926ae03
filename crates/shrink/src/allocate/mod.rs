//! Mixed precision: which format each tensor gets, so that a model of a given size loses least.
//!
//! Where to start: [`measure`] says how far the model's predictions move with each tensor in each format, [`Budget::allocate`] makes of
//! that the best mix that a user allows. `probe.rs` is the model with one tensor replaced, `outcomes.rs` how far its predictions are
//! from the model's, `rounding.rs` the error that a format makes of a layer's output, `kept.rs` a file of what was measured, `choose.rs`
//! the allocation, `speed.rs` how fast its model will be, `coherence.rs` whether tensors' divergences add up.
//!
//! The divergence is measured with each tensor rounded, by error feedback, to about 4½ bits; for other formats it is scaled by the
//! squared error of the layer's output, to which a small divergence is proportional (its second-order term). Both are taken on other text
//! than errors were fed back by. That errors have nothing in common, so that divergences of different tensors add up, is assumed;
//! [`Coherence`] tells the formats of which it is not true.

mod budget;
mod choose;
mod coherence;
mod kept;
mod outcomes;
mod probe;
mod rounding;
mod speed;

pub use budget::{Allocation, Budget};
pub use coherence::{Coherence, Dearer};
pub use kept::Kept;
pub use speed::Speed;

use crate::calibrate::{Inputs, Moments, Walk};
use crate::mix::{self, Mix, quantizable_role};
use crate::quantize::{self, by_input};
use crate::widen::Widening;
use crate::{Error, students};
use bantam_checkpoint::{Checkpoint, TensorInfo};
use bantam_formats::{FORMATS, Format};
use bantam_nn::Model;
use probe::Probe;
use rounding::Rounding;
use serde::{Deserialize, Serialize, Serializer};
use std::sync::Arc;

/// Tokens that errors are fed back by, and other ones that the result is judged by.
const TOKENS: usize = 4096;

/// What a tensor costs in one format.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Choice {
    /// The format.
    #[serde(serialize_with = "format_name", deserialize_with = "mix::format")]
    pub format: &'static Format,
    /// The tensor's bytes in it.
    pub bytes: u64,
    /// How far the model's predictions move, in nats per token.
    pub divergence: f64,
}

fn format_name<S: Serializer>(format: &&'static Format, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(format.name)
}

/// What a tensor costs in each format that divides its rows.
#[derive(Clone, Debug)]
pub struct Sensitivity {
    /// The tensor's name.
    pub tensor: String,
    /// One for each format.
    pub choices: Vec<Choice>,
}

/// What was measured of a model.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its tensors as they are.
    pub plain: Vec<Sensitivity>,
    /// Those of the wider model that [`Widening`] makes of it, if it makes one.
    pub widened: Option<Vec<Sensitivity>>,
}

impl Measured {
    /// The tensors that this mix is for, which was chosen for the wider model or for the model as it is.
    pub fn of(&self, mix: &Mix) -> &[Sensitivity] {
        self.widened.as_deref().filter(|_| mix.widen).unwrap_or(&self.plain)
    }

    /// Counts formats as so many times as dear.
    pub fn raise(&mut self, dearer: &[Dearer]) {
        let times = |format| dearer.iter().find(|dearer| dearer.format == format).map_or(1.0, |dearer| dearer.times);
        let tensors = self.plain.iter_mut().chain(self.widened.iter_mut().flatten());
        tensors.flat_map(|tensor| &mut tensor.choices).for_each(|choice| choice.divergence *= times(choice.format));
    }
}

/// What tensors could be, before anything is measured: at no cost yet.
pub fn possible(checkpoint: &Checkpoint) -> Vec<Sensitivity> {
    let of = |tensor: &TensorInfo| Sensitivity {
        tensor: tensor.name.clone(),
        choices: candidates(tensor).into_iter().map(|format| choice(tensor, format, 0.0)).collect(),
    };
    checkpoint.tensors().iter().filter(|t| quantizable_role(t).is_some()).map(of).collect()
}

/// How many tensors [`measure`] goes through: its unit of progress.
pub fn tensors(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().iter().filter(|t| quantizable_role(t).is_some()).count() as u64
}

/// How much of the text and of the tensors is looked at, for what it will take.
pub(crate) struct MeasuredOn {
    /// Tokens that inputs are seen of.
    pub inputs: usize,
    /// Tokens that go through the layers ahead of a tensor that is replaced.
    pub tokens: usize,
}

/// That of this model.
pub(crate) fn measured_on(checkpoint: &Checkpoint) -> MeasuredOn {
    MeasuredOn { inputs: 2 * TOKENS, tokens: probe::tokens(checkpoint) }
}

/// Measures what each tensor that may be quantized costs in each format, on these sequences of tokens, unless `kept` has it. Calls `progress`
/// after each tensor.
///
/// Memory is for the model at two bytes per weight (mapped, if the file has them so), the largest tensor in f32, the moments of one layer, and
/// the logits of a few dozen tokens.
///
/// # Errors
/// If the model cannot be run, what it computes is not finite, or half precision does not hold a weight.
pub fn measure(
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    mut kept: Kept,
    progress: &mut dyn FnMut(),
) -> Result<Measured, Error> {
    let done = measure_missing(checkpoint, sequences, &mut kept, progress);
    done.map_err(|error| quantize::cause(checkpoint, error))?;
    Ok(kept.measured())
}

/// Measures what is not kept.
fn measure_missing(
    checkpoint: &Checkpoint,
    sequences: &[Vec<u32>],
    kept: &mut Kept,
    progress: &mut dyn FnMut(),
) -> Result<(), Error> {
    if checkpoint.tensors().iter().filter(|t| quantizable_role(t).is_some()).all(|t| kept.has(&t.name)) {
        return Ok(());
    }
    let mut model = Model::load(checkpoint)?;
    probe::sharpen(&mut model);
    let [seen, held_out] = parted(sequences);
    let mut probe = Probe::new(checkpoint, &model, held_out)?;
    let (mut walk, mut walk_held_out) = (Walk::new(&model, seen)?, Walk::new(&model, held_out)?);
    let wider = Widening::of(checkpoint)?.map(|widening| (widening.planned(checkpoint), widening));
    let mut measurement = Measurement { checkpoint, wider, kept, progress };
    let embedding = model.embedding_mut().path.clone();
    let tied = model.definition().head().path == embedding;
    for layer in 0..model.config().block_count {
        let of_layer = checkpoint.tensors().iter().filter(|t| t.name.starts_with(&format!("blk.{layer}.")));
        let measured = of_layer.filter(|t| quantizable_role(t).is_some());
        if measured.clone().all(|t| measurement.kept.has(&t.name)) {
            walk.go_on(&model)?;
            walk_held_out.go_on(&model)?;
            measured.for_each(|_| (measurement.progress)());
        } else {
            let inputs = walk.look(&model, true)?;
            let held_out = walk_held_out.look(&model, true)?;
            measurement.layers(&inputs, &held_out, &mut model, &probe)?;
        }
        probe.go_on(&model)?;
    }
    let head = walk.look(&model, false)?;
    // The embedding is felt from the beginning, and so is a head that is tied to it.
    if tied {
        probe.go_back();
    }
    measurement.layers(&head, &walk_held_out.look(&model, false)?, &mut model, &probe)?;
    if !tied {
        probe.go_back();
        if !measurement.kept.has(&embedding) {
            let tensor = checkpoint.tensor(&embedding).expect("the model's embedding is a tensor of the checkpoint");
            measurement.tensor(&embedding, &Rounding::alike(tensor.cols()), &mut model, &probe)?;
        }
    }
    Ok(())
}

/// The beginning of these sequences and what follows it, no more than a half each; the same again of a single one.
fn parted(sequences: &[Vec<u32>]) -> [&[Vec<u32>]; 2] {
    let half = sequences.iter().map(Vec::len).sum::<usize>() / 2;
    let first = |sequences| bantam_nn::together(sequences, TOKENS.min(half)).next().unwrap_or_default();
    let seen = first(sequences);
    let rest = first(&sequences[seen.len()..]);
    [seen, if rest.is_empty() { seen } else { rest }]
}

/// What was measured so far.
struct Measurement<'a> {
    checkpoint: &'a Checkpoint,
    /// What the model is like when it is widened, and how it is.
    wider: Option<(Checkpoint, Widening)>,
    kept: &'a mut Kept,
    progress: &'a mut dyn FnMut(),
}

impl Measurement<'_> {
    /// Measures these linear layers, one by one, by what they saw of two texts.
    fn layers(
        &mut self,
        inputs: &Inputs,
        held_out: &Inputs,
        model: &mut Model,
        probe: &Probe<'_>,
    ) -> Result<(), Error> {
        let mut shared: Option<(&Arc<Moments>, Rounding)> = None;
        for (name, moments) in by_input(inputs) {
            if self.kept.has(name) {
                (self.progress)();
                continue;
            }
            if shared.as_ref().is_none_or(|(of, _)| !Arc::ptr_eq(of, moments)) {
                shared = Some((moments, Rounding::of(moments, &held_out[name])));
            }
            let (_, rounding) = shared.as_ref().expect("it was made");
            self.tensor(name, rounding, model, probe)?;
        }
        Ok(())
    }

    /// Measures what one tensor costs in each format.
    fn tensor(&mut self, name: &str, rounding: &Rounding, model: &mut Model, probe: &Probe<'_>) -> Result<(), Error> {
        let tensor = self.checkpoint.tensor(name).expect("the model's weights are the checkpoint's tensors");
        let weights = students::values(self.checkpoint, tensor)?;
        // The tensor takes its place in the model in half precision.
        quantize::check(self.checkpoint.path(), tensor, Format::f16(), 0, &weights)?;
        let sample = quantize::sample(&weights, tensor.cols());
        let errors = errors(tensor, rounding, &sample);
        let unit = match probed(&errors) {
            Some((format, error)) => probe.with(model, name, &rounding.round(&weights, format))? / error,
            None => 0.0,
        };
        let sensitivity = |tensor: &TensorInfo, errors: &[(&'static Format, f64)]| Sensitivity {
            tensor: name.to_owned(),
            choices: errors.iter().map(|&(format, error)| choice(tensor, format, unit * error)).collect(),
        };
        let plain = sensitivity(tensor, &errors);
        let widened = self.wider.as_ref().map(|(wider, widening)| {
            let wide = wider.tensor(name).expect("a wider model has the same tensors");
            match widening.columns(tensor) {
                None if wide.format == tensor.format => sensitivity(wide, &errors),
                None => sensitivity(wide, &self::errors(wide, rounding, &sample)),
                Some(origin) => {
                    let rows = sample.chunks_exact(tensor.cols());
                    let sample: Vec<f32> =
                        rows.flat_map(|row| origin.iter().map(|from| from.map_or(0.0, |i| row[i]))).collect();
                    sensitivity(wide, &self::errors(wide, &rounding.spread(&origin), &sample))
                }
            }
        });
        self.kept.keep(&plain, widened.as_ref())?;
        (self.progress)();
        Ok(())
    }
}

fn choice(tensor: &TensorInfo, format: &'static Format, divergence: f64) -> Choice {
    Choice { format, bytes: TensorInfo { format, ..tensor.clone() }.bytes() as u64, divergence }
}

/// The error that each format makes of the output of these rows of a tensor, `[rows, cols]`: none where the tensor stays as it is. Weights beyond
/// what a format holds make no finite error, and it is none to choose then.
fn errors(tensor: &TensorInfo, rounding: &Rounding, rows: &[f32]) -> Vec<(&'static Format, f64)> {
    // The tensor's own format may be one that can only be read: its weights are copied, not rounded.
    let error = |format| if format == tensor.format { 0.0 } else { rounding.error(rows, format) };
    let errors = candidates(tensor).into_iter().map(|format| (format, error(format)));
    errors.filter(|(_, error)| error.is_finite()).collect()
}

/// Formats to choose from: grids that divide the rows, half precision, and what the tensor has.
pub(crate) fn candidates(tensor: &TensorInfo) -> Vec<&'static Format> {
    let wanted = |f: &&Format| *f == tensor.format || f.encode.is_some() && (f.grid.is_some() || f.name == "F16");
    FORMATS.iter().copied().filter(|f| f.divides(tensor.cols())).filter(wanted).collect()
}

/// The format, with its error, in which a tensor's divergence is measured: of about 4½ bits, at which rounding is felt and still a small
/// change. Formats that hold the weights almost exactly (those of a packed model) say nothing; `None` if all do.
fn probed(errors: &[(&'static Format, f64)]) -> Option<(&'static Format, f64)> {
    const BITS: f64 = 4.5;
    const FELT: f64 = 1e-3;
    let most = errors.iter().map(|(_, error)| *error).fold(0.0, f64::max);
    let felt = errors.iter().copied().filter(|(format, error)| format.grid.is_some() && *error > FELT * most);
    felt.min_by(|a, b| (a.0.bits() - BITS).abs().total_cmp(&(b.0.bits() - BITS).abs()))
}
