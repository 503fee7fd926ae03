//! Going through a model layer by layer, all calibration text at once.

use super::{Inputs, Moments};
use crate::Error;
use bantam_nn::layers::Linear;
use bantam_nn::observe::Observe;
use bantam_nn::run::Tensor;
use bantam_nn::{Model, together};
use std::sync::Arc;

/// Tokens that go through a layer together: bounds the memory for activations.
const TOGETHER: usize = 2048;

/// The residual stream of all calibration text between two layers.
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

    /// What the linear layers of the layer ahead see. With `go_on` the walk is behind the layer afterwards.
    ///
    /// # Errors
    /// If what they see is not finite.
    pub fn look(&mut self, model: &Model, go_on: bool) -> Result<Inputs, Error> {
        let mut inputs = Inputs::new();
        self.pass(model, go_on, &mut |layers, x| note(&mut inputs, layers, x))?;
        check(&inputs, model)?;
        Ok(inputs)
    }

    /// Goes through the layer ahead.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn go_on(&mut self, model: &Model) -> Result<(), Error> {
        self.pass(model, true, &mut |_, _| ())
    }

    /// Goes through the layer ahead, and shows what its linear layers see: some of the rows at a time, in the order of execution.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn show(&mut self, model: &Model, listener: &mut dyn FnMut(&[&Linear], &[f32])) -> Result<(), Error> {
        self.pass(model, true, listener)
    }

    /// What the head sees, behind the last layer.
    ///
    /// # Errors
    /// If that is not finite.
    pub fn look_at_head(&mut self, model: &Model) -> Result<Inputs, Error> {
        let mut inputs = Inputs::new();
        for batch in &self.batches {
            let mut nobody = |_: &[&Linear], _: &[f32]| ();
            let mut observe = Observe::new(model.config(), &batch.lengths, &mut nobody)?;
            let x = batch.input(&observe, model);
            let hidden = model.definition().norm(&mut observe, &x);
            note(&mut inputs, &[model.definition().head()], &hidden);
        }
        check(&inputs, model)?;
        Ok(inputs)
    }

    fn pass(&mut self, model: &Model, go_on: bool, listener: &mut dyn FnMut(&[&Linear], &[f32])) -> Result<(), Error> {
        for batch in &mut self.batches {
            let mut listener = |layers: &[&Linear], x: &[f32]| listener(layers, x);
            let mut observe = Observe::new(model.config(), &batch.lengths, &mut listener)?;
            let x = batch.input(&observe, model);
            let x = model.definition().layer(&mut observe, self.layer, x);
            if go_on {
                batch.stream.copy_from_slice(&x);
            }
        }
        self.layer += usize::from(go_on);
        Ok(())
    }
}

impl Batch {
    fn input(&self, observe: &Observe<'_>, model: &Model) -> Tensor {
        observe.input(&self.stream, model.config().embedding_length)
    }
}

/// Adds an input to the moments that these layers share.
fn note(inputs: &mut Inputs, layers: &[&Linear], x: &[f32]) {
    // Taken out, so that nothing else shares them while they change.
    let taken: Vec<_> = layers.iter().map(|l| inputs.remove(&l.path)).collect();
    let mut moments = match taken.into_iter().flatten().next_back().map(Arc::try_unwrap) {
        Some(Ok(moments)) => moments,
        Some(Err(shared)) => (*shared).clone(),
        None => Moments::new(layers[0].weight.cols()),
    };
    moments.add(x);
    let moments = Arc::new(moments);
    inputs.extend(layers.iter().map(|l| (l.path.clone(), moments.clone())));
}

/// Refuses inputs that are not finite: the model is broken, or its weights are.
fn check(inputs: &Inputs, model: &Model) -> Result<(), Error> {
    let broken = |m: &Moments| m.mean_squares().iter().position(|v| !v.is_finite());
    match inputs.iter().find_map(|(path, moments)| broken(moments).map(|channel| (path, channel))) {
        None => Ok(()),
        Some((tensor, channel)) => Err(Error::Activations {
            architecture: model.config().architecture.clone(),
            tensor: tensor.clone(),
            channel,
        }),
    }
}
