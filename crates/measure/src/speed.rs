//! Speed and memory of running a model.
//!
//! Peak memory is a property of a process, so a process of its own must do the measuring: [`in_fresh_process`] starts a
//! command that calls [`here`] and prints the result as JSON.

use crate::{Error, Result, machine, results::Speed};
use bantam_checkpoint::Checkpoint;
use bantam_nn::softmax::argmax;
use bantam_nn::{Model, Session};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

/// What is run and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens generated after it.
    pub decode: usize,
    /// Timed repetitions, after one that warms up; their median counts.
    pub repetitions: usize,
}

impl Default for Workload {
    fn default() -> Self {
        Workload { prompt: 512, decode: 64, repetitions: 3 }
    }
}

/// Loads the model at `path` and measures it in this process, on the threads of the current rayon pool. The peak memory
/// is that of the whole process so far.
///
/// # Errors
/// If the model cannot be loaded or run.
pub fn here(path: impl AsRef<Path>, workload: Workload) -> Result<Speed> {
    let model = Model::load(&Checkpoint::open(path)?)?;
    let mut session = model.session(workload.prompt.max(1) + workload.decode);
    run(&model, &mut session, Workload { decode: workload.decode.min(4), ..workload })?;
    let runs: Vec<(f64, f64)> =
        (0..workload.repetitions.max(1)).map(|_| run(&model, &mut session, workload)).collect::<Result<_>>()?;
    let (prefill, decode) = runs.into_iter().unzip();
    Ok(Speed {
        threads: rayon::current_num_threads(),
        prompt_tokens: workload.prompt,
        prefill: median(prefill),
        decode: median(decode),
        peak_memory: machine::peak_memory(),
    })
}

/// Runs `command`, which must print what [`here`] returns as JSON on its standard output.
///
/// # Errors
/// If the process cannot be started, fails (with what it wrote on standard error), or prints something else.
pub fn in_fresh_process(command: &mut Command) -> Result<Speed> {
    let output = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .map_err(|e| Error::SpeedProcess(format!("{}: {e}", command.get_program().display())))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(Error::SpeedProcess(format!("{}: {}", output.status, message.trim())));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| Error::SpeedProcess(format!("its output is no result: {e}")))
}

/// Tokens per second of prefill and of decode.
fn run(model: &Model, session: &mut Session<'_>, workload: Workload) -> Result<(f64, f64)> {
    let config = model.config();
    let mut logits = vec![0.0; config.vocab_size];
    // Which tokens they are does not matter to a dense model; let them differ.
    let prompt: Vec<u32> =
        (0..workload.prompt.max(1) as u64).map(|i| ((i + 1) * 7919 % config.vocab_size as u64) as u32).collect();
    session.truncate(0);

    let start = Instant::now();
    let mut token = next(session, &prompt, config.embedding_length, &mut logits)?;
    let prefill = prompt.len() as f64 / start.elapsed().as_secs_f64();

    let start = Instant::now();
    for _ in 0..workload.decode {
        token = next(session, &[token], config.embedding_length, &mut logits)?;
    }
    let decode = workload.decode as f64 / start.elapsed().as_secs_f64();
    Ok((prefill, decode))
}

/// The most likely token after `tokens`.
fn next(session: &mut Session<'_>, tokens: &[u32], width: usize, logits: &mut [f32]) -> Result<u32> {
    let hidden = session.forward(tokens)?;
    let last = hidden[hidden.len() - width..].to_vec();
    session.logits(&last, logits);
    Ok(argmax(logits) as u32)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    crate::statistics::quantile(&values, 0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_process_reports_in_json() {
        let speed = Speed { threads: 2, prompt_tokens: 512, prefill: 100.5, decode: 20.25, peak_memory: Some(1 << 20) };
        let json = serde_json::to_string(&speed).unwrap();
        assert_eq!(in_fresh_process(Command::new("printf").args(["%s", &json])).unwrap(), speed);
    }

    #[test]
    fn a_failing_process_is_quoted() {
        let message = in_fresh_process(Command::new("sh").args(["-c", "echo no such model >&2; exit 2"])).unwrap_err();
        assert!(message.to_string().contains("no such model"), "{message}");
        assert!(in_fresh_process(&mut Command::new("true")).unwrap_err().to_string().contains("no result"));
        assert!(in_fresh_process(&mut Command::new("/no/such/program")).is_err());
    }
}
