//! What is measured, as plain data: the JSON that `eval`, `compare` and `shrink` write, and what the report shows.

use bantam_checkpoint::provenance::Training;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A kind of text. Compression hurts them differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// Literature, reference, news.
    Prose,
    /// Dialogue and instructions.
    Chat,
    /// Programs.
    Code,
    /// Word problems and derivations.
    Math,
    /// The user's own text, given by file.
    Own,
}

impl Category {
    /// The lower-case name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Category::Prose => "prose",
            Category::Chat => "chat",
            Category::Code => "code",
            Category::Math => "math",
            Category::Own => "own",
        }
    }
}

/// An estimated mean with the standard error of the estimate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Its standard error.
    pub se: f64,
}

/// How far a candidate's next-token distributions lie from the base's on the same text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Divergence {
    /// Predictions measured.
    pub tokens: usize,
    /// Perplexity of the candidate.
    pub perplexity: Estimate,
    /// Perplexity of the base.
    pub base_perplexity: Estimate,
    /// Perplexity of the candidate over that of the base. Its standard error is that of the paired difference, far
    /// smaller than what the two perplexities' own errors suggest: both models find the same tokens hard.
    pub perplexity_ratio: Estimate,
    /// KL divergence from base to candidate, nats per token.
    pub kl_divergence: Estimate,
    /// Its median over tokens.
    pub kl_median: f64,
    /// Its 99th percentile over tokens.
    pub kl_p99: f64,
    /// Share of predictions in which both have the same most likely token, 0 to 1.
    pub top1_agreement: Estimate,
}

/// Accuracy on a multiple-choice task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// The task's name.
    pub task: String,
    /// The category it belongs to.
    pub category: Category,
    /// Questions asked.
    pub questions: usize,
    /// What guessing gives, 0 to 1.
    pub chance: f64,
    /// Accuracy of the candidate, 0 to 1.
    pub accuracy: Estimate,
    /// Accuracy of the base, 0 to 1.
    pub base_accuracy: Estimate,
    /// Questions that only the base answers right.
    pub lost: usize,
    /// Questions that only the candidate answers right.
    pub gained: usize,
}

/// Speed and memory of running a model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Threads used.
    pub threads: usize,
    /// Tokens of the measured prompt.
    pub prompt_tokens: usize,
    /// Prompt tokens processed per second.
    pub prefill: f64,
    /// Tokens generated per second.
    pub decode: f64,
    /// Peak resident memory of a process that only loads and runs the model, bytes.
    pub peak_memory: Option<u64>,
}

/// What a model file is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// A short label: the level or the file name.
    pub label: String,
    /// The file, as given.
    pub path: String,
    /// Architecture, as in `general.architecture`.
    pub architecture: String,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Weights in all tensors, but for what longer rows added that carries nothing.
    pub parameters: u64,
    /// Tensor bytes times eight over weights.
    pub bits_per_weight: f64,
    /// Tensor bytes by number format, largest first.
    pub bytes_by_format: Vec<(String, u64)>,
    /// How the weights had been quantized before they became the base, if they were.
    pub quantized_as: Option<String>,
    /// What it learned, oldest first: `distill`, `train`, and how that went.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub training: Vec<(String, Training)>,
}

/// The text one measurement ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextSource {
    /// Its category.
    pub category: Category,
    /// Its name or file.
    pub name: String,
    /// Where it comes from and its licence.
    pub source: String,
    /// Tokens of it that were read.
    pub tokens: usize,
}

/// Continuations of one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The base's greedy continuation.
    pub base: String,
    /// The candidate's greedy continuation.
    pub candidate: String,
}

/// A candidate against its base.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The candidate.
    pub candidate: ModelSummary,
    /// Over all text, each category with the same weight per token.
    pub overall: Divergence,
    /// By category, in the order of [`Category`].
    pub categories: Vec<(Category, Divergence)>,
    /// Multiple-choice tasks.
    pub choices: Vec<Choice>,
    /// Speed and memory, if measured.
    pub speed: Option<Speed>,
    /// Sample continuations.
    pub samples: Vec<Sample>,
    /// What was done to make the candidate: one line a step.
    pub made_by: Vec<String>,
    /// Seconds that making it took, if bantam made it in this run.
    pub seconds_to_make: Option<f64>,
}

/// The machine of the measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Processor name.
    pub processor: String,
    /// Logical processors.
    pub cores: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Instruction sets that the kernels use.
    pub features: String,
}

/// A whole comparison: one base, several candidates.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// bantam's version.
    pub version: String,
    /// When, RFC 3339.
    pub date: String,
    /// The command line that made it.
    pub command: String,
    /// The machine.
    pub machine: Machine,
    /// The base.
    pub base: ModelSummary,
    /// Speed of the base, if measured.
    pub base_speed: Option<Speed>,
    /// Tokens per chunk of text.
    pub context: usize,
    /// The text.
    pub texts: Vec<TextSource>,
    /// The candidates, largest file first.
    pub evaluations: Vec<Evaluation>,
    /// The size limit in bytes, if one was given.
    pub fit: Option<u64>,
    /// Index into `evaluations` of the chosen candidate, if one was to be chosen.
    pub chosen: Option<usize>,
    /// Names of the model files in the report's directory that `bantam shrink` left there, in this run or one before.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub kept: BTreeSet<String>,
}
