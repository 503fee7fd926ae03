//! Going through a model layer by layer, all calibration text at once.

use super::{Inputs, Moments};
use crate::Error;
use crate::quantize::Importance;
use bantam_nn::layers::Linear;
use bantam_nn::observe::{Listener, Observe};
use bantam_nn::run::Tensor;
use bantam_nn::{Model, together};
use std::sync::Arc;

/// Tokens that go through a layer together: bounds the memory for activations.
const TOGETHER: usize = 2048;

/// The residual stream of all calibration text between two layers, of which the head is the last.
///
/// Memory is for one residual stream, `[tokens, width]`, and one layer's moments, however deep the model. Between looking at a
/// layer and going on from it its weights can be replaced: what follows then sees what the replaced ones give.
pub struct Walk {
    batches: Vec<Batch>,
    layer: usize,
}

/// Sequences that go through a layer together.
struct Batch {
    lengths: Vec<usize>,
    /// `[tokens, width]`.
    stream: Vec<f32>,
}

impl Walk {
    /// Before the first layer, with these sequences of tokens.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn new(model: &Model, sequences: &[impl AsRef<[u32]>]) -> Result<Self, Error> {
        let vocab_size = model.config().vocab_size;
        if let Some(&token) = sequences.iter().flat_map(|s| s.as_ref()).find(|&&t| t as usize >= vocab_size) {
            return Err(bantam_nn::Error::UnknownToken { token, vocab_size }.into());
        }
        let begin = |batch: &[_]| {
            let mut nobody = |_: &[&Linear], _: &[f32]| ();
            let sequences = || batch.iter().map(AsRef::as_ref);
            let lengths: Vec<usize> = sequences().map(<[u32]>::len).collect();
            let tokens: Vec<u32> = sequences().flatten().copied().collect();
            let mut observe = Observe::new(model.config(), &lengths, &mut nobody)?;
            let stream = model.definition().embed(&mut observe, &tokens).to_vec();
            Ok(Batch { lengths, stream })
        };
        let batches = together(sequences, TOGETHER).map(begin).collect::<Result<_, Error>>()?;
        Ok(Self { batches, layer: 0 })
    }

    /// Tokens on the way.
    pub fn tokens(&self) -> u64 {
        self.batches.iter().flat_map(|b| &b.lengths).map(|&len| len as u64).sum()
    }

    /// What the linear layers of the layer ahead see, or the head if no layer is, with tokens counted by how their errors are felt. With
    /// `go_on` the walk is behind the layer afterwards; behind the head there is nothing.
    ///
    /// Few tokens (the first, delimiters) have residual streams of a thousand times the usual size (Sun et al. 2024, massive
    /// activations); their squares would drown those of all others, though what follows normalizes them. So what is added to the
    /// stream counts by its share of it. The same tokens get much of all attention (Xiao et al. 2023, attention sinks), and errors of
    /// theirs are felt wherever they are attended to. So each counts half for itself and half for the attention that it gets in
    /// the layer, of which the mean is one (RSQ: Sung et al. 2025, counts by that alone).
    ///
    /// # Errors
    /// If what they see is not finite.
    pub fn look(&mut self, model: &Model, go_on: bool) -> Result<Inputs, Error> {
        let mut seen = Seen { inputs: Inputs::new(), last: None, attention: None };
        self.pass(model, go_on, &mut seen)?;
        seen.take_in(None);
        check(model, seen.inputs.iter().map(|(path, moments)| (path, moments.mean_squares())))?;
        Ok(seen.inputs)
    }

    /// Goes through the layer ahead; returns the mean squares of what its linear layers see, all tokens counted alike as in llama.cpp's
    /// importance matrices.
    ///
    /// # Errors
    /// If what they see is not finite.
    pub fn mean_squares(&mut self, model: &Model) -> Result<Importance, Error> {
        let (mut means, share) = (Importance::new(), 1.0 / self.tokens().max(1) as f32);
        let mut add = |layers: &[&Linear], x: &[f32]| {
            let cols = layers[0].weight.cols;
            let mut sums = vec![0.0; cols];
            x.chunks_exact(cols).for_each(|x| sums.iter_mut().zip(x).for_each(|(sum, x)| *sum += x * x));
            for layer in layers {
                let mean = means.entry(layer.path.clone()).or_insert_with(|| vec![0.0; cols]);
                mean.iter_mut().zip(&sums).for_each(|(mean, sum)| *mean += share * sum);
            }
        };
        self.pass(model, true, &mut add)?;
        check(model, means.iter().map(|(path, means)| (path, means.clone())))?;
        Ok(means)
    }

    /// Goes through the layer ahead.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn go_on(&mut self, model: &Model) -> Result<(), Error> {
        self.pass(model, true, &mut |_: &[&Linear], _: &[f32]| ())
    }

    /// Goes through the layer ahead, and shows what its linear layers see: some of the rows at a time, in the order of execution.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn show(&mut self, model: &Model, listener: &mut dyn Listener) -> Result<(), Error> {
        self.pass(model, true, listener)
    }

    fn pass(&mut self, model: &Model, go_on: bool, listener: &mut dyn Listener) -> Result<(), Error> {
        let definition = model.definition();
        let at_head = self.layer == model.config().block_count;
        for batch in &mut self.batches {
            let mut observe = Observe::new(model.config(), &batch.lengths, listener)?;
            let x = batch.input(&observe, model);
            if at_head {
                // Its logits are of no interest.
                let hidden = definition.norm(&mut observe, &x);
                listener.input(&[definition.head()], &hidden);
                continue;
            }
            let x = definition.layer(&mut observe, self.layer, x);
            if go_on {
                batch.stream.copy_from_slice(&x);
            }
        }
        self.layer += usize::from(go_on && !at_head);
        Ok(())
    }
}

