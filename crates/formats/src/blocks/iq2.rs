//! IQ2_XXS, IQ2_XS and IQ2_S: somewhat more than two bits, eight weights at a time from a code book.

use super::books::{self, Eight, even_signs};
use super::iq3::{put_even_signs, word};
use super::layout::block_format;
use super::points::{Points, levels};
use super::search::weights::{self, Rule};

block_format! {
    /// 256 points, even signs, groups of 32: 2.0625 bits per weight.
    IQ2_XXS = Iq2Xxs, 16
}
block_format! {
    /// 512 points, even signs, groups of 16: 2.3125 bits per weight.
    IQ2_XS = Iq2Xs, 17
}
block_format! {
    /// 1024 points, groups of 16: 2.5625 bits per weight.
    IQ2_S = Iq2S, 22
}

/// Twice as many quants as magnitudes.
const LEVELS: [u8; 6] = levels(&books::IQ2);

/// Bytes: d, 8 times 4 of points, and 4 bytes of 28 signs and the scale's 4 bits.
pub(crate) struct Iq2Xxs;

impl Points for Iq2Xxs {
    type Book = books::Iq2Xxs;
    const BYTES: usize = 66;
    const GROUP: usize = 32;
    const UNITS: f32 = 8.0;
    const LEVELS: &'static [u8] = &LEVELS;
    const RULE: Rule = weights::IQ2_X;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> Eight {
        let at = 2 + 8 * (i / 4);
        Eight { points: [u16::from(block[at + i % 4]), 0], signs: even_signs(word(block, at + 4) >> (7 * (i % 4))) }
    }

    #[inline(always)]
    fn code(block: &[u8], group: usize) -> u8 {
        block[9 + 8 * group] >> 4
    }

    #[inline(always)]
    fn put_eights(eights: &[Eight; 32], block: &mut [u8]) {
        for (i, eight) in eights.iter().enumerate() {
            block[2 + 8 * (i / 4) + i % 4] = eight.points[0] as u8;
        }
        put_even_signs(eights, &mut block[2..66], 8, 4);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (code, bytes) in codes.iter().zip(block[2..66].chunks_exact_mut(8)) {
            bytes[7] = (bytes[7] & 15) | (code << 4);
        }
    }
}

/// Bytes: d, 32 times 9 bits of a point and 7 signs, 8 of scales.
pub(crate) struct Iq2Xs;

impl Points for Iq2Xs {
    type Book = books::Iq2Xs;
    const BYTES: usize = 74;
    const GROUP: usize = 16;
    const UNITS: f32 = 8.0;
    const LEVELS: &'static [u8] = &LEVELS;
    const RULE: Rule = weights::IQ2_X;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> Eight {
        let word = u16::from_le_bytes([block[2 + 2 * i], block[3 + 2 * i]]);
        Eight { points: [word & 511, 0], signs: even_signs(u32::from(word >> 9)) }
    }

    #[inline(always)]
    fn code(block: &[u8], group: usize) -> u8 {
        nibble(&block[66..74], group)
    }

    #[inline(always)]
    fn put_eights(eights: &[Eight; 32], block: &mut [u8]) {
        for (eight, bytes) in eights.iter().zip(block[2..66].chunks_exact_mut(2)) {
            let word = eight.points[0] | u16::from(eight.signs & 127) << 9;
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_nibble_pairs(codes, &mut block[66..74]);
    }
}

/// Bytes: d, 32 of the points' lower 8 bits, 32 of signs, 8 of the points' upper two bits, 8 of scales.
pub(crate) struct Iq2S;

impl Points for Iq2S {
    type Book = books::Iq2S;
    const BYTES: usize = 82;
    const GROUP: usize = 16;
    const UNITS: f32 = 8.0;
    const LEVELS: &'static [u8] = &LEVELS;
    const RULE: Rule = weights::IQ3;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> Eight {
        let upper = u16::from(block[66 + i / 4]) >> (2 * (i % 4)) & 3;
        Eight { points: [u16::from(block[2 + i]) | upper << 8, 0], signs: block[34 + i] }
    }

    #[inline(always)]
    fn code(block: &[u8], group: usize) -> u8 {
        nibble(&block[74..82], group)
    }

    #[inline(always)]
    fn put_eights(eights: &[Eight; 32], block: &mut [u8]) {
        block[66..74].fill(0);
        for (i, eight) in eights.iter().enumerate() {
            block[2 + i] = eight.points[0] as u8;
            block[34 + i] = eight.signs;
            block[66 + i / 4] |= ((eight.points[0] >> 8) as u8) << (2 * (i % 4));
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        put_nibble_pairs(codes, &mut block[74..82]);
    }
}

/// Nibble `i`, the low one of each byte first.
#[inline(always)]
pub(super) fn nibble(bytes: &[u8], i: usize) -> u8 {
    bytes[i / 2] >> (4 * (i % 2)) & 15
}

/// Writes nibbles so that [`nibble`] reads them.
#[inline(always)]
pub(super) fn put_nibble_pairs(nibbles: &[u8], bytes: &mut [u8]) {
    for (nibbles, byte) in nibbles.chunks_exact(2).zip(bytes) {
        *byte = nibbles[0] | nibbles[1] << 4;
    }
}
