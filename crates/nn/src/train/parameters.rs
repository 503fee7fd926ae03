//! What is trained: tensors in f32 by their checkpoint paths, each with its gradient.

use crate::tensor::Pool;
use crate::{Error, Result};
use bantam_checkpoint::Checkpoint;
use std::collections::HashMap;

/// A tensor that is trained, or held fixed.
pub struct Variable {
    /// Its name in the checkpoint.
    pub path: String,
    /// Outermost dimension first.
    pub shape: Vec<usize>,
    /// The values.
    pub values: Vec<f32>,
    /// The gradient, as long as the values; empty while the variable is held fixed.
    pub gradient: Vec<f32>,
    received: bool,
}

impl Variable {
    /// Whether it gets gradients.
    pub fn trained(&self) -> bool {
        !self.gradient.is_empty()
    }

    /// Whether a backward pass has reached it since the gradients were cleared.
    pub fn received_gradient(&self) -> bool {
        self.received
    }

    /// The gradient to add to, if it is trained.
    pub(super) fn receive(&mut self) -> Option<&mut [f32]> {
        self.received = true;
        (!self.gradient.is_empty()).then_some(&mut self.gradient[..])
    }
}

/// The variables of a model. The layers of its definition find theirs by path, so that tied layers share one.
#[derive(Default)]
pub struct Parameters {
    variables: Vec<Variable>,
    by_path: HashMap<String, usize>,
    /// Memory for the activations of one pass after another.
    pub(super) pool: Pool,
}

impl Parameters {
    /// All tensors of a checkpoint, decoded, all trained.
    ///
    /// # Errors
    /// If a tensor cannot be read or holds NaN or infinity.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let mut parameters = Self::default();
        for tensor in checkpoint.tensors() {
            let data = checkpoint.data(&tensor.name)?;
            let mut values = vec![0.0; tensor.shape.iter().product()];
            (tensor.format.decode)(&data, &mut values);
            if let Some(index) = values.iter().position(|v| !v.is_finite()) {
                let (path, tensor, value) = (checkpoint.path().to_owned(), tensor.name.clone(), values[index]);
                return Err(Error::NotFinite { path, tensor, index, value });
            }
            parameters.insert(&tensor.name, &tensor.shape, values);
            data.release();
        }
        Ok(parameters)
    }

    /// Adds a trained variable, or replaces the one of the same path.
    ///
    /// # Panics
    /// If the values do not fill the shape.
    pub fn insert(&mut self, path: &str, shape: &[usize], values: Vec<f32>) {
        assert_eq!(values.len(), shape.iter().product::<usize>(), "values of {path} fill {shape:?}");
        let gradient = vec![0.0; values.len()];
        let variable = Variable { path: path.to_owned(), shape: shape.to_vec(), values, gradient, received: false };
        match self.by_path.get(path) {
            Some(&at) => self.variables[at] = variable,
            None => {
                self.by_path.insert(path.to_owned(), self.variables.len());
                self.variables.push(variable);
            }
        }
    }

    /// Holds the variables fixed whose path `fixed` answers for with yes.
    pub fn freeze(&mut self, fixed: impl Fn(&str) -> bool) {
        self.variables.iter_mut().filter(|v| fixed(&v.path)).for_each(|v| v.gradient = Vec::new());
    }

    /// All variables, in the order of the checkpoint.
    pub fn variables(&self) -> &[Variable] {
        &self.variables
    }

    /// All variables, to be changed.
    pub fn variables_mut(&mut self) -> &mut [Variable] {
        &mut self.variables
    }

    /// The variable at `path`.
    pub fn get(&self, path: &str) -> Option<&Variable> {
        self.by_path.get(path).map(|&at| &self.variables[at])
    }

    /// The values of a path that a layer has.
    pub(crate) fn values(&self, path: &str) -> &[f32] {
        &self.variables[self.index(path)].values
    }

    /// Sets all gradients to zero.
    pub fn clear_gradients(&mut self) {
        for variable in &mut self.variables {
            variable.gradient.fill(0.0);
            variable.received = false;
        }
    }

    /// How many numbers are trained.
    pub fn trained(&self) -> usize {
        self.variables.iter().map(|v| v.gradient.len()).sum()
    }

    /// The place of a path that a layer has.
    pub(super) fn index(&self, path: &str) -> usize {
        *self.by_path.get(path).unwrap_or_else(|| panic!("the layers and the parameters are of one checkpoint: {path}"))
    }
}

impl std::ops::Index<usize> for Parameters {
    type Output = Variable;

    fn index(&self, at: usize) -> &Variable {
        &self.variables[at]
    }
}

impl std::ops::IndexMut<usize> for Parameters {
    fn index_mut(&mut self, at: usize) -> &mut Variable {
        &mut self.variables[at]
    }
}
