//! The model with one tensor replaced: how far its predictions move.

use super::outcomes::Outcomes;
use crate::Error;
use bantam_checkpoint::{Checkpoint, TensorData, TensorInfo};
use bantam_formats::{Activation, Format};
use bantam_nn::layers::Linear;
use bantam_nn::observe::Observe;
use bantam_nn::weights::Weight;
use bantam_nn::{Backend, Model};
use rayon::prelude::*;

/// Tokens that predictions are compared on, at most and at least.
const TOKENS: [usize; 2] = [512, 128];

/// Weights times tokens beyond which there are fewer tokens: half a billion weights see them all.
const WORK: usize = TOKENS[0] << 29;

/// Sequences of them, with at least as many tokens each as in [`SHORTEST`].
const SEQUENCES: usize = 8;
const SHORTEST: usize = 32;

/// Predictions whose logits are there at a time.
const TOGETHER: usize = 32;

/// Tokens that predictions of this model are compared on, at most.
pub(super) fn tokens(checkpoint: &Checkpoint) -> usize {
    let weights: usize = checkpoint.tensors().iter().map(|t| t.len()).sum();
    (WORK / weights.max(1)).clamp(TOKENS[1], TOKENS[0])
}

/// Weights for two models in half precision, where a tensor is to be replaced in them.
pub(super) type Moved<'a> = dyn Fn(&TensorInfo) -> Result<Option<[Vec<u8>; 2]>, Error> + 'a;

/// The residual stream of a few sequences before a layer, and what the unchanged model predicts of them.
pub(super) struct Probe<'a> {
    checkpoint: &'a Checkpoint,
    sequences: Vec<&'a [u32]>,
    lengths: Vec<usize>,
    layer: usize,
    /// `[tokens, width]`.
    stream: Vec<f32>,
    base: Vec<Outcomes>,
}

