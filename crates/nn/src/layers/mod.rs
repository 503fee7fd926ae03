//! The layers that model definitions are made of: parameters with their checkpoint paths, and how they are combined.
//!
//! Simple layers (this file) are executed by one [`Backend`](crate::Backend) operation each; [`Attention`], [`GatedMlp`], [`Mlp`],
//! [`PreNormBlock`] and [`Decoder`] are the combinations that several families share.

mod attention;
mod decoder;
mod mlp;
mod rotary;

pub use attention::{Attention, AttentionSpec};
pub use decoder::{Block, Decoder, PreNormBlock};
pub use mlp::{Activation, GatedMlp, Mlp};
pub use rotary::Rotary;

use crate::Result;
use crate::weights::{Loader, Parameter, Weight};

/// `y = x Wᵀ + b`.
pub struct Linear {
    /// The weight's name in the checkpoint.
    pub path: String,
    /// `[outputs, inputs]`.
    pub weight: Weight,
    /// `[outputs]`.
    pub bias: Option<Parameter>,
}

impl Linear {
    /// Loads `{stem}.weight`, `[outputs, inputs]`, and `{stem}.bias` if there is one.
    ///
    /// # Errors
    /// If the weight is missing or a shape is wrong.
    pub fn load(loader: &Loader<'_>, stem: &str, outputs: usize, inputs: usize) -> Result<Self> {
        let path = format!("{stem}.weight");
        let weight = loader.matrix(&path, outputs, inputs)?;
        Ok(Self { path, weight, bias: loader.optional_vector(&format!("{stem}.bias"), outputs)? })
    }

    /// As [`load`](Self::load), but the bias must be there.
    ///
    /// # Errors
    /// If a tensor is missing or has the wrong shape.
    pub fn load_biased(loader: &Loader<'_>, stem: &str, outputs: usize, inputs: usize) -> Result<Self> {
        let bias = loader.vector(&format!("{stem}.bias"), outputs)?;
        Ok(Self { bias: Some(bias), ..Self::load(loader, stem, outputs, inputs)? })
    }
}

/// Where a definition lets values be dropped in training.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropoutSite {
    /// The model's inputs.
    Input,
    /// The outputs of a hidden layer.
    Hidden,
}

/// Looks up a row per token.
pub struct Embedding {
    /// The table's name in the checkpoint.
    pub path: String,
    /// `[vocabulary, width]`.
    pub table: Weight,
    /// What embeddings are multiplied with.
    pub scale: f32,
}

/// `y = x / sqrt(mean(x²) + eps) * w` (Zhang, Sennrich 2019).
pub struct RmsNorm {
    /// Its length says how many neighbours are normalized together.
    pub weight: Parameter,
    /// Added to the mean square.
    pub eps: f32,
}

impl RmsNorm {
    /// Loads `{stem}.weight`.
    ///
    /// # Errors
    /// If it is missing, has another length, or is not finite.
    pub fn load(loader: &Loader<'_>, stem: &str, len: usize, eps: f32) -> Result<Self> {
        Ok(Self { weight: loader.vector(&format!("{stem}.weight"), len)?, eps })
    }
}

/// `y = (x - mean(x)) / sqrt(variance(x) + eps) * w + b` (Ba, Kiros, Hinton 2016).
pub struct LayerNorm {
    /// As long as a row.
    pub weight: Parameter,
    /// As long as a row.
    pub bias: Parameter,
    /// Added to the variance.
    pub eps: f32,
}

impl LayerNorm {
    /// Loads `{stem}.weight` and `{stem}.bias`.
    ///
    /// # Errors
    /// If one is missing, has another length, or is not finite.
    pub fn load(loader: &Loader<'_>, stem: &str, len: usize, eps: f32) -> Result<Self> {
        let vector = |kind| loader.vector(&format!("{stem}.{kind}"), len);
        Ok(Self { weight: vector("weight")?, bias: vector("bias")?, eps })
    }
}
