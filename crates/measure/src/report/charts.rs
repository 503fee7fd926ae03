//! The report's figures: what a candidate's bytes cost in quality, how fast it runs, what its bytes are.

use super::number;
use super::plot::{Anchor, Scale, Shape, Svg, label_rows, shortened, spread, text_width};
use crate::conclusion::{self, Verdict};
use crate::results::{Category, Divergence, Evaluation, ModelSummary, Report};
use bantam_checkpoint::provenance::Training;

const LABEL: f64 = 12.0; // font size of labels, as in the style sheet

/// One line of the trade-off figure: a category, or the overall mean where there is not just one category.
struct Series<'a> {
    name: &'static str,
    class: String,
    shape: Shape,
    divergence: Vec<Option<&'a Divergence>>,
}

/// The candidates in the order of their bytes, as indices into the report's evaluations.
fn by_size(report: &Report) -> Vec<usize> {
    let mut order: Vec<usize> = (0..report.evaluations.len()).collect();
    order.sort_by_key(|&i| report.evaluations[i].candidate.file_bytes);
    order
}

fn category_shape(category: Category) -> Shape {
    match category {
        Category::Prose => Shape::Circle,
        Category::Chat => Shape::Square,
        Category::Code => Shape::Triangle,
        Category::Math => Shape::Diamond,
        Category::Own => Shape::Plus,
    }
}

/// The divergence of a category in an evaluation, if it was measured.
pub fn of_category(evaluation: &Evaluation, category: Category) -> Option<&Divergence> {
    evaluation.categories.iter().find(|(its, _)| *its == category).map(|(_, divergence)| divergence)
}

/// The categories that occur, in order.
pub fn categories(report: &Report) -> Vec<Category> {
    let mut all: Vec<_> = report.evaluations.iter().flat_map(|e| e.categories.iter().map(|(c, _)| *c)).collect();
    all.sort();
    all.dedup();
    all
}

fn series<'a>(report: &'a Report, order: &[usize]) -> Vec<Series<'a>> {
    let mut all: Vec<Series> = categories(report)
        .into_iter()
        .map(|category| Series {
            name: category.name(),
            class: format!("cat {}", category.name()),
            shape: category_shape(category),
            divergence: order.iter().map(|&i| of_category(&report.evaluations[i], category)).collect(),
        })
        .collect();
    if all.len() != 1 {
        all.push(Series {
            name: "overall",
            class: "cat overall".into(),
            shape: Shape::Circle,
            divergence: order.iter().map(|&i| Some(&report.evaluations[i].overall)).collect(),
        });
    }
    all
}

/// File bytes against mean KL divergence: one line a category, error bars of one standard error, the size limit and the
/// chosen candidate. `width` in pixels; the figure is drawn once for wide and once for narrow screens.
pub fn tradeoff(report: &Report, width: f64) -> String {
    let order = by_size(report);
    let series = series(report, &order);
    let megabytes: Vec<f64> = order.iter().map(|&i| report.evaluations[i].candidate.file_bytes as f64 / 1e6).collect();
    let labels: Vec<String> = order.iter().map(|&i| shortened(&report.evaluations[i].candidate.label, 16)).collect();

    let (left, right) = (52.0, width - 66.0);
    let widths: Vec<f64> = labels.iter().map(|label| text_width(label, LABEL)).collect();
    let x = Scale::linear(size_domain(report, &megabytes), (left + 14.0, right - 14.0));
    let centres: Vec<f64> = megabytes.iter().map(|mb| x.at(*mb)).collect();
    let rows = label_rows(&centres, &widths, left, width);
    let label_height = 16.0 * (1 + rows.iter().map(|(row, _)| *row).max().unwrap_or(0)) as f64;
    let (top, plot_height) = (label_height + 14.0, if width < 500.0 { 300.0 } else { 360.0 });
    let bottom = top + plot_height;
    let y = Scale::log(kl_domain(&series), (bottom, top + 6.0));
    let mut svg = Svg::new(width, bottom + 46.0);

    axes(&mut svg, &x, &y, (left, right), (top, bottom));
    size_limit(&mut svg, report, &x, (left, right), (top, bottom));
    bands(&mut svg, &y, (left, right), (top, bottom));
    let baseline = |row: usize| label_height - 4.0 - 16.0 * row as f64;
    for (((row, _), centre), &i) in rows.iter().zip(&centres).zip(&order) {
        let class = if report.chosen == Some(i) { "guide chosen" } else { "guide" };
        svg.line((*centre, baseline(*row) + 4.0), (*centre, bottom), class);
    }
    for ((row, start), &i) in rows.iter().zip(&order) {
        let label = &report.evaluations[i].candidate.label;
        let class = if report.chosen == Some(i) { "label chosen" } else { "label" };
        svg.text((*start, baseline(*row)), Anchor::Start, class, &shortened(label, 16), label);
    }
    for line in &series {
        let whole = line.name == "overall" || series.len() == 1;
        draw_series(&mut svg, (line, whole), report, &order, &centres, &y, bottom);
    }
    line_names(&mut svg, &series, &y, right, (top, bottom));
    svg.finish("figure", &describe(report, &order))
}

