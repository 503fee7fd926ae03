//! The model families, one file each, and the table by which a checkpoint finds its own.

pub mod bert;
mod gemma3;
mod llama;
pub mod mlp;
mod qwen2;
mod qwen3;

use crate::layers::{AttentionSpec, Decoder, Embedding, Linear, PreNormBlock, RmsNorm};
use crate::weights::Loader;
use crate::{Backend, Error, Result};
use bantam_checkpoint::{Checkpoint, Config, TensorInfo};

/// A model's definition: its layers, and how they follow each other.
pub enum Definition {
    /// Families of pre-norm blocks: llama, qwen2, qwen3.
    PreNorm(Decoder<PreNormBlock>),
    /// Gemma 3.
    Gemma3(Decoder<gemma3::SandwichBlock>),
}

/// A family: the architecture's name in GGUF, and how to load it.
struct Family {
    architecture: &'static str,
    load: fn(&Loader<'_>, &Config) -> Result<Definition>,
}

static FAMILIES: &[Family] = &[
    Family { architecture: "llama", load: |l, c| llama::load(l, c).map(Definition::PreNorm) },
    Family { architecture: "qwen2", load: |l, c| qwen2::load(l, c).map(Definition::PreNorm) },
    Family { architecture: "qwen3", load: |l, c| qwen3::load(l, c).map(Definition::PreNorm) },
    Family { architecture: "gemma3", load: |l, c| gemma3::load(l, c).map(Definition::Gemma3) },
];

/// The tensors of a model that is yet to be made, in F32: `planned` has its hyperparameters and no weights; `tied` says that
/// its head is its embedding.
///
/// # Errors
/// If the architecture is unknown or the hyperparameters make no sense.
pub fn planned_tensors(planned: &Checkpoint, tied: bool) -> Result<Vec<TensorInfo>> {
    let config = Config::of(planned)?;
    let loader = Loader::planning(planned, tied);
    match &config.encoder {
        Some(encoder) => drop(bert::Bert::load(&loader, &config, encoder)?),
        None => drop((family(planned, &config)?.load)(&loader, &config)?),
    }
    Ok(loader.planned())
}

/// What a model of these hyperparameters multiplies its attention's scores with.
pub fn attention_scale(config: &Config) -> f32 {
    match &config.architecture[..] {
        "gemma3" => gemma3::attention_scale(config),
        _ => AttentionSpec::of_whole_sequences(config, 0).scale,
    }
}

fn family(checkpoint: &Checkpoint, config: &Config) -> Result<&'static Family> {
    if config.encoder.is_some() {
        let (path, architecture) = (checkpoint.path().to_owned(), config.architecture.clone());
        return Err(Error::IsEncoder { path, architecture });
    }
    let family = FAMILIES.iter().find(|f| f.architecture == config.architecture);
    family.ok_or_else(|| Error::UnknownArchitecture {
        path: checkpoint.path().to_owned(),
        architecture: config.architecture.clone(),
        known: FAMILIES.iter().map(|f| f.architecture).collect::<Vec<_>>().join(", "),
    })
}

/// `$what` of whichever decoder `$definition` has.
macro_rules! decoder {
    ($definition:expr, $decoder:ident => $what:expr) => {
        match $definition {
            Definition::PreNorm($decoder) => $what,
            Definition::Gemma3($decoder) => $what,
        }
    };
}

impl Definition {
    /// Loads the definition that the configuration names.
    ///
    /// # Errors
    /// If the architecture is unknown, or tensors are missing, superfluous, or not of the shape that the configuration asks for.
    pub fn load(loader: Loader<'_>, config: &Config) -> Result<Self> {
        let definition = (family(loader.checkpoint(), config)?.load)(&loader, config)?;
        loader.finish()?;
        Ok(definition)
    }

    /// The final hidden states of `tokens`, normed: `[tokens, width]`.
    pub fn hidden<B: Backend>(&self, b: &mut B, tokens: &[u32]) -> B::Tensor {
        self.observe(b, tokens, &mut |_, _| ())
    }

    /// As [`hidden`](Self::hidden), and shows `layer` each layer's number and the residual stream after it, `[tokens, width]`.
    pub fn observe<B: Backend>(
        &self,
        b: &mut B,
        tokens: &[u32],
        layer: &mut dyn FnMut(usize, &B::Tensor),
    ) -> B::Tensor {
        decoder!(self, d => d.hidden(b, tokens, layer))
    }

    /// The residual stream before the first layer, `[tokens, width]`.
    pub fn embed<B: Backend>(&self, b: &mut B, tokens: &[u32]) -> B::Tensor {
        decoder!(self, d => d.embed(b, tokens))
    }

    /// The residual stream after a layer, of that before it: one step of [`hidden`](Self::hidden).
    ///
    /// # Panics
    /// If there is no such layer.
    pub fn layer<B: Backend>(&self, b: &mut B, layer: usize, x: B::Tensor) -> B::Tensor {
        decoder!(self, d => d.layer(b, layer, x))
    }

    /// What the head sees of the residual stream after the last layer.
    pub fn norm<B: Backend>(&self, b: &mut B, x: &B::Tensor) -> B::Tensor {
        decoder!(self, d => d.norm(b, x))
    }

    /// The layer from hidden states to logits.
    pub fn head(&self) -> &Linear {
        decoder!(self, d => d.head())
    }

    /// The embedding, whose table can be replaced.
    pub fn embedding_mut(&mut self) -> &mut Embedding {
        decoder!(self, d => d.embedding_mut())
    }

    /// Calls `visit` with each linear layer, in the order of execution. Its path names it; its weight can be replaced.
    pub fn visit_linears_mut(&mut self, visit: &mut dyn FnMut(&mut Linear)) {
        decoder!(self, d => d.visit_linears_mut(visit));
    }

    /// Calls `visit` with each norm of the residual stream, in the order of execution. Its weight can be replaced.
    pub fn visit_norms_mut(&mut self, visit: &mut dyn FnMut(&mut RmsNorm)) {
        decoder!(self, d => d.visit_norms_mut(visit));
    }
}