impl<'a> Probe<'a> {
    /// Before the first layer, with the beginnings of some of these sequences.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn new(checkpoint: &'a Checkpoint, model: &Model, sequences: &'a [Vec<u32>]) -> Result<Self, Error> {
        let tokens = tokens(checkpoint);
        let length = (tokens / SEQUENCES).max(SHORTEST);
        let mut taken = 0;
        let fits = |sequence: &&[u32]| {
            taken += sequence.len();
            taken <= tokens
        };
        let sequences: Vec<&[u32]> = sequences.iter().map(|s| &s[..s.len().min(length)]).take_while(fits).collect();
        let lengths = sequences.iter().map(|s| s.len()).collect();
        let mut probe = Self { checkpoint, sequences, lengths, layer: 0, stream: Vec::new(), base: Vec::new() };
        probe.stream = probe.embed(model)?;
        probe.base = probe.predictions(model)?;
        Ok(probe)
    }

    /// Goes through the layer ahead.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn go_on(&mut self, model: &Model) -> Result<(), Error> {
        self.stream = self.through(model, self.layer, &self.stream)?;
        self.layer += 1;
        Ok(())
    }

    fn through(&self, model: &Model, layer: usize, stream: &[f32]) -> Result<Vec<f32>, Error> {
        let mut nobody = |_: &[&Linear], _: &[f32]| ();
        let mut observe = Observe::new(model.config(), &self.lengths, &mut nobody)?;
        let x = observe.input(stream, model.config().embedding_length);
        Ok(model.definition().layer(&mut observe, layer, x).to_vec())
    }

    /// Goes back before the embedding.
    pub fn go_back(&mut self) {
        self.layer = 0;
        self.stream.clear();
    }

    /// The mean KL divergence, in nats per token, from the unchanged model to one in which this tensor, which lies ahead, has these
    /// weights.
    ///
    /// # Errors
    /// If the model cannot be run, or predicts what is not finite.
    pub fn with(&self, model: &mut Model, tensor: &str, weights: &[f32]) -> Result<f64, Error> {
        let info = self.checkpoint.tensor(tensor).expect("the model's layers are the checkpoint's tensors");
        let mut replaced = replacement(info, half(weights));
        swap(model, tensor, &mut replaced);
        let moved = self.moved(model);
        swap(model, tensor, &mut replaced);
        moved
    }

    /// The same to two models in which all tensors are replaced that `moved` gives weights for, one for each. A layer's are there at a time.
    /// Calls `progress` with the number of layers that are done.
    ///
    /// # Errors
    /// As `moved`, if the model cannot be run, or predicts what is not finite.
    pub fn with_all(
        &self,
        model: &mut Model,
        moved: &Moved<'_>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<[f64; 2], Error> {
        let (embedding, head) = (model.embedding_mut().path.clone(), model.definition().head().path.clone());
        let in_layer = |tensor: &TensorInfo, layer| tensor.name.starts_with(&format!("blk.{layer}."));
        let mut streams = self.with_part(model, moved, &|t| t.name == embedding, &|model, _| self.embed(model))?;
        for layer in 0..model.config().block_count {
            let part = |t: &TensorInfo| in_layer(t, layer);
            streams = self.with_part(model, moved, &part, &|model, at| self.through(model, layer, &streams[at]))?;
            progress(layer + 1);
        }
        let divergence = |model: &Model, at: usize| {
            let hidden = self.compared(model, &streams[at])?;
            self.divergence(model, &hidden)
        };
        self.with_part(model, moved, &|t| t.name == head, &divergence)
    }

    /// What `go` makes of each of two models in which the tensors of a part are replaced.
    fn with_part<T>(
        &self,
        model: &mut Model,
        moved: &Moved<'_>,
        part: &dyn Fn(&TensorInfo) -> bool,
        go: &dyn Fn(&Model, usize) -> Result<T, Error>,
    ) -> Result<[T; 2], Error> {
        let tensors = self.checkpoint.tensors().iter().filter(|tensor| part(tensor));
        let moved = tensors.map(|tensor| Ok(moved(tensor)?.map(|weights| (tensor, weights))));
        let mut moved: Vec<(&TensorInfo, [Vec<u8>; 2])> =
            moved.filter_map(Result::transpose).collect::<Result<_, Error>>()?;
        let mut with = |at: usize| {
            let taken = moved.iter_mut().map(|(tensor, weights)| (*tensor, std::mem::take(&mut weights[at])));
            let mut replaced: Vec<_> = taken.map(|(tensor, weights)| (tensor, replacement(tensor, weights))).collect();
            replaced.iter_mut().for_each(|(tensor, weights)| swap(model, &tensor.name, weights));
            let made = go(model, at);
            replaced.iter_mut().for_each(|(tensor, weights)| swap(model, &tensor.name, weights));
            made
        };
        Ok([with(0)?, with(1)?])
    }

    fn moved(&self, model: &Model) -> Result<f64, Error> {
        let stream = if self.stream.is_empty() { self.embed(model)? } else { self.stream.clone() };
        self.divergence(model, &self.hidden(model, &stream)?)
    }

    /// From what the unchanged model predicts to what is predicted of `hidden`, `[predictions, width]`.
    fn divergence(&self, model: &Model, hidden: &[f32]) -> Result<f64, Error> {
        let head = model.definition().head();
        let predictions = hidden.par_chunks_exact(model.config().embedding_length).zip(&self.base);
        let divergences: Vec<f64> = predictions.map(|(hidden, base)| base.divergence(head, hidden)).collect();
        let mean = divergences.iter().sum::<f64>() / divergences.len() as f64;
        if mean.is_finite() { Ok(mean.max(0.0)) } else { Err(self.broken()) }
    }

    fn broken(&self) -> Error {
        Error::Predictions { model: self.checkpoint.path().display().to_string() }
    }

    fn embed(&self, model: &Model) -> Result<Vec<f32>, Error> {
        let mut nobody = |_: &[&Linear], _: &[f32]| ();
        let mut observe = Observe::new(model.config(), &self.lengths, &mut nobody)?;
        Ok(model.definition().embed(&mut observe, &self.sequences.concat()).to_vec())
    }

    /// What the model predicts, before anything is replaced.
    fn predictions(&self, model: &Model) -> Result<Vec<Outcomes>, Error> {
        let (hidden, vocabulary) = (self.hidden(model, &self.stream)?, model.config().vocab_size);
        let mut nobody = |_: &[&Linear], _: &[f32]| ();
        let mut observe = Observe::new(model.config(), &self.lengths, &mut nobody)?;
        let mut predictions = Vec::new();
        for hidden in hidden.chunks(TOGETHER * model.config().embedding_length) {
            let hidden = observe.input(hidden, model.config().embedding_length);
            let logits = observe.linear(model.definition().head(), &hidden);
            let outcomes: Option<Vec<Outcomes>> = logits.par_chunks_exact(vocabulary).map(Outcomes::of).collect();
            predictions.extend(outcomes.ok_or_else(|| self.broken())?);
        }
        Ok(predictions)
    }

    /// What the head makes the compared predictions of, `[predictions, width]`, of the residual stream before the layer ahead.
    fn hidden(&self, model: &Model, stream: &[f32]) -> Result<Vec<f32>, Error> {
        let mut stream = stream.to_vec();
        for layer in self.layer..model.config().block_count {
            stream = self.through(model, layer, &stream)?;
        }
        self.compared(model, &stream)
    }

    /// The same of the stream behind the last layer.
    fn compared(&self, model: &Model, stream: &[f32]) -> Result<Vec<f32>, Error> {
        let (config, definition) = (model.config(), model.definition());
        let mut nobody = |_: &[&Linear], _: &[f32]| ();
        let mut observe = Observe::new(config, &self.lengths, &mut nobody)?;
        let x = observe.input(stream, config.embedding_length);
        let hidden = definition.norm(&mut observe, &x);
        let mut compared = Vec::new();
        let mut rows = &hidden[..];
        for &length in &self.lengths {
            let own = rows.split_off(..length * config.embedding_length).expect("a row for each token");
            // The second half knows most.
            compared.extend_from_slice(&own[length / 2 * config.embedding_length..]);
        }
        Ok(compared)
    }
}

