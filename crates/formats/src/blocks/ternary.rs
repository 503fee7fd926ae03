//! TQ1_0 and TQ2_0: 256 weights of three values, `-d`, 0 or `d`, as in models trained so (BitNet b1.58: Ma et al. 2024).

use super::layout::{Encoder, Layout, block_format, f16_at, levels, put_f16, put_nearest_f16};
use super::q2_k::{put_two_bits, two_bits};
use super::search::{ternary, weights};
use crate::kernels::Isa;

block_format! {
    /// `d * (q - 1)`, five weights a byte: 1.6875 bits per weight.
    TQ1_0 = Tq10, 34
}
block_format! {
    /// `d * (q - 1)`, four weights a byte: 2.0625 bits per weight. A quant of 3, which is read and not written, means `2 d`.
    TQ2_0 = Tq20, 35
}

/// The bytes of a TQ1_0 block that hold trits: where they begin, how many there are, and how many trits each holds. Each part
/// holds the first trits of all its bytes, then the second ones, and so on.
pub(crate) const TRITS: [(usize, usize, usize); 3] = [(0, 32, 5), (32, 16, 5), (48, 4, 4)];

/// The powers of three.
const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

/// The trit `n` of a byte, which is a fraction of 256 in base three: `ceil(256 / 243 * sum(3^(4 - n) trit))`.
#[inline(always)]
pub(crate) fn trit(byte: u8, n: usize) -> u8 {
    // Shifting the trits before it out leaves it first.
    let from = byte.wrapping_mul(POWERS[n]);
    ((u16::from(from) * 3) >> 8) as u8
}

/// The best trits of a block and its scale, which both formats end with.
#[inline(always)]
fn encode_trits<E: Encoder, S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
    let (x, w) = weights::block::<256>(x, importance, &weights::TERNARY);
    let fit = ternary::best(s, &x, &w);
    put_f16(block, E::BYTES - 2, fit.scale);
    E::put_codes(&fit.codes, block);
}

/// Bytes: 48 of five trits, 4 of four, d.
struct Tq10;

impl Layout for Tq10 {
    const BLOCK: usize = 256;
    const BYTES: usize = 54;
    const ZERO: Option<u8> = Some(1);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        let mut at = 0;
        for (first, count, trits) in TRITS {
            for n in 0..trits {
                for (quant, byte) in quants[at..at + count].iter_mut().zip(&block[first..first + count]) {
                    *quant = trit(*byte, n);
                }
                at += count;
            }
        }
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, Self::BYTES - 2));
    }
}

impl Encoder for Tq10 {
    const LEVELS: &[u8] = levels(0, 3);
    const SHARING: usize = 256;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        encode_trits::<Self, S>(s, x, importance, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        let mut at = 0;
        for (first, count, trits) in TRITS {
            for (i, byte) in block[first..first + count].iter_mut().enumerate() {
                let digits = (0..trits).map(|n| u32::from(POWERS[4 - n]) * u32::from(codes[at + n * count + i]));
                *byte = (digits.sum::<u32>() * 256).div_ceil(243) as u8;
            }
            at += trits * count;
        }
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, Self::BYTES - 2, scales[0]);
    }
}

/// Bytes: 64 of two-bit quants, d.
struct Tq20;

impl Layout for Tq20 {
    const BLOCK: usize = 256;
    const BYTES: usize = 66;
    const ZERO: Option<u8> = Some(1);

    #[inline(always)]
    fn quants(block: &[u8], quants: &mut [u8]) {
        two_bits(&block[..64], quants);
    }

    #[inline(always)]
    fn scales(block: &[u8], scales: &mut [f32], _: &mut [f32]) {
        scales.fill(f16_at(block, Self::BYTES - 2));
    }
}

impl Encoder for Tq20 {
    const LEVELS: &[u8] = levels(0, 3);
    const SHARING: usize = 256;

    #[inline(always)]
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, block: &mut [u8]) {
        encode_trits::<Self, S>(s, x, importance, block);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_two_bits(codes, &mut block[..64]);
    }

    #[inline(always)]
    fn put_scales<S: Isa>(_: S, scales: &[f32], _: &[f32], _: &[f32], block: &mut [u8]) {
        put_nearest_f16(block, Self::BYTES - 2, scales[0]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_five_trits_are_read_as_put() {
        let codes: Vec<u8> = (0..256usize).map(|i| (i * i % 3) as u8).collect();
        let mut block = [0xff; 54];
        Tq10::put_codes(&codes, &mut block);
        let mut quants = [9; 256];
        Tq10::quants(&block, &mut quants);
        assert_eq!(quants[..], codes[..]);
        for value in 0..243u32 {
            let byte = (value * 256).div_ceil(243) as u8;
            let digits: Vec<u32> = (0..5).map(|n| u32::from(trit(byte, n))).collect();
            assert_eq!(digits.iter().fold(0, |sum, d| 3 * sum + d), value);
        }
    }
}
