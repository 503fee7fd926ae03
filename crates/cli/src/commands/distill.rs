//! `bantam distill`: a small student learns from a large teacher.

use crate::args::Global;
use crate::commands::teach::WordArgs;
use crate::embeddings::{self, Distillation, EmbeddingArgs};
use crate::intermediate::Intermediate;
use crate::output;
use crate::places::Places;
use crate::training::{self, DataArgs, StepArgs};
use anyhow::{Context, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_nn::Model;
use bantam_shrink::distill::{
    Divergence, HiddenMatching, Kept, Matching, OnPolicy, States, Teacher, Told, same_tokens,
};
use bantam_shrink::students;
use bantam_shrink::text::{Logprobs, Source};
use clap::Args;
use std::path::PathBuf;

#[derive(Args)]
#[command(after_help = "\
A run that is interrupted goes on when the same command is given again. If the teacher is a sentence encoder, the student learns its
embeddings of unlabelled sentences: --data then has one sentence a line, or `text` in .jsonl.

Examples:
  bantam distill --teacher model.gguf --layers 0-9,20-29 --data prose=book.txt code=examples.txt -o student.gguf
  bantam distill --teacher model.gguf --student small.gguf --data talks.jsonl --divergence skewed:0.1 -o student.gguf
  bantam distill --teacher model.gguf --layers 0,9,19,29 --data book.txt --match hidden:2 -o student.gguf
  bantam distill --teacher model.gguf --student small.gguf --data answers.jsonl --on-policy 0.5 --divergence reverse -o student.gguf
  bantam distill --student small.gguf --data told.jsonl -o student.gguf     (told.jsonl by bantam generate --endpoint … --top 20)
  bantam distill --teacher minilm.gguf --layers 1,3,5 --data sentences.txt --match cosine,hidden:0.5 --batch 64 -o student.gguf")]
pub struct DistillArgs {
    /// The teacher: a GGUF file or a Hugging Face directory; without one the data tells its probabilities (`bantam generate --endpoint
    /// URL --top 20`)
    #[arg(long, value_name = "MODEL", required_unless_present = "student")]
    teacher: Option<PathBuf>,
    /// The student to begin with
    #[arg(long, value_name = "MODEL", required_unless_present = "layers", conflicts_with = "layers")]
    student: Option<PathBuf>,
    /// Begin with these layers of the teacher, as in 0-9,20-29
    #[arg(long, value_name = "RANGES")]
    layers: Option<String>,
    /// The GGUF file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    word: WordArgs,
    /// Keep what the teacher says in this file, or read it from there
    #[arg(long, value_name = "FILE")]
    cache: Option<PathBuf>,
    /// What to bring down of language models: forward, reverse, skewed, skewed-reverse or jensen-shannon (a share may follow, as in skewed:0.1)
    /// [default: forward]
    #[arg(long, value_name = "NAME")]
    divergence: Option<Divergence>,
    /// The weight of a language model's word; the rest is that of the text itself [default: 1]
    #[arg(long, value_name = "SHARE")]
    soft: Option<f32>,
    /// The share of sequences that the student itself writes, after the data's prompts or the first halves of its texts, for a
    /// language model to judge; each step then also has the student generate, token by token [default: 0]
    #[arg(long, value_name = "SHARE")]
    on_policy: Option<f64>,
    #[command(flatten)]
    embeddings: EmbeddingArgs,
    #[command(flatten)]
    steps: StepArgs,
}

const OF_LANGUAGE_MODELS: &str = "the teacher is an encoder, which has embeddings and no probabilities: --divergence, --soft, --on-policy, --top and --temperature are for \
     language models; give --match";

/// What a language model's student learns, as it was asked for.
#[derive(Clone, Copy)]
struct Word {
    divergence: Divergence,
    /// The weight of the teacher's word beside that of the text itself.
    soft: f32,
    /// The share of sequences that the student writes.
    on_policy: f64,
}

impl DistillArgs {
    fn word(&self) -> anyhow::Result<Word> {
        let (soft, on_policy) = (self.soft.unwrap_or(1.0), self.on_policy.unwrap_or(0.0));
        ensure!((0.0..=1.0).contains(&soft), "--soft {soft}: expected a share within 0 and 1");
        ensure!((0.0..=1.0).contains(&on_policy), "--on-policy {on_policy}: expected a share within 0 and 1");
        // One's own words as labels teach nothing.
        ensure!(on_policy == 0.0 || soft == 1.0, "--on-policy needs --soft 1: the student's own text is no label");
        Ok(Word { divergence: self.divergence.unwrap_or(Divergence::Forward), soft, on_policy })
    }

    /// The hidden states to match, so heavily, of which the student was made of the `taken` layers.
    fn hidden(
        &self,
        weights: States,
        student: &Model,
        teacher: &Model,
        taken: Option<&[usize]>,
    ) -> anyhow::Result<HiddenMatching> {
        let (ours, theirs) = (student.config().block_count, teacher.config());
        let layers = self.embeddings.layers(ours, theirs.block_count, taken)?;
        Ok(HiddenMatching { weights, layers, width: theirs.embedding_length })
    }
}

pub fn run(args: &DistillArgs, global: &Global) -> anyhow::Result<()> {
    let word = args.word()?;
    let places = Places::default().reads("--teacher", &args.teacher).reads("--student", &args.student);
    places.reads("--data", args.data.paths()).writes("-o", [&args.output]).writes("--cache", &args.cache).check()?;
    let Some(teacher_path) = &args.teacher else { return from_told(args, word, global) };
    let teacher = Checkpoint::open(teacher_path)?;
    // The layers taken lie in a file of their own while the run lasts.
    let (given, made);
    let mut taken = None;
    let student = match &args.student {
        Some(path) => {
            given = Checkpoint::open(path)?;
            &given
        }
        None => {
            made = Intermediate::make(&teacher, &args.output, |path| {
                taken = Some(students::take_layers(&teacher, args.layers.as_deref().unwrap_or_default(), path)?);
                Ok(())
            })?;
            &made.checkpoint
        }
    };
    let are_encoders = embeddings::are_encoders(&teacher, student)?;
    if student.parameters() > teacher.parameters() && !global.quiet {
        output::say(format_args!("note: the student is larger than its teacher"));
    }
    if !are_encoders {
        return from_model(args, word, &teacher, student, taken.as_deref(), global);
    }
    let word_given = args.divergence.is_some() || args.soft.is_some() || args.on_policy.is_some() || args.word.given();
    ensure!(!word_given, "{OF_LANGUAGE_MODELS}");
    let distillation = Distillation {
        teacher: &teacher,
        student,
        taken,
        data: &args.data,
        cache: args.cache.as_deref(),
        embeddings: &args.embeddings,
        steps: &args.steps,
        output: &args.output,
    };
    distillation.run(global)
}

/// Distils from a language model, of which these layers were taken for the student, if any were.
fn from_model(
    args: &DistillArgs,
    Word { divergence, soft, on_policy }: Word,
    teacher: &Checkpoint,
    student: &Checkpoint,
    taken: Option<&[usize]>,
    global: &Global,
) -> anyhow::Result<()> {
    let weights = args.embeddings.hidden_alone()?;
    same_tokens(teacher, student)?;
    let (teacher_model, model) = (Model::load(teacher)?, Model::load(student)?);
    let length = args.data.length(&[teacher, student])?;
    let sources = args.data.read(teacher, length, Logprobs::Ignored, global)?;
    let hidden = weights.any().then(|| args.hidden(weights, &model, &teacher_model, taken)).transpose()?;
    let teacher_of = || {
        let word = args.word.teacher(&teacher_model, teacher, length)?;
        anyhow::Ok(match &hidden {
            Some(hidden) => word.with_hidden(&hidden.layers),
            None => word,
        })
    };
    let word = teacher_of()?;
    let step = student
        .step("distill")
        .setting("teacher", word.description())
        .setting("divergence", format!("{divergence:?}"))
        .setting("soft", soft)
        .setting("hidden", format!("{hidden:?}"))
        .setting("on policy", on_policy)
        .setting("length", length);
    let share = on_policy;
    let judged = |judge| Ok::<_, anyhow::Error>(OnPolicy::new(on_policy, length, ends(teacher)?, Box::new(judge)));
    let on_policy = (on_policy > 0.0).then(|| judged(teacher_of()?)).transpose()?;
    let mut task = args.steps.task(&model, &sources);
    let there = sources.iter().map(Source::tokens).sum::<usize>() as f64;
    let others = |tokens: f64| {
        let kept = args.cache.as_ref().map(|_| there);
        operations_of_others(teacher, student, (1.0 - share) * tokens, share * tokens, kept)
    };
    let word: Box<dyn Teacher + '_> = match &args.cache {
        Some(path) => {
            let cache = args.word.cache(path, &word)?;
            Box::new(Kept { teacher: word, cache })
        }
        None => Box::new(word),
    };
    task.teacher = Some((word, Matching { divergence, temperature: args.word.temperature(), soft }));
    task.hidden = hidden;
    task.on_policy = on_policy;
    let trained = training::train(student, &others, &mut task, (&args.data, &args.steps), step, &args.output, global)?;
    training::report(&trained, global)
}