/// From the smallest file to the largest, and to the size limit where it is not far off.
fn size_domain(report: &Report, megabytes: &[f64]) -> (f64, f64) {
    let low = megabytes.iter().copied().fold(f64::INFINITY, f64::min);
    let high = megabytes.iter().copied().fold(0.0, f64::max);
    let (low, high) = if low.is_finite() { (low, high) } else { (0.0, 1.0) };
    match report.fit.map(|fit| fit as f64 / 1e6) {
        Some(fit) if fit >= low * 0.5 && fit <= high * 1.5 => (low.min(fit), high.max(fit)),
        _ => (low, high),
    }
}

/// All finite divergences above zero, with their error bars as far as those stay above half the mean.
fn kl_domain(series: &[Series]) -> (f64, f64) {
    let all = series.iter().flat_map(|line| line.divergence.iter().flatten()).map(|d| d.kl_divergence);
    let usable: Vec<_> = all.filter(|kl| kl.mean.is_finite() && kl.mean > 0.0).collect();
    let se = |kl: &crate::results::Estimate| if kl.se.is_finite() { kl.se } else { 0.0 };
    let low = usable.iter().map(|kl| (kl.mean - se(kl)).max(kl.mean / 2.0)).fold(f64::INFINITY, f64::min);
    let high = usable.iter().map(|kl| kl.mean + se(kl)).fold(0.0, f64::max);
    // Five decades at most: what lies below is drawn on the floor, hollow.
    if usable.is_empty() { (1e-3, 1.0) } else { (low.max(high / 1e5).max(1e-12), high.max(1e-12)) }
}

fn axes(svg: &mut Svg, x: &Scale, y: &Scale, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
    for tick in y.ticks(9) {
        svg.line((left, y.at(tick)), (right, y.at(tick)), "grid");
        svg.text((left - 8.0, y.at(tick) + 4.0), Anchor::End, "tick", &tick_label(tick), "");
    }
    svg.line((left, bottom), (right, bottom), "axis");
    for tick in x.ticks(((right - left) / 62.0) as usize) {
        svg.line((x.at(tick), bottom), (x.at(tick), bottom + 5.0), "axis");
        svg.text((x.at(tick), bottom + 19.0), Anchor::Middle, "tick", &tick_label(tick), "");
    }
    svg.text(((left + right) / 2.0, bottom + 38.0), Anchor::Middle, "axis-name", "file size, MB", "");
    svg.line((left, top), (left, bottom), "axis");
}

/// The bounds of the verdicts, each band's name at its upper right.
fn bands(svg: &mut Svg, y: &Scale, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
    let bounds = [0.0, conclusion::NEGLIGIBLE, conclusion::SMALL, conclusion::NOTICEABLE, conclusion::SEVERE, f64::MAX];
    let verdicts = [Verdict::Negligible, Verdict::Small, Verdict::Noticeable, Verdict::Severe, Verdict::Unusable];
    for (bound, verdict) in bounds.windows(2).zip(verdicts) {
        let (upper, lower) = (y.at(bound[1]).max(top), y.at(bound[0]).min(bottom));
        if upper > top + 6.0 && upper < bottom {
            svg.line((left, upper), (right, upper), "bound");
        }
        if lower - upper > 20.0 {
            svg.text((right - 6.0, upper + 14.0), Anchor::End, "band", verdict.name(), "");
        }
    }
}

fn tick_label(tick: f64) -> String {
    let short = format!("{}", (tick * 1e9).round() / 1e9);
    if short.len() <= 7 { short } else { format!("{tick:.0e}") }
}

