//! Distilling encoders, and capturing their embeddings: what `distill` and `teach` do when the teacher is one.

use crate::args::Global;
use crate::training::{self, DataArgs, StepArgs};
use crate::{interrupt, progress};
use anyhow::{bail, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_nn::Encoder;
use bantam_shrink::distill::{EmbeddingMatching, EmbeddingTask, EncoderTeacher, States, same_tokens, spread};
use bantam_shrink::text::{Sentences, SourceSpec};
use clap::Args;
use std::path::Path;

/// What is matched of encoders.
#[derive(Args)]
pub struct EmbeddingArgs {
    /// What else to match, with weights, as in cosine,hidden:0.5: hidden and hidden-cosine (states of layers), and of encoders cosine, mse, relation (cosines
    /// within the batch) and token-relation (which tokens of a sentence are alike in layers) [default of encoders: cosine]
    #[arg(long = "match", value_name = "NAMES")]
    pub matching: Option<EmbeddingMatching>,
    /// The teacher's layer for each of the student's, as in 1,3,5, for matching hidden states [default: those taken with --layers,
    /// else spread evenly]
    #[arg(long, value_name = "LAYERS", value_delimiter = ',')]
    pub map: Option<Vec<usize>>,
    /// Of encoders, hold the embeddings of tokens fixed: for little data
    #[arg(long, help_heading = "Encoders")]
    pub fixed_tokens: bool,
}

const MAP_IS_OF_LAYERS: &str = "--map says which hidden states are matched; give --match hidden too";

impl EmbeddingArgs {
    /// Whether anything of this was asked for.
    pub fn given(&self) -> bool {
        self.matching.is_some() || self.map.is_some() || self.fixed_tokens
    }

    /// How hidden states are matched, where a language model is asked for nothing else of this.
    pub fn hidden_alone(&self) -> anyhow::Result<States> {
        let hidden = self.matching.as_ref().map_or(States::default(), |matching| matching.hidden);
        let only_hidden = EmbeddingMatching { hidden, ..Default::default() };
        ensure!(
            self.matching.as_ref().is_none_or(|matching| *matching == only_hidden) && !self.fixed_tokens,
            "the teacher is a language model: of --match only `hidden` and `hidden-cosine` are for it, and --fixed-tokens is for encoders; what it says is matched by --divergence and --soft"
        );
        ensure!(self.map.is_none() || hidden.any(), MAP_IS_OF_LAYERS);
        Ok(hidden)
    }

    /// The teacher's layer for each of the student's, which have this many; `taken` are those that the student was made of.
    pub fn layers(&self, ours: usize, theirs: usize, taken: Option<&[usize]>) -> anyhow::Result<Vec<usize>> {
        let Some(map) = &self.map else {
            return Ok(taken.map_or_else(|| spread(ours, theirs), <[usize]>::to_vec));
        };
        ensure!(map.len() == ours, "--map: {} layers are named; the student has {ours}", map.len());
        match map.iter().find(|&&layer| layer >= theirs) {
            Some(layer) => bail!("--map: there is no layer {layer}; the teacher has the layers 0 to {}", theirs - 1),
            None => Ok(map.clone()),
        }
    }
}

/// The teacher, which keeps its embeddings in `cache` if there is one.
fn teacher<'m>(
    encoder: &'m Encoder,
    checkpoint: &Checkpoint,
    length: usize,
    cache: Option<&Path>,
) -> anyhow::Result<EncoderTeacher<'m>> {
    let teacher = EncoderTeacher::new(encoder, checkpoint, length)?;
    Ok(match cache {
        Some(path) => teacher.with_cache(path)?,
        None => teacher,
    })
}

/// Reads all files as sentences.
fn sentences(data: &[SourceSpec]) -> anyhow::Result<Vec<Sentences>> {
    Ok(data.iter().map(|spec| Sentences::read(spec.clone())).collect::<Result<_, _>>()?)
}

/// What is asked for of a distillation.
pub struct Distillation<'a> {
    pub teacher: &'a Checkpoint,
    pub student: &'a Checkpoint,
    /// The teacher's layers that the student was made of.
    pub taken: Option<Vec<usize>>,
    pub data: &'a DataArgs,
    pub cache: Option<&'a Path>,
    pub embeddings: &'a EmbeddingArgs,
    pub steps: &'a StepArgs,
    pub output: &'a Path,
}

