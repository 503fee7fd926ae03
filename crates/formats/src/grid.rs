//! The grid of a block format: which quants and scales its bytes can hold, for those who choose them by themselves.
//!
//! [`Format::encode`](crate::Format::encode) finds scales and rounds in one step. Methods that see more than one block
//! (error feedback as in GPTQ, learned rounding, scales trained by a model's own loss) take a block apart, choose its
//! quants or its scales, put them back, and know no format: the grid says what there is to choose from.
//!
//! ```
//! use bantam_formats::Format;
//!
//! let format = Format::by_name("Q4_K").unwrap();
//! let grid = format.grid.as_ref().unwrap();
//! let weights: Vec<f32> = (0..format.block).map(|i| (i as f32).sin()).collect();
//! let mut block = vec![0; format.bytes];
//! (format.encode.unwrap())(&weights, None, &mut block);
//!
//! // Keeps the block's scales, and rounds each weight to its nearest quant.
//! let groups = format.block / grid.group;
//! let (mut quants, mut scales, mut mins) = (vec![0; format.block], vec![0.0; groups], vec![0.0; groups]);
//! (grid.read)(&block, &mut quants, &mut scales, &mut mins);
//! for (i, quant) in quants.iter_mut().enumerate() {
//!     let (scale, min) = (scales[i / grid.group], mins[i / grid.group]);
//!     *quant = grid.nearest(grid.position(weights[i], scale, min));
//!     assert!((grid.weight(*quant, scale, min) - weights[i]).abs() <= scale);
//! }
//! (grid.put_quants)(&mut block, &quants);
//! ```

/// What a block can hold, and how to take it apart and put it together.
///
/// A block of [`Format::block`](crate::Format::block) weights has as many quants, and a scale and a min for each
/// [`group`](Grid::group) of them. The functions take slices of exactly these lengths.
pub struct Grid {
    /// The quants that can be stored, ascending: 0 to 15 for Q4_K, the code book for IQ4_NL.
    pub levels: &'static [u8],
    /// The quant that means zero, in symmetric formats: `weight = scale * (quant - zero)`. `None` in affine formats:
    /// `weight = scale * quant - min`.
    pub zero: Option<u8>,
    /// How many neighbouring weights choose their quants together: 1, or 8 where a code book says which go together (IQ2, IQ3).
    pub vector: usize,
    /// How many weights share a scale: from 16 to 256.
    pub group: usize,
    /// Takes a block apart. Symmetric formats have mins of zero.
    pub read: Read,
    /// Replaces the quants of a block, the scales stay. A quant that is not one of the levels becomes the nearest, and quants that
    /// do not go together those that are nearest in the sum of squares.
    pub put_quants: fn(block: &mut [u8], quants: &[u8]),
    /// Replaces the scales and mins of a block by some that can be stored and are near, the quants stay. [`read`] says
    /// what they became.
    ///
    /// A scale of its own is rounded to f16. Super-blocks (K-quants, IQ4_XS) hold a small integer for each group, in
    /// one f16 unit for all scales and one for all mins; these are chosen such that the sum of squared deviations, each
    /// times its group's weight in `weights`, is small. What was read from a block that [`Format::encode`] wrote is
    /// stored unchanged.
    ///
    /// Affine K-quants have neither negative mins nor negative scales: these become 0. So does NaN, and what is beyond
    /// the format's range becomes its largest. Weights that are not positive and finite count nothing; if all are such,
    /// groups count alike.
    ///
    /// [`read`]: Grid::read
    /// [`Format::encode`]: crate::Format::encode
    pub put_scales: PutScales,
    /// If the levels are not consecutive integers: the one nearest to `i / 2 + 1 / 4`. Levels are integers, so that
    /// between two multiples of a half the nearest level does not change.
    pub(crate) book: Option<&'static [u8; 512]>,
    /// If quants are chosen together: those of one [`vector`](Grid::vector).
    pub(crate) together: Option<Together>,
}

