//! Given the scales of a super-block's groups: the f16 unit and the integer codes whose products are nearest.

use super::lanes::{LANES, Lanes, round_to_f16};
use super::symmetric::{self, Levels, extreme};
use super::weights;
use crate::kernels::Isa;
use half::f16;
use std::array::from_fn;

/// Scales as a super-block stores them: `unit * code` each.
pub struct Coded<const GROUPS: usize> {
    /// The unit.
    pub unit: f16,
    /// The level of each group: its code, where codes are levels.
    pub codes: [i32; GROUPS],
}

/// The unit and the codes among the levels `L` with a small sum of `weights * (unit * code - values)²`; zero, if there
/// are such. Where codes are not negative, neither is the unit, and negative values become 0.
///
/// Tries the codes that follow if the extreme value gets this code or that, each with the unit that fits them best, and
/// then the f16s around the best unit.
#[inline(always)]
pub fn nearest<S: Isa, L: Levels, const GROUPS: usize>(s: S, values: &[f32], weights: &[f32]) -> Coded<GROUPS> {
    let mut values: [f32; GROUPS] = weights::finite(values.as_array().expect("a value for each group"));
    if L::LOW >= 0.0 {
        values = values.map(|v| if v > 0.0 { v } else { 0.0 });
    }
    let weights: [f32; GROUPS] = usable(weights.as_array().expect("a weight for each group"));
    let extreme = extreme(&from_fn::<f32, GROUPS, _>(|g| if weights[g] > 0.0 { values[g] } else { 0.0 }));

    let mut best = (f32::MAX, 0.0);
    for first in (L::LOW as i32..=L::HIGH as i32).step_by(LANES) {
        let units = Lanes::from_fn(s, |i| round_to_f16(extreme / (first + i as i32) as f32));
        let units = fitted::<S, L, GROUPS>(s, &values, &weights, units);
        best = better::<S, L, GROUPS>(s, &values, &weights, best, units.array().map(round_to_f16));
    }
    let (_, unit) = better::<S, L, GROUPS>(s, &values, &weights, best, around(best.1));
    let mut codes = [0; GROUPS];
    for (code, value) in codes.iter_mut().zip(values) {
        let place = if unit == 0.0 { 0.0 } else { value / unit };
        *code = L::nearest(s, Lanes::splat(s, place)).array()[0] as i32;
    }
    // Not -0.
    Coded { unit: f16::from_f32(unit + 0.0), codes }
}

/// The cost and the unit of the best of these units, or of one that is given with its cost.
#[inline(always)]
fn better<S: Isa, L: Levels, const GROUPS: usize>(
    s: S,
    values: &[f32; GROUPS],
    weights: &[f32; GROUPS],
    best: (f32, f32),
    units: [f32; LANES],
) -> (f32, f32) {
    let costs = symmetric::cost::<S, L, GROUPS>(s, values, weights, Lanes::load(s, &units));
    let lane = costs.argmin();
    let cost = costs.array()[lane];
    if cost < best.0 { (cost, units[lane]) } else { best }
}

/// The units that fit best the codes nearest with these; 0 if all codes are 0.
#[inline(always)]
fn fitted<S: Isa, L: Levels, const GROUPS: usize>(
    s: S,
    values: &[f32; GROUPS],
    weights: &[f32; GROUPS],
    units: Lanes<S>,
) -> Lanes<S> {
    let (zero, inverse) = (Lanes::splat(s, 0.0), units.reciprocal());
    let (mut vc, mut cc) = (zero, zero);
    for g in 0..GROUPS {
        let code = L::nearest(s, inverse * values[g]);
        let weighted = code * weights[g];
        vc = vc + weighted * values[g];
        cc = cc + weighted * code;
    }
    cc.if_above(0.0, vc / cc, zero)
}

/// The f16s around one, of the same sign.
#[inline(always)]
fn around(unit: f32) -> [f32; LANES] {
    let bits = f16::from_f32(unit).to_bits();
    let (sign, magnitude) = (bits & 0x8000, i32::from(bits & 0x7fff));
    let greatest = i32::from(f16::MAX.to_bits());
    from_fn(|i| f16::from_bits(sign | (magnitude + i as i32 - 8).clamp(0, greatest) as u16).to_f32())
}

/// Relative to the greatest; zero where not positive and finite; all alike if none is.
#[inline(always)]
fn usable<const GROUPS: usize>(weights: &[f32; GROUPS]) -> [f32; GROUPS] {
    let weights = weights.map(|w| if w > 0.0 && w <= f32::MAX { w } else { 0.0 });
    let greatest = weights.iter().fold(0f32, |a, b| if *b > a { *b } else { a });
    if greatest > 0.0 { weights.map(|w| w / greatest) } else { [1.0; GROUPS] }
}

#[cfg(test)]
mod tests {
    use super::symmetric::Uniform;
    use super::*;
    use crate::kernels::{Kernel, Level};

    struct Nearest<'a, const LOW: i32, const HIGH: i32>(&'a [f32; 8], &'a [f32; 8]);

    impl<const LOW: i32, const HIGH: i32> Kernel for Nearest<'_, LOW, HIGH> {
        type Output = Coded<8>;

        #[inline(always)]
        fn run<S: Isa>(self, s: S) -> Coded<8> {
            nearest::<S, Uniform<LOW, HIGH>, 8>(s, self.0, self.1)
        }
    }

    /// The square root of how much more is lost than with the best of all units, in the mean.
    fn excess<const LOW: i32, const HIGH: i32>(magnitude: f32) -> f64 {
        let mut state = 3u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let (mut ours, mut least) = (0.0, 0.0);
        for _ in 0..50 {
            let values =
                from_fn(|_| magnitude * (0.2 + uniform()) * if LOW < 0 && uniform() < 0.5 { -1.0 } else { 1.0 });
            let weights = from_fn(|_| (5.0 * uniform()).exp());
            let loss = |unit: f32, codes: &[i32; 8]| {
                let lost = |g: usize| f64::from(weights[g]) * f64::from(unit * codes[g] as f32 - values[g]).powi(2);
                (0..8).map(lost).sum::<f64>()
            };
            let of_unit = |bits: u16| {
                let unit = f16::from_bits(bits).to_f32();
                loss(unit, &values.map(|v| (v / unit).round().clamp(LOW as f32, HIGH as f32) as i32))
            };
            let coded = Level::best().dispatch(Nearest::<LOW, HIGH>(&values, &weights));
            ours += loss(coded.unit.to_f32(), &coded.codes).sqrt();
            let signs = if LOW < 0 { [0, 0x8000].as_slice() } else { &[0] };
            let all = signs.iter().flat_map(|sign| (1..f16::INFINITY.to_bits()).map(move |bits| sign | bits));
            least += all.map(of_unit).fold(f64::MAX, f64::min).sqrt();
        }
        ours / least
    }

    #[test]
    fn little_more_is_lost_than_with_the_best_of_all_units() {
        for magnitude in [1.0, 1e-3, 1e-4] {
            let excesses = [
                excess::<0, 15>(magnitude),
                excess::<0, 63>(magnitude),
                excess::<-32, 31>(magnitude),
                excess::<-128, 127>(magnitude),
            ];
            assert!(excesses.iter().all(|e| (1.0 - 1e-6..1.02).contains(e)), "{magnitude}: {excesses:?}");
        }
    }
}
