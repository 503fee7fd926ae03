//! Error feedback (GPTQ: Frantar et al. 2022; in the form of LDLQ: Chee et al. 2023).
//!
//! The squared error that rounded weights `v` make of a layer's output is `(w - v) H (w - v)ᵀ`, `H` the mean of `x xᵀ`. Going through a row from
//! left to right, `w_k + Σ_{j<k} (w_j - v_j) U_jk` is rounded instead of `w_k`, with `H = U D Uᵀ`: then the error is that of rounding alone,
//! weighed by `D`, which is smaller than the diagonal of `H` the more channels resemble each other. Weights that are points of a code
//! book (IQ2, IQ3) are rounded together, and their errors are fed back to those after them (as GPTVQ does: van Baalen et al. 2024).
//! Scales weigh errors by `D` too: by the diagonal of `H` they would spare what later weights make up for.

use super::channels::multiply_columns;
use super::descent::descend;
use crate::calibrate::{Moments, unit_upper};
use bantam_formats::{Format, Grid};
use bantam_nn::matrix::{Threads, View, multiply};
use rayon::prelude::*;

/// What is added to the diagonal, as a share of its mean, at least and at most. More than the mean was of no use.
const DAMPING: [f32; 2] = [0.01, 1.0];

/// The least for each channel that there is for a token: what remains of small directions is chance to about this share, however much of
/// `H` a few large directions are, which all sequences have in common.
const OF_CHANNELS: f32 = 0.5;

/// Rows that a thread takes at a time, of few rows an eighth.
const ROWS: usize = 64;

/// What suits these moments: feeding errors back along what only the calibration text has in common makes them larger on any other.
/// With `H` and so much of its mean diagonal, the share of chance is the identity's.
fn damping(moments: &Moments) -> f32 {
    let chance = moments.shrinkage() as f32;
    let least = OF_CHANNELS * moments.cols() as f32 / moments.tokens().max(1) as f32;
    (chance / (1.0 - chance)).max(least).clamp(DAMPING[0], DAMPING[1])
}

/// How errors of one column bear on the next, for all rows of a layer.
pub(crate) struct Feedback {
    cols: usize,
    /// `H`, damped, `[cols, cols]`.
    moments: Vec<f32>,
    /// `U`, `[cols, cols]`.
    upper: Vec<f32>,
    /// `D`.
    left: Vec<f32>,
    /// What columns are multiplied by before they are rounded. All else is of the columns as they were.
    factors: Vec<f32>,
    /// Times that rounded rows are gone over.
    passes: usize,
}

impl Feedback {
    /// For a layer whose inputs have these moments, whose rounded rows are gone over so many times. Inputs that determine nothing (dead
    /// channels, less text than channels) are damped until they do.
    pub fn of(moments: &Moments, passes: usize) -> Self {
        Self::damped(moments, damping(moments), passes)
    }

    fn damped(moments: &Moments, damping: f32, passes: usize) -> Self {
        let cols = moments.cols();
        let mean = moments.mean_squares().iter().sum::<f32>() / cols as f32;
        let damped = |damping: f32| {
            let mut h = moments.mean();
            // What was never active counts alike everywhere.
            let add = if mean > 0.0 { damping * mean } else { 1.0 };
            h.iter_mut().step_by(cols + 1).for_each(|d| *d += add);
            unit_upper(h.clone(), cols).map(|(upper, left)| (h, upper, left))
        };
        // Beyond all measure there is nothing to feed back.
        let factors = [1.0, 10.0, 100.0, 1e4].into_iter().find_map(|more| damped(more * damping));
        let (moments, upper, left) = factors.unwrap_or_else(|| {
            let mut identity = vec![0.0; cols * cols];
            identity.iter_mut().step_by(cols + 1).for_each(|d| *d = 1.0);
            (identity.clone(), identity, vec![1.0; cols])
        });
        Self { cols, moments, upper, left, factors: vec![1.0; cols], passes }
    }

    /// What remains of each channel's mean square where those behind it are known: what errors count that are made up for as far as they
    /// can be.
    pub fn left(&self) -> &[f32] {
        &self.left
    }

