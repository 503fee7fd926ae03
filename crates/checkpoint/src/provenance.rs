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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
        }
    }

    /// Adds a setting.
    pub fn setting(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
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
    fn a_record_of_others_is_no_error() {
        let mut metadata = Metadata::default();
        metadata.set(KEY, Value::String("not JSON".into()));
        assert_eq!(of(&metadata), []);
        append(&mut metadata, Step::new("quantize", "b.gguf", None));
        assert_eq!(of(&metadata).len(), 1);
    }
}
