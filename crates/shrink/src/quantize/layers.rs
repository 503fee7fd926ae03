//! Rounding with error feedback, layer by layer, on what the rounded layers before give.

use super::channels::{Maker, divide_rows};
use super::rows::Rows;
use super::scaling::{self, Sampled};
use super::unfinished::{Layer, Rounded};
use super::{Feedback, Importance, Method, Plan, by_input, check, sample};
use crate::calibrate::{Inputs, Moments, Walk};
use crate::{Error, students};
use bantam_checkpoint::{TensorData, TensorWriter};
use bantam_nn::Model;
use bantam_nn::weights::Weight;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What makes the inputs of linear layers, by their paths, where channels may be scaled.
type Makers = BTreeMap<String, Maker>;

/// What rows are divided by, by the names of tensors.
type Divisors = BTreeMap<String, Vec<f32>>;

impl Plan<'_> {
    /// Writes linear layers with error feedback, in the order of execution, and all other tensors each weight by itself.
    pub(super) fn feed_back(
        &self,
        writer: &mut dyn TensorWriter,
        sequences: &[Vec<u32>],
        method: Method<'_>,
        rounded: &mut Rounded,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let mut model = Model::load(self.checkpoint)?;
        let makers = self.makers(&mut model, method);
        let mut changed: BTreeSet<String> = makers.values().flat_map(|maker| &maker.tensors).cloned().collect();
        model.visit_linears_mut(&mut |linear| changed.extend([linear.path.clone()]));
        self.stream(writer, &Importance::new(), |name| !changed.contains(name), progress)?;
        if !changed.contains(&model.embedding_mut().path) {
            self.replace_embedding(&mut model)?;
        }
        let mut walk = Walk::new(&model, sequences)?;
        let layers = model.config().block_count;
        for layer in 0..=layers {
            let tensors = match rounded.layer(layer)? {
                Some(tensors) => {
                    progress(tensors.keys().map(|name| self.tensor(name).0.len() as u64).sum());
                    tensors
                }
                None => {
                    let inputs = walk.look(&model, false)?;
                    let tensors = self.round_layer(&inputs, method.passes(), &makers, progress)?;
                    rounded.keep(layer, &tensors)?;
                    tensors
                }
            };
            for (name, data) in &tensors {
                writer.begin(name)?;
                writer.write(data)?;
            }
            if layer < layers {
                let names: Vec<String> = tensors.keys().cloned().collect();
                self.replace(&mut model, tensors);
                walk.go_on(&model)?;
                release(&mut model, &names);
            }
        }
        Ok(())
    }

    /// What makes the inputs of linear layers whose channels may be scaled: all that is rounded of it and of them, so that nothing is moved that
    /// stays as it is. Where activations are rounded too, channels were scaled for that.
    fn makers(&self, model: &mut Model, method: Method<'_>) -> Makers {
        let mut makers = Makers::new();
        if !method.scales() || self.mix.rounds_tokens() {
            return makers;
        }
        let config = model.config().clone();
        let stays = |name: &String| self.tensor(name).0.shape.len() > 1 && !self.rounds(name);
        let mut kept = BTreeSet::new();
        model.visit_linears_mut(&mut |linear| {
            if let Some(maker) = Maker::of(self.checkpoint, &config, &linear.path) {
                if stays(&linear.path) || maker.tensors.iter().any(stays) {
                    kept.insert(maker.tensors[0].clone());
                }
                makers.insert(linear.path.clone(), maker);
            }
        });
        makers.retain(|_, maker| !kept.contains(&maker.tensors[0]));
        makers
    }

    /// Rounds the weights of these linear layers, with their channels scaled if they have makers, which are returned too.
    fn round_layer(
        &self,
        inputs: &Inputs,
        passes: usize,
        makers: &Makers,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Layer, Error> {
        let (mut layer, mut divisors) = (Layer::new(), Divisors::new());
        for (names, moments) in in_order(inputs, makers) {
            let mut feedback = None;
            for name in &names {
                let data = if self.rounds(name) {
                    if feedback.is_none() {
                        let feedback = feedback.insert(Feedback::of(moments, passes));
                        if let Some(maker) = makers.get(&names[0]) {
                            self.scale(&names, maker, feedback, &mut divisors)?;
                        }
                    }
                    self.round(name, feedback.as_ref().expect("it was made"), divisors.get(name))?
                } else {
                    self.checkpoint.data(name)?.to_vec()
                };
                progress(self.tensor(name).0.len() as u64);
                layer.insert(name.clone(), data);
            }
        }
        for name in inputs.keys().filter_map(|name| makers.get(name)).flat_map(|maker| &maker.tensors) {
            if !layer.contains_key(name) {
                progress(self.tensor(name).0.len() as u64);
                layer.insert(name.clone(), self.vector(name, divisors.get(name))?);
            }
        }
        Ok(layer)
    }

    /// Whether a tensor becomes of another format.
    fn rounds(&self, name: &str) -> bool {
        let (tensor, target) = self.tensor(name);
        target.format != tensor.format
    }

    /// Scales the channels that these layers see, if that helps, and notes what their maker is divided by.
    fn scale(
        &self,
        names: &[String],
        maker: &Maker,
        feedback: &mut Feedback,
        divisors: &mut Divisors,
    ) -> Result<(), Error> {
        let sampled = |name: &String| {
            let (tensor, target) = self.tensor(name);
            let weights = self.matrix(name)?;
            Ok(Sampled { rows: sample(&weights, tensor.cols()), format: target.format })
        };
        let layers: Vec<Sampled> = names.iter().map(sampled).collect::<Result<_, Error>>()?;
        if let Some(factors) = scaling::scale(&layers, maker, feedback) {
            let rows = maker.of_rows(&factors);
            divisors.extend(maker.tensors.iter().map(|name| (name.clone(), rows.clone())));
        }
        Ok(())
    }

    /// A matrix, rounded.
    fn round(&self, name: &str, feedback: &Feedback, divisors: Option<&Vec<f32>>) -> Result<Vec<u8>, Error> {
        let (tensor, target) = self.tensor(name);
        let mut weights = self.matrix(name)?;
        if let Some(divisors) = divisors {
            divide_rows(&mut weights, divisors);
        }
        let row_bytes = target.format.bytes_of(tensor.cols()).expect("it divides the rows");
        let mut data = vec![0; tensor.rows() * row_bytes];
        feedback.round(&weights, target.format, &mut data);
        Ok(data)
    }

    /// A matrix as it is, of which its format holds all weights.
    fn matrix(&self, name: &str) -> Result<Vec<f32>, Error> {
        let (tensor, target) = self.tensor(name);
        let weights = students::values(self.checkpoint, tensor)?;
        check(self.checkpoint.path(), tensor, target.format, 0, &weights)?;
        Ok(weights)
    }

    /// A norm or a bias.
    fn vector(&self, name: &str, divisors: Option<&Vec<f32>>) -> Result<Vec<u8>, Error> {
        let (tensor, _) = self.tensor(name);
        let Some(divisors) = divisors else { return Ok(self.checkpoint.data(name)?.to_vec()) };
        let mut values = students::values(self.checkpoint, tensor)?;
        divide_rows(&mut values, divisors);
        let mut data = vec![0; tensor.bytes()];
        (tensor.format.encode.expect("vectors are numbers by themselves"))(&values, None, &mut data);
        Ok(data)
    }

    /// Gives the model the embedding that the output has. (One that is the head too is rounded last, for what the head sees: until then it is as it was.)
    fn replace_embedding(&self, model: &mut Model) -> Result<(), Error> {
        let embedding = model.embedding_mut();
        let (tensor, target) = self.tensor(&embedding.path);
        let data = self.checkpoint.data(&tensor.name)?;
        let rows = Rows { path: self.checkpoint.path(), tensor, first: 0, data: &data, importance: None };
        let mut encoded = Vec::new();
        rows.convert(target.format, &mut encoded)?;
        let data = TensorData::Owned(encoded.into());
        embedding.table = Weight { format: target.format, data, rows: tensor.rows(), cols: tensor.cols() };
        Ok(())
    }

    /// Gives the model's tensors of a layer what they became.
    fn replace(&self, model: &mut Model, mut layer: Layer) {
        let mut vector = |name: &str, values: &mut [f32]| {
            if let Some(data) = layer.remove(name) {
                (self.tensor(name).1.format.decode)(&data, values);
            }
        };
        model.visit_norms_mut(&mut |norm| vector(&norm.weight.path, &mut norm.weight.values));
        model.visit_linears_mut(&mut |linear| {
            if let Some(bias) = &mut linear.bias {
                vector(&bias.path, &mut bias.values);
            }
        });
        model.visit_linears_mut(&mut |linear| {
            if let Some(data) = layer.remove(&linear.path) {
                let (tensor, target) = self.tensor(&linear.path);
                let data = TensorData::Owned(data.into());
                linear.weight = Weight { format: target.format, data, rows: tensor.rows(), cols: tensor.cols() };
            }
        });
    }
}

/// Frees what the linear layers of these names became: text has gone through them, so that nothing needs them any more.
fn release(model: &mut Model, names: &[String]) {
    model.visit_linears_mut(&mut |linear| {
        if names.contains(&linear.path) {
            linear.weight.data = TensorData::Owned([].into());
        }
    });
}

/// Layers that see one input, with its moments. What makes an input is behind the layers that see it, when it is known what it is divided by.
fn in_order<'i>(inputs: &'i Inputs, makers: &Makers) -> Vec<(Vec<String>, &'i Arc<Moments>)> {
    let inputs = by_input(inputs);
    let groups = inputs.chunk_by(|a, b| Arc::ptr_eq(a.1, b.1));
    let mut groups: Vec<(Vec<String>, &Arc<Moments>)> =
        groups.map(|group| (group.iter().map(|(name, _)| (*name).clone()).collect(), group[0].1)).collect();
    let makes = |name: &String| makers.values().any(|maker| maker.tensors.contains(name));
    groups.sort_by_key(|(names, _)| names.iter().any(makes));
    groups
}
