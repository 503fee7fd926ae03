//! Rotary embedding at work: the cosines and sines of a stretch of positions.

use crate::layers::Rotary;
use crate::vector;
use bantam_checkpoint::config::RopePairing;
use std::ops::Range;

/// The rotation of each of a stretch of positions.
pub(crate) struct Rotation {
    pairs: usize,
    pairing: RopePairing,
    /// `[positions, pairs]`.
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Rotation {
    /// The rotation at these positions.
    pub fn new(rotary: &Rotary, positions: Range<usize>) -> Self {
        let angles = positions.flat_map(|at| rotary.frequencies.iter().map(move |frequency| at as f32 * frequency));
        let scaled = |angle: f32| (angle.cos() * rotary.amplitude, angle.sin() * rotary.amplitude);
        let (cos, sin) = angles.map(scaled).unzip();
        Self { pairs: rotary.pairs(), pairing: rotary.pairing, cos, sin }
    }

    /// The way back, which gradients take: the transposed matrices.
    pub fn transposed(mut self) -> Self {
        self.sin.iter_mut().for_each(|sin| *sin = -*sin);
        self
    }

    /// Rotates one head at the `i`th of the positions. Dimensions beyond the pairs are left as they are.
    pub fn apply(&self, i: usize, head: &mut [f32]) {
        let angles = i * self.pairs..(i + 1) * self.pairs;
        let (cos, sin) = (&self.cos[angles.clone()], &self.sin[angles]);
        let head = &mut head[..2 * self.pairs];
        match self.pairing {
            RopePairing::Interleaved => vector::rotate_neighbours(head, cos, sin),
            RopePairing::Halves => vector::rotate_halves(head, cos, sin),
        }
    }
}
