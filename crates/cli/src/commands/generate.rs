//! `bantam generate`: have a teacher answer prompts, for a student to be trained on.

use crate::args::{Global, at_least_one};
use crate::places::Places;
use crate::{interrupt, output, progress};
use anyhow::Context;
use bantam_checkpoint::Checkpoint;
use bantam_nn::{Model, Sampler, Sampling};
use bantam_shrink::generate::{
    Answers, Author, Endpoint, Event, ModelAuthor, Prompt, Served, answer_all, read_prompts,
};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(after_help = "\
What comes out is JSONL that `train` and `distill` read: the answers are learned, the prompts are not. The student may have another
tokenizer. What is generated when a run ends early is kept beside the output; the same command goes on from there.

Examples:
  bantam generate teacher.gguf --prompts questions.txt -o answers.jsonl
  bantam generate teacher.gguf --prompts talks.jsonl --temperature 0 -n 400 -o answers.jsonl
  bantam train student.gguf --data answers.jsonl -o trained.gguf
  bantam generate --endpoint http://localhost:8080/v1 --model NAME --prompts questions.txt -o answers.jsonl")]
pub struct GenerateArgs {
    /// The teacher: a GGUF file or a Hugging Face directory
    #[arg(required_unless_present = "endpoint", conflicts_with = "endpoint")]
    teacher: Option<PathBuf>,
    #[command(flatten)]
    served: ServedArgs,
    /// A prompt a line; or .jsonl or .parquet with `prompt`, `text`, or `messages`, whose last turn of the user's is answered
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The .jsonl file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Continue texts as they are, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Tokens of an answer at most
    #[arg(long, short = 'n', default_value_t = 256, value_name = "N", value_parser = at_least_one())]
    max_tokens: usize,
    /// 1 draws by the teacher's own probabilities, 0 always takes the likeliest token
    #[arg(long, default_value_t = 1.0)]
    temperature: f32,
    /// Choose among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    top_p: f32,
    /// A local teacher gives the same answers to the same seed, prompts and --batch; a served one promises nothing
    #[arg(long, default_value_t = 0, value_name = "N")]
    seed: u64,
    /// Prompts answered together, which is faster and takes more memory; of a served teacher, requests sent at once
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = at_least_one())]
    batch: usize,
}

/// A teacher that is served.
#[derive(Args)]
struct ServedArgs {
    /// The address of an OpenAI-compatible interface, such as http://localhost:8080/v1
    #[arg(long, value_name = "URL", requires = "model")]
    endpoint: Option<String>,
    /// The model's name there
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    model: Option<String>,
    /// The environment variable that holds the server's key
    #[arg(long, value_name = "VARIABLE", default_value = "OPENAI_API_KEY", requires = "endpoint")]
    key_env: String,
    /// Keep the log-probabilities of this many tokens at each place in the output too: `distill` without a --teacher learns from them,
    /// where the student has the same tokens (0 for none; servers limit it)
    #[arg(long, default_value_t = 0, value_name = "N", requires = "endpoint")]
    top: usize,
    /// Seconds that one answer may take
    #[arg(long, default_value_t = 300.0, value_name = "SECONDS", requires = "endpoint")]
    timeout: f64,
    /// Attempts where the server is busy or fails, with growing waits in between
    #[arg(long, default_value_t = 6, value_name = "N", requires = "endpoint", value_parser = at_least_one())]
    attempts: usize,
}

impl ServedArgs {
    fn endpoint(&self, global: &Global) -> anyhow::Result<Option<Endpoint>> {
        let Some(url) = self.endpoint.clone() else { return Ok(None) };
        let timeout = Duration::try_from_secs_f64(self.timeout).ok().filter(|t| !t.is_zero());
        let timeout = timeout.with_context(|| format!("--timeout {}: expected seconds above 0", self.timeout))?;
        let (model, key_name, attempts) = (self.model.clone().unwrap_or_default(), self.key_env.clone(), self.attempts);
        let notice = if global.quiet { |_: &str| {} } else { say_sometimes };
        Ok(Some(Endpoint { url, model, key_name, timeout, attempts, first_wait: Duration::from_secs(1), notice }))
    }
}

