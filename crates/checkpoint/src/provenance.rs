//! What was done to a model: a list of steps in its metadata, under `bantam.provenance`, as JSON.
//!
//! ```
//! use bantam_checkpoint::{Metadata, provenance};
//! let mut metadata = Metadata::default();
//! let step = provenance::Step::new("quantize", "model.gguf", None).setting("to", "Q4_K_M");
//! provenance::append(&mut metadata, step);
//! assert_eq!(provenance::of(&metadata)[0].to_string(), "quantize model.gguf (to Q4_K_M)");
//! ```

use crate::{Metadata, Value};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The metadata key.
pub const KEY: &str = "bantam.provenance";

/// One thing that was done to a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// What was done: `quantize`, `convert`.
    pub step: String,
    /// The version of bantam that did it.
    pub version: String,
    /// The name of the file or directory it was done to, without folders.
    pub source: String,
    /// The formats in which the source's weights were quantized, if they were.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub source_quantized_as: Option<String>,
    /// The settings, in the order in which they were made.
    #[serde(default)]
    pub settings: Vec<(String, String)>,
    /// How training went, if the step trained.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub training: Option<Training>,
}

/// How training went. Nothing here depends on the machine: the same run gives the same record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Training {
    /// Steps made.
    pub steps: u64,
    /// Tokens gone through.
    pub tokens: u64,
    /// Multiplications and additions in matrix products with weights: the student's, its writing, and the teacher's (of a cache one pass over each sequence).
    pub flops: f64,
    /// The loss, each the mean of equally many steps.
    pub losses: Vec<f32>,
}

/// Losses kept of a run, at most.
const LOSSES: usize = 256;

impl Training {
    /// The record of a run with these losses, one a step.
    pub fn new(losses: &[f32], tokens: u64, flops: f64) -> Self {
        let part = losses.len().div_ceil(LOSSES).max(1);
        let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
        Self { steps: losses.len() as u64, tokens, flops, losses: losses.chunks(part).map(mean).collect() }
    }
}

impl Step {
    /// A step on this source, without settings.
    pub fn new(step: &str, source: &str, source_quantized_as: Option<&str>) -> Self {
        Self {
            step: step.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            source: source.to_owned(),
            source_quantized_as: source_quantized_as.map(str::to_owned),
            settings: Vec::new(),
            training: None,
        }
    }

    /// Adds a setting.
    pub fn setting(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// A setting's value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.settings.iter().find(|(n, _)| n == name).map(|(_, value)| &value[..])
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.step, self.source)?;
        if let Some(formats) = &self.source_quantized_as {
            write!(f, " [already quantized: {formats}]")?;
        }
        let settings: Vec<String> = self.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        if !settings.is_empty() {
            write!(f, " ({})", settings.join(", "))?;
        }
        Ok(())
    }
}

/// The steps that made a model, oldest first. Empty if it has no record, or one that bantam did not write: the record is
/// information, and a model is none the worse without it.
pub fn of(metadata: &Metadata) -> Vec<Step> {
    metadata.str(KEY).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
}

/// Adds a step to the record.
pub fn append(metadata: &mut Metadata, step: Step) {
    let mut steps = of(metadata);
    steps.push(step);
    let json = serde_json::to_string(&steps).expect("strings can be written as JSON");
    metadata.set(KEY, Value::String(json));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up_in_order() {
        let mut metadata = Metadata::default();
        append(&mut metadata, Step::new("convert", "a.gguf", Some("Q4_1")).setting("dtype", "F16"));
        append(&mut metadata, Step::new("quantize", "b.gguf", None));
        let shown: Vec<String> = of(&metadata).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["convert a.gguf [already quantized: Q4_1] (dtype F16)", "quantize b.gguf"]);
    }

    #[test]
    fn long_runs_are_kept_in_short() {
        let losses: Vec<f32> = (0..1000).map(|i| i as f32).collect();
        let training = Training::new(&losses, 5, 1e9);
        assert_eq!((training.losses.len(), training.losses[0], training.losses[249]), (250, 1.5, 997.5));
        assert_eq!(Training::new(&losses[..3], 5, 1e9).losses, losses[..3]);
        let mut metadata = Metadata::default();
        append(&mut metadata, Step { training: Some(training.clone()), ..Step::new("train", "a.gguf", None) });
        assert_eq!(of(&metadata)[0].training, Some(training));
    }

    #[test]
    fn a_record_of_others_is_no_error() {
        let mut metadata = Metadata::default();
        metadata.set(KEY, Value::String("not JSON".into()));
        assert_eq!(of(&metadata), []);
        append(&mut metadata, Step::new("quantize", "b.gguf", None));
        assert_eq!(of(&metadata).len(), 1);
    }
}
