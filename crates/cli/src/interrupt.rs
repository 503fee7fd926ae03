//! Being interrupted: Ctrl-C, or a signal to end.

use bantam_checkpoint::output;
use std::io::{IsTerminal, Write};

/// The exit code of an interrupted command: what shells give for Ctrl-C.
const INTERRUPTED: i32 = 130;

/// From now on, an interrupt ends the process at once, after removing all output under way.
pub fn clean_up_first() {
    let end = || {
        output::abandon_all();
        if std::io::stderr().is_terminal() {
            let _ = writeln!(std::io::stderr()); // The shell's prompt goes below the progress bar.
        }
        std::process::exit(INTERRUPTED);
    };
    // It fails only if it was done before.
    let _ = ctrlc::set_handler(end);
}
