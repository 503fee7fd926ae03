//! The report in the terminal: aligned columns, nothing but text.

use super::grid::{self, Grid, Role};
use super::quantized_note;
use crate::results::Report;
use std::fmt::Write;

/// The tables of a report as text of at most `width` columns where that is possible: a table too wide is continued in
/// another block of columns under the same labels, and only its first estimates keep their standard errors. The chosen
/// candidate is marked with `*`.
pub fn table(report: &Report, width: usize) -> String {
    let mut text = String::new();
    let grids = [Some(grid::quality(report)), grid::choices(report), grid::training(report), Some(grid::cost(report))];
    for grid in grids.into_iter().flatten().filter(|grid| !grid.rows.is_empty()) {
        write_grid(&mut text, &grid, width);
        text.push('\n');
    }
    if let Some(note) = quantized_note(report) {
        text.push_str(&wrapped(&printable(&format!("Note: {note}")), width));
    }
    text
}

fn write_grid(text: &mut String, grid: &Grid, width: usize) {
    let labels: Vec<String> = grid.rows.iter().map(|row| label(&row.label, row.role, width)).collect();
    let label_width = labels.iter().map(|label| columns(label)).chain([columns(grid.title)]).max().unwrap_or(0);
    let room = width.saturating_sub(label_width);
    let has_error = |column: &usize| grid.rows.iter().any(|row| !row.cells[*column].error.is_empty());
    let first_error = (0..grid.heads.len()).find(has_error);
    let fits = column_widths(grid, None).iter().map(|width| width + 2).sum::<usize>() <= room;
    let errors = if fits { None } else { first_error };
    let widths = column_widths(grid, errors);
    let cell = |row: usize, column: usize| words(grid, errors, row, column);
    let mut first = 0;
    while first < widths.len() {
        let end = block_end(&widths, first, room);
        let title = if first == 0 { grid.title } else { "" };
        let heads: Vec<String> = (first..end).map(|column| grid.heads[column].text.clone()).collect();
        write_row(text, title, label_width, &heads, &widths[first..end]);
        for (row, label) in labels.iter().enumerate() {
            let cells: Vec<String> = (first..end).map(|column| cell(row, column)).collect();
            write_row(text, label, label_width, &cells, &widths[first..end]);
        }
        first = end;
        if first < widths.len() {
            text.push('\n');
        }
    }
}

/// Without control characters, which a file's words could send to the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A cell in words: with its standard error, or with it in the column `errors` only.
fn words(grid: &Grid, errors: Option<usize>, row: usize, column: usize) -> String {
    let cell = &grid.rows[row].cells[column];
    let bare = cell.error.is_empty() || errors.is_some_and(|only| only != column);
    printable(&if bare { cell.text.clone() } else { format!("{} {}", cell.text, cell.error) })
}

fn column_widths(grid: &Grid, errors: Option<usize>) -> Vec<usize> {
    let width = |column: usize| {
        let cells = (0..grid.rows.len()).map(|row| columns(&words(grid, errors, row, column)));
        cells.chain([columns(&grid.heads[column].text)]).max().unwrap_or(0)
    };
    (0..grid.heads.len()).map(width).collect()
}

/// One past the last column that fits beside the labels, at least one.
fn block_end(widths: &[usize], first: usize, room: usize) -> usize {
    let mut used = 0;
    let fits = widths[first..].iter().take_while(|width| {
        used += *width + 2;
        used <= room
    });
    first + fits.count().max(1)
}

fn write_row(text: &mut String, label: &str, label_width: usize, cells: &[String], widths: &[usize]) {
    let _ = write!(text, "{label}{}", " ".repeat(label_width - columns(label)));
    for (cell, width) in cells.iter().zip(widths) {
        let _ = write!(text, "  {}{cell}", " ".repeat(width - columns(cell)));
    }
    text.truncate(text.trim_end_matches(' ').len());
    text.push('\n');
}

fn label(label: &str, role: Role, width: usize) -> String {
    let label = printable(label);
    let label = super::plot::shortened(&label, (width / 3).max(12));
    match role {
        Role::Base => format!("  {label} (base)"),
        Role::Chosen => format!("* {label}"),
        Role::Candidate => format!("  {label}"),
    }
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

/// The text in lines of at most `width` columns, broken between words.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut used = 0;
    for word in text.split_whitespace() {
        if used > 0 && used + 1 + columns(word) > width {
            lines.push('\n');
            used = 0;
        } else if used > 0 {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += columns(word);
    }
    lines.push('\n');
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::examples::{extreme, sample};

    #[test]
    fn what_a_file_says_cannot_command_the_terminal() {
        let mut report = sample();
        report.base.quantized_as = Some("\u{1b}]52;c;x\u{7}".into());
        report.evaluations[0].candidate.label = "\u{1b}[2J".into();
        let text = table(&report, 100);
        assert!(text.contains("]52;c;x") && !text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
    }

    #[test]
    fn columns_align_and_keep_to_the_width() {
        for width in [80, 100, 200] {
            let text = table(&sample(), width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}:\n{text}");
            let heads: Vec<_> = text.lines().filter(|line| line.contains("same top token")).collect();
            assert_eq!(heads.len(), 1);
        }
    }

    #[test]
    fn values_stand_under_their_heads() {
        let text = table(&sample(), 200);
        let mut lines = text.lines();
        let head = lines.next().unwrap();
        let end = head.find("KL divergence").unwrap() + "KL divergence".len();
        let row: Vec<char> = lines.next().unwrap().chars().collect();
        assert!(row[..end].iter().collect::<String>().ends_with("0.00110 ± 0.00005"), "{text}");
        assert_eq!(row[end..end + 2], [' ', ' '], "{text}");
    }

    #[test]
    fn the_chosen_and_the_quantized_base_are_marked() {
        let text = table(&sample(), 120);
        assert!(text.contains("* Q4_K_M") && text.contains("(base)") && text.contains("Q4_1"), "{text}");
    }

    #[test]
    fn anything_can_be_shown() {
        for report in extreme() {
            for width in [0, 20, 80] {
                assert!(!table(&report, width).is_empty());
            }
        }
    }
}
