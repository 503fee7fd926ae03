//! Coordinate descent: what error feedback rounded is gone over again (QuantEase: Behdin et al. 2023; CDQuant: Nair, Suggala 2024).
//!
//! With errors `e = w - v` a row's squared error is `e H eᵀ`; moving its weights by `d` changes that by `d H dᵀ - 2 d·g`, `g = e H`. Error
//! feedback chooses each weight once, beside the weights as they were behind it; here all others are rounded, and each takes the
//! quant that is best beside them. So do the scales, which were chosen before any quant was. No move makes the error larger.

use bantam_formats::{Format, Grid};
use bantam_nn::matrix::{Threads, View, add_product, multiply};

/// Times that rows are gone over, where nothing else is said: what two more gain is a sixth of what these do.
pub(crate) const PASSES: usize = 2;

/// Goes over rounded rows so many times, blocks of `format` whose inputs have the second moments `h`, `[cols, cols]`. Their columns are
/// multiplied by `factors`; `errors` are what is between the weights and these blocks without that, `[rows, cols]`. Blocks and errors are updated.
pub(super) fn descend(
    h: &[f32],
    factors: &[f32],
    format: &Format,
    grid: &Grid,
    passes: usize,
    errors: &mut [f32],
    blocks: &mut [u8],
) {
    let cols = factors.len();
    let n = format.block;
    let (rows, row_bytes) = (errors.len() / cols, cols / n * format.bytes);
    let moments = View::new(h, cols);
    let mut gradients = vec![0.0; rows * n];
    let mut block = Block::new(n, grid);
    for first in (0..passes).flat_map(|_| (0..cols).step_by(n)) {
        let towards = moments.part(0..cols, first..first + n);
        multiply(&mut gradients, false, 1.0, View::new(errors, cols), towards, Threads::One);
        let factors = &factors[first..first + n];
        block.moments.clear();
        for (row, factor) in h[first * cols..][..n * cols].chunks_exact(cols).zip(factors) {
            block.moments.extend(row[first..].iter().zip(factors).map(|(h, f)| h / (factor * f)));
        }
        let rows = errors.chunks_exact_mut(cols).zip(blocks.chunks_exact_mut(row_bytes));
        for ((errors, bytes), gradient) in rows.zip(gradients.chunks_exact(n)) {
            let bytes = &mut bytes[first / n * format.bytes..][..format.bytes];
            block.take(bytes, gradient, factors);
            // Scales of whole rows stay.
            if !format.per_row {
                block.move_scales(bytes);
            }
            block.move_quants(bytes);
            let moved = block.moved.iter().zip(factors);
            errors[first..first + n].iter_mut().zip(moved).for_each(|(e, (d, f))| *e -= d / f);
        }
    }
}

