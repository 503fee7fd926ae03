//! Activations as 8-bit integers, as ggml quantizes them (`quantize_row_q8_0` and `quantize_row_q8_K`), so that a
//! product here differs from ggml's by the rounding of f32 sums alone.

use super::isa::{Isa, Kernel, Level};
use super::layouts::{CHUNK, STEP};
use super::parallel::{self, Parts};
use crate::format::Activation;

/// Activations per scale.
pub(super) const SCALED: usize = 16;

/// Values that a thread quantizes at a time.
const AT_ONCE: usize = 4 * 1024;

/// Columns of activations as int8 with a scale for every 16, padded with zeros to whole steps.
#[derive(Default)]
pub(super) struct Activations {
    /// Columns held.
    pub n: usize,
    /// Activations per column, a multiple of [`STEP`].
    pub stride: usize,
    quants: Vec<i8>,
    scales: Vec<f32>,
    sums: Vec<f32>,
}

/// One column of [`Activations`].
#[derive(Clone, Copy)]
pub(super) struct Column<'a> {
    /// The quants, never -128 where the scale is not zero.
    pub quants: &'a [[i8; CHUNK]],
    /// Scales, one for every 16 quants: 16 for each step.
    pub scales: &'a [[f32; STEP / SCALED]],
    /// The sum of every 16 quants, times their scale.
    pub sums: &'a [[f32; STEP / SCALED]],
}

impl Activations {
    /// Quantizes the columns of `x`, each of `len` values.
    ///
    /// A group that holds NaN or infinity gets the scale NaN, so that the product shows it.
    pub fn quantize(&mut self, level: Level, kind: Activation, x: &[f32], len: usize) {
        self.n = x.len() / len;
        self.stride = len.next_multiple_of(STEP);
        self.quants.resize(self.n * self.stride, 0);
        self.scales.resize(self.n * self.stride / SCALED, 0.0);
        self.sums.resize(self.n * self.stride / SCALED, 0.0);
        let (stride, scaled) = (self.stride, self.stride / SCALED);
        let at_once = AT_ONCE.div_ceil(len);
        let quants = Parts::of(&mut self.quants, at_once * stride);
        let scales = Parts::of(&mut self.scales, at_once * scaled);
        let sums = Parts::of(&mut self.sums, at_once * scaled);
        parallel::for_each(quants.count(), |_, i| {
            // SAFETY: `for_each` gives each number once.
            let (quants, scales, sums) = unsafe { (quants.take(i), scales.take(i), sums.take(i)) };
            let columns = quants.chunks_exact_mut(stride).zip(scales.chunks_exact_mut(scaled));
            let columns = columns.zip(sums.chunks_exact_mut(scaled));
            for (x, ((quants, scales), sums)) in x[i * at_once * len..].chunks_exact(len).zip(columns) {
                level.dispatch(Quantize { kind, x, quants, scales, sums });
            }
        });
    }

    /// Column `i`.
    pub fn column(&self, i: usize) -> Column<'_> {
        let (stride, scaled) = (self.stride, self.stride / SCALED);
        Column {
            quants: self.quants[i * stride..][..stride].as_chunks().0,
            scales: self.scales[i * scaled..][..scaled].as_chunks().0,
            sums: self.sums[i * scaled..][..scaled].as_chunks().0,
        }
    }
}

/// Quantizes one column.
struct Quantize<'a> {
    kind: Activation,
    x: &'a [f32],
    quants: &'a mut [i8],
    scales: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Kernel for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        let group = if self.kind == Activation::Int8x256 { STEP } else { 32 };
        let groups = self.x.len().div_ceil(group);
        let quants = self.quants.chunks_exact_mut(group);
        let scales = self.scales.chunks_exact_mut(group / SCALED);
        let sums = self.sums.chunks_exact_mut(group / SCALED);
        for (i, ((quants, scales), sums)) in quants.zip(scales).zip(sums).enumerate() {
            if i >= groups {
                quants.fill(0);
                scales.fill(0.0);
                sums.fill(0.0);
                continue;
            }
            let x = &self.x[i * group..self.x.len().min((i + 1) * group)];
            let (x, []) = x.as_chunks::<SCALED>() else { unreachable!("quantized rows are whole groups of 32") };
            quantize_group(s, self.kind, x, quants, scales, sums);
        }
    }
}