fn size_limit(svg: &mut Svg, report: &Report, x: &Scale, (left, right): (f64, f64), (top, bottom): (f64, f64)) {
    let Some(fit) = report.fit else { return };
    let (at, name) = (x.at(fit as f64 / 1e6), format!("size limit {}", number::bytes(fit)));
    let inside = x.contains(fit as f64 / 1e6);
    if inside {
        svg.rect((at, top), (right - at, bottom - top), "beyond", "", "larger than the size limit");
        svg.line((at, top), (at, bottom), "limit");
    }
    let all_too_large = !inside && report.evaluations.iter().all(|e| e.candidate.file_bytes > fit);
    let (anchor, at, name) = match inside {
        true if at - 6.0 - text_width(&name, LABEL) < left => (Anchor::Start, at + 6.0, name),
        true => (Anchor::End, at - 6.0, name),
        false if all_too_large => (Anchor::Start, left + 6.0, format!("← {name}, far to the left")),
        false => (Anchor::End, right - 6.0, format!("{name}, far to the right →")),
    };
    svg.text((at, bottom - 8.0), anchor, "limit-name", &name, "");
}

fn draw_series(
    svg: &mut Svg,
    (line, whole): (&Series, bool),
    report: &Report,
    order: &[usize],
    centres: &[f64],
    y: &Scale,
    bottom: f64,
) {
    svg.open_group(&line.class);
    let finite = |d: &Divergence| d.kl_divergence.mean.is_finite();
    // What learned in one way is a curve by itself: between a student and its beginning there is none.
    let mut ways: Vec<(bool, &str)> = order.iter().map(|&i| way(&report.evaluations[i])).collect();
    let points = |of: (bool, &str)| -> Vec<_> {
        let all = centres.iter().zip(&line.divergence).zip(order);
        let those = all.filter(|(_, i)| way(&report.evaluations[**i]) == of);
        those.filter_map(|((&x, d), _)| d.filter(|d| finite(d)).map(|d| (x, y.at(d.kl_divergence.mean)))).collect()
    };
    ways.sort_unstable();
    ways.dedup();
    ways.into_iter().for_each(|of| svg.polyline(&points(of), "line"));
    for ((&x, divergence), &i) in centres.iter().zip(&line.divergence).zip(order) {
        let Some(divergence) = divergence else { continue };
        let kl = divergence.kl_divergence;
        let label = &report.evaluations[i].candidate.label;
        let title = format!("{label}, {}: KL divergence {} nats per token", line.name, number::estimate(kl));
        if !kl.mean.is_finite() {
            svg.text((x, y.at(f64::INFINITY) + 4.0), Anchor::Middle, "mark", "×", &title);
            continue;
        }
        let at = y.at(kl.mean);
        if y.contains(kl.mean) && kl.se > 0.0 {
            svg.line((x, y.at(kl.mean - kl.se)), (x, y.at(kl.mean + kl.se)), "error");
        }
        let class = if y.contains(kl.mean) { "mark" } else { "mark floor" };
        if report.chosen == Some(i) && whole {
            svg.mark(Shape::Circle, (x, at), 9.0, "ring", &title);
        }
        svg.mark(line.shape, (x, at.min(bottom)), 4.2, class, &title);
    }
    svg.close_group();
}

/// Whether a candidate began at random, and how it learned last, if it did. (Training its scales is a part of being quantized.)
fn way(evaluation: &Evaluation) -> (bool, &str) {
    let at_random = evaluation.made_by.iter().any(|step| step.starts_with("random weights"));
    let mut learned = evaluation.candidate.training.iter().map(|(step, _)| &step[..]);
    (at_random, learned.rfind(|step| *step != "tune").unwrap_or(""))
}

/// The lines' names at their right ends, kept apart.
fn line_names(svg: &mut Svg, series: &[Series], y: &Scale, right: f64, (top, bottom): (f64, f64)) {
    let last = |line: &Series| {
        let finite = line.divergence.iter().flatten().rev().find(|d| d.kl_divergence.mean.is_finite());
        finite.map_or(bottom, |d| y.at(d.kl_divergence.mean))
    };
    let ends: Vec<f64> = series.iter().map(last).collect();
    for (line, at) in series.iter().zip(spread(&ends, 15.0, top + 4.0, bottom - 2.0)) {
        svg.open_group(&line.class);
        svg.mark(line.shape, (right + 5.0, at), 3.6, "mark", "");
        svg.text((right + 13.0, at + 4.0), Anchor::Start, "series-name", line.name, "");
        svg.close_group();
    }
}