    /// `H`, damped, `[cols, cols]`.
    pub fn moments(&self) -> &[f32] {
        &self.moments
    }

    /// Multiplies columns by these factors before they are rounded; what makes their channels is divided by them.
    pub fn scale(&mut self, factors: Vec<f32>) {
        assert_eq!(factors.len(), self.cols);
        self.factors = factors;
    }

    /// The same for a layer that sees more channels, which are always zero; `origin` says where each channel comes from.
    pub fn spread(&self, origin: &[Option<usize>]) -> Self {
        let cols = origin.len();
        let least = self.left.iter().copied().fold(f32::INFINITY, f32::min);
        let left = origin.iter().map(|from| from.map_or(least, |i| self.left[i])).collect();
        let spread = |matrix: &[f32], diagonal: f32| {
            let mut wider = spread(matrix, self.cols, origin);
            for (i, _) in origin.iter().enumerate().filter(|(_, from)| from.is_none()) {
                wider[i * cols + i] = diagonal;
            }
            wider
        };
        let factors = origin.iter().map(|from| from.map_or(1.0, |i| self.factors[i])).collect();
        let (moments, upper) = (spread(&self.moments, least), spread(&self.upper, 1.0));
        Self { cols, moments, upper, left, factors, passes: self.passes }
    }

    /// What the error of each weight counts beside those of the `vector` weights that are rounded with it, their neighbours; errors
    /// that later ones make up for do not.
    fn counts(&self, vector: usize) -> Vec<f32> {
        let of = |i: usize| {
            let beside = i..(i / vector + 1) * vector;
            let unscaled: f32 = beside.map(|j| self.upper[i * self.cols + j].powi(2) * self.left[j]).sum();
            unscaled / self.factors[i].powi(2)
        };
        (0..self.cols).map(of).collect()
    }

    /// Rounds weights `[rows, cols]`, columns scaled, into blocks of `format`, which divides the rows. A format that is no grid (F16) takes
    /// each weight by itself.
    pub fn round(&self, weights: &[f32], format: &'static Format, out: &mut [u8]) {
        let row_bytes = format.bytes_of(self.cols).expect("it divides the rows");
        let together = self.together(weights);
        let parts = weights.par_chunks(together * self.cols).zip(out.par_chunks_mut(together * row_bytes));
        match &format.grid {
            Some(grid) => parts.for_each(|(weights, out)| {
                let mut errors = self.feed_back(weights, format, grid, out);
                if self.passes > 0 {
                    descend(&self.moments, &self.factors, format, grid, self.passes, &mut errors, out);
                }
            }),
            None => parts.for_each(|(weights, out)| self.encode(weights, format, out)),
        }
    }

    /// The squared error of the layer's output that rounding weights `[rows, cols]` makes by error feedback alone, `Σ (w - v) H (w - v)ᵀ` with
    /// the second moments `h`, `[cols, cols]`. Not finite if the format does not hold the weights.
    pub fn error(&self, weights: &[f32], format: &'static Format, h: &[f32]) -> f64 {
        let of_part = |weights: &[f32]| -> f64 {
            let errors = self.errors(weights, format);
            let mut weighed = vec![0.0; errors.len()];
            multiply(&mut weighed, false, 1.0, View::new(&errors, self.cols), View::new(h, self.cols), Threads::One);
            errors.iter().zip(&weighed).map(|(e, w)| f64::from(e * w)).sum()
        };
        // Added up in order, whatever the threads.
        let parts: Vec<f64> = weights.par_chunks(self.together(weights) * self.cols).map(of_part).collect();
        let sum: f64 = parts.iter().sum();
        // Rounding may leave what is zero below it; NaN stays.
        if sum < 0.0 { 0.0 } else { sum }
    }