/// Reads one block's quants, scales and mins.
pub type Read = fn(block: &[u8], quants: &mut [u8], scales: &mut [f32], mins: &mut [f32]);

/// Chooses the quants of weights that choose together, given their positions and what their squared errors count.
pub(crate) type Together = fn(positions: &[f32], weights: &[f32], quants: &mut [u8]);

/// Writes near `scales` and `mins` to one block, weighing each group's squared deviation by `weights`.
pub type PutScales = fn(block: &mut [u8], scales: &[f32], mins: &[f32], weights: &[f32]);

impl Grid {
    /// The level nearest to a [position](Grid::position) between quants; either, if it lies midway. NaN gives the
    /// lowest.
    #[inline]
    pub fn nearest(&self, position: f32) -> u8 {
        match self.book {
            None => {
                let (low, high) = (self.levels[0], self.levels[self.levels.len() - 1]);
                // Adding 2^23 leaves the integer, rounded, in the lowest bits.
                (position.max(low.into()).min(high.into()) + 8_388_608.0).to_bits() as u8
            }
            // The cast saturates.
            Some(book) => book[((2.0 * position) as usize).min(511)],
        }
    }

    /// The quants of a [`vector`](Grid::vector) of neighbouring weights that are nearest to their positions, in the sum of squared
    /// distances times `weights`.
    #[inline]
    pub fn nearest_together(&self, positions: &[f32], weights: &[f32], quants: &mut [u8]) {
        match self.together {
            Some(choose) => choose(positions, weights, quants),
            None => quants.iter_mut().zip(positions).for_each(|(quant, position)| *quant = self.nearest(*position)),
        }
    }

    /// Where among the quants a weight lies: the inverse of [`weight`](Grid::weight). NaN or infinite if `scale` is 0.
    #[inline]
    pub fn position(&self, weight: f32, scale: f32, min: f32) -> f32 {
        match self.zero {
            Some(zero) => weight / scale + f32::from(zero),
            None => (weight + min) / scale,
        }
    }

    /// What a quant means, exactly as the format decodes it.
    #[inline]
    pub fn weight(&self, quant: u8, scale: f32, min: f32) -> f32 {
        match self.zero {
            Some(zero) => scale * f32::from(i16::from(quant) - i16::from(zero)),
            None => scale * f32::from(quant) - min,
        }
    }
}

/// The place among `levels` (ascending) of the one nearest to `quarters / 4`, of two the lower.
pub(crate) const fn nearest_place(levels: &[u8], quarters: i32) -> usize {
    let mut place = 0;
    while place + 1 < levels.len() && 2 * quarters > 4 * (levels[place] as i32 + levels[place + 1] as i32) {
        place += 1;
    }
    place
}

#[cfg(test)]
mod tests {
    use crate::FORMATS;

    #[test]
    fn the_nearest_level_is_nearest() {
        for (format, grid) in FORMATS.iter().filter_map(|f| Some((f, f.grid.as_ref()?))) {
            let distance = |level: u8, t: f32| (f64::from(level) - f64::from(t)).abs();
            for i in -1000..5000 {
                for t in [i as f32 / 16.0, i as f32 / 17.0, (i as f32 / 16.0).next_down(), (i as f32 / 16.0).next_up()]
                {
                    let least = grid.levels.iter().map(|l| distance(*l, t)).fold(f64::MAX, f64::min);
                    let nearest = grid.nearest(t);
                    assert!(grid.levels.contains(&nearest), "{format}: {nearest}");
                    assert_eq!(distance(nearest, t), least, "{format}: {nearest} for {t}");
                }
            }
            let (low, high) = (grid.levels[0], grid.levels[grid.levels.len() - 1]);
            for t in [f32::NEG_INFINITY, f32::MIN, -0.0, f32::NAN] {
                assert_eq!(grid.nearest(t), low, "{format}: {t}");
            }
            for t in [f32::INFINITY, f32::MAX, 1e10] {
                assert_eq!(grid.nearest(t), high, "{format}: {t}");
            }
        }
    }
}
