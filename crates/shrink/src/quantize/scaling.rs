//! Channel scaling (AWQ: Lin et al. 2023), for rounding with error feedback.
//!
//! Weights that share a scale are rounded in steps of one size. Where the columns of channels whose errors count most are made larger, and the
//! channels smaller by as much (`channels.rs` says where), steps are smaller beside them. What counts is not how large a channel is
//! but what remains of its errors when later weights have made up for them: `D` of `gptq.rs`. If the size of a step is that of all weights which
//! share it, in the mean square, factors are best that are the root of `√D` over the size of the channel's weights; if it is that of the largest
//! weight alone, smaller powers are. The power is tried input by input: what has the least error on the formats' own grids stays, and
//! nothing is scaled where none helps.

use super::channels::{Maker, center};
use super::gptq::Feedback;
use bantam_formats::Format;

/// Powers that are tried.
pub(crate) const POWERS: [f32; 5] = [0.1, 0.2, 0.3, 0.4, 0.5];

/// A layer of those that see one input: some of its rows, and the format that it is rounded to.
pub(super) struct Sampled {
    pub rows: Vec<f32>,
    pub format: &'static Format,
}

/// Scales the columns that `feedback` rounds if that makes errors of these layers smaller, whose input `maker` makes. Returns the factors.
pub(super) fn scale(layers: &[Sampled], maker: &Maker, feedback: &mut Feedback) -> Option<Vec<f32>> {
    // Layers whose outputs differ in size count alike. What is on the grid already has no errors to speak of, and is not moved away from it.
    let error = |feedback: &Feedback| -> f64 {
        let rounded = layers.iter().filter(|layer| layer.format.grid.is_some());
        rounded.map(|layer| feedback.error(&layer.rows, layer.format, feedback.moments()).ln()).sum()
    };
    let counts = counts(layers, feedback.left());
    let (mut least, mut best) = (error(feedback), None);
    for power in POWERS {
        let mut factors: Vec<f32> = counts.iter().map(|count| count.powf(power / 2.0)).collect();
        maker.even(&mut factors);
        center(&mut factors);
        feedback.scale(factors.clone());
        let error = error(feedback);
        if error < least {
            (least, best) = (error, Some(factors));
        }
    }
    feedback.scale(best.clone().unwrap_or_else(|| vec![1.0; counts.len()]));
    best
}

/// What errors of each channel count beside the mean square of its weights, of which each layer's sum to one.
fn counts(layers: &[Sampled], left: &[f32]) -> Vec<f32> {
    /// Channels without weights need no factor; this keeps theirs finite.
    const LEAST: f32 = 1e-4;
    let cols = left.len();
    let mut squares = vec![0.0; cols];
    for Sampled { rows, .. } in layers {
        let share = cols as f32 / rows.iter().map(|w| w * w).sum::<f32>().max(f32::MIN_POSITIVE);
        for row in rows.chunks_exact(cols) {
            squares.iter_mut().zip(row).for_each(|(square, w)| *square += share * w * w);
        }
    }
    left.iter().zip(&squares).map(|(left, squares)| left / (squares / layers.len() as f32).max(LEAST)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::Moments;
    use bantam_nn::random::SplitMix64;

    const COLS: usize = 256;
    const ROWS: usize = 64;

    const MAKER: Maker = Maker { tensors: Vec::new(), heads: None };

    /// Inputs, of whose channels every fourth is so many times as large as the others.
    fn feedback(times: f32) -> Feedback {
        let mut random = SplitMix64::new(5);
        let size = |i: usize| if i.is_multiple_of(4) { times } else { 1.0 };
        let x: Vec<f32> = (0..4 * COLS * COLS).map(|i| size(i % COLS) * random.normal() as f32).collect();
        let mut moments = Moments::new(COLS);
        moments.add(&x);
        Feedback::of(&moments, 0)
    }

    fn layer(name: &str) -> Sampled {
        let mut random = SplitMix64::new(6);
        let rows = (0..ROWS * COLS).map(|_| random.normal() as f32).collect();
        Sampled { rows, format: Format::by_name(name).unwrap() }
    }

    #[test]
    fn channels_whose_errors_count_more_are_made_larger() {
        for name in ["Q4_0", "Q4_K", "IQ4_NL"] {
            let (layers, mut feedback) = ([layer(name)], feedback(8.0));
            let error = |feedback: &Feedback| feedback.error(&layers[0].rows, layers[0].format, feedback.moments());
            let before = error(&feedback);
            let factors = scale(&layers, &MAKER, &mut feedback).expect("it helps");
            assert!(factors.iter().enumerate().all(|(i, &f)| (f > 1.0) == i.is_multiple_of(4)), "{factors:?}");
            assert!(error(&feedback) < 0.9 * before, "{name}: {} after {before}", error(&feedback));
        }
    }

    #[test]
    fn what_does_not_help_is_left() {
        // Weights that are on the grid, and a format that is none.
        let (mut layers, mut feedback) = ([layer("Q4_0")], feedback(8.0));
        let mut blocks = vec![0; ROWS * layers[0].format.bytes_of(COLS).unwrap()];
        layers[0].format.encode_rows(COLS, &layers[0].rows, None, &mut blocks);
        (layers[0].format.decode)(&blocks, &mut layers[0].rows);
        assert_eq!(scale(&layers, &MAKER, &mut feedback), None);
        assert!(feedback.error(&layers[0].rows, layers[0].format, feedback.moments()) < 1e-2);
        layers[0].format = Format::f16();
        assert_eq!(scale(&layers, &MAKER, &mut feedback), None);
    }
}