    /// What rounding weights `[rows, cols]` by error feedback alone leaves of them, of columns as they were.
    fn errors(&self, weights: &[f32], format: &Format) -> Vec<f32> {
        let rows = weights.len() / self.cols;
        let mut blocks = vec![0; rows * format.bytes_of(self.cols).expect("it divides the rows")];
        if let Some(grid) = &format.grid {
            return self.feed_back(weights, format, grid, &mut blocks);
        }
        let mut rounded = vec![0.0; weights.len()];
        self.encode(weights, format, &mut blocks);
        (format.decode)(&blocks, &mut rounded);
        let factors = self.factors.iter().cycle();
        weights.iter().zip(&rounded).zip(factors).map(|((w, v), factor)| w - v / factor).collect()
    }

    /// Rows that a thread takes at a time.
    fn together(&self, weights: &[f32]) -> usize {
        ROWS.min((weights.len() / self.cols).div_ceil(8))
    }

    /// Each weight by itself.
    fn encode(&self, weights: &[f32], format: &Format, out: &mut [u8]) {
        (format.encode.expect("mixes name formats that can be written"))(&self.scaled(weights), None, out);
    }

    /// Weights `[rows, cols]` with their columns scaled.
    fn scaled(&self, weights: &[f32]) -> Vec<f32> {
        let mut scaled = weights.to_vec();
        multiply_columns(&mut scaled, &self.factors);
        scaled
    }

    /// Rounds rows with error feedback; returns their errors, of columns as they were.
    fn feed_back(&self, weights: &[f32], format: &Format, grid: &Grid, out: &mut [u8]) -> Vec<f32> {
        let (cols, n) = (self.cols, format.block);
        let rows = weights.len() / cols;
        let encode = format.encode.expect("a grid can be written");
        let (mut errors, mut target) = (vec![0.0; rows * cols], vec![0.0; rows * n]);
        let (mut blocks, mut taken) = (vec![0; rows * format.bytes], Taken::new(n, grid));
        let counts = self.counts(grid.vector);
        let importance: Vec<f32> = self.left.iter().zip(&self.factors).map(|(left, f)| left / (f * f)).collect();
        // Scales of whole rows are those that suit the weights.
        let given = format.per_row.then(|| {
            let mut given = vec![0; rows * format.bytes_of(cols).expect("it divides the rows")];
            format.encode_rows(cols, &self.scaled(weights), Some(&importance.repeat(rows)), &mut given);
            given
        });
        for first in (0..cols).step_by(n) {
            let (before, upper) = (View::new(&errors, cols), View::new(&self.upper, cols));
            let (before, upper) = (before.part(0..rows, 0..first), upper.part(0..first, first..first + n));
            multiply(&mut target, false, 1.0, before, upper, Threads::One);
            for (target, weights) in target.chunks_exact_mut(n).zip(weights.chunks_exact(cols)) {
                let factors = &self.factors[first..first + n];
                target.iter_mut().zip(&weights[first..]).zip(factors).for_each(|((t, w), f)| *t = (*t + w) * f);
            }
            match &given {
                Some(given) => blocks.copy_from_slice(&column_of_blocks(given, cols / n, first / n, format.bytes)),
                // Scales are those that suit what is rounded now, and what of its errors later weights will not make up for.
                None => encode(&target, Some(&importance[first..first + n].repeat(rows)), &mut blocks),
            }
            for (r, block) in blocks.chunks_exact_mut(format.bytes).enumerate() {
                let at = r * cols + first;
                (grid.read)(block, &mut taken.quants, &mut taken.scales, &mut taken.mins);
                let (target, errors) = (&mut target[r * n..][..n], &mut errors[at..][..n]);
                self.round_block(first, &weights[at..][..n], target, errors, &counts, grid, &mut taken);
                (grid.put_quants)(block, &taken.quants);
                out[at / n * format.bytes..][..format.bytes].copy_from_slice(block);
            }
        }
        errors
    }

