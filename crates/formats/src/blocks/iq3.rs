//! IQ3_XXS and IQ3_S: about three bits, four weights at a time from a code book.

use super::books::{self, Eight, even_signs};
use super::layout::block_format;
use super::points::{Points, levels};
use super::search::weights::{self, Rule};

block_format! {
    /// 256 points, even signs, groups of 32: 3.0625 bits per weight.
    IQ3_XXS = Iq3Xxs, 18
}
block_format! {
    /// 512 points, groups of 32: 3.4375 bits per weight.
    IQ3_S = Iq3S, 21
}

/// Bytes: d, 64 of points, 8 times 4 bytes of 28 signs and the scale's 4 bits.
pub(crate) struct Iq3Xxs;

impl Points for Iq3Xxs {
    type Book = books::Iq3Xxs;
    const BYTES: usize = 98;
    const GROUP: usize = 32;
    const UNITS: f32 = 4.0;
    const LEVELS: &'static [u8] = &levels::<8, 16>(&books::IQ3_XXS);
    const RULE: Rule = weights::IQ3;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> Eight {
        let points = [block[2 + 2 * i], block[3 + 2 * i]].map(u16::from);
        Eight { points, signs: even_signs(word(block, 66 + 4 * (i / 4)) >> (7 * (i % 4))) }
    }

    #[inline(always)]
    fn code(block: &[u8], group: usize) -> u8 {
        block[69 + 4 * group] >> 4
    }

    #[inline(always)]
    fn put_eights(eights: &[Eight; 32], block: &mut [u8]) {
        for (eight, bytes) in eights.iter().zip(block[2..66].chunks_exact_mut(2)) {
            (bytes[0], bytes[1]) = (eight.points[0] as u8, eight.points[1] as u8);
        }
        put_even_signs(eights, &mut block[66..98], 4, 0);
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (code, bytes) in codes.iter().zip(block[66..98].chunks_exact_mut(4)) {
            bytes[3] = (bytes[3] & 15) | (code << 4);
        }
    }
}

/// Bytes: d, 64 of the points' lower 8 bits, 8 of their ninth, 32 of signs, 4 of scales.
pub(crate) struct Iq3S;

impl Points for Iq3S {
    type Book = books::Iq3S;
    const BYTES: usize = 110;
    const GROUP: usize = 32;
    const UNITS: f32 = 1.0;
    const LEVELS: &'static [u8] = &levels::<8, 16>(&books::IQ3_S);
    const RULE: Rule = weights::IQ3;

    #[inline(always)]
    fn eight(block: &[u8], i: usize) -> Eight {
        let ninth = u16::from(block[66 + i / 4]) >> (2 * (i % 4));
        let low = [block[2 + 2 * i], block[3 + 2 * i]].map(u16::from);
        Eight { points: [low[0] | (ninth & 1) << 8, low[1] | (ninth >> 1 & 1) << 8], signs: block[74 + i] }
    }

    #[inline(always)]
    fn code(block: &[u8], group: usize) -> u8 {
        block[106 + group / 2] >> (4 * (group % 2)) & 15
    }

    #[inline(always)]
    fn put_eights(eights: &[Eight; 32], block: &mut [u8]) {
        block[66..74].fill(0);
        for (i, eight) in eights.iter().enumerate() {
            for (j, point) in eight.points.iter().enumerate() {
                block[2 + 2 * i + j] = *point as u8;
                block[66 + i / 4] |= ((point >> 8) as u8) << (2 * (i % 4) + j);
            }
            block[74 + i] = eight.signs;
        }
    }

    #[inline(always)]
    fn put_codes(codes: &[u8], block: &mut [u8]) {
        for (codes, byte) in codes.chunks_exact(2).zip(&mut block[106..110]) {
            *byte = codes[0] | codes[1] << 4;
        }
    }
}

/// The four bytes at `at`.
#[inline(always)]
pub(super) fn word(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*block[at..].first_chunk().expect("a whole block"))
}

/// Writes seven signs of each eight weights into the four bytes from `at` of every `stride`, 28 bits, and leaves the upper four.
#[inline(always)]
pub(super) fn put_even_signs(eights: &[Eight; 32], bytes: &mut [u8], stride: usize, at: usize) {
    for (eights, bytes) in eights.chunks_exact(4).zip(bytes.chunks_exact_mut(stride)) {
        let mut signs = word(bytes, at) & 0xf000_0000;
        for (l, eight) in eights.iter().enumerate() {
            signs |= u32::from(eight.signs & 127) << (7 * l);
        }
        bytes[at..at + 4].copy_from_slice(&signs.to_le_bytes());
    }
}
