//! Being interrupted: Ctrl-C, or a signal to end.

use bantam_checkpoint::output;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of an interrupted command: what shells give for Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// Whether the command asks [`requested`] and ends by itself.
static ASKED_FOR: AtomicBool = AtomicBool::new(false);
static REQUESTED: AtomicBool = AtomicBool::new(false);

/// From now on, an interrupt ends the process at once, after removing all output under way. A command that asks for
/// interrupts is let finish what it is at; a second interrupt ends it too.
pub fn clean_up_first() {
    let end = || {
        if std::io::stderr().is_terminal() {
            let _ = writeln!(std::io::stderr()); // The shell's prompt goes below the progress bar.
        }
        if ASKED_FOR.load(Ordering::SeqCst) && !REQUESTED.swap(true, Ordering::SeqCst) {
            return;
        }
        let what = if output::abandon_all() { "; what was only half written is removed" } else { "" };
        let _ = writeln!(std::io::stderr(), "interrupted{what}");
        std::process::exit(INTERRUPTED.into());
    };
    on_signal(end);
}

/// Has `end` called, in a thread of its own, with every signal to end: Ctrl-C, `kill`, and the terminal's going, unless the process was
/// begun with `nohup`.
#[cfg(unix)]
fn on_signal(end: impl Fn() + Send + 'static) {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let hang_up = Some(SIGHUP).filter(|_| !hang_ups_are_ignored());
    // It fails only where signals cannot be handled at all; then they end the process.
    if let Ok(mut signals) = signal_hook::iterator::Signals::new([SIGINT, SIGTERM].into_iter().chain(hang_up)) {
        std::thread::spawn(move || signals.forever().for_each(|_| end()));
    }
}

/// Whether the process was begun so that it stays when its terminal goes. (Known on Linux alone.)
#[cfg(unix)]
fn hang_ups_are_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The last bit is of the first signal, which it is.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

#[cfg(not(unix))]
fn on_signal(end: impl Fn() + Send + 'static) {
    // It fails only if it was done before.
    let _ = ctrlc::set_handler(end);
}

/// Whether an interrupt came. From the first call on, the command must ask often, and end when one did.
pub fn requested() -> bool {
    ASKED_FOR.store(true, Ordering::SeqCst);
    REQUESTED.load(Ordering::SeqCst)
}

/// A command ended early because it was asked to; it can be gone on with.
#[derive(Debug, thiserror::Error)]
#[error("interrupted {at}; the same command goes on from there")]
pub struct Interrupted {
    /// Where.
    pub at: String,
}
