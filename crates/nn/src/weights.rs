//! Parameters, and taking them out of a checkpoint.

use crate::{Error, Result};
use bantam_checkpoint::{Checkpoint, TensorData, TensorInfo};
use bantam_formats::{Format, Matrix};
use std::cell::RefCell;
use std::collections::HashSet;

/// The weight of a linear layer or an embedding: rows of blocks in a number format, as they lie in the checkpoint.
pub struct Weight {
    /// The format of the rows.
    pub format: &'static Format,
    /// The bytes, row by row.
    pub data: TensorData,
    /// Output features, or tokens of an embedding.
    pub rows: usize,
    /// Input features, or the width of an embedding.
    pub cols: usize,
}

impl Weight {
    /// The matrix as the kernels take it.
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix { format: self.format, data: &self.data, rows: self.rows, cols: self.cols }
    }
}

/// A vector of parameters (a norm's weight, a bias), in f32.
pub struct Parameter {
    /// The tensor's name in the checkpoint.
    pub path: String,
    /// The values.
    pub values: Vec<f32>,
}

/// Hands a checkpoint's tensors to the definition that asks for them, checked, and remembers which were taken.
pub struct Loader<'c> {
    checkpoint: &'c Checkpoint,
    taken: RefCell<HashSet<String>>,
    plan: Option<Plan>,
}

/// What a definition asks for that the checkpoint does not have yet.
struct Plan {
    tied: bool,
    asked: RefCell<Vec<TensorInfo>>,
}

impl Plan {
    /// Notes a tensor, of which there is nothing yet: a plan may be larger than memory.
    fn nothing(&self, path: &str, shape: &[usize]) -> (&'static Format, TensorData) {
        let format = Format::f32();
        // A tied table is asked for twice.
        let mut asked = self.asked.borrow_mut();
        if asked.iter().all(|other| other.name != path) {
            asked.push(TensorInfo { name: path.to_owned(), shape: shape.to_vec(), format });
        }
        (format, TensorData::Owned([].into()))
    }
}

impl<'c> Loader<'c> {
    /// A loader that has handed out nothing yet.
    pub fn new(checkpoint: &'c Checkpoint) -> Self {
        Self { checkpoint, taken: RefCell::default(), plan: None }
    }

    /// A loader for a model that is yet to be made: tensors that the checkpoint lacks are handed out empty, and noted.
    /// `tied` says that the head is the embedding.
    pub(crate) fn planning(checkpoint: &'c Checkpoint, tied: bool) -> Self {
        Self { plan: Some(Plan { tied, asked: RefCell::default() }), ..Self::new(checkpoint) }
    }

    /// What was asked for that the checkpoint lacks, in F32, in the order of asking.
    pub(crate) fn planned(self) -> Vec<TensorInfo> {
        self.plan.map_or_else(Vec::new, |plan| plan.asked.into_inner())
    }

    /// The checkpoint.
    pub fn checkpoint(&self) -> &'c Checkpoint {
        self.checkpoint
    }

    /// Whether the checkpoint has this tensor.
    pub fn has(&self, path: &str) -> bool {
        let planned = self.plan.as_ref().is_some_and(|plan| path == "output.weight" && !plan.tied);
        planned || self.checkpoint.tensor(path).is_some()
    }

    /// The matrix at `path`, `[rows, cols]`, mapped.
    ///
    /// # Errors
    /// If it is missing or has another shape.
    pub fn matrix(&self, path: &str, rows: usize, cols: usize) -> Result<Weight> {
        let (format, data) = self.tensor(path, &[rows, cols])?;
        Ok(Weight { format, data, rows, cols })
    }

    /// The vector at `path`, decoded.
    ///
    /// # Errors
    /// If it is missing, has another length, or holds NaN or infinity.
    pub fn vector(&self, path: &str, len: usize) -> Result<Parameter> {
        let (format, data) = self.tensor(path, &[len])?;
        // Of a planned one there is nothing.
        let mut values = if data.is_empty() { Vec::new() } else { vec![0.0; len] };
        (format.decode)(&data, &mut values);
        if let Some(index) = values.iter().position(|v| !v.is_finite()) {
            let (path, tensor, value) = (self.checkpoint.path().to_owned(), path.to_owned(), values[index]);
            return Err(Error::NotFinite { path, tensor, index, value });
        }
        Ok(Parameter { path: path.to_owned(), values })
    }

    /// The vector at `path` if the checkpoint has it.
    ///
    /// # Errors
    /// As [`vector`](Self::vector), if it is there.
    pub fn optional_vector(&self, path: &str, len: usize) -> Result<Option<Parameter>> {
        self.has(path).then(|| self.vector(path, len)).transpose()
    }

    /// Checks that every tensor of the checkpoint was taken.
    ///
    /// # Errors
    /// Names the first tensor that was not.
    pub fn finish(self) -> Result<()> {
        let taken = self.taken.into_inner();
        match self.checkpoint.tensors().iter().find(|t| !taken.contains(&t.name)) {
            None => Ok(()),
            Some(tensor) => Err(Error::UnknownTensor {
                path: self.checkpoint.path().to_owned(),
                tensor: tensor.name.clone(),
                architecture: self.checkpoint.metadata().str("general.architecture").unwrap_or("?").to_owned(),
            }),
        }
    }

    fn tensor(&self, path: &str, expected: &[usize]) -> Result<(&'static Format, TensorData)> {
        if let Some(plan) = self.plan.as_ref().filter(|_| self.checkpoint.tensor(path).is_none()) {
            return Ok(plan.nothing(path, expected));
        }
        let info: &TensorInfo = self.checkpoint.tensor(path).ok_or_else(|| Error::MissingTensor {
            path: self.checkpoint.path().to_owned(),
            tensor: path.to_owned(),
            expected: expected.to_vec(),
        })?;
        if info.shape != expected {
            return Err(Error::Shape {
                path: self.checkpoint.path().to_owned(),
                tensor: path.to_owned(),
                found: info.shape.clone(),
                expected: expected.to_vec(),
            });
        }
        self.taken.borrow_mut().insert(path.to_owned());
        Ok((info.format, self.checkpoint.data(path)?))
    }
}