/// Says what a server is asked again for, once in a while: all prompts of a group may meet the same trouble.
fn say_sometimes(what: &str) {
    const ONCE_IN: Duration = Duration::from_secs(5);
    static LAST: Mutex<Option<Instant>> = Mutex::new(None);
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if last.is_none_or(|last| last.elapsed() > ONCE_IN) {
        *last = Some(Instant::now());
        output::say(format_args!("note: {what}"));
    }
}

#[derive(Serialize)]
struct Generated {
    #[serde(serialize_with = "crate::output::path")]
    output: PathBuf,
    prompts: usize,
    /// Generated now; others were there.
    tokens: usize,
    seconds: f64,
}

pub fn run(args: &GenerateArgs, global: &Global) -> anyhow::Result<()> {
    let places = Places::default().reads("the teacher", &args.teacher).reads("--prompts", [&args.prompts]);
    places.writes("-o", [&args.output]).check()?;
    Answers::check_name(&args.output)?;
    let prompts = read_prompts(&args.prompts)?;
    let sampling =
        Sampling { temperature: args.temperature, top_p: args.top_p, seed: args.seed, ..Sampling::default() };
    Sampler::new(sampling.clone())?;
    if let Some(endpoint) = args.served.endpoint(global)? {
        let mut author = Served::new(&endpoint, sampling, args.max_tokens, args.served.top, args.raw)?;
        let who = author.description();
        return write(&mut author, &who, !args.raw, &prompts, args, global);
    }
    let teacher = args.teacher.as_ref().context("a teacher or --endpoint is needed")?;
    let checkpoint = Checkpoint::open(teacher)?;
    let model = Model::load(&checkpoint)?;
    let mut author = ModelAuthor::new(&checkpoint, &model, sampling, args.max_tokens, args.raw)?;
    let chats = author.chats();
    // What a text becomes may depend on which others it is generated beside.
    let who = format!("{}, {} together", author.description(), args.batch);
    write(&mut author, &who, chats, &prompts, args, global)
}

/// Has `author` answer all prompts; `who` says who it is and how it writes.
fn write(
    author: &mut dyn Author,
    who: &str,
    chats: bool,
    prompts: &[Prompt],
    args: &GenerateArgs,
    global: &Global,
) -> anyhow::Result<()> {
    let mut answers = Answers::open(&args.output, who, prompts)?;
    if !answers.is_empty() && !global.quiet {
        output::say(format_args!(
            "note: going on after {} answers, kept in {}",
            answers.len(),
            answers.path().display()
        ));
    }
    let bar = progress::bar(global, "generate", prompts.len() as u64, "prompts");
    bar.set_position(answers.len() as u64);
    let (start, mut tokens) = (Instant::now(), 0);
    let all = answer_all(author, prompts, args.batch, &mut answers, &mut |event| {
        match event {
            Event::Answered(number) => bar.set_position(number as u64),
            Event::Tokens(written) => {
                tokens += written;
                let rate = tokens as f64 / start.elapsed().as_secs_f64().max(1e-9);
                bar.set_message(format!("{rate:.0} tokens/s"));
            }
        }
        !interrupt::requested()
    })?;
    bar.finish_and_clear();
    if !all {
        let at = format!("after {} answers, kept in {}", answers.len(), answers.path().display());
        return Err(interrupt::Interrupted { at }.into());
    }
    answers.finish(prompts, chats)?;
    let seconds = start.elapsed().as_secs_f64();
    let generated = Generated { output: args.output.clone(), prompts: prompts.len(), tokens, seconds };
    if global.json {
        return output::json(&generated);
    }
    output::line(format_args!(
        "{}: {} answers, {tokens} tokens generated in {seconds:.0} s ({:.0} tokens/s)",
        generated.output.display(),
        generated.prompts,
        tokens as f64 / seconds.max(1e-9)
    ))
}
