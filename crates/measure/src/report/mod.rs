//! The report: one HTML file that opens offline, and the same tables in the terminal.
//!
//! [`html`] and [`table`] both read a [`Report`]; `report.json` is that report as serde writes it. `grid` decides what
//! the tables say, `charts` draws the figures with the small plotter in `plot`, `page` fills `templates/report.html`.
//!
//! Everything that comes from a file (labels, prompts, continuations) is escaped.

mod charts;
#[cfg(test)]
mod examples;
mod grid;
mod number;
mod page;
mod plot;
mod text;

pub use number::bytes;
pub use page::html;
pub use text::{printable, table};

use crate::results::Report;

/// What to say wherever losses are shown, if the base's weights had been quantized before.
fn quantized_note(report: &Report) -> Option<String> {
    let formats = report.base.quantized_as.as_ref()?;
    Some(format!(
        "the base was itself quantized ({formats}) before it was read. Losses are against these weights, \
         not against the model as it was trained."
    ))
}
