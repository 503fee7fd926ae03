//! How numbers and errors look in the terminal.

use crate::args::Global;
use anyhow::{Context, bail};
use bantam_checkpoint::output::put_aside;
use bantam_measure::results::Report;
use std::fmt;
use std::io::Write;
use std::path::Path;

pub use bantam_measure::report::bytes;

/// Reads a size: `300MB`, `1.5 GiB`, `250000000`.
pub fn parse_size(text: &str) -> anyhow::Result<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => bail!("`{other}` is not a unit of size; write for example 300MB, 1.5GB or 280MiB"),
    };
    let number: f64 = number.parse().with_context(|| format!("`{text}` is not a size; write for example 300MB"))?;
    let size = number * factor;
    if !(1.0..1e18).contains(&size) {
        bail!("{text} is not a possible size of a file");
    }
    Ok(size as u64)
}

/// Writes to standard output. Unlike `print!`, a full disk or a closed pipe is an error.
pub fn print(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_fmt(text).and_then(|()| out.flush()).context("cannot write to standard output")
}

/// Prints a line.
pub fn line(text: fmt::Arguments<'_>) -> anyhow::Result<()> {
    print(format_args!("{text}\n"))
}

/// Tells the user something beside the result, on standard error. Where nobody can be told, nothing is lost.
pub fn say(text: fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Gives what another run left another name, so that it is in nobody's way, and says so.
pub fn set_aside(path: &Path) {
    if let Some(other) = put_aside(path) {
        say(format_args!("note: {} is of something else; it is kept as {}", path.display(), other.display()));
    }
}

/// A path in a result: JSON has no names that are not UTF-8, and what was done is to be told all the same.
pub fn path<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

/// Prints a serializable result as JSON.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    line(format_args!("{}", serde_json::to_string_pretty(value)?))
}

/// An error with its causes in one paragraph. Many messages quote their cause already; those are not said twice.
pub fn paragraph(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string).filter(|cause| !cause.is_empty()) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Prints a comparison: a table with its conclusions, or JSON.
pub fn report(report: &Report, global: &Global) -> anyhow::Result<()> {
    if global.json {
        return json(report);
    }
    print(format_args!("{}", bantam_measure::report::table(report, width())))
}

/// Columns of the terminal, or a width that suits a file.
fn width() -> usize {
    const FILE_WIDTH: u16 = 120;
    usize::from(console::Term::stdout().size_checked().map_or(FILE_WIDTH, |(_, columns)| columns))
}

/// Whether the error is only that nobody reads the output any more (`bantam … | head`).
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref::<std::io::Error>().is_some_and(closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_are_written() {
        assert_eq!(parse_size("300MB").unwrap(), 300_000_000);
        assert_eq!(parse_size("1.5 GiB").unwrap(), 1_610_612_736);
        assert_eq!(parse_size("250000000").unwrap(), 250_000_000);
        assert!(parse_size("many").is_err());
        assert!(parse_size("3 parsecs").unwrap_err().to_string().contains("parsecs"));
        assert!(parse_size("0").is_err());
    }

    #[test]
    fn a_cause_is_said_once() {
        let io = || std::io::Error::other("the disk is full");
        let quoted = bantam_checkpoint::Error::io("m.gguf".as_ref(), "write")(io());
        assert_eq!(paragraph(&quoted.into()), "m.gguf: cannot write: the disk is full");
        let wrapped = anyhow::Error::from(io()).context("m.gguf: cannot write");
        assert_eq!(paragraph(&wrapped), "m.gguf: cannot write: the disk is full");
    }
}
