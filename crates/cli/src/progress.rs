//! Progress bars with rate and time left, on standard error.

use crate::{args::Global, output};
use bantam_measure::progress::Progress;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};
use std::cell::RefCell;
use std::fmt::Write;

/// A bar over `total` units of work, such as `weights` or `tokens`. Hidden with `--quiet` and where standard error is no terminal.
pub fn bar(global: &Global, label: &str, total: u64, unit: &str) -> ProgressBar {
    let unit = unit.to_owned();
    let target = if global.quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(total), target);
    let style = ProgressStyle::with_template("{prefix:<22} {bar:28} {percent:>3}%  {rate:>16}  {eta:>5} left  {msg}")
        .expect("the template is sound")
        .with_key("rate", move |state: &ProgressState, out: &mut dyn Write| {
            let _ = write!(out, "{}{unit}/s", short(state.per_sec()));
        });
    bar.set_style(style);
    bar.set_prefix(label.to_owned());
    bar
}

/// A number with a metric prefix and a space: `12.3 M`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.1} G", v / 1e9),
        v if v >= 1e6 => format!("{:.1} M", v / 1e6),
        v if v >= 1e4 => format!("{:.1} k", v / 1e3),
        v => format!("{v:.0} "),
    }
}

/// Shows a measurement's activities, one bar after the other.
pub struct Bars<'g> {
    global: &'g Global,
    /// What the bars are about: a file or a level.
    subject: String,
    current: RefCell<Option<(String, ProgressBar)>>,
}

impl<'g> Bars<'g> {
    /// Bars about `subject`.
    pub fn new(global: &'g Global, subject: impl Into<String>) -> Self {
        Bars { global, subject: subject.into(), current: RefCell::default() }
    }
}

impl Progress for Bars<'_> {
    fn update(&self, activity: &str, done: usize, total: usize, unit: &str) {
        let mut current = self.current.borrow_mut();
        if current.as_ref().is_none_or(|(shown, _)| shown != activity) {
            if let Some((_, bar)) = current.take() {
                bar.finish_and_clear();
            }
            let label = format!("{} {activity}", self.subject);
            *current = Some((activity.to_owned(), bar(self.global, &label, total as u64, unit)));
        }
        if let Some((_, bar)) = current.as_ref() {
            bar.set_position(done as u64);
            if done >= total {
                bar.finish_and_clear();
            }
        }
    }

    fn note(&self, note: &str) {
        if !self.global.quiet {
            output::say(format_args!("note: {note}"));
        }
    }
}
