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