fn describe(report: &Report, order: &[usize]) -> String {
    let points: Vec<_> = order
        .iter()
        .map(|&i| {
            let evaluation = &report.evaluations[i];
            let size = number::bytes(evaluation.candidate.file_bytes);
            let kl = number::estimate(evaluation.overall.kl_divergence);
            format!("{} {size}, KL divergence {kl}", evaluation.candidate.label)
        })
        .collect();
    format!("Mean KL divergence against file size. {}. All values are in the table below.", points.join("; "))
}

/// A bar of [`bars`].
pub struct Bar {
    /// The model's label.
    pub label: String,
    /// How long the bar is; none where it was not measured.
    pub value: Option<f64>,
    /// The value in words.
    pub text: String,
    /// `base`, `chosen` or nothing.
    pub class: &'static str,
}

/// Horizontal bars from zero, one a model, each under its label: as readable at 320 pixels as at 1,000.
pub fn bars(label: &str, bars: &[Bar]) -> String {
    const ROW: f64 = 34.0;
    let (width, left) = (320.0, 1.0);
    let most = bars.iter().filter_map(|bar| bar.value).filter(|value| value.is_finite()).fold(0.0, f64::max);
    let x = Scale::linear((0.0, if most > 0.0 { most } else { 1.0 }), (0.0, width - 2.0));
    let mut svg = Svg::new(width, ROW * bars.len() as f64 + 2.0);
    for (row, bar) in bars.iter().enumerate() {
        let top = ROW * row as f64;
        svg.open_group(bar.class);
        svg.text((left, top + 14.0), Anchor::Start, "label", &shortened(&bar.label, 26), &bar.label);
        svg.text((width - 1.0, top + 14.0), Anchor::End, "value", &bar.text, "");
        svg.rect((left, top + 20.0), (width - 2.0, 7.0), "track", "", "");
        if let Some(value) = bar.value.filter(|value| value.is_finite()) {
            svg.rect(
                (left, top + 20.0),
                (x.at(value).max(1.0), 7.0),
                "bar",
                "",
                &format!("{}: {}", bar.label, bar.text),
            );
        }
        svg.close_group();
    }
    let words: Vec<_> = bars.iter().map(|bar| format!("{} {}", bar.label, bar.text)).collect();
    svg.finish("bars", &format!("{label}: {}", words.join("; ")))
}

/// The loss of a training run over its tokens: steps' means faint, their smoothed course strong.
pub fn losses(label: &str, step: &str, training: &Training) -> String {
    let (left, right, top, bottom) = (44.0, 318.0, 8.0, 150.0);
    let losses: Vec<f64> =
        training.losses.iter().map(|&loss| loss.into()).filter(|loss: &f64| loss.is_finite()).collect();
    let smooth = smoothed(&losses);
    // A few wild steps at the beginning must not press the rest flat.
    let high = smooth.iter().copied().fold(0.0, f64::max);
    let low = losses.iter().copied().fold(f64::INFINITY, f64::min).min(high);
    let x = Scale::linear((0.0, training.tokens as f64), (left, right));
    let y = Scale::linear((low, high), (bottom, top));
    let mut svg = Svg::new(320.0, bottom + 38.0);
    for tick in y.ticks(5) {
        svg.line((left, y.at(tick)), (right, y.at(tick)), "grid");
        svg.text((left - 6.0, y.at(tick) + 4.0), Anchor::End, "tick", &tick_label(tick), "");
    }
    svg.line((left, bottom), (right, bottom), "axis");
    for tick in x.ticks(4) {
        svg.text((x.at(tick), bottom + 17.0), Anchor::Middle, "tick", &number::count(tick as u64), "");
    }
    svg.text(((left + right) / 2.0, bottom + 33.0), Anchor::Middle, "axis-name", "tokens", "");
    let tokens = |i: usize| training.tokens as f64 * (i + 1) as f64 / losses.len() as f64;
    let points =
        |values: &[f64]| values.iter().enumerate().map(|(i, &v)| (x.at(tokens(i)), y.at(v))).collect::<Vec<_>>();
    svg.polyline(&points(&losses), "loss faint");
    svg.polyline(&points(&smooth), "loss");
    let ends = smooth.first().zip(smooth.last()).map_or(String::new(), |(first, last)| {
        format!(" from {} to {}", number::significant(*first), number::significant(*last))
    });
    svg.finish("losses", &format!("Loss of {label} in {step}{ends}"))
}

