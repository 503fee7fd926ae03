//! A model that is run here as the author.

use super::{Answer, Answers, Author, Finish, Prompt, Refused};
use crate::{Error, identity};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::chat_template::ChatTemplate;
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_nn::generate::{Continuation, Request, generate};
use bantam_nn::random::SplitMix64;
use bantam_nn::{Model, Sampler, Sampling};
use std::path::PathBuf;

/// A model that continues the prompts of a group together.
pub struct ModelAuthor<'m> {
    model: &'m Model,
    path: PathBuf,
    name: String,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    sampling: Sampling,
    max_tokens: usize,
}

impl<'m> ModelAuthor<'m> {
    /// An author of up to `max_tokens` tokens a prompt. With `raw` it continues texts though it could chat. Prompt `i` is
    /// answered by the seed's `i`th child.
    ///
    /// # Errors
    /// If the checkpoint cannot be read, has no tokenizer or a broken template, or a setting makes no sense.
    pub fn new(
        checkpoint: &Checkpoint,
        model: &'m Model,
        sampling: Sampling,
        max_tokens: usize,
        raw: bool,
    ) -> Result<Self, Error> {
        Sampler::new(sampling.clone())?;
        // The same prompts tomorrow are the same prompts.
        let template = if raw { None } else { ChatTemplate::of(checkpoint)?.map(ChatTemplate::on_a_fixed_day) };
        let (path, name) = (checkpoint.path().to_owned(), identity::name_with_tokenizer(checkpoint)?);
        let tokenizer = Tokenizer::of(checkpoint)?;
        Ok(Self { model, path, name, tokenizer, template, sampling, max_tokens })
    }

    /// Whether texts are answered as a user's words in a conversation.
    pub fn chats(&self) -> bool {
        self.template.is_some()
    }

    fn request(&self, number: u64, prompt: &Prompt) -> Result<Request, Error> {
        let error = |problem: String| Error::Data { path: self.path.clone(), problem };
        let prompt = match (prompt, &self.template) {
            (prompt, Some(template)) => {
                self.tokenizer.encode(&template.render(&prompt.messages(), true)?, Special::PROMPT)?
            }
            (Prompt::Text(text), None) => self.tokenizer.encode(text, Special::OPENING)?,
            (Prompt::Chat(_), None) => {
                let why = "is a conversation, and the model has no chat template, or --raw keeps it from chatting";
                return Err(error(format!("prompt {} {why}", number + 1)));
            }
        };
        if prompt.is_empty() {
            return Err(error(format!("prompt {} has nothing in it that the model knows a token for", number + 1)));
        }
        let context = self.model.config().context_length;
        if prompt.len() >= context {
            let (number, len) = (number + 1, prompt.len());
            return Err(error(format!("prompt {number} has {len} tokens; the model sees {context}, with its answer")));
        }
        let sampler =
            Sampler::new(Sampling { seed: SplitMix64::child(self.sampling.seed, number).next(), ..self.sampling })?;
        Ok(Request { limit: self.max_tokens.min(context - prompt.len()), prompt, sampler })
    }

    fn text(&self, continuation: &Continuation) -> String {
        let mut stream = self.tokenizer.decode_stream();
        let mut text: String = continuation.tokens.iter().map(|&token| stream.push(token)).collect();
        // What was cut off within a character has no beginning of one to be learned.
        if continuation.end.is_some() {
            text.push_str(&stream.finish());
        }
        text
    }
}

impl Author for ModelAuthor<'_> {
    fn place(&self) -> String {
        self.name.clone()
    }

    fn description(&self) -> String {
        let how = if self.chats() { "chatting" } else { "continuing" };
        format!("{} {how} by {:?}, up to {} tokens", self.name, self.sampling, self.max_tokens)
    }

    fn check(&self, number: u64, prompt: &Prompt) -> Result<(), Error> {
        self.request(number, prompt).map(drop)
    }

    fn answer(
        &mut self,
        group: &[(u64, &Prompt)],
        answers: &mut Answers,
        wrote: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Refused>, Error> {
        let requests = group.iter().map(|(number, prompt)| self.request(*number, prompt));
        let mut requests = requests.collect::<Result<Vec<_>, _>>()?;
        let context = requests.iter().map(|r| r.prompt.len() + r.limit).max().unwrap_or(0);
        let mut batch = self.model.batch(requests.len(), context);
        let mut go_on = true;
        let is_end = |token| self.tokenizer.is_end(token);
        let continuations = generate(&mut batch, &mut requests, &is_end, &mut |_, _, _| {
            go_on &= wrote(1);
            go_on
        })?;
        if go_on {
            for ((number, _), continuation) in group.iter().zip(&continuations) {
                let finish_reason = if continuation.end.is_some() { Finish::Stop } else { Finish::Length };
                answers.keep(*number, Answer { text: self.text(continuation), finish_reason, logprobs: Vec::new() })?;
            }
        }
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn half_a_character_is_none_where_the_limit_ended_the_text() {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
        let checkpoint = Checkpoint::open(fixture).unwrap();
        let model = Model::load(&checkpoint).unwrap();
        let author = ModelAuthor::new(&checkpoint, &model, Sampling::default(), 8, true).unwrap();
        let mut tokens = author.tokenizer.encode_continuation(None, "naïve", false);
        assert_eq!(author.text(&Continuation { tokens: tokens.clone(), end: None }), "naïve");
        // The two bytes of one letter are tokens of their own.
        while author.tokenizer.decode(&tokens).ends_with(['v', 'e']) {
            tokens.pop();
        }
        tokens.pop();
        assert_eq!(author.text(&Continuation { tokens: tokens.clone(), end: None }), "na");
        assert_eq!(author.text(&Continuation { tokens, end: author.tokenizer.eos() }), "na\u{fffd}");
    }
}