impl Batch {
    fn input(&self, observe: &Observe<'_>, model: &Model) -> Tensor {
        observe.input(&self.stream, model.config().embedding_length)
    }
}

/// What the linear layers of a layer saw so far.
struct Seen {
    inputs: Inputs,
    /// What came last, whose tokens' counts are not known yet.
    last: Option<Last>,
    /// What tokens count for the attention that they got in the layer.
    attention: Option<Vec<f32>>,
}

struct Last {
    layers: Vec<String>,
    cols: usize,
    /// `[tokens, cols]`.
    x: Vec<f32>,
}

impl Seen {
    /// Takes in what came last; errors of its tokens are felt so much where they are added to the stream.
    fn take_in(&mut self, felt: Option<&[f32]>) {
        let Some(Last { layers, cols, mut x }) = self.last.take() else { return };
        for counts in [self.attention.as_deref(), felt].into_iter().flatten() {
            for (row, count) in x.chunks_exact_mut(cols).zip(counts) {
                row.iter_mut().for_each(|v| *v *= count.sqrt());
            }
        }
        note(&mut self.inputs, &layers, &x, cols);
    }
}

impl Listener for Seen {
    fn input(&mut self, layers: &[&Linear], x: &[f32]) {
        self.take_in(None);
        let paths = layers.iter().map(|layer| layer.path.clone()).collect();
        self.last = Some(Last { layers: paths, cols: layers[0].weight.cols, x: x.to_vec() });
    }

    fn attended(&mut self, received: &dyn Fn() -> Vec<f32>) {
        self.attention = Some(received().into_iter().map(|share| (1.0 + share) / 2.0).collect());
        self.take_in(None);
    }

    fn added(&mut self, counts: &[f32]) {
        self.take_in(Some(counts));
    }
}

/// Adds an input to the moments that these layers share.
fn note(inputs: &mut Inputs, layers: &[String], x: &[f32], cols: usize) {
    // All are taken out, so that nothing else shares them while they change.
    let last = layers.iter().filter_map(|path| inputs.remove(path)).last();
    let mut moments = match last.map(Arc::try_unwrap) {
        Some(Ok(moments)) => moments,
        Some(Err(shared)) => (*shared).clone(),
        None => Moments::new(cols),
    };
    moments.add(x);
    let moments = Arc::new(moments);
    inputs.extend(layers.iter().map(|path| (path.clone(), moments.clone())));
}

/// Refuses inputs whose mean squares are not finite: the model is broken, or its weights are.
fn check<'p>(model: &Model, inputs: impl Iterator<Item = (&'p String, Vec<f32>)>) -> Result<(), Error> {
    for (path, means) in inputs {
        if let Some(channel) = means.iter().position(|v| !v.is_finite()) {
            let (architecture, tensor) = (model.config().architecture.clone(), path.clone());
            return Err(Error::Activations { path: None, architecture, tensor, channel });
        }
    }
    Ok(())
}