/// One block of a row taken apart, and what is known of its columns: buffers that a row after the other uses.
struct Block<'a> {
    grid: &'a Grid,
    /// The part of `H` among its columns, `[n, n]`.
    moments: Vec<f32>,
    /// `g`, of what it is now.
    gradient: Vec<f32>,
    /// How far its weights were moved.
    moved: Vec<f32>,
    quants: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl<'a> Block<'a> {
    fn new(n: usize, grid: &'a Grid) -> Self {
        let (zeros, groups) = (|| vec![0.0; n], || vec![0.0; n / grid.group]);
        let (quants, scales, mins) = (vec![0; n], groups(), groups());
        Self { grid, moments: Vec::new(), gradient: zeros(), moved: zeros(), quants, scales, mins }
    }

    /// `gradient` is that of columns as they were.
    fn take(&mut self, bytes: &[u8], gradient: &[f32], factors: &[f32]) {
        self.gradient.iter_mut().zip(gradient).zip(factors).for_each(|((scaled, g), f)| *scaled = g / f);
        self.moved.fill(0.0);
        (self.grid.read)(bytes, &mut self.quants, &mut self.scales, &mut self.mins);
    }

    /// A weight, as it is.
    fn weight(&self, i: usize) -> f32 {
        let group = i / self.grid.group;
        self.grid.weight(self.quants[i], self.scales[group], self.mins[group])
    }

    /// `d H` of moving the weights from `first` on by `d`, over all columns.
    fn curved(&self, first: usize, by: &[f32]) -> Vec<f32> {
        let n = self.gradient.len();
        let mut curved = vec![0.0; n];
        add_product(&mut curved, by, &self.moments[first * n..], n);
        curved
    }

    /// Moves the weights from `first` on, if that makes the error smaller.
    fn shift(&mut self, first: usize, by: &[f32]) -> bool {
        let curved = self.curved(first, by);
        let change: f32 = (first..).zip(by).map(|(i, d)| d * (curved[i] - 2.0 * self.gradient[i])).sum();
        let gains = change < 0.0;
        if gains {
            self.moved[first..].iter_mut().zip(by).for_each(|(moved, d)| *moved += d);
            self.gradient.iter_mut().zip(&curved).for_each(|(g, c)| *g -= c);
        }
        gains
    }

    /// Gives each weight, or those together that choose together, the quant that is best beside all others.
    fn move_quants(&mut self, bytes: &mut [u8]) {
        let (n, vector) = (self.quants.len(), self.grid.vector);
        let (mut positions, mut curvatures, mut by) = (vec![0.0; vector], vec![0.0; vector], vec![0.0; vector]);
        let mut wanted = vec![0; vector];
        let mut any = false;
        for first in (0..n).step_by(vector) {
            let (scale, min) = (self.scales[first / self.grid.group], self.mins[first / self.grid.group]);
            for i in 0..vector {
                curvatures[i] = self.moments[(first + i) * (n + 1)];
                let best = self.weight(first + i) + self.gradient[first + i] / curvatures[i];
                positions[i] = self.grid.position(best, scale, min);
            }
            self.grid.nearest_together(&positions, &curvatures, &mut wanted);
            if wanted == self.quants[first..first + vector] {
                continue;
            }
            for i in 0..vector {
                by[i] = self.grid.weight(wanted[i], scale, min) - self.weight(first + i);
            }
            if self.shift(first, &by) {
                self.quants[first..first + vector].copy_from_slice(&wanted);
                any = true;
            }
        }
        if any {
            (self.grid.put_quants)(bytes, &self.quants);
        }
    }

    /// Gives the block the scales and mins that are best with its quants, as near as the format can hold them, if that makes the error smaller.
    fn move_scales(&mut self, bytes: &mut [u8]) {
        let wanted = self.wanted_scales();
        let (scales, mins): (Vec<f32>, Vec<f32>) = wanted.iter().map(|w| (w.scale, w.min)).unzip();
        let curvatures: Vec<f32> = wanted.iter().map(|w| w.curvature).collect();
        let mut moved = bytes.to_vec();
        (self.grid.put_scales)(&mut moved, &scales, &mins, &curvatures);
        let before: Vec<f32> = (0..self.quants.len()).map(|i| self.weight(i)).collect();
        let (scales, mins) = (self.scales.clone(), self.mins.clone());
        (self.grid.read)(&moved, &mut self.quants, &mut self.scales, &mut self.mins);
        let by: Vec<f32> = before.iter().enumerate().map(|(i, before)| self.weight(i) - before).collect();
        if self.shift(0, &by) {
            bytes.copy_from_slice(&moved);
        } else {
            (self.scales, self.mins) = (scales, mins);
        }
    }

    /// The scale and min of each group that are best with its quants, one group after the other.
    fn wanted_scales(&self) -> Vec<Wanted> {
        let (n, group) = (self.quants.len(), self.grid.group);
        let mut gradient = self.gradient.clone();
        let mut of_group = |(g, quants): (usize, &[u8])| {
            let first = g * group;
            let quants: Vec<f32> = quants.iter().map(|q| self.grid.weight(*q, 1.0, 0.0)).collect();
            let (mut scale, mut min, curvature) = self.best_move(&quants, first, &gradient[first..first + group]);
            // Nothing to scale, or a min that does the same.
            if !(scale.is_finite() && min.is_finite()) {
                (scale, min) = (0.0, 0.0);
            }
            // The groups behind it see what it does.
            let away: Vec<f32> = quants.iter().map(|q| min - scale * q).collect();
            add_product(&mut gradient[first + group..], &away, &self.moments[first * n + first + group..], n);
            Wanted { scale: self.scales[g] + scale, min: self.mins[g] + min, curvature }
        };
        self.quants.chunks_exact(group).enumerate().map(&mut of_group).collect()
    }

    /// By how much more scale and min the error of the group that begins at `first` is smallest: the squared error's derivatives by both are
    /// zero then. And its second derivative by the scale, halved.
    fn best_move(&self, quants: &[f32], first: usize, gradient: &[f32]) -> (f32, f32, f32) {
        let n = self.gradient.len();
        let of = |by: &[f32]| {
            let mut product = vec![0.0; by.len()];
            add_product(&mut product, by, &self.moments[first * n + first..], n);
            product
        };
        let by_quants = of(quants);
        let (curvature, slope) = (dot(quants, &by_quants), dot(quants, gradient));
        if self.grid.zero.is_some() {
            return (slope / curvature, 0.0, curvature);
        }
        let mixed: f32 = by_quants.iter().sum();
        let of_min: f32 = of(&vec![1.0; quants.len()]).iter().sum();
        let slope_of_min: f32 = gradient.iter().sum();
        let determinant = curvature * of_min - mixed * mixed;
        let scale = (slope * of_min - mixed * slope_of_min) / determinant;
        (scale, (slope * mixed - curvature * slope_of_min) / determinant, curvature)
    }
}

/// What would be best for a group.
struct Wanted {
    scale: f32,
    min: f32,
    /// What the square of a deviation of its scale costs.
    curvature: f32,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_nn::random::SplitMix64;

    const COLS: usize = 512;
    const ROWS: usize = 3;

    /// A rounded matrix and what is known of its inputs, whose channels resemble each other.
    struct Case {
        h: Vec<f32>,
        weights: Vec<f32>,
        blocks: Vec<u8>,
    }

