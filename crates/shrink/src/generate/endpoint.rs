//! A served model as the author: any server that speaks OpenAI's interface.

use super::http::{Client, Failure};
use super::{Answer, Answers, Author, Prompt, Refused, reply};
use crate::Error;
use bantam_nn::Sampling;
use bantam_nn::random::SplitMix64;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// Where and how a model is served.
#[derive(Clone)]
pub struct Endpoint {
    /// The interface's address, such as `http://localhost:8080/v1`.
    pub url: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key, if the server asks for one.
    pub key_name: String,
    /// How long one answer may take.
    pub timeout: Duration,
    /// Attempts at most where a server is busy or fails, with waits in between.
    pub attempts: usize,
    /// The wait after the first attempt; it doubles with each.
    pub first_wait: Duration,
    /// Told of each attempt that failed and will be repeated, by several threads.
    pub notice: fn(&str),
}

/// A served model. The prompts of a group are sent at once.
pub struct Served {
    client: Client,
    model: String,
    sampling: Sampling,
    max_tokens: usize,
    top: usize,
    raw: bool,
    /// Whether the server is known to take [`NEWER_LIMIT`] only.
    newer: AtomicBool,
}

/// The tokens of an answer at most, as nearly all servers call it.
const LIMIT: &str = "max_tokens";

/// The same as OpenAI's newer models call it, which refuse the other in a chat.
const NEWER_LIMIT: &str = "max_completion_tokens";

/// How often it is asked whether to go on while answers are waited for.
const LOOK: Duration = Duration::from_millis(100);

impl Served {
    /// A served author of up to `max_tokens` tokens a prompt, that tells the probabilities of the `top` likeliest tokens at
    /// each place (0 for none). With `raw` it continues texts (`/completions`), else it chats (`/chat/completions`).
    ///
    /// # Errors
    /// If the address is none.
    pub fn new(
        endpoint: &Endpoint,
        sampling: Sampling,
        max_tokens: usize,
        top: usize,
        raw: bool,
    ) -> Result<Self, Error> {
        let error = |problem: &str| Error::Endpoint { url: endpoint.url.clone(), problem: problem.to_owned() };
        let base = endpoint.url.trim_end_matches('/');
        let rest = base.strip_prefix("http://").or_else(|| base.strip_prefix("https://")).unwrap_or_default();
        if rest.is_empty() {
            return Err(error("expected an address as http://localhost:8080/v1"));
        }
        if rest.contains('@') {
            // Not with the address: it may hold a secret.
            let problem = "a key belongs into an environment variable (--key-env), not into the address".to_owned();
            return Err(Error::Endpoint { url: "the endpoint".to_owned(), problem });
        }
        let version = if rest.contains('/') { "" } else { "/v1" };
        let path = if raw { "completions" } else { "chat/completions" };
        let key = std::env::var(&endpoint.key_name).ok();
        let client = Client {
            url: format!("{base}{version}/{path}"),
            key: key.map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()),
            key_name: endpoint.key_name.clone(),
            attempts: endpoint.attempts.max(1),
            first_wait: endpoint.first_wait,
            timeout: endpoint.timeout,
            notice: endpoint.notice,
        };
        let (model, newer) = (endpoint.model.clone(), AtomicBool::new(false));
        Ok(Self { client, model, sampling, max_tokens, top, raw, newer })
    }

    fn request(&self, number: u64, prompt: &Prompt) -> Result<Value, Error> {
        let seed = SplitMix64::child(self.sampling.seed, number).next() >> 33; // what fits every server's integers
        let limit = if self.newer.load(Ordering::Relaxed) { NEWER_LIMIT } else { LIMIT };
        let mut request = json!({
            "model": self.model,
            limit: self.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": seed,
            "stream": false,
        });
        match (prompt, self.raw) {
            (Prompt::Text(text), true) => request["prompt"] = json!(text),
            (Prompt::Chat(_), true) => {
                let problem = format!("prompt {} is a conversation, which --raw cannot continue", number + 1);
                return Err(self.error(problem));
            }
            (prompt, false) => request["messages"] = json!(prompt.messages()),
        }
        if self.top > 0 {
            // Chat has a switch and a number, completions the number alone.
            request["logprobs"] = if self.raw { json!(self.top) } else { json!(true) };
            if !self.raw {
                request["top_logprobs"] = json!(self.top);
            }
        }
        Ok(request)
    }

    fn ask(&self, request: Value, stop: &AtomicBool) -> Result<(Answer, usize), Failure> {
        let reply = self.post(request, stop)?;
        let answer = reply::answer(&reply, self.top > 0)?;
        let tokens = reply::tokens(&reply, &answer);
        Ok((answer, tokens))
    }

    /// Posts a request; once more where the server refuses it and names the other limit.
    fn post(&self, mut request: Value, stop: &AtomicBool) -> Result<Value, Failure> {
        let first = self.client.post(&request, stop);
        let named = matches!(&first, Err(Failure::Refused { whole, .. }) if whole.contains(NEWER_LIMIT));
        let Some(fields) = request.as_object_mut().filter(|fields| named && !self.raw && fields.contains_key(LIMIT))
        else {
            return first;
        };
        if stop.load(Ordering::Relaxed) {
            return Err(Failure::Stopped);
        }
        fields.remove(LIMIT);
        fields.insert(NEWER_LIMIT.to_owned(), json!(self.max_tokens));
        let reply = self.client.post(&request, stop)?;
        // Only now: servers that know both name both where a prompt is too long.
        self.newer.store(true, Ordering::Relaxed);
        Ok(reply)
    }

    /// An error about the server.
    fn error(&self, problem: String) -> Error {
        Error::Endpoint { url: self.client.url.clone(), problem }
    }
}

impl Author for Served {
    fn place(&self) -> String {
        self.client.url.clone()
    }

    fn description(&self) -> String {
        let Self { client, model, sampling, max_tokens, top, .. } = self;
        format!("{model} at {} by {sampling:?}, up to {max_tokens} tokens, {top} likeliest", client.url)
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
        let missing = group.iter().filter(|(number, _)| !answers.has(*number));
        let requests = missing.map(|&(number, prompt)| Ok((number, self.request(number, prompt)?)));
        let requests = requests.collect::<Result<Vec<_>, Error>>()?;
        let (this, stop) = (&*self, &AtomicBool::new(false));
        let (send, replies) = channel();
        let (mut first_error, mut refused) = (None, Vec::new());
        std::thread::scope(|scope| {
            for (number, request) in requests {
                let send = send.clone();
                scope.spawn(move || send.send((number, this.ask(request, stop))));
            }
            drop(send);
            // What was sent is waited for, whatever happens meanwhile: an answer that was paid for is kept.
            loop {
                let mut fail = |error| {
                    stop.store(true, Ordering::Relaxed);
                    first_error.get_or_insert(error);
                };
                match replies.recv_timeout(LOOK) {
                    Ok((number, Ok((answer, tokens)))) => {
                        if let Err(error) = answers.keep(number, answer) {
                            fail(error);
                        }
                        if !wrote(tokens) {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    Ok((_, Err(Failure::Stopped))) => {}
                    Ok((number, Err(Failure::Refused { problem, .. }))) => refused.push(Refused { number, problem }),
                    Ok((number, Err(Failure::Problem(problem)))) => {
                        fail(this.error(format!("{problem} (prompt {})", number + 1)));
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        if !wrote(0) {
                            stop.store(true, Ordering::Relaxed);
                        }
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        });
        refused.sort_by_key(|refused| refused.number);
        first_error.map_or(Ok(refused), Err)
    }
}
