//! `bantam run`: generate text, once or in a conversation.

use crate::{args::Global, output};
use anyhow::{Context, anyhow, ensure};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::chat_template::{ChatTemplate, Message};
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_nn::sample::{Sampler, Sampling};
use bantam_nn::{Model, Session};
use clap::Args;
use serde::Serialize;
use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
#[command(after_help = "\
Examples:
  bantam run model.gguf -p 'Why is the sky blue?'
  bantam run model.gguf                              a conversation; an empty line or Ctrl-D ends it
  bantam run model.gguf --raw -p 'Once upon a time' -n 200 --temperature 0.8 --seed 7")]
pub struct RunArgs {
    /// A GGUF file or a Hugging Face directory
    model: PathBuf,
    /// The prompt; without it, a conversation on standard input
    #[arg(long, short)]
    prompt: Option<String>,
    /// A system message before the conversation
    #[arg(long, conflicts_with = "raw")]
    system: Option<String>,
    /// Continue the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,
    /// Tokens to generate at most
    #[arg(long, short = 'n', default_value_t = 512, value_name = "N")]
    max_tokens: usize,
    /// Context length [default: 4096, or the model's if that is shorter]
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// 0 always takes the likeliest token
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Choose among the K likeliest tokens; 0 among all
    #[arg(long, default_value_t = 40, value_name = "K")]
    top_k: usize,
    /// Choose among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 0.95, value_name = "P")]
    top_p: f32,
    /// Choose among tokens at least this many times as likely as the likeliest
    #[arg(long, default_value_t = 0.05, value_name = "P")]
    min_p: f32,
    /// Divide the logits of tokens that were there by this; 1 changes nothing
    #[arg(long, default_value_t = 1.0, value_name = "X")]
    repetition_penalty: f32,
    /// The same seed gives the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

const DEFAULT_CONTEXT: usize = 4096;

/// One answer, as `--json` prints it.
#[derive(Serialize)]
struct Answer {
    text: String,
    /// Whether it is cut off where the context was full.
    full: bool,
    prompt_tokens: usize,
    tokens: usize,
    prefill_seconds: f64,
    decode_seconds: f64,
}

pub fn run(args: &RunArgs, global: &Global) -> anyhow::Result<()> {
    let checkpoint = Checkpoint::open(&args.model)?;
    let tokenizer = Tokenizer::of(&checkpoint)?;
    let model = Model::load(&checkpoint)?;
    let template = if args.raw { None } else { ChatTemplate::of(&checkpoint)? };
    ensure!(
        template.is_some() || args.system.is_none(),
        "{}: has no chat template, so --system has no place",
        args.model.display()
    );
    let context = args.context.unwrap_or_else(|| DEFAULT_CONTEXT.min(model.config().context_length));
    let learned = model.config().context_length;
    if context > learned && !global.quiet {
        output::say(format_args!(
            "warning: --context {context}: the model has learned contexts of up to {learned} tokens; beyond them it writes nonsense"
        ));
    }
    let sampler = Sampler::new(Sampling {
        repetition_penalty: args.repetition_penalty,
        top_k: args.top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        temperature: args.temperature,
        seed: args.seed,
    })?;
    let mut generator = Generator {
        model: &model,
        session: model.session(context),
        tokenizer: &tokenizer,
        sampler,
        tokens: Vec::new(),
    };
    let mut conversation =
        Conversation { template, messages: args.system.iter().map(|s| Message::new("system", s)).collect() };
    match &args.prompt {
        Some(prompt) => {
            let answer = conversation.turn(prompt, &mut generator, args.max_tokens, !global.json)?;
            if global.json {
                return output::json(&answer);
            }
            report(&answer, global)
        }
        None => converse(&mut conversation, &mut generator, args, global),
    }
}

/// Reads prompts from standard input until it ends or a line is empty.
fn converse(
    conversation: &mut Conversation,
    generator: &mut Generator<'_>,
    args: &RunArgs,
    global: &Global,
) -> anyhow::Result<()> {
    let stdin = std::io::stdin();
    let interactive = stdin.is_terminal() && !global.json;
    if interactive && !global.quiet {
        output::say(format_args!("An empty line or Ctrl-D ends the conversation."));
    }
    loop {
        if interactive {
            output::print(format_args!("> "))?;
        }
        let mut line = String::new();
        let read = stdin.lock().read_line(&mut line).context("cannot read the prompt from standard input")?;
        if read == 0 || line.trim().is_empty() {
            return Ok(());
        }
        let answer = conversation.turn(line.trim_end(), generator, args.max_tokens, !global.json)?;
        if global.json {
            output::json(&answer)?;
        } else {
            report(&answer, global)?;
        }
    }
}

/// Ends the answer's line; says how fast it was where a person reads.
fn report(answer: &Answer, global: &Global) -> anyhow::Result<()> {
    output::line(format_args!(""))?;
    if answer.full && !global.quiet {
        output::say(format_args!("note: the answer is cut off where the context (--context) is full"));
    }
    if !global.quiet && std::io::stderr().is_terminal() {
        output::say(format_args!(
            "[{} tokens read at {:.0} tokens/s, {} generated at {:.1} tokens/s]",
            answer.prompt_tokens,
            answer.prompt_tokens as f64 / answer.prefill_seconds,
            answer.tokens,
            answer.tokens as f64 / answer.decode_seconds
        ));
    }
    Ok(())
}

/// What was said so far.
struct Conversation {
    template: Option<ChatTemplate>,
    messages: Vec<Message>,
}

impl Conversation {
    /// Adds a prompt and the model's answer to it.
    fn turn(
        &mut self,
        prompt: &str,
        generator: &mut Generator<'_>,
        max_tokens: usize,
        print: bool,
    ) -> anyhow::Result<Answer> {
        let Some(template) = &self.template else {
            let tokens = generator.tokenizer.encode(prompt, Special::OPENING)?;
            return generator.answer(&tokens, max_tokens, print);
        };
        self.messages.push(Message::new("user", prompt));
        let text = template.render(&self.messages, true)?;
        let tokens = generator.tokenizer.encode(&text, Special::PROMPT)?;
        let answer = generator.answer(&tokens, max_tokens, print)?;
        self.messages.push(Message::new("assistant", &answer.text));
        Ok(answer)
    }
}

struct Generator<'m> {
    model: &'m Model,
    session: Session<'m>,
    tokenizer: &'m Tokenizer,
    sampler: Sampler,
    /// The tokens in the session.
    tokens: Vec<u32>,
}