    impl Case {
        fn rounded_to(format: &Format) -> Self {
            let mut random = SplitMix64::new(7);
            let weights: Vec<f32> = (0..ROWS * COLS).map(|_| random.normal() as f32).collect();
            let mut h = vec![0.0; COLS * COLS];
            for _ in 0..2 * COLS {
                let common = random.normal();
                let x: Vec<f32> = (0..COLS).map(|i| (common + random.normal() * (1 + i % 5) as f64) as f32).collect();
                h.chunks_exact_mut(COLS)
                    .zip(&x)
                    .for_each(|(row, a)| row.iter_mut().zip(&x).for_each(|(h, b)| *h += a * b));
            }
            let mut blocks = vec![0; ROWS * format.bytes_of(COLS).unwrap()];
            format.encode_rows(COLS, &weights, None, &mut blocks);
            Self { h, weights, blocks }
        }

        fn errors(&self, format: &Format) -> Vec<f32> {
            let mut decoded = vec![0.0; self.weights.len()];
            (format.decode)(&self.blocks, &mut decoded);
            self.weights.iter().zip(&decoded).map(|(w, d)| w - d).collect()
        }

        /// `Σ e H eᵀ` of the blocks as they decode.
        fn error(&self, format: &Format) -> f64 {
            let of_row = |e: &[f32]| -> f64 {
                let rows = self.h.chunks_exact(COLS).zip(e);
                rows.map(|(row, a)| f64::from(*a) * row.iter().zip(e).map(|(h, b)| f64::from(h * b)).sum::<f64>()).sum()
            };
            self.errors(format).chunks_exact(COLS).map(of_row).sum()
        }
    }

    #[test]
    fn the_error_falls_with_every_pass_and_what_is_reported_is_what_the_blocks_hold() {
        for format in bantam_formats::FORMATS.iter().filter(|f| f.encode.is_some() && f.divides(COLS)) {
            let Some(grid) = &format.grid else { continue };
            let mut case = Case::rounded_to(format);
            let mut errors = case.errors(format);
            let mut last = case.error(format);
            for pass in 0..3 {
                descend(&case.h, &[1.0; COLS], format, grid, 1, &mut errors, &mut case.blocks);
                let error = case.error(format);
                assert!(error <= last * 1.0001, "{format}, pass {pass}: {error} after {last}");
                assert!(pass > 0 || error < 0.95 * last, "{format}: {error} after {last}");
                last = error;
            }
            for (told, found) in errors.iter().zip(case.errors(format)) {
                assert!((told - found).abs() < 1e-4, "{format}: an error of {found} is told as {told}");
            }
        }
    }

    #[test]
    fn no_quant_would_gain_by_changing_alone_at_the_end() {
        let format = Format::by_name("Q4_0").unwrap();
        let grid = format.grid.as_ref().unwrap();
        let mut case = Case::rounded_to(format);
        let mut errors = case.errors(format);
        descend(&case.h, &[1.0; COLS], format, grid, 100, &mut errors, &mut case.blocks);
        let (best, n) = (case.error(format), format.block);
        for at in (0..ROWS * COLS).step_by(37) {
            let block = &mut case.blocks[at / n * format.bytes..][..format.bytes];
            let (mut quants, mut scales, mut mins) = (vec![0; n], vec![0.0; n / grid.group], vec![0.0; n / grid.group]);
            (grid.read)(block, &mut quants, &mut scales, &mut mins);
            let quant = quants[at % n];
            for other in [quant.saturating_sub(1), (quant + 1).min(15)] {
                quants[at % n] = other;
                let block = &mut case.blocks[at / n * format.bytes..][..format.bytes];
                (grid.put_quants)(block, &quants);
                assert!(case.error(format) >= best * 0.999_999, "weight {at}: {other} is better than {quant}");
            }
            quants[at % n] = quant;
            (grid.put_quants)(&mut case.blocks[at / n * format.bytes..][..format.bytes], &quants);
        }
    }

    #[test]
    fn a_scale_that_is_off_is_found_again() {
        for name in ["Q4_0", "Q4_1", "Q4_K", "Q3_K", "IQ2_XXS"] {
            let format = Format::by_name(name).unwrap();
            let grid = format.grid.as_ref().unwrap();
            let mut case = Case::rounded_to(format);
            let well = case.error(format);
            let groups = format.block / grid.group;
            for block in case.blocks.chunks_exact_mut(format.bytes) {
                let (mut quants, mut scales, mut mins) = (vec![0; format.block], vec![0.0; groups], vec![0.0; groups]);
                (grid.read)(block, &mut quants, &mut scales, &mut mins);
                scales.iter_mut().chain(&mut mins).for_each(|s| *s *= 1.2);
                (grid.put_scales)(block, &scales, &mins, &vec![1.0; groups]);
            }
            let off = case.error(format);
            descend(&case.h, &[1.0; COLS], format, grid, 1, &mut case.errors(format), &mut case.blocks);
            let found = case.error(format);
            let (left, added) = (found - well, off - well);
            assert!(added > 0.1 * well && left < 0.2 * added, "{name}: {well} made {off}, and {found} again");
        }
    }
}
