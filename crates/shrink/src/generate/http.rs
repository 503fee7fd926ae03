//! JSON over HTTP, with patience: what may pass is tried again, what will not is said at once.

use serde_json::Value;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use ureq::Agent;
use ureq::http::{HeaderMap, StatusCode};

/// The longest answer that is read.
const LONGEST: u64 = 64 << 20;

/// The longest wait between attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// A place that answers JSON with JSON.
pub(super) struct Client {
    pub url: String,
    /// Sent as a bearer token; in no message.
    pub key: Option<String>,
    /// The environment variable of the key, for messages.
    pub key_name: String,
    pub attempts: usize,
    /// The wait after the first attempt; it doubles with each.
    pub first_wait: Duration,
    pub timeout: Duration,
    /// Told of each attempt that failed and will be repeated, by several threads.
    pub notice: fn(&str),
}

/// Why there is no answer.
pub(super) enum Failure {
    /// It was asked to stop waiting.
    Stopped,
    /// This request; others may be answered.
    Refused {
        /// What is wrong with it.
        problem: String,
        /// All that the server said, not to be shown.
        whole: String,
    },
    /// What is wrong.
    Problem(String),
}

impl Failure {
    /// An answer that is none.
    pub fn refused(problem: String) -> Self {
        Self::Refused { problem, whole: String::new() }
    }
}

/// Why one attempt failed.
enum Fault {
    /// It may be otherwise next time, after a wait if the server names one.
    Passing(String, Option<Duration>),
    /// It will not.
    Lasting(String),
    /// It will not for this request: what is wrong, and all that the server said.
    Refused(String, String),
}

impl Client {
    /// Posts `body`, again and again if need be, until `stop` is set.
    pub fn post(&self, body: &Value, stop: &AtomicBool) -> Result<Value, Failure> {
        let config = Agent::config_builder().timeout_global(Some(self.timeout)).http_status_as_error(false);
        let agent = config.max_redirects(0).max_redirects_will_error(false).build().new_agent();
        let mut wait = self.first_wait;
        let mut attempt = 1;
        loop {
            let (problem, asked) = match self.once(&agent, body) {
                Ok(answer) => return Ok(answer),
                Err(Fault::Refused(problem, whole)) => {
                    return Err(Failure::Refused { problem: self.hide(&problem), whole });
                }
                Err(Fault::Lasting(problem)) => return Err(Failure::Problem(self.hide(&problem))),
                Err(Fault::Passing(problem, asked)) => (problem, asked),
            };
            if attempt >= self.attempts {
                return Err(Failure::Problem(self.hide(&format!("{problem}; this was attempt {attempt}, the last"))));
            }
            let pause = asked.unwrap_or(wait).min(LONGEST_WAIT);
            let next = format!("attempt {} of {} follows in {:.0} s", attempt + 1, self.attempts, pause.as_secs_f64());
            (self.notice)(&self.hide(&format!("{}: {problem}; {next}", self.url)));
            let until = Instant::now() + pause;
            while Instant::now() < until {
                if stop.load(Ordering::Relaxed) {
                    return Err(Failure::Stopped);
                }
                std::thread::sleep(Duration::from_millis(20).min(wait));
            }
            wait = wait.saturating_mul(2).min(LONGEST_WAIT);
            attempt += 1;
        }
    }

    fn once(&self, agent: &Agent, body: &Value) -> Result<Value, Fault> {
        let mut request = agent.post(&self.url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body.to_string()).map_err(|e| self.fault(e))?;
        let (status, wait) = (response.status(), retry_after(response.headers()));
        let bytes = response.body_mut().with_config().limit(LONGEST).read_to_vec().map_err(|e| self.fault(e))?;
        let text = String::from_utf8_lossy(&bytes);
        if status.is_success() {
            return serde_json::from_str(&text).map_err(|_| Fault::Lasting(not_json(&text)));
        }
        let said = format!("it answers {status}{}", said(&text));
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Fault::Lasting(match &self.key {
                Some(_) => format!("{said}; the key in {} is not accepted", self.key_name),
                None => format!("{said}; put a key into the environment variable {}", self.key_name),
            }),
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Fault::Passing(said, wait),
            StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY => {
                Fault::Refused(said, text.into_owned())
            }
            status if status.is_server_error() => Fault::Passing(said, wait),
            _ => Fault::Lasting(said),
        })
    }

    fn fault(&self, error: ureq::Error) -> Fault {
        match error {
            ureq::Error::Timeout(_) => {
                Fault::Passing(format!("no whole answer within {} s (--timeout)", self.timeout.as_secs_f32()), None)
            }
            ureq::Error::Io(e) => Fault::Passing(format!("the connection fails: {e}"), None),
            ureq::Error::Protocol(e) => Fault::Passing(format!("the answer is no HTTP, or breaks off: {e}"), None),
            ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                Fault::Passing(format!("the server cannot be reached: {error}"), None)
            }
            ureq::Error::Http(_) if self.key.is_some() => Fault::Lasting(format!(
                "the request cannot be made; does the key in {} have characters that no key has?",
                self.key_name
            )),
            other => Fault::Lasting(other.to_string()),
        }
    }

    /// What may be shown: servers quote keys that they refuse.
    fn hide(&self, text: &str) -> String {
        match &self.key {
            Some(key) if !key.is_empty() => text.replace(key.as_str(), "(the key)"),
            _ => text.to_owned(),
        }
    }
}

/// The wait that a server asks for, in seconds.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get("retry-after")?.to_str().ok()?.trim().parse::<f64>().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// What an answer that is no success says.
fn said(text: &str) -> String {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let error = &json["error"];
    let message = error["message"].as_str().or(error.as_str()).or(json["message"].as_str()).or(json["detail"].as_str());
    match message.unwrap_or(text).trim() {
        "" => String::new(),
        page if page.starts_with('<') => " with a web page".to_owned(),
        said => format!(": {}", excerpt(said)),
    }
}

fn not_json(text: &str) -> String {
    match text.trim() {
        "" => "it answers with nothing".to_owned(),
        page if page.starts_with('<') => {
            "it answers with a web page, not with JSON; is this the address of an OpenAI-compatible interface?"
                .to_owned()
        }
        other => format!("its answer is not JSON: {}", excerpt(other)),
    }
}

/// A beginning that is short enough to be shown, on one line.
pub(super) fn excerpt(text: &str) -> String {
    const SHOWN: usize = 160;
    let line: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: String = line.chars().take(SHOWN).filter(|c| !c.is_control()).collect();
    if line.chars().count() > SHOWN { format!("`{shown}…`") } else { format!("`{shown}`") }
}
