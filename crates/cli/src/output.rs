//! How numbers and errors look in the terminal.

use crate::args::Global;
use anyhow::{Context, bail};
use bantam_measure::results::Report;

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

/// Prints a serializable result as JSON.
pub fn json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    std::io::Write::write_all(&mut out, b"\n")?;
    Ok(())
}

/// Prints a comparison: a table with its conclusions, or JSON.
pub fn report(report: &Report, global: &Global) -> anyhow::Result<()> {
    if global.json {
        return json(report);
    }
    print!("{}", bantam_measure::report::table(report, width()));
    Ok(())
}

/// Columns of the terminal, or a width that suits a file.
fn width() -> usize {
    const FILE_WIDTH: u16 = 120;
    usize::from(console::Term::stdout().size_checked().map_or(FILE_WIDTH, |(_, columns)| columns))
}

/// Whether the error is only that nobody reads the output any more (`bantam … | head`).
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let closed = |e: &std::io::Error| e.kind() == std::io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(closed)
            || cause
                .downcast_ref::<serde_json::Error>()
                .is_some_and(|e| e.io_error_kind() == Some(std::io::ErrorKind::BrokenPipe))
    })
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
}