    /// Chooses the quants of one block, whose columns begin at `first`, with the scales that it has; notes their errors.
    fn round_block(
        &self,
        first: usize,
        weights: &[f32],
        target: &mut [f32],
        errors: &mut [f32],
        counts: &[f32],
        grid: &Grid,
        taken: &mut Taken,
    ) {
        let n = weights.len();
        let factors = &self.factors[first..first + n];
        // One weight after the other, or those together that choose together.
        for k in (0..n).step_by(grid.vector) {
            let next = k + grid.vector;
            let (scale, min) = (taken.scales[k / grid.group], taken.mins[k / grid.group]);
            target[k..next].iter_mut().for_each(|t| *t = grid.position(*t, scale, min));
            grid.nearest_together(&target[k..next], &counts[first + k..first + next], &mut taken.quants[k..next]);
            for i in k..next {
                errors[i] = weights[i] - grid.weight(taken.quants[i], scale, min) / factors[i];
                let upper = &self.upper[(first + i) * self.cols + first..][..n];
                let behind = target[next..].iter_mut().zip(&upper[next..]).zip(&factors[next..]);
                behind.for_each(|((t, u), f)| *t += errors[i] * u * f);
            }
        }
    }
}

/// A square matrix `[cols, cols]` with its rows and columns at other places, zeros between them.
pub(crate) fn spread(matrix: &[f32], cols: usize, origin: &[Option<usize>]) -> Vec<f32> {
    let mut wider = vec![0.0; origin.len() * origin.len()];
    for (row, from) in wider.chunks_exact_mut(origin.len()).zip(origin) {
        let Some(from) = from else { continue };
        let old = &matrix[from * cols..][..cols];
        row.iter_mut().zip(origin).for_each(|(v, from)| *v = from.map_or(0.0, |j| old[j]));
    }
    wider
}

/// Block `at` of each row of `each` blocks of `size` bytes.
fn column_of_blocks(rows: &[u8], each: usize, at: usize, size: usize) -> Vec<u8> {
    rows.chunks_exact(each * size).flat_map(|row| &row[at * size..][..size]).copied().collect()
}

