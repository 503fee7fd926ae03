//! The error that rounding a tensor makes of its layer's output.

use crate::calibrate::Moments;
use crate::quantize::{Feedback, spread};
use crate::widen::Origin;
use bantam_formats::Format;
use rayon::prelude::*;

/// Rounding with error feedback, for layers that see the same inputs.
pub(super) struct Rounding {
    cols: usize,
    feedback: Feedback,
    /// The mean of `x xᵀ` over other text, `[cols, cols]`.
    h: Vec<f32>,
}

impl Rounding {
    /// By inputs of these moments, judged by those of other text: on the text that errors are fed back by they look smaller than they are,
    /// several times with more channels than tokens. Nothing is gone over again: that takes about a tenth off the errors of all formats, and
    /// its time with each of them.
    pub fn of(moments: &Moments, held_out: &Moments) -> Self {
        Self { cols: moments.cols(), feedback: Feedback::of(moments, 0), h: held_out.mean() }
    }

    /// For what sees no inputs: all columns count alike.
    pub fn alike(cols: usize) -> Self {
        let mut moments = Moments::new(cols);
        let mut identity = vec![0.0; cols * cols];
        identity.iter_mut().step_by(cols + 1).for_each(|d| *d = 1.0);
        moments.add(&identity);
        Self::of(&moments, &moments)
    }

    /// The same for layers that see more channels, which are always zero.
    pub fn spread(&self, origin: &Origin) -> Self {
        let h = spread(&self.h, self.cols, origin);
        Self { cols: origin.len(), feedback: self.feedback.spread(origin), h }
    }

    /// Weights `[rows, cols]` as `format` holds them, decoded.
    pub fn round(&self, weights: &[f32], format: &'static Format) -> Vec<f32> {
        let rows = weights.len() / self.cols;
        let mut blocks = vec![0; rows * format.bytes_of(self.cols).expect("it divides the rows")];
        self.feedback.round(weights, format, &mut blocks);
        let mut rounded = vec![0.0; weights.len()];
        let pairs = blocks.par_chunks_exact(blocks.len() / rows).zip(rounded.par_chunks_exact_mut(self.cols));
        pairs.for_each(|(blocks, rounded)| (format.decode)(blocks, rounded));
        rounded
    }

    /// The squared error of the output of these rows. Not finite if the format does not hold the weights.
    pub fn error(&self, rows: &[f32], format: &'static Format) -> f64 {
        self.feedback.error(rows, format, &self.h)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_nn::random::SplitMix64;

    #[test]
    fn errors_are_those_on_other_text() {
        let (cols, mut random) = (256, SplitMix64::new(6));
        let mut normal = |len: usize| (0..len).map(|_| random.normal() as f32).collect::<Vec<f32>>();
        let [mut seen, mut held_out] = [0; 2].map(|_| Moments::new(cols));
        // No more tokens than channels to feed errors back by: some of what they have in common is chance.
        seen.add(&normal(cols * cols));
        held_out.add(&normal(64 * cols * cols));
        let (rows, format) = (normal(16 * cols), Format::by_name("Q4_0").unwrap());
        let [seen_again, other] = [&seen, &held_out].map(|judge| Rounding::of(&seen, judge).error(&rows, format));
        assert!(other > 1.3 * seen_again, "{other} on other text, {seen_again} on the same");
    }
}