/// Quantizes one group, which shares a scale.
#[inline(always)]
fn quantize_group<S: Isa>(
    s: S,
    kind: Activation,
    x: &[[f32; SCALED]],
    quants: &mut [i8],
    scales: &mut [f32],
    sums: &mut [f32],
) {
    let zero = s.splat_f(0.0);
    let (mut largest, mut poison) = (zero, zero);
    for x in x {
        let x = s.load_f(x);
        largest = s.max(s.max(x, s.sub(zero, x)), largest);
        poison = s.fma(x, zero, poison);
    }
    let mut lanes = [0.0; 16];
    s.store_f(largest, &mut lanes);
    let largest = lanes.iter().copied().fold(0.0, f32::max);
    let (scale, inverse) = match kind {
        // The scale is stored as a half; the quants are made with the exact one.
        Activation::Int8x32 => (half::f16::from_f32(largest / 127.0).to_f32(), 127.0 / largest),
        _ => (1.0 / (127.0 / largest), 127.0 / largest),
    };
    let (scale, inverse) = if largest == 0.0 { (0.0, 0.0) } else { (scale, inverse) };
    let scale = scale + s.sum(poison);

    // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
    let magic = s.splat_f(12_582_912.0);
    let (quants, _) = quants.as_chunks_mut::<SCALED>();
    for (((x, quants), sum), stored) in x.iter().zip(quants).zip(sums).zip(scales) {
        let rounded = s.add(s.mul(s.load_f(x), s.splat_f(inverse)), magic);
        s.store_low_bytes(s.to_bits(rounded), quants);
        *sum = scale * s.sum(s.sub(rounded, magic));
        *stored = scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// ggml's `quantize_row_q8_0` (x86) and `quantize_row_q8_K_ref` for one group, the sign of the latter's scale aside.
    fn reference(kind: Activation, x: &[f32]) -> (Vec<i8>, f32) {
        let largest = x.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if largest == 0.0 {
            return (vec![0; x.len()], 0.0);
        }
        let inverse = 127.0 / largest;
        let quants = x.iter().map(|v| (v * inverse).round_ties_even() as i8).collect();
        let scale = match kind {
            Activation::Int8x32 => half::f16::from_f32(largest / 127.0).to_f32(),
            _ => 1.0 / inverse,
        };
        (quants, scale)
    }

    fn check(kind: Activation, group: usize, x: &[f32], len: usize) {
        for level in Level::all() {
            let mut a = Activations::default();
            a.quantize(level, kind, x, len);
            for (i, x) in x.chunks_exact(len).enumerate() {
                let column = a.column(i);
                let (quants, scales) = (column.quants.as_flattened(), column.scales.as_flattened());
                for (g, x) in x.chunks(group).enumerate() {
                    let (want, scale) = reference(kind, x);
                    assert_eq!(&quants[g * group..][..x.len()], want, "{level:?}");
                    for s in 0..x.len() / SCALED {
                        let at = g * group / SCALED + s;
                        let sum: i32 = want[s * SCALED..][..SCALED].iter().map(|&q| i32::from(q)).sum();
                        assert_eq!(scales[at], scale, "{level:?}");
                        assert_eq!(column.sums.as_flattened()[at], scale * sum as f32, "{level:?}");
                    }
                }
                assert!(quants[len..].iter().all(|&q| q == 0));
            }
        }
    }

    proptest! {
        #[test]
        fn quants_and_scales_are_ggml_s(
            x in prop::collection::vec(prop_oneof![8 => -10.0f32..10.0, 1 => Just(0.0), 1 => -1e-6f32..1e-6], 2 * 512),
            groups in 1usize..=16,
        ) {
            let len = 32 * groups;
            check(Activation::Int8x32, 32, &x[..2 * len], len);
            let len = 256 * groups.div_ceil(8);
            check(Activation::Int8x256, 256, &x[..2 * len], len);
        }
    }

    #[test]
    fn ties_go_to_even_and_zeros_stay() {
        let mut x = vec![0.0; 64];
        x[..4].copy_from_slice(&[127.0, 0.5, 1.5, -2.5]);
        check(Activation::Int8x32, 32, &x, 64);
    }

    #[test]
    fn nan_and_infinity_show_in_the_scale() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for level in Level::all() {
                let mut x = vec![1.0; 64];
                x[40] = bad;
                let mut a = Activations::default();
                a.quantize(level, Activation::Int8x32, &x, 64);
                let scales = a.column(0).scales[0];
                assert!(scales[1].is_finite() && scales[2].is_nan(), "{level:?}: {scales:?}");
            }
        }
    }
}
