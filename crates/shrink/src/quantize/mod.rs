//! Quantizing: each weight becomes one that its number format can hold.
//!
//! Where to start: [`Plan`] decides every tensor's format and writes the file by a [`Method`]. `rows.rs` takes each weight by
//! itself (to the nearest, or as calibration says which errors matter). With text, layers are rounded one after the other (`layers.rs`):
//! `scaling.rs` finds which channels to make larger before, `gptq.rs` lets later weights make up for the errors of earlier ones,
//! `descent.rs` goes over the result; what was done stands in a file until all is (`unfinished.rs`). `smooth.rs` prepares a model for
//! activations of 8 bits. Which channels can be scaled is said by `channels.rs`.

mod channels;
mod descent;
mod gptq;
mod layers;
mod rows;
mod sample;
mod scaling;
mod smooth;
mod unfinished;

use crate::calibrate::{Inputs, Moments};
use crate::{Error, Mix, mix::Target};
use bantam_checkpoint::hf::integers::IntegerWriter;
use bantam_checkpoint::{Checkpoint, Config, GgufWriter, Metadata, TensorInfo, TensorWriter, Value, provenance};
use bantam_formats::Format;
use descent::PASSES;
pub(crate) use gptq::{Feedback, spread};
use rows::Rows;
pub use rows::cause;
pub(crate) use rows::check;
pub(crate) use sample::{sample, sampled_rows};
pub(crate) use scaling::POWERS;
pub use smooth::{Smoothed, smooth};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use unfinished::Rounded;
pub use unfinished::unfinished;

/// Weights encoded before they are written: bounds the memory of the step, and gives threads enough to do.
const CHUNK: usize = 1 << 20;

/// How layers are rounded with error feedback: another number where that changes, so that a run that was stopped is not gone on with otherwise.
const ROUNDING: u32 = 4;

/// How much the errors of each input channel matter, by the path of the weight: the mean squares of what the channels carry.
pub type Importance = BTreeMap<String, Vec<f32>>;