/// One block taken apart: buffers that a row after the other uses.
struct Taken {
    quants: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Taken {
    fn new(block: usize, grid: &Grid) -> Self {
        let groups = block / grid.group;
        Self { quants: vec![0; block], scales: vec![0.0; groups], mins: vec![0.0; groups] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_nn::random::SplitMix64;

    /// Inputs whose channels resemble each other, one of them dead.
    fn moments(cols: usize, tokens: usize) -> Moments {
        let mut random = SplitMix64::new(2);
        let mut x = Vec::new();
        for _ in 0..tokens {
            let common = random.normal();
            x.extend((0..cols).map(|i| if i == 3 { 0.0 } else { (common + random.normal() * (i % 5) as f64) as f32 }));
        }
        let mut moments = Moments::new(cols);
        moments.add(&x);
        moments
    }

    fn weights(len: usize) -> Vec<f32> {
        let mut random = SplitMix64::new(3);
        (0..len).map(|_| random.normal() as f32).collect()
    }

    /// GPTQ as its paper has it: the inverse of `h`, from which each column is removed when it is rounded.
    fn textbook(row: &[f32], h: &[f32], scale: f32, mut round: impl FnMut(f32) -> f32) -> Vec<f32> {
        let n = row.len();
        let mut inverse = inverse(h, n);
        let mut w: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
        assert!(scale > 0.0);
        for k in 0..n {
            let rounded = f64::from(round(w[k] as f32));
            let error = (w[k] - rounded) / inverse[k * n + k];
            (k + 1..n).for_each(|j| w[j] -= error * inverse[k * n + j]);
            w[k] = rounded;
            let column: Vec<f64> = (0..n).map(|i| inverse[i * n + k]).collect();
            let pivot = column[k];
            for i in k + 1..n {
                (k + 1..n).for_each(|j| inverse[i * n + j] -= column[i] * column[j] / pivot);
            }
        }
        w.iter().map(|v| *v as f32).collect()
    }

    /// By Gauss and Jordan.
    fn inverse(h: &[f32], n: usize) -> Vec<f64> {
        let mut a: Vec<Vec<f64>> = (0..n)
            .map(|i| {
                (0..2 * n)
                    .map(|j| if j < n { f64::from(h[i * n + j]) } else { f64::from(u8::from(j - n == i)) })
                    .collect()
            })
            .collect();
        for k in 0..n {
            let pivot = a[k][k];
            a[k].iter_mut().for_each(|v| *v /= pivot);
            let row = a[k].clone();
            for (_, other) in a.iter_mut().enumerate().filter(|(i, _)| *i != k) {
                let factor = other[k];
                other.iter_mut().zip(&row).for_each(|(v, r)| *v -= factor * r);
            }
        }
        a.iter().flat_map(|row| row[n..].to_vec()).collect()
    }

    #[test]
    fn it_rounds_as_the_textbook_does() {
        let format = Format::by_name("Q4_0").unwrap();
        let (cols, rows) = (format.block, 70);
        let (moments, weights) = (moments(cols, 400), weights(rows * cols));
        let feedback = Feedback::of(&moments, 0);
        let mut h = moments.mean();
        let mean = moments.mean_squares().iter().sum::<f32>() / cols as f32;
        h.iter_mut().step_by(cols + 1).for_each(|d| *d += damping(&moments) * mean);
        let mut blocks = vec![0; rows * format.bytes];
        feedback.round(&weights, format, &mut blocks);
        let mut differing = 0;
        for (row, block) in weights.chunks_exact(cols).zip(blocks.chunks_exact(format.bytes)) {
            let grid = format.grid.as_ref().unwrap();
            let mut taken = Taken::new(cols, grid);
            (grid.read)(block, &mut taken.quants, &mut taken.scales, &mut taken.mins);
            let scale = taken.scales[0];
            let expected =
                textbook(row, &h, scale.abs(), |w| grid.weight(grid.nearest(grid.position(w, scale, 0.0)), scale, 0.0));
            let mut found = vec![0.0; cols];
            (format.decode)(block, &mut found);
            // A weight midway may fall either way, and what follows with it.
            differing += usize::from(found.iter().zip(&expected).any(|(f, e)| (f - e).abs() > 1e-4));
        }
        assert!(differing <= 2, "{differing} of {rows} rows differ");
    }

    #[test]
    fn what_all_sequences_share_does_not_hide_how_much_of_the_rest_is_chance() {
        let (cols, format) = (256, Format::by_name("Q4_0").unwrap());
        let mut random = SplitMix64::new(9);
        // One direction is most of all, the others are alike.
        let mut of = |tokens: usize| {
            let mut moments = Moments::new(cols);
            for _ in 0..tokens / 512 {
                let mut x = Vec::new();
                for _ in 0..512 {
                    let common = 1.2 * random.normal();
                    x.extend((0..cols).map(|i| (common * ((i % 3) as f64 - 1.0) + random.normal()) as f32));
                }
                moments.add(&x);
            }
            moments
        };
        let (seen, held_out) = (of(1024), of(16 * 1024).mean());
        assert!(seen.shrinkage() < 0.01, "{}", seen.shrinkage());
        let weights = weights(256 * cols);
        let error = |feedback: Feedback| feedback.error(&weights, format, &held_out);
        let chosen = error(Feedback::of(&seen, 0));
        // By the estimate alone.
        let less = error(Feedback::damped(&seen, DAMPING[0], 0));
        assert!(chosen < 0.96 * less, "{chosen}, and {less} with less damping");
    }

    #[test]
    fn without_correlations_each_weight_is_rounded_by_itself() {
        let cols = 512;
        let mut moments = Moments::new(cols);
        // One channel at a time.
        for i in 0..cols {
            let mut x = vec![0.0; cols];
            x[i] = 1.0 + (i % 7) as f32;
            moments.add(&x);
        }
        let weights = weights(3 * cols);
        for name in ["Q4_K", "Q3_K", "IQ4_NL", "Q5_1", "TQ2_0"] {
            let format = Format::by_name(name).unwrap();
            let (mut found, mut expected) = (vec![0; 3 * format.bytes_of(cols).unwrap()], Vec::new());
            expected.resize(found.len(), 0);
            let feedback = Feedback::of(&moments, 0);
            feedback.round(&weights, format, &mut found);
            (format.encode.unwrap())(&weights, Some(&feedback.left.repeat(3)), &mut expected);
            let decoded = |bytes: &[u8]| {
                let mut values = vec![0.0; weights.len()];
                (format.decode)(bytes, &mut values);
                values
            };
            let (found, expected) = (decoded(&found), decoded(&expected));
            let same = found.iter().zip(&expected).filter(|(f, e)| (*f - *e).abs() < 1e-6).count();
            assert!(same * 1000 >= weights.len() * 999, "{name}: {same} of {} agree", weights.len());
        }
    }

    /// What rounding loses of the layer's output: `(w - v) H (w - v)ᵀ`, over all rows.
    fn lost(weights: &[f32], format: &Format, blocks: &[u8], h: &[f32], cols: usize) -> f64 {
        let mut decoded = vec![0.0; weights.len()];
        (format.decode)(blocks, &mut decoded);
        let errors: Vec<f64> = weights.iter().zip(&decoded).map(|(w, d)| f64::from(w - d)).collect();
        let of_row = |e: &[f64]| -> f64 {
            (0..cols).map(|i| e[i] * (0..cols).map(|j| f64::from(h[i * cols + j]) * e[j]).sum::<f64>()).sum()
        };
        errors.chunks_exact(cols).map(of_row).sum()
    }

    #[test]
    fn points_of_a_code_book_lose_less_with_feedback_than_each_block_by_itself() {
        let (cols, rows) = (512, 8);
        let (moments, weights) = (moments(cols, 2000), weights(rows * cols));
        for name in ["IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "TQ2_0"] {
            let format = Format::by_name(name).unwrap();
            let (mut fed, mut alone) = (vec![0; rows * format.bytes_of(cols).unwrap()], Vec::new());
            alone.resize(fed.len(), 0);
            Feedback::of(&moments, 0).round(&weights, format, &mut fed);
            (format.encode.unwrap())(&weights, Some(&moments.mean_squares().repeat(rows)), &mut alone);
            let [fed, alone] = [fed, alone].map(|blocks| lost(&weights, format, &blocks, &moments.mean(), cols));
            assert!(fed < 0.9 * alone, "{name}: {fed} with feedback, {alone} without");
        }
    }

    #[test]
    fn what_little_text_has_in_common_by_chance_is_not_made_up_for() {
        // Channels that have nothing in common, and no more tokens than channels.
        let cols = 1024;
        let mut random = SplitMix64::new(5);
        let x: Vec<f32> = (0..cols * cols).map(|_| random.normal() as f32).collect();
        let mut moments = Moments::new(cols);
        moments.add(&x);
        let mut identity = vec![0.0; cols * cols];
        identity.iter_mut().step_by(cols + 1).for_each(|d| *d = 1.0);
        let (format, weights) = (Format::by_name("Q4_0").unwrap(), weights(4 * cols));
        let mut fed = vec![0; 4 * format.bytes_of(cols).unwrap()];
        let mut alone = fed.clone();
        Feedback::of(&moments, 0).round(&weights, format, &mut fed);
        (format.encode.unwrap())(&weights, Some(&moments.mean_squares().repeat(4)), &mut alone);
        let [fed, alone] = [fed, alone].map(|blocks| lost(&weights, format, &blocks, &identity, cols));
        assert!(fed < 1.3 * alone, "on other text {fed} with feedback, {alone} without");
    }

    #[test]
    fn dead_inputs_and_no_inputs_are_rounded_too() {
        let format = Format::by_name("Q4_0").unwrap();
        let weights = weights(64);
        for moments in [Moments::new(32), moments(32, 1), moments(32, 5)] {
            let mut blocks = vec![0; 2 * format.bytes];
            Feedback::of(&moments, 0).round(&weights, format, &mut blocks);
            let mut decoded = vec![f32::NAN; 64];
            (format.decode)(&blocks, &mut decoded);
            let error: f32 = weights.iter().zip(&decoded).map(|(w, d)| (w - d) * (w - d)).sum();
            assert!(error < 0.2 * weights.iter().map(|w| w * w).sum::<f32>(), "{error}");
        }
    }
}
