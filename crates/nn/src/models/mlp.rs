//! A plain network: linear layers with rectifiers between.

use crate::layers::{Activation, DropoutSite, Linear};
use crate::weights::Loader;
use crate::{Backend, Error, Result};
use bantam_checkpoint::Checkpoint;

/// The architecture's name in checkpoints.
pub const ARCHITECTURE: &str = "mlp";

/// Linear layers with rectifiers between: `layers.{i}` the hidden ones, `output` the last.
pub struct Mlp {
    hidden: Vec<Linear>,
    head: Linear,
}

impl Mlp {
    /// Loads the layers; their shapes are the tensors'.
    ///
    /// # Errors
    /// If the checkpoint is of another architecture, a layer's inputs are not the outputs of the one before, or tensors are
    /// missing or superfluous.
    pub fn load(checkpoint: &Checkpoint) -> Result<Self> {
        let architecture = checkpoint.metadata().str("general.architecture").unwrap_or("?");
        if architecture != ARCHITECTURE {
            return Err(Error::UnknownArchitecture {
                path: checkpoint.path().to_owned(),
                architecture: architecture.to_owned(),
                known: ARCHITECTURE.to_owned(),
            });
        }
        let loader = Loader::new(checkpoint);
        let rows = |stem: &str| checkpoint.tensor(&format!("{stem}.weight")).map(|t| t.rows());
        let stems = (0..).map(|i| format!("layers.{i}")).take_while(|stem| rows(stem).is_some());
        let mut width = None;
        let mut layer = |stem: &str| {
            let tensor = checkpoint.tensor(&format!("{stem}.weight"));
            let (outputs, inputs) = tensor.map_or((0, 0), |t| (t.rows(), t.cols()));
            let inputs = width.replace(outputs).unwrap_or(inputs);
            Linear::load_biased(&loader, stem, outputs, inputs)
        };
        let hidden = stems.map(|stem| layer(&stem)).collect::<Result<_>>()?;
        let head = layer("output")?;
        loader.finish()?;
        Ok(Self { hidden, head })
    }

    /// Width of the input.
    pub fn inputs(&self) -> usize {
        self.hidden.first().unwrap_or(&self.head).weight.cols
    }

    /// Classes.
    pub fn outputs(&self) -> usize {
        self.head.weight.rows
    }

    /// What the head takes: `[rows, inputs]` to `[rows, the last hidden layer's width]`.
    pub fn hidden<B: Backend>(&self, b: &mut B, x: B::Tensor) -> B::Tensor {
        let mut x = b.dropout(DropoutSite::Input, x);
        for layer in &self.hidden {
            let y = b.linear(layer, &x);
            let y = b.activate(Activation::Relu, y);
            x = b.dropout(DropoutSite::Hidden, y);
        }
        x
    }

    /// The layer from the last hidden values to logits.
    pub fn head(&self) -> &Linear {
        &self.head
    }
}
