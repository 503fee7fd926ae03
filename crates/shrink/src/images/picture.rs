//! What a teacher knows beside the right answer, as a picture.

use super::Images;
use bantam_nn::train::softmax;
use std::fmt::Write;

/// Grey levels of a drawn image.
const LEVELS: usize = 8;

/// Pixels that a value of an image is wide.
const PIXEL: f64 = 2.0;

/// The image of each class that the network recognizes with most doubt, and how it divides its belief between the classes at
/// a temperature: an SVG. `logits` are `[images, classes]`.
pub fn soft_labels(images: &Images, logits: &[f32], temperature: f32) -> String {
    let classes = logits.len() / images.len().max(1);
    let chosen: Vec<usize> = (0..classes as u8).filter_map(|class| doubtful(images, logits, class)).collect();
    let image = PIXEL * images.width as f64;
    let (bar, height) = (18.0, PIXEL * images.height as f64);
    let (cell, row) = (image + 24.0 + bar * classes as f64 + 30.0, height + 34.0);
    let rows = chosen.len().div_ceil(2);
    let (width, total) = (2.0 * cell - 30.0, row * rows as f64);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {total}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"11\" text-anchor=\"middle\">\n\
         <rect width=\"{width}\" height=\"{total}\" fill=\"#fff\"/>\n"
    );
    for (i, &at) in chosen.iter().enumerate() {
        let mut belief = logits[at * classes..(at + 1) * classes].to_vec();
        softmax(&mut belief, temperature);
        let _ = writeln!(svg, "<g transform=\"translate({} {})\">", cell * (i % 2) as f64, row * (i / 2) as f64 + 6.0);
        draw_image(&mut svg, images, at);
        draw_bars(&mut svg, &belief, (image + 24.0, bar, height), usize::from(images.labels[at]));
        svg.push_str("</g>\n");
    }
    svg + "</svg>\n"
}

/// The image of a class that is recognized, but with the largest probability of another class.
fn doubtful(images: &Images, logits: &[f32], class: u8) -> Option<usize> {
    let classes = logits.len() / images.len().max(1);
    let margin = |i: usize| {
        let row = &logits[i * classes..(i + 1) * classes];
        let others = row.iter().enumerate().filter(|(c, _)| *c != usize::from(class)).map(|(_, &z)| z);
        row[usize::from(class)] - others.fold(f32::NEG_INFINITY, f32::max)
    };
    let of_class = (0..images.len()).filter(|&i| images.labels[i] == class && margin(i) > 0.0);
    of_class.min_by(|&a, &b| margin(a).total_cmp(&margin(b)))
}

/// Runs of equal grey, one path a level.
fn draw_image(svg: &mut String, images: &Images, at: usize) {
    let level = |value: f32| (value * LEVELS as f32).round() as usize;
    let mut paths = vec![String::new(); LEVELS + 1];
    for (y, line) in images.image(at).chunks(images.width).enumerate() {
        let mut x = 0;
        for run in line.chunk_by(|a, b| level(*a) == level(*b)) {
            let _ = write!(paths[level(run[0])], "M{x} {y}h{}v1h-{}z", run.len(), run.len());
            x += run.len();
        }
    }
    for (level, path) in paths.iter().enumerate().skip(1).filter(|(_, path)| !path.is_empty()) {
        let grey = 255 - 255 * level / LEVELS;
        let fill = format!("#{grey:02x}{grey:02x}{grey:02x}");
        let _ = writeln!(svg, "<path transform=\"scale({PIXEL})\" fill=\"{fill}\" d=\"{path}\"/>");
    }
}

/// A bar for each class with its percentage above and its number below, the right one darker.
fn draw_bars(svg: &mut String, belief: &[f32], (left, width, height): (f64, f64, f64), right: usize) {
    let most = belief.iter().copied().fold(0.0, f32::max);
    for (class, &share) in belief.iter().enumerate() {
        let (x, tall) = (left + width * class as f64, (height - 12.0) * f64::from(share / most));
        let fill = if class == right { "#1f4e79" } else { "#e08a1e" };
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{fill}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" font-size=\"8\">{:.0}</text><text x=\"{:.1}\" y=\"{:.1}\">{class}</text>",
            height - tall,
            width - 3.0,
            x + width / 2.0 - 1.5,
            height - tall - 2.0,
            share * 100.0,
            x + width / 2.0 - 1.5,
            height + 13.0,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_doubtful_image_of_each_class_is_drawn() {
        let images = Images {
            pixels: [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]].concat(),
            labels: vec![0, 0, 1],
            height: 1,
            width: 2,
        };
        let logits = [5.0, 0.0, 1.0, 0.5, 3.0, 1.0];
        assert_eq!((doubtful(&images, &logits, 0), doubtful(&images, &logits, 1)), (Some(1), None));
        let svg = soft_labels(&images, &logits, 1.0);
        assert_eq!(svg.matches("<rect").count(), 1 + 2, "a ground and two bars: {svg}");
        assert!(svg.contains(">62<") && svg.contains(">38<"), "{svg}");
    }
}
