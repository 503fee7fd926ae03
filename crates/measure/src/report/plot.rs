//! A small SVG plotter: scales, ticks, marks and labels that keep out of each other's way.
//!
//! Colours and line widths are the page's style sheet's business (classes), so that one drawing serves light, dark and
//! print. Every mark carries a `<title>`, which browsers show on hover.

use std::fmt::Write;

/// A mapping from data to pixels.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    domain: (f64, f64),
    range: (f64, f64),
    log: bool,
}

impl Scale {
    /// A linear scale; an empty domain is widened by a tenth on both sides.
    pub fn linear(domain: (f64, f64), range: (f64, f64)) -> Self {
        let (low, high) = domain;
        let pad = if high > low { 0.0 } else { (low.abs() * 0.1).max(1.0) };
        Scale { domain: (low - pad, high + pad), range, log: false }
    }

    /// A logarithmic scale of a positive domain, widened to at least a factor of four.
    pub fn log(domain: (f64, f64), range: (f64, f64)) -> Self {
        let (low, high) = domain;
        let pad = (4.0 / (high / low)).max(1.0).sqrt();
        Scale { domain: (low / pad, high * pad), range, log: true }
    }

    /// Where a value lies; values outside the domain lie on its nearer end.
    pub fn at(&self, value: f64) -> f64 {
        let (low, high) = self.domain;
        let share = if self.log { (value / low).ln() / (high / low).ln() } else { (value - low) / (high - low) };
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self.range.0 + share * (self.range.1 - self.range.0)
    }

    /// Whether a value lies in the domain.
    pub fn contains(&self, value: f64) -> bool {
        self.domain.0 <= value && value <= self.domain.1
    }

    /// Round values inside the domain, about `wanted` of them.
    pub fn ticks(&self, wanted: usize) -> Vec<f64> {
        let (low, high) = self.domain;
        if self.log { log_ticks(low, high, wanted) } else { linear_ticks(low, high, wanted) }
    }
}

fn linear_ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let rough = (high - low) / wanted.max(1) as f64;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|m| m * power).find(|step| *step >= rough * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let first = (low / step).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of ten, with as many round multiples between them as there is room for.
fn log_ticks(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let decades = (low.log10().floor() as i32)..=(high.log10().ceil() as i32);
    let ticks = |multiples: &[f64]| -> Vec<f64> {
        let all = decades.clone().flat_map(|d| multiples.iter().map(move |m| m * 10f64.powi(d)));
        all.filter(|tick| (low * 0.999..=high * 1.001).contains(tick)).collect()
    };
    [&[1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0][..], &[1.0, 2.0, 5.0], &[1.0, 3.0], &[1.0]]
        .into_iter()
        .map(ticks)
        .find(|ticks| ticks.len() <= wanted)
        .unwrap_or_else(|| ticks(&[1.0]))
}

/// The shape of a mark: categories differ in shape too, for those who see no difference in colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A disc.
    Circle,
    /// A square.
    Square,
    /// A triangle pointing up.
    Triangle,
    /// A square on its corner.
    Diamond,
    /// A plus sign.
    Plus,
}

/// Where a text is anchored.
#[derive(Clone, Copy, Debug)]
pub enum Anchor {
    /// Its left end.
    Start,
    /// Its middle.
    Middle,
    /// Its right end.
    End,
}

/// A drawing in the making.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

impl Svg {
    /// An empty drawing of that many pixels.
    pub fn new(width: f64, height: f64) -> Self {
        Svg { width, height, body: String::new() }
    }