impl Distillation<'_> {
    /// Has the student learn the teacher's embeddings.
    pub fn run(&self, global: &Global) -> anyhow::Result<()> {
        let args = self.embeddings;
        ensure!(
            self.steps.at_once.is_none(),
            "--at-once: encoders go through a whole batch at a time; give a smaller --batch"
        );
        let (teacher, student) = (Encoder::load(self.teacher)?, Encoder::load(self.student)?);
        let matching = args.matching.clone().unwrap_or(EmbeddingMatching { cosine: 1.0, ..Default::default() });
        ensure!(args.map.is_none() || matching.of_layers(), MAP_IS_OF_LAYERS);
        let (ours, theirs) = (student.definition().layers(), teacher.definition().layers());
        let layers = args.layers(ours, theirs, self.taken.as_deref())?;
        let length = if matching.of_layers() {
            // Hidden states are matched token by token: both see the same ones.
            same_tokens(self.teacher, self.student)?;
            self.data.length(&[self.teacher, self.student])?
        } else {
            self.data.length(&[self.teacher])?
        };
        let sentences = sentences(&self.data.data)?;
        let hidden = matching.of_layers();
        // What is kept was asked for once; hidden states are not kept.
        let kept = self.cache.is_some() && !hidden;
        let texts = sentences.iter().flat_map(|s| &s.texts).filter(|_| kept);
        let there: usize = texts.map(|text| teacher.tokens(text, length).map(|t| t.len())).sum::<Result<_, _>>()?;
        let word = self::teacher(&teacher, self.teacher, length, self.cache)?;
        let step = self
            .student
            .step("distill")
            .setting("teacher", word.description())
            .setting("matching", format!("{matching:?}"))
            .setting("length", length);
        let sizes = (self.steps.batch, length, self.steps.seed);
        let mut task = EmbeddingTask::new(&student, word, &sentences, matching, layers, sizes);
        task.dropout = (self.steps.dropout, self.steps.dropout);
        task.fixed_tokens = args.fixed_tokens;
        let asked = |tokens: f64| if kept { tokens.min(there as f64) } else { tokens };
        let others = |tokens: f64| 2.0 * training::products(self.teacher) * asked(tokens);
        let trained =
            training::train(self.student, &others, &mut task, (self.data, self.steps), step, self.output, global)?;
        training::report(&trained, global)
    }
}

/// Sentences captured at a time.
const AT_ONCE: usize = 256;

/// What came of a capture.
pub struct Captured {
    pub sequences: usize,
    /// Captured now; the others were there.
    pub tokens: u64,
}

/// Keeps a teacher's embeddings of all sentences in `cache`.
pub fn capture(checkpoint: &Checkpoint, data: &DataArgs, cache: &Path, global: &Global) -> anyhow::Result<Captured> {
    let encoder = Encoder::load(checkpoint)?;
    let sentences = sentences(&data.data)?;
    let mut teacher = teacher(&encoder, checkpoint, data.length(&[checkpoint])?, Some(cache))?;
    let all: Vec<&str> = sentences.iter().flat_map(|s| &s.texts).map(String::as_str).collect();
    let bar = progress::bar(global, "teach", all.len() as u64, "sentences");
    let mut tokens = 0;
    for some in all.chunks(AT_ONCE) {
        tokens += teacher.capture(some)? as u64;
        bar.inc(some.len() as u64);
        if interrupt::requested() {
            let kept = teacher.cache().map_or(0, |cache| cache.len());
            let at = format!("after {kept} sentences, kept in {}", cache.display());
            return Err(interrupt::Interrupted { at }.into());
        }
    }
    bar.finish_and_clear();
    Ok(Captured { sequences: all.len(), tokens })
}

/// Refuses a teacher and a student of different kinds; answers whether they are encoders.
pub fn are_encoders(teacher: &Checkpoint, student: &Checkpoint) -> anyhow::Result<bool> {
    let kind = |encoder| if encoder { "an encoder" } else { "a language model" };
    match (Encoder::is(teacher)?, Encoder::is(student)?) {
        (ours, theirs) if ours == theirs => Ok(ours),
        (teaching, learning) => bail!(
            "{} is {} and {} {}: only models of one kind can be set beside each other",
            teacher.path().display(),
            kind(teaching),
            student.path().display(),
            kind(learning)
        ),
    }
}
