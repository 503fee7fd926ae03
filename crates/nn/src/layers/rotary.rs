//! Rotary position embedding (Su et al. 2021) and its stretchings.

use bantam_checkpoint::config::{Rope, RopePairing, RopeScaling};
use std::f32::consts::TAU;

/// Rotation of query and key heads by their position: pair `i` turns by `position * frequencies[i]`.
#[derive(Debug)]
pub struct Rotary {
    /// Radians per position, one per pair of dimensions.
    pub frequencies: Vec<f32>,
    /// What rotated dimensions are multiplied with (YaRN's temperature); 1 otherwise.
    pub amplitude: f32,
    /// Which dimensions make a pair. Dimensions beyond the pairs are left as they are.
    pub pairing: RopePairing,
}

/// Turns over the original context above which YaRN leaves a frequency alone, and below which it stretches it fully.
const YARN_TURNS: (f32, f32) = (32.0, 1.0);

impl Rotary {
    /// The rotation that the hyperparameters ask for. `factors`, one per pair, divide the frequencies (Llama 3's stretching).
    pub fn new(rope: &Rope, factors: Option<&[f32]>) -> Self {
        let mut frequencies = base_frequencies(rope.dimension_count, rope.freq_base);
        let mut amplitude = 1.0;
        match rope.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => frequencies.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Yarn { factor, original_context } => {
                stretch_yarn(&mut frequencies, rope, factor, original_context);
                amplitude = 1.0 + 0.1 * factor.ln();
            }
        }
        for (frequency, factor) in frequencies.iter_mut().zip(factors.unwrap_or(&[])) {
            *frequency /= factor;
        }
        Self { frequencies, amplitude, pairing: rope.pairing }
    }

    /// Pairs of dimensions that are rotated.
    pub fn pairs(&self) -> usize {
        self.frequencies.len()
    }
}

fn base_frequencies(dimensions: usize, base: f32) -> Vec<f32> {
    (0..dimensions / 2).map(|i| 1.0 / base.powf((2 * i) as f32 / dimensions as f32)).collect()
}

/// YaRN (Peng et al. 2023, section 3.2): high frequencies stay, low ones are divided by `factor`, a ramp lies between.
fn stretch_yarn(frequencies: &mut [f32], rope: &Rope, factor: f32, original_context: usize) {
    let dimensions = rope.dimension_count as f32;
    // The pair that makes `turns` turns over the original context.
    let pair_of =
        |turns: f32| dimensions * (original_context as f32 / (turns * TAU)).ln() / (2.0 * rope.freq_base.ln());
    let low = pair_of(YARN_TURNS.0).floor().max(0.0);
    let high = pair_of(YARN_TURNS.1).ceil().min(dimensions - 1.0);
    for (i, frequency) in frequencies.iter_mut().enumerate() {
        let stretched = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
        *frequency = *frequency / factor * stretched + *frequency * (1.0 - stretched);
    }
}