    /// A straight line.
    pub fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.push(format_args!(r#"<line class="{class}" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#));
    }

    /// A line through points.
    pub fn polyline(&mut self, points: &[(f64, f64)], class: &str) {
        let points: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        self.push(format_args!(r#"<polyline class="{class}" points="{}"/>"#, points.join(" ")));
    }

    /// A rectangle; `style` may give it a fill of its own.
    pub fn rect(&mut self, corner: (f64, f64), size: (f64, f64), class: &str, style: &str, title: &str) {
        let ((x, y), (w, h)) = (corner, (size.0.max(0.0), size.1.max(0.0)));
        let style = if style.is_empty() { String::new() } else { format!(r#" style="{style}""#) };
        self.push(format_args!(
            r#"<rect class="{class}"{style} x="{x:.1}" y="{y:.1}" width="{w:.1}" height="{h:.1}">{}</rect>"#,
            title_element(title)
        ));
    }

    /// A text; everything in it is escaped.
    pub fn text(&mut self, at: (f64, f64), anchor: Anchor, class: &str, text: &str, title: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let (x, y) = at;
        self.push(format_args!(
            r#"<text class="{class}" x="{x:.1}" y="{y:.1}" text-anchor="{anchor}">{}{}</text>"#,
            escape(text),
            title_element(title)
        ));
    }

    /// A mark of a shape, about `2 * radius` wide.
    pub fn mark(&mut self, shape: Shape, at: (f64, f64), radius: f64, class: &str, title: &str) {
        let ((x, y), r, title) = (at, radius, title_element(title));
        let path = match shape {
            Shape::Circle => {
                return self.push(format_args!(
                    r#"<circle class="{class}" cx="{x:.1}" cy="{y:.1}" r="{r:.1}">{title}</circle>"#
                ));
            }
            Shape::Square => polygon(x, y, r * 0.9, &[(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]),
            Shape::Triangle => polygon(x, y, r * 1.15, &[(0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)]),
            Shape::Diamond => polygon(x, y, r * 1.25, &[(0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)]),
            Shape::Plus => {
                let a = 0.4;
                let corners = [(-a, -1.0), (a, -1.0), (a, -a), (1.0, -a), (1.0, a), (a, a)];
                let rest = [(a, 1.0), (-a, 1.0), (-a, a), (-1.0, a), (-1.0, -a), (-a, -a)];
                polygon(x, y, r * 1.15, &[corners, rest].concat())
            }
        };
        self.push(format_args!(r#"<path class="{class}" d="{path}">{title}</path>"#));
    }

    /// Opens a group, which `close_group` ends.
    pub fn open_group(&mut self, class: &str) {
        self.push(format_args!(r#"<g class="{class}">"#));
    }

    /// Ends the last group.
    pub fn close_group(&mut self) {
        self.push(format_args!("</g>"));
    }

    /// The whole element. `label` says in words what it shows, for those who cannot see it.
    pub fn finish(self, class: &str, label: &str) -> String {
        format!(
            r#"<svg class="{class}" viewBox="0 0 {:.0} {:.0}" width="{:.0}" height="{:.0}" role="img" aria-label="{}">{}</svg>"#,
            self.width,
            self.height,
            self.width,
            self.height,
            escape(label),
            self.body
        )
    }

    fn push(&mut self, element: std::fmt::Arguments) {
        self.body.write_fmt(element).expect("a String takes everything");
    }
}

fn polygon(x: f64, y: f64, r: f64, corners: &[(f64, f64)]) -> String {
    let points: Vec<_> = corners.iter().map(|(dx, dy)| format!("{:.1} {:.1}", x + r * dx, y + r * dy)).collect();
    format!("M{}Z", points.join("L"))
}

fn title_element(title: &str) -> String {
    if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) }
}

/// Text as XML; control characters, which XML does not know, become spaces.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && c != '\n' => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}

/// About how wide a text is set in the page's sans-serif, in pixels.
pub fn text_width(text: &str, font_size: f64) -> f64 {
    0.58 * font_size * text.chars().count() as f64
}

/// The text in at most `limit` characters: its beginning and its end, where names mostly differ, around an ellipsis.
pub fn shortened(text: &str, limit: usize) -> String {
    let length = text.chars().count();
    if length <= limit {
        return text.into();
    }
    let end = limit.saturating_sub(1) / 2;
    let start = limit.saturating_sub(1) - end;
    text.chars().take(start).chain(['…']).chain(text.chars().skip(length - end)).collect()
}

/// Rows for labels centred on `centres` (ascending) such that none overlaps another in its row: the row and the left
/// end of each. Labels stay between `left` and `right`.
pub fn label_rows(centres: &[f64], widths: &[f64], left: f64, right: f64) -> Vec<(usize, f64)> {
    const GAP: f64 = 8.0;
    let mut ends: Vec<f64> = Vec::new();
    let place = |(&centre, &width): (&f64, &f64)| {
        let start = (centre - width / 2.0).min(right - width).max(left);
        let row = ends.iter().position(|end| end + GAP <= start).unwrap_or(ends.len());
        if row == ends.len() {
            ends.push(0.0);
        }
        ends[row] = start + width;
        (row, start)
    };
    centres.iter().zip(widths).map(place).collect()
}

/// Moves positions apart until neighbours are `gap` apart, each as little as a single pass down and up allows, inside
/// `low` to `high`. The result is in the order given.
pub fn spread(positions: &[f64], gap: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..positions.len()).collect();
    order.sort_by(|&a, &b| positions[a].total_cmp(&positions[b]));
    let mut placed = positions.to_vec();
    let mut floor = low;
    for &i in &order {
        placed[i] = placed[i].max(floor);
        floor = placed[i] + gap;
    }
    let mut ceiling = high;
    for &i in order.iter().rev() {
        placed[i] = placed[i].min(ceiling);
        ceiling = placed[i] - gap;
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_map_ends_to_ends_and_clamp() {
        let y = Scale::log((0.001, 1.0), (300.0, 0.0));
        assert_eq!((y.at(0.001), y.at(1.0)), (300.0, 0.0));
        assert!((y.at(0.031_622_776_6) - 150.0).abs() < 1e-6);
        assert_eq!((y.at(0.0), y.at(f64::NAN), y.at(f64::INFINITY)), (300.0, 300.0, 0.0));
        let x = Scale::linear((5.0, 5.0), (0.0, 100.0));
        assert_eq!(x.at(5.0), 50.0);
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Scale::linear((83.0, 151.0), (0.0, 1.0)).ticks(6), [100.0, 120.0, 140.0]);
        let ticks = Scale::log((0.002, 0.6), (0.0, 1.0)).ticks(6);
        assert_eq!(ticks.len(), 5, "{ticks:?}");
        assert_eq!(Scale::log((1e-6, 10.0), (0.0, 1.0)).ticks(8).len(), 8);
        assert!(Scale::log((0.1, 0.1), (0.0, 1.0)).ticks(6).len() >= 2);
    }

    #[test]
    fn labels_in_a_row_do_not_overlap() {
        let centres = [50.0, 55.0, 60.0, 200.0, 390.0];
        let widths = [60.0, 60.0, 60.0, 60.0, 60.0];
        let placed = label_rows(&centres, &widths, 0.0, 400.0);
        assert_eq!(placed.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [0, 1, 2, 0, 0]);
        assert_eq!(placed[4].1, 340.0);
    }

    #[test]
    fn spread_labels_keep_their_order_and_distance() {
        let placed = spread(&[100.0, 98.0, 20.0], 15.0, 0.0, 105.0);
        assert!(placed[0] - placed[1] >= 15.0 && placed[0] <= 105.0 && placed[2] == 20.0, "{placed:?}");
    }

    #[test]
    fn shortened_names_keep_both_ends() {
        assert_eq!(shortened("Q4_K_M", 6), "Q4_K_M");
        assert_eq!(shortened("qwen2.5-coder-Q4_K_M", 12), "qwen2.…4_K_M");
        assert_eq!(shortened("ab", 1), "…");
    }

    #[test]
    fn escapes_everything_that_could_leave_the_text() {
        assert_eq!(escape("<b a='\"'>&\u{7}"), "&lt;b a=&#39;&quot;&#39;&gt;&amp; ");
    }
}