impl Generator<'_> {
    /// Generates after `prompt`, printing as it goes. Reads only what the session does not hold already.
    fn answer(&mut self, prompt: &[u32], max_tokens: usize, print: bool) -> anyhow::Result<Answer> {
        ensure!(!prompt.is_empty(), "the prompt is empty: there is nothing to continue");
        let start = Instant::now();
        // The last token is always read again: its hidden state says what follows.
        let common = self.tokens.iter().zip(prompt).take_while(|(a, b)| a == b).count().min(prompt.len() - 1);
        self.session.truncate(common);
        self.tokens.truncate(common);
        let mut hidden = self.read(&prompt[common..])?;
        let prefill_seconds = start.elapsed().as_secs_f64();

        let start = Instant::now();
        let mut logits = vec![0.0; self.model.config().vocab_size];
        let mut text = String::new();
        let mut stream = self.tokenizer.decode_stream();
        let mut generated = 0;
        while generated < max_tokens && self.session.position() < self.session.context() {
            self.session.logits(&hidden, &mut logits);
            // Rows beyond the vocabulary stand for no token.
            let token = self.sampler.sample(&logits[..self.model.tokens()], &self.tokens)?;
            if self.tokenizer.is_end(token) {
                break;
            }
            generated += 1;
            emit(&stream.push(token), &mut text, print)?;
            hidden = self.read(&[token])?;
        }
        emit(&stream.finish(), &mut text, print)?;
        let decode_seconds = start.elapsed().as_secs_f64();
        let full = generated < max_tokens && self.session.position() >= self.session.context();
        let prompt_tokens = prompt.len() - common;
        Ok(Answer { text, full, prompt_tokens, tokens: generated, prefill_seconds, decode_seconds })
    }

    /// Appends tokens to the session and returns the last one's hidden state.
    fn read(&mut self, tokens: &[u32]) -> anyhow::Result<Vec<f32>> {
        let hidden = self.session.forward(tokens).map_err(|e| match e {
            bantam_nn::Error::ContextFull { context, wanted } => {
                let learned = self.model.config().context_length;
                let more =
                    if context < learned { format!("; --context gives more, up to {learned}") } else { String::new() };
                anyhow!("what was said needs {wanted} tokens, and the context has {context}{more}. Or begin anew")
            }
            e => e.into(),
        })?;
        let width = hidden.len() / tokens.len();
        self.tokens.extend_from_slice(tokens);
        Ok(hidden[hidden.len() - width..].to_vec())
    }
}

fn emit(piece: &str, text: &mut String, print: bool) -> anyhow::Result<()> {
    text.push_str(piece);
    if print { output::print(format_args!("{piece}")) } else { Ok(()) }
}
