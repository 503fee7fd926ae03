//! What holds for the grid of every block format that bantam writes.

use bantam_formats::{FORMATS, Format, Grid, INTEGERS};
use proptest::prelude::*;

/// A whole number of blocks in every format.
const LEN: usize = 512;

/// Scales that no search gives.
const SPECIAL: [f32; 5] = [0.0, -0.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];

/// A block taken apart.
#[derive(Clone, Debug, PartialEq)]
struct Parts {
    quants: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Parts {
    fn of(format: &Format, grid: &Grid, block: &[u8]) -> Parts {
        let groups = format.block / grid.group;
        let mut parts =
            Parts { quants: vec![99; format.block], scales: vec![f32::NAN; groups], mins: vec![f32::NAN; groups] };
        (grid.read)(block, &mut parts.quants, &mut parts.scales, &mut parts.mins);
        parts
    }
}

fn grids() -> impl Iterator<Item = (&'static Format, &'static Grid)> {
    FORMATS.iter().chain(INTEGERS).filter_map(|format| Some((*format, format.grid.as_ref()?)))
}

fn encode(format: &Format, weights: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; format.bytes_of(weights.len()).expect("whole blocks")];
    (format.encode.expect("an encoder"))(weights, None, &mut bytes);
    bytes
}

fn decode(format: &Format, block: &[u8]) -> Vec<f32> {
    let mut weights = vec![0.0; format.block];
    (format.decode)(block, &mut weights);
    weights
}

/// Weights of a model, nearly, from magnitudes at which the units of K-quants are subnormal to large ones.
fn weights() -> impl Strategy<Value = Vec<f32>> {
    let one = prop::collection::vec(-1f32..1.0, 4).prop_map(|v| v.iter().product::<f32>() + v[0]);
    (-5f32..3.0, prop::collection::vec(one, LEN))
        .prop_map(|(exponent, weights)| weights.into_iter().map(|w| w * 10f32.powf(exponent)).collect())
}