/// The teacher's operations, and the student's where it writes, for so many tokens of the data and so many that the student wrote. What a cache has
/// of the data was asked for once: those tokens.
fn operations_of_others(teacher: &Checkpoint, student: &Checkpoint, read: f64, written: f64, kept: Option<f64>) -> f64 {
    let asked = kept.map_or(read, |there| read.min(there));
    2.0 * training::products(teacher) * (asked + written) + 2.0 * training::products(student) * written
}

/// The tokens that end a text.
fn ends(model: &Checkpoint) -> anyhow::Result<Vec<u32>> {
    let tokenizer = Tokenizer::of(model)?;
    Ok((0..tokenizer.vocab_size() as u32).filter(|&token| tokenizer.is_end(token)).collect())
}

/// Distils from the probabilities that came with the text.
fn from_told(args: &DistillArgs, Word { divergence, soft, .. }: Word, global: &Global) -> anyhow::Result<()> {
    let needless = args.cache.is_some() || args.on_policy.is_some() || args.embeddings.given() || args.layers.is_some();
    ensure!(!needless, "--cache, --on-policy, --match, --map, --fixed-tokens and --layers need a --teacher");
    ensure!(
        !args.word.given(),
        "--top, --temperature: the data tells its probabilities, those at temperature 1, as they were generated"
    );
    let student = Checkpoint::open(args.student.as_deref().context("--student or --teacher is needed")?)?;
    let model = Model::load(&student)?;
    let length = args.data.length(&[&student])?;
    let sources = args.data.read(&student, length, Logprobs::Needed, global)?;
    let word = Told::new(&sources)?;
    let step = student
        .step("distill")
        .setting("teacher", word.description())
        .setting("divergence", format!("{divergence:?}"))
        .setting("soft", soft)
        .setting("length", length);
    let mut task = args.steps.task(&model, &sources);
    task.teacher = Some((Box::new(word), Matching { divergence, temperature: 1.0, soft }));
    let trained =
        training::train(&student, &|_| 0.0, &mut task, (&args.data, &args.steps), step, &args.output, global)?;
    training::report(&trained, global)
}