/// How weights are rounded.
#[derive(Clone, Copy, Debug)]
pub enum Method<'a> {
    /// Each to the value of its format that is closest, larger weights counting more.
    Nearest,
    /// Scales are chosen so that the errors of important input channels are small.
    Importance(&'a Importance),
    /// Error feedback: weights that are rounded later make up for what earlier ones lost, on these sequences of tokens, layer by
    /// layer on what the layers before give when quantized.
    Gptq(&'a [Vec<u32>]),
    /// The same, and rounded weights and their scales are gone over again, each beside all others.
    Descent(&'a [Vec<u32>]),
    /// The same, and channels are scaled before where that helps.
    Scaling(&'a [Vec<u32>]),
}

impl<'a> Method<'a> {
    /// Its name on the command line and in the record.
    pub fn name(&self) -> &'static str {
        match self {
            Method::Nearest => "nearest",
            Method::Importance(_) => "importance",
            Method::Gptq(_) => "gptq",
            Method::Descent(_) => "descent",
            Method::Scaling(_) => "scaling",
        }
    }

    /// The text that errors are fed back by, if they are.
    pub fn text(&self) -> Option<&'a [Vec<u32>]> {
        match self {
            Method::Gptq(text) | Method::Descent(text) | Method::Scaling(text) => Some(text),
            Method::Nearest | Method::Importance(_) => None,
        }
    }

    /// Times that what error feedback rounded is gone over.
    pub(crate) fn passes(&self) -> usize {
        match self {
            Method::Descent(_) | Method::Scaling(_) => PASSES,
            _ => 0,
        }
    }

    /// Whether channels are scaled.
    pub(crate) fn scales(&self) -> bool {
        matches!(self, Method::Scaling(_))
    }
}

/// What quantizing a checkpoint will do: known before any weight is read.
pub struct Plan<'a> {
    checkpoint: &'a Checkpoint,
    mix: &'a Mix,
    targets: Vec<Target>,
    /// What the record says beside the mix and the method.
    settings: Vec<(String, String)>,
    keeps_rounded: bool,
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
    /// If the checkpoint's hyperparameters are missing or make no sense, or the mix wants a format that can only be read.
    pub fn new(checkpoint: &'a Checkpoint, mix: &'a Mix) -> Result<Self, Error> {
        let config = Config::of(checkpoint)?;
        let targets = mix.assign(checkpoint.tensors(), &config)?;
        Ok(Plan { checkpoint, mix, targets, settings: Vec::new(), keeps_rounded: false })
    }

    /// Says in the record how it was calibrated.
    pub fn with_settings(self, settings: &[(String, String)]) -> Self {
        Plan { settings: settings.to_vec(), ..self }
    }

    /// The tensors of the output.
    pub fn outputs(&self) -> Vec<TensorInfo> {
        let pairs = self.checkpoint.tensors().iter().zip(&self.targets);
        pairs.map(|(tensor, target)| TensorInfo { format: target.format, ..tensor.clone() }).collect()
    }

    /// The tensors of the output that are of another format than in the source.
    pub fn rounded(&self) -> impl Iterator<Item = TensorInfo> {
        let pairs = self.checkpoint.tensors().iter().zip(self.outputs());
        pairs.filter(|(from, to)| from.format != to.format).map(|(_, to)| to)
    }

    /// The size of the output file in bytes, exactly; of a directory, about.
    pub fn file_bytes(&self, method: Method<'_>) -> u64 {
        GgufWriter::file_bytes(&self.metadata(method.name()), &self.outputs())
    }

    /// Keeps rounded layers beside the output once it is finished, as long as what is made of it is not: [`unfinished`] says where.
    pub fn keeping_rounded(self, keep: bool) -> Self {
        Self { keeps_rounded: keep, ..self }
    }

    /// Bits per weight of the output, scales included.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: usize = self.outputs().iter().map(TensorInfo::bytes).sum();
        bytes as f64 * 8.0 / self.checkpoint.weights() as f64
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
        self.checkpoint.parameters()
    }

    fn metadata(&self, method: &str) -> Metadata {
        let mut metadata = self.checkpoint.metadata().clone();
        metadata.set("general.file_type", Value::U32(self.mix.file_type()));
        metadata.set("general.quantization_version", Value::U32(2));
        let mut step = self.checkpoint.step("quantize").setting("to", &self.mix.name).setting("method", method);
        for (key, value) in &self.settings {
            step = step.setting(key, value);
        }
        provenance::append(&mut metadata, step);
        metadata
    }

    /// Writes the quantized checkpoint to `output`. Calls `progress` with the number of weights done since the last
    /// call. The bytes do not depend on the number of threads. Peak memory is a few chunks of 1 Mi weights, however large the
    /// model; with error feedback it is one layer and its moments, and the residual stream of the calibration text.
    ///
    /// # Errors
    /// If a weight is not finite or too large for its format, the model cannot be run for its calibration, importance is not
    /// that of this model, or a file cannot be read or written; then nothing appears under the output's name.
    pub fn write(&self, output: &Path, method: Method<'_>, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.checkpoint.refuse_overwriting(output)?;
        if let Method::Importance(importance) = method {
            check_importance(self.checkpoint, importance)?;
        }
        let mut writer = self.writer(output, &self.metadata(method.name()))?;
        let nothing = Importance::new();
        let mut rounded = None;
        match method {
            Method::Nearest => self.stream(&mut *writer, &nothing, |_| true, progress)?,
            Method::Importance(importance) => self.stream(&mut *writer, importance, |_| true, progress)?,
            Method::Gptq(sequences) | Method::Descent(sequences) | Method::Scaling(sequences) => {
                if sequences.iter().all(Vec::is_empty) {
                    let problem =
                        format!("the method {} rounds for the inputs that text gives: give some", method.name());
                    return Err(Error::Data { path: self.checkpoint.path().to_owned(), problem });
                }
                let description = self.description(method);
                let mut layers = Rounded::open(output, &description, self.checkpoint, sequences)?;
                let done = self.feed_back(&mut *writer, sequences, method, &mut layers, progress);
                if let Err(error) = done {
                    if never_will_be_rounded(&error) {
                        layers.remove();
                    }
                    return Err(cause(self.checkpoint, error));
                }
                rounded = Some(layers);
            }
        }
        writer.finish()?;
        if let Some(rounded) = rounded.filter(|_| !self.keeps_rounded) {
            rounded.remove();
        }
        Ok(())
    }

    /// What rounded layers depend on beside the model and the text.
    fn description(&self, method: Method<'_>) -> String {
        let formats: Vec<&str> = self.targets.iter().map(|target| target.format.name).collect();
        let (version, method) = (env!("CARGO_PKG_VERSION"), method.name());
        format!("layers rounded with error feedback {ROUNDING} ({method}) by {version} to {}", formats.join(" "))
    }

    /// What writes the mix's kind of output: a GGUF file, or a directory for other engines.
    fn writer(&self, output: &Path, metadata: &Metadata) -> Result<Box<dyn TensorWriter + '_>, Error> {
        let tensors = self.outputs();
        Ok(match self.mix.directory {
            None => Box::new(GgufWriter::create(output, metadata, &tensors)?),
            Some(packing) => Box::new(IntegerWriter::create(output, self.checkpoint, packing, metadata, &tensors)?),
        })
    }

    /// Writes the tensors that `wanted` names, each weight by itself.
    fn stream(
        &self,
        writer: &mut dyn TensorWriter,
        importance: &Importance,
        wanted: impl Fn(&str) -> bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        // Each chunk is written while the next is encoded.
        let (mut encoded, mut ready) = (Vec::new(), Vec::new());
        for (tensor, target) in self.checkpoint.tensors().iter().zip(&self.targets).filter(|(t, _)| wanted(&t.name)) {
            writer.write(&ready)?;
            ready.clear();
            writer.begin(&tensor.name)?;
            let data = self.checkpoint.data(&tensor.name)?;
            let row_bytes = tensor.bytes() / tensor.rows().max(1);
            let rows_per_chunk = (CHUNK / tensor.cols().max(1)).max(1);
            let importance = importance.get(&tensor.name).map(|v| &v[..]);
            let mut done = 0;
            for chunk in data.chunks(rows_per_chunk * row_bytes) {
                let rows =
                    Rows { path: self.checkpoint.path(), tensor, first: done / row_bytes, data: chunk, importance };
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
        Ok(writer.write(&ready)?)
    }

    fn tensor(&self, name: &str) -> (&TensorInfo, &Target) {
        let at = self.checkpoint.tensors().iter().position(|t| t.name == name);
        let at = at.expect("the model's layers are the checkpoint's tensors");
        (&self.checkpoint.tensors()[at], &self.targets[at])
    }
}

/// Whether it is the model's weights that are in the way: another run would come no farther.
fn never_will_be_rounded(error: &Error) -> bool {
    matches!(error, Error::Activations { .. } | Error::NonFinite { .. } | Error::OutOfRange { .. })
}

/// Refuses importance of another model.
///
/// # Errors
/// If it names a tensor that this model does not have, or one with other input channels.
pub fn check_importance(model: &Checkpoint, importance: &Importance) -> Result<(), Error> {
    let error = |problem: String| Err(Error::Importance { path: model.path().to_owned(), problem });
    for (name, values) in importance {
        match model.tensor(name) {
            None => return error(format!("has no tensor {name}")),
            Some(tensor) if tensor.cols() != values.len() => {
                return error(format!("has {} input channels in {name}, not {}", tensor.cols(), values.len()));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Inputs in an order in which layers that share one, and so its factors, are beside each other.
pub(crate) fn by_input(inputs: &Inputs) -> Vec<(&String, &Arc<Moments>)> {
    let mut beside: Vec<_> = inputs.iter().collect();
    beside.sort_by_key(|(_, moments)| inputs.values().position(|other| Arc::ptr_eq(other, moments)));
    beside
}