/// The mean of each value and its neighbours, a twentieth of all.
fn smoothed(values: &[f64]) -> Vec<f64> {
    let reach = values.len() / 40;
    let around = |i: usize| &values[i.saturating_sub(reach)..values.len().min(i + reach + 1)];
    (0..values.len()).map(|i| around(i).iter().sum::<f64>() / around(i).len() as f64).collect()
}

/// The number formats that occur in the base or a candidate, narrowest first.
pub fn formats(report: &Report) -> Vec<String> {
    let models = std::iter::once(&report.base).chain(report.evaluations.iter().map(|e| &e.candidate));
    let mut names: Vec<String> = models.flat_map(|m| m.bytes_by_format.iter().map(|(name, _)| name.clone())).collect();
    names.sort_by_key(|name| (bits_in_name(name), name.clone()));
    names.dedup();
    names
}

/// The first number in a format's name: its bits, as ggml names them.
fn bits_in_name(name: &str) -> u32 {
    let digits = name.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap_or(u32::MAX)
}

/// A fill along the page's ramp from narrow to wide formats.
pub fn format_fill(index: usize, of: usize) -> String {
    let share = if of > 1 { 100 * index / (of - 1) } else { 50 };
    let colour = format!("color-mix(in oklch,var(--wide) {share}%,var(--narrow))");
    format!("fill:{colour};background:{colour}")
}

/// Each model's tensor bytes by number format, as stacked bars on one scale.
pub fn stacked(report: &Report, width: f64) -> String {
    const ROW: f64 = 46.0;
    let formats = formats(report);
    let mut models = vec![(&report.base, "base")];
    models.extend(
        report
            .evaluations
            .iter()
            .enumerate()
            .map(|(i, e)| (&e.candidate, if report.chosen == Some(i) { "chosen" } else { "" })),
    );
    let total = |m: &ModelSummary| m.bytes_by_format.iter().map(|(_, bytes)| *bytes as f64).sum::<f64>();
    let most = models.iter().map(|(m, _)| total(m)).fold(1.0, f64::max);
    let x = Scale::linear((0.0, most), (0.0, width - 2.0));
    let mut svg = Svg::new(width, ROW * models.len() as f64 + 2.0);
    for (row, (model, class)) in models.iter().enumerate() {
        let top = ROW * row as f64;
        let name = if *class == "base" { format!("{} (base)", model.label) } else { model.label.clone() };
        let limit = if width < 500.0 { 24 } else { 60 };
        svg.open_group(class);
        svg.text((1.0, top + 14.0), Anchor::Start, "label", &shortened(&name, limit), &name);
        let text = format!("{} bits per weight", number::significant(model.bits_per_weight));
        svg.text((width - 1.0, top + 14.0), Anchor::End, "value", &text, "");
        segments(&mut svg, model, &formats, &x, top + 20.0);
        svg.close_group();
    }
    svg.finish("stacked", "Tensor bytes of each model by number format; the table of sizes has the totals.")
}

fn segments(svg: &mut Svg, model: &ModelSummary, formats: &[String], x: &Scale, top: f64) {
    let mut before = 0.0;
    for (index, format) in formats.iter().enumerate() {
        let bytes: u64 = model.bytes_by_format.iter().filter(|(name, _)| name == format).map(|(_, bytes)| *bytes).sum();
        if bytes == 0 {
            continue;
        }
        let (start, end) = (1.0 + x.at(before), 1.0 + x.at(before + bytes as f64));
        before += bytes as f64;
        let title = format!("{}: {format} {}", model.label, number::bytes(bytes));
        svg.rect((start, top), (end - start, 18.0), "segment", &format_fill(index, formats.len()), &title);
        if text_width(format, LABEL) + 10.0 < end - start {
            let class = if 5 * index >= 2 * formats.len() { "segment-name on-wide" } else { "segment-name on-narrow" };
            svg.text(((start + end) / 2.0, top + 13.0), Anchor::Middle, class, format, "");
        }
    }
}
