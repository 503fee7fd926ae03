//! What can go wrong while shrinking.

use bantam_formats::Format;
use std::path::PathBuf;

/// Why a shrink step failed. Nothing was written under the target's name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A model file cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] bantam_checkpoint::Error),
    /// A model cannot be loaded or run.
    #[error(transparent)]
    Model(#[from] bantam_nn::Error),
    /// No mix has this name.
    #[error("there is no level `{name}`{}; there are {known}", .nearest.map(|n| format!(" (did you mean {n}?)")).unwrap_or_default())]
    UnknownMix {
        /// What was asked for.
        name: String,
        /// The mix of the most similar name, if one is similar.
        nearest: Option<&'static str>,
        /// Those that there are.
        known: String,
    },
    /// A user's mix cannot be read.
    #[error("{path}: {problem}")]
    MixFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No choice of formats is as small.
    #[error("{path}: {asked} bits per weight are too few; the fewest are {:.2}", (least * 100.0).ceil() / 100.0)]
    Bits {
        /// The model.
        path: PathBuf,
        /// Bits per weight.
        asked: f64,
        /// With the narrowest format for every tensor.
        least: f64,
    },
    /// No choice of formats is as small.
    #[error(
        "{path}: {asked} bytes are too few; the smallest file has {least}. A smaller model at a higher level is better then"
    )]
    Bytes {
        /// The model.
        path: PathBuf,
        /// The file's bytes.
        asked: u64,
        /// With the narrowest format for every tensor.
        least: u64,
    },
    /// No choice of formats is as fast.
    #[error(
        "{path}: {asked} tokens per second are more than any formats of that size would give on this machine; the most are about {:.1}. Allow \
         fewer bytes, or ask for less",
        (most * 10.0).floor() / 10.0
    )]
    TooSlow {
        /// The model.
        path: PathBuf,
        /// Tokens per second.
        asked: f64,
        /// With the fastest choice.
        most: f64,
    },
    /// A model's outputs are NaN or infinite.
    #[error(
        "{model}: what the model says of the text that it is given is not finite: it is broken; fetch or convert it again"
    )]
    Predictions {
        /// The model.
        model: String,
    },
    /// A weight is NaN or infinite: quantizing would spread it over its block.
    #[error(
        "{path}: tensor `{tensor}`, row {row}, column {col} is {value}; a model with such weights is broken, and \
         quantizing it would hide that: fetch or convert it again"
    )]
    NonFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The weight.
        value: f32,
    },
    /// A weight is too large for the target format.
    #[error(
        "{path}: tensor `{tensor}`, row {row}, column {col} is {value}, but {format} holds at most {}; choose BF16 or \
         F32 (when quantizing, by `--to` a file of formats if for it alone)", .format.largest
    )]
    OutOfRange {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its row.
        row: usize,
        /// Its column.
        col: usize,
        /// The weight.
        value: f32,
        /// The target format.
        format: &'static Format,
    },
    /// What a linear layer sees is NaN or infinite.
    #[error(
        "{}what `{tensor}` of this {architecture} model sees in channel {channel} is not finite on the calibration text: its weights or those before \
         it are broken; fetch or convert the model again",
        .path.as_ref().map_or_else(String::new, |path| format!("{}: ", path.display()))
    )]
    Activations {
        /// The model, once [`cause`](crate::quantize::cause) has said which it is: what runs a model does not know its file.
        path: Option<PathBuf>,
        /// The model's architecture.
        architecture: String,
        /// The layer's weight.
        tensor: String,
        /// The input channel.
        channel: usize,
    },
    /// Importance that is not this model's.
    #[error("the importance is of another model than {path}, which {problem}")]
    Importance {
        /// The model.
        path: PathBuf,
        /// How it differs.
        problem: String,
    },
    /// A teacher does not answer some prompts.
    #[error(
        "{place}: {refused} of {asked} prompts are not answered ({numbers}), the first since {problem}. If it is the prompts, take them out: the other answers are kept, and the \
         same command goes on"
    )]
    Refused {
        /// The teacher.
        place: String,
        /// How many.
        refused: usize,
        /// Of how many that were asked now.
        asked: usize,
        /// Which, from 1.
        numbers: String,
        /// What was said of the first.
        problem: String,
    },
    /// A saved training run cannot be gone on with.
    #[error("{path}: the training run cannot go on from here: {problem}; delete the file to begin anew")]
    TrainingState {
        /// The file.
        path: PathBuf,
        /// Why not.
        problem: String,
    },
    /// Training came to nothing.
    #[error(
        "training diverged at step {step} (loss {loss}, gradient norm {norm}, learning rate {rate}). Try a lower learning rate{}",
        .saved.as_ref().map_or_else(String::new, |path| format!(", and delete {path} first, where this run was saved on its way there"))
    )]
    Diverged {
        /// Counted from 0.
        step: u64,
        /// The step's loss.
        loss: f64,
        /// The norm of its gradients.
        norm: f32,
        /// Its learning rate.
        rate: f32,
        /// Where the run was saved, if it was.
        saved: Option<String>,
    },
    /// Another process has the file.
    #[error("{path}: another run of bantam has it; wait until that is done, or give another name")]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// Data to learn from, or what a stopped run left, cannot be read.
    #[error("{path}: {problem}")]
    Data {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Layers that a model does not have.
    #[error("{path}: layers `{layers}` cannot be taken: {problem}")]
    Layers {
        /// The model.
        path: PathBuf,
        /// What was asked for.
        layers: String,
        /// Why not.
        problem: String,
    },
    /// A student that is larger than what there is room for.
    #[error(
        "{path}: a model of this shape needs {needed:.1} GB in F32, {room:.1} GB are free; give it fewer or narrower layers"
    )]
    TooLarge {
        /// Its configuration.
        path: PathBuf,
        /// What it needs, in GB.
        needed: f64,
        /// What there is, in GB.
        room: f64,
    },
    /// A width that is no narrowing.
    #[error("{path}: its feed-forward layers have {all} neurons; between 1 and {} can be kept, not {asked}", all - 1)]
    Width {
        /// The model.
        path: PathBuf,
        /// What it has.
        all: usize,
        /// What was asked for.
        asked: usize,
    },
    /// A served model does not answer as it should.
    #[error("{url}: {problem}")]
    Endpoint {
        /// Where it is served.
        url: String,
        /// What it does instead.
        problem: String,
    },
    /// Teacher and student have different tokens.
    #[error(
        "{student}: token {token} is {ours:?}, in {teacher} it is {theirs:?}; a student can learn a teacher's probabilities only \
         over the same tokens. Have the teacher write text (`bantam generate`), and train on that"
    )]
    Tokens {
        /// The student.
        student: PathBuf,
        /// The teacher.
        teacher: PathBuf,
        /// The first token that differs.
        token: u32,
        /// The student's.
        ours: String,
        /// The teacher's.
        theirs: String,
    },
}