#[test]
fn every_block_format_that_is_written_has_a_grid() {
    for format in FORMATS.iter().filter(|f| f.block > 1) {
        assert_eq!(format.grid.is_some(), format.encode.is_some(), "{format}");
    }
    let levels = |name| Format::by_name(name).and_then(|f| f.grid.as_ref()).map(|g| g.levels.len());
    let expected = [("Q8_0", 255), ("Q6_K", 64), ("Q5_1", 32), ("Q4_K", 16), ("IQ4_XS", 16), ("Q3_K", 8), ("Q2_0", 4)];
    for (name, count) in expected {
        assert_eq!(levels(name), Some(count), "{name}");
    }
    let together: Vec<_> = grids().filter(|(_, grid)| grid.vector > 1).map(|(f, g)| (f.name, g.vector)).collect();
    assert_eq!(together, ["IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS"].map(|name| (name, 8)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn a_block_is_what_its_parts_mean_and_can_be_put_together_again(weights in weights()) {
        for (format, grid) in grids() {
            for block in encode(format, &weights).chunks(format.bytes) {
                let parts = Parts::of(format, grid, block);
                for (i, (quant, weight)) in parts.quants.iter().zip(decode(format, block)).enumerate() {
                    let (scale, min) = (parts.scales[i / grid.group], parts.mins[i / grid.group]);
                    prop_assert!(grid.levels.contains(quant), "{}: {}", format, quant);
                    prop_assert_eq!(grid.weight(*quant, scale, min).to_bits(), weight.to_bits(), "{}", format);
                    let position = grid.position(weight, scale, min);
                    prop_assert!(scale == 0.0 || grid.nearest(position) == *quant, "{}: {}", format, position);
                }
                // Every bit that carries a quant is written anew.
                let mut again = block.to_vec();
                (grid.put_quants)(&mut again, &vec![grid.levels[0]; format.block]);
                (grid.put_quants)(&mut again, &vec![grid.levels[grid.levels.len() - 1]; format.block]);
                (grid.put_quants)(&mut again, &parts.quants);
                prop_assert_eq!(&again, block, "{}", format);
                let mut again = block.to_vec();
                let groups = parts.scales.len();
                (grid.put_scales)(&mut again, &vec![1.0; groups], &vec![2.0; groups], &vec![1.0; groups]);
                (grid.put_scales)(&mut again, &vec![0.0; groups], &vec![0.0; groups], &vec![1.0; groups]);
                (grid.put_scales)(&mut again, &parts.scales, &parts.mins, &vec![1.0; groups]);
                prop_assert_eq!(Parts::of(format, grid, &again), parts, "{}", format);
            }
        }
    }

    #[test]
    fn quants_are_read_as_put(
        weights in weights(),
        choice in prop::collection::vec(any::<prop::sample::Index>(), LEN),
    ) {
        for (format, grid) in grids() {
            let mut block = encode(format, &weights[..format.block]);
            let before = Parts::of(format, grid, &block);
            let mut quants: Vec<u8> = choice[..format.block].iter().map(|i| *i.get(grid.levels)).collect();
            if grid.vector > 1 {
                // Some that go together.
                (grid.put_quants)(&mut block, &quants);
                quants = Parts::of(format, grid, &block).quants;
            }
            (grid.put_quants)(&mut block, &quants);
            prop_assert_eq!(Parts::of(format, grid, &block), Parts { quants, ..before }, "{}", format);
        }
    }

    #[test]
    fn quants_chosen_together_are_nearest(
        at in prop::collection::vec(-10f32..266.0, 8),
        counts in prop::collection::vec(0f32..3.0, 8),
        others in prop::collection::vec(any::<u8>(), 4096),
    ) {
        for (format, grid) in grids().filter(|(_, grid)| grid.vector == 8) {
            let distance = |quants: &[u8]| -> f64 {
                let squared = |i: usize| f64::from(counts[i]) * (f64::from(quants[i]) - f64::from(at[i])).powi(2);
                (0..8).map(squared).sum()
            };
            let mut nearest = [0; 8];
            grid.nearest_together(&at, &counts, &mut nearest);
            // Any bytes are quants that go together.
            for block in others.chunks_exact(format.bytes) {
                for other in Parts::of(format, grid, block).quants.chunks_exact(8) {
                    prop_assert!(distance(&nearest) <= distance(other) * 1.0001 + 1e-2, "{}: {:?}", format, other);
                }
            }
        }
    }

    #[test]
    fn scales_deviate_no_more_than_by_the_unit_that_fits_the_largest(
        exponent in -4f32..3.0,
        seed in prop::collection::vec((0.05f32..1.0, -1f32..1.0, 0.01f32..1.0), 16),
    ) {
        for (format, grid) in grids() {
            let mut block = vec![0; format.bytes];
            let groups = format.block / grid.group;
            let unit = 10f32.powf(exponent);
            let scales: Vec<f32> = seed[..groups].iter().map(|(scale, ..)| scale * unit).collect();
            let mins: Vec<f32> = seed[..groups].iter().map(|(_, min, _)| min * unit).collect();
            let weights: Vec<f32> = seed[..groups].iter().map(|(.., weight)| *weight).collect();
            let quants = vec![grid.levels[grid.levels.len() - 1]; format.block];
            (grid.put_quants)(&mut block, &quants);
            let quants = Parts::of(format, grid, &block).quants;
            (grid.put_scales)(&mut block, &scales, &mins, &weights);
            let parts = Parts::of(format, grid, &block);
            prop_assert_eq!(&parts.quants, &quants, "{}", format);
            let (affine, single) = (grid.zero.is_none(), groups == 1);
            let wanted: Vec<f32> = mins.iter().map(|m| if single { *m } else { m.max(0.0) }).collect();
            for (wanted, stored, is_stored) in [(&scales, &parts.scales, true), (&wanted, &parts.mins, affine)] {
                let ours = deviation(wanted, stored, &weights);
                let most = if is_stored { naive(format, wanted, &weights) } else { f64::MAX };
                // What is lost decides to 19 bits only.
                prop_assert!(ours <= most * (1.0 + 1e-5), "{}: {:?} became {:?}", format, wanted, stored);
            }
            prop_assert!(affine || parts.mins.iter().all(|m| *m == 0.0), "{}: {:?}", format, parts.mins);
        }
    }

    #[test]
    fn any_scales_become_finite_ones(
        bits in prop::collection::vec(any::<u32>(), 48),
        special in prop::collection::vec((0usize..48, prop::sample::select(&SPECIAL)), 0..48),
    ) {
        let mut values: Vec<f32> = bits.into_iter().map(f32::from_bits).collect();
        special.into_iter().for_each(|(i, v)| values[i] = v);
        for (format, grid) in grids() {
            let groups = format.block / grid.group;
            let mut block = vec![0; format.bytes];
            (grid.put_scales)(&mut block, &values[..groups], &values[16..][..groups], &values[32..][..groups]);
            prop_assert!(decode(format, &block).iter().all(|w| w.is_finite()), "{}: {:?}", format, values);
        }
    }
}

fn deviation(wanted: &[f32], stored: &[f32], weights: &[f32]) -> f64 {
    let squared = |i: usize| f64::from(weights[i]) * (f64::from(wanted[i]) - f64::from(stored[i])).powi(2);
    (0..wanted.len()).map(squared).sum()
}

/// The deviation if the largest value gets the largest code.
fn naive(format: &Format, values: &[f32], weights: &[f32]) -> f64 {
    let largest_code = match format.name {
        "Q6_K" => 127.0,
        "Q2_K" => 15.0,
        "Q4_K" | "Q5_K" => 63.0,
        "Q3_K" | "IQ4_XS" => 31.0,
        _ => 1.0,
    };
    let largest = values.iter().fold(0f32, |a, b| if b.abs() > a.abs() { *b } else { a });
    if let Some(units) = odd_units(format) {
        let unit = half::f16::from_f32(largest / 31.0 * units).to_f32() / units;
        let scale = |v: &f32| unit * (((v / unit - 1.0) / 2.0).round().clamp(0.0, 15.0) * 2.0 + 1.0);
        return deviation(values, &values.iter().map(scale).collect::<Vec<_>>(), weights);
    }
    let unit = half::f16::from_f32(largest / largest_code).to_f32();
    let code = |v: &f32| if unit == 0.0 { 0.0 } else { (v / unit).round().clamp(-largest_code, largest_code) };
    deviation(values, &values.iter().map(|v| unit * code(v)).collect::<Vec<_>>(), weights)
}

/// Formats whose scales are odd multiples of a share of an f16: how many shares.
fn odd_units(format: &Format) -> Option<f32> {
    match format.name {
        "IQ2_XXS" | "IQ2_XS" | "IQ2_S" => Some(8.0),
        "IQ3_XXS" => Some(4.0),
        "IQ3_S" => Some(1.0),
        _ => None,
    }
}

#[test]
fn scales_that_cannot_be_stored_become_the_nearest() {
    for (format, grid) in grids() {
        let groups = format.block / grid.group;
        let mut block = encode(format, &vec![1.0; format.block]);
        let mut put = |scale: f32, min: f32, weight: f32| {
            (grid.put_scales)(&mut block, &vec![scale; groups], &vec![min; groups], &vec![weight; groups]);
            let parts = Parts::of(format, grid, &block);
            (parts.scales[groups - 1], parts.mins[groups - 1])
        };
        assert_eq!(put(0.0, 0.0, 1.0), (0.0, 0.0), "{format}");
        assert_eq!(put(f32::NAN, f32::NAN, 1.0), (0.0, 0.0), "{format}");
        let (scale, min) = put(f32::INFINITY, f32::INFINITY, 1.0);
        assert!(scale >= 65504.0 && min >= if grid.zero.is_none() { 65504.0 } else { 0.0 }, "{format}: {scale} {min}");
        // Weights that say nothing.
        for weight in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let expected = if grid.zero.is_none() { 0.25 } else { 0.0 };
            assert_eq!(put(0.5, 0.25, weight), (0.5, expected), "{format} with {weight}");
        }
    }
}

#[test]
fn weights_decide_whose_scale_is_kept() {
    for (format, grid) in grids().filter(|(format, grid)| format.block > grid.group) {
        let groups = format.block / grid.group;
        let scales: Vec<f32> = (0..groups).map(|g| 0.02 + ((g * 37) % 16) as f32 * 0.0013).collect();
        let error_of_first = |first: f32| {
            let mut weights = vec![1.0; groups];
            weights[0] = first;
            let mut block = vec![0; format.bytes];
            (grid.put_scales)(&mut block, &scales, &vec![0.0; groups], &weights);
            (Parts::of(format, grid, &block).scales[0] - scales[0]).abs()
        };
        assert!(error_of_first(1e4) < error_of_first(1e-4), "{format}");
        assert!(error_of_first(1e4) < 1e-3 * scales[0], "{format}: {}", error_of_first(1e4));
    }
}