/// Gives all that are packed the weights they mean in half precision, so that predictions move by what is replaced alone, and
/// not by how activations are rounded for packed weights.
pub(super) fn sharpen(model: &mut Model) {
    let sharpen = |weight: &mut Weight| {
        let Weight { format, data, rows, cols } = &*weight;
        if format.product.activation != Activation::F32 {
            let row_bytes = format.bytes_of(*cols).expect("checked on loading");
            let mut weights = vec![0.0; *cols];
            let decoded = data.chunks_exact(row_bytes).flat_map(|row| {
                (format.decode)(row, &mut weights);
                half(&weights)
            });
            *weight = in_half(TensorData::Owned(decoded.collect()), *rows, *cols);
        }
    };
    sharpen(&mut model.embedding_mut().table);
    model.visit_linears_mut(&mut |linear| sharpen(&mut linear.weight));
}

/// In half precision.
pub(super) fn half(weights: &[f32]) -> Vec<u8> {
    const CHUNK: usize = 1 << 16;
    let mut bytes = vec![0; 2 * weights.len()];
    let encode = Format::f16().encode.expect("F16 can be written");
    let chunks = bytes.par_chunks_mut(2 * CHUNK).zip(weights.par_chunks(CHUNK));
    chunks.for_each(|(bytes, weights)| encode(weights, None, bytes));
    bytes
}

fn in_half(data: TensorData, rows: usize, cols: usize) -> Weight {
    Weight { format: Format::f16(), data, rows, cols }
}

/// These weights in half precision in the places of a tensor: the embedding's and the head's, where they are one.
fn replacement(tensor: &TensorInfo, weights: Vec<u8>) -> [Weight; 2] {
    let data = TensorData::Owned(weights.into());
    [data.clone(), data].map(|data| in_half(data, tensor.rows(), tensor.cols()))
}

/// Puts the weights into the places of this path, the embedding's first, and what was there into `weights`.
fn swap(model: &mut Model, path: &str, weights: &mut [Weight]) {
    let mut weights = weights.iter_mut();
    let mut swap = |at: &str, weight: &mut Weight| {
        if at == path {
            std::mem::swap(weight, weights.next().expect("one for the embedding and one for a layer"));
        }
    };
    let embedding = model.embedding_mut();
    swap(&embedding.path, &mut embedding.table);
    model.visit_linears_mut(&mut |linear| swap(&linear.path, &mut linear.weight));
}
