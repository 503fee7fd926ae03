//! The code books of the IQ2 and IQ3 formats: the magnitudes that eight or four neighbouring weights can have together.
//!
//! They are a part of the file format, with no rule that would make them: ggml's author chose the points that weights of models need
//! most. `scripts/data/code_books.py` makes `books/` from llama.cpp's Python package `gguf`.

/// The magnitudes that a weight of the IQ2 formats can have, in units of its scale.
pub(crate) const IQ2: [u8; 3] = [8, 25, 43];
/// The same for IQ3_XXS.
pub(crate) const IQ3_XXS: [u8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
/// The same for IQ3_S.
pub(crate) const IQ3_S: [u8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// Eight neighbouring weights as they are stored: the sign of weight `i` is bit `i`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Eight {
    /// One point of eight coordinates, or two of four.
    pub points: [u16; 2],
    /// Which weights are negative.
    pub signs: u8,
}

/// The points among which weights choose.
pub(crate) trait Book {
    /// Coordinates of a point: 4 or 8.
    const WIDTH: usize;
    /// The coordinates, nearly, that the greatest weight of a group is tried at: beyond the greatest magnitude, to clip it, and below, and
    /// last at the least, for weights that are all alike.
    const TARGETS: [f32; 16];
    /// Whether of eight weights always an even number is negative, so that seven signs say the eighth.
    const EVEN: bool;

    /// The magnitudes of eight weights. Points beyond the last are taken from the first on.
    fn magnitudes(points: [u16; 2]) -> [u8; 8];

    /// The points by halves.
    fn halves() -> &'static Halves;
}

/// Room for the first or second halves that differ, a power of two: 3^4 or 8^2 could.
pub(crate) const HALVES: usize = 128;

/// The most points of a book.
const MOST: usize = 1024;

/// A book's points by halves, of which few differ: those with the same second half follow each other in the file.
pub(crate) struct Halves {
    /// How many first halves there are, and how many second ones.
    pub counts: [usize; 2],
    /// Their coordinates, two or four, of all first halves and of all second ones; beyond the last of them zeros.
    pub coordinates: [[[f32; HALVES]; 4]; 2],
    /// The points with the second half `i` are those from `starts[i]` to `starts[i + 1]`.
    pub starts: [u16; HALVES + 1],
    /// The first half of each point.
    pub first: [u8; MOST],
}

impl Halves {
    /// The first halves of the points with a second half, and the place of the first of these points.
    #[inline(always)]
    pub fn before(&self, second: usize) -> (&[u8], u16) {
        let (start, end) = (self.starts[second], self.starts[second + 1]);
        (&self.first[usize::from(start)..usize::from(end)], start)
    }
}

/// The signs of eight weights, given seven of them and that an even number is negative.
#[inline(always)]
pub(crate) fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// See [`Book::TARGETS`].
const fn targets(magnitudes: &[u8]) -> [f32; 16] {
    let mut target = 1.7 * magnitudes[magnitudes.len() - 1] as f32;
    let mut targets = [magnitudes[0] as f32; 16];
    let mut i = 0;
    while i < 15 {
        targets[i] = target;
        target /= 1.12;
        i += 1;
    }
    targets
}

/// Unpacks a code book.
const fn unpacked<const WIDTH: usize, const COUNT: usize>(packed: &[u8], magnitudes: &[u8]) -> [[u8; WIDTH]; COUNT] {
    assert!(packed.len() == 2 * COUNT);
    let bits = if WIDTH == 8 { 2 } else { 3 };
    let mut points = [[0; WIDTH]; COUNT];
    let mut k = 0;
    while k < COUNT {
        let word = u16::from_le_bytes([packed[2 * k], packed[2 * k + 1]]);
        let mut j = 0;
        while j < WIDTH {
            points[k][j] = magnitudes[(word >> (bits * j)) as usize & ((1 << bits) - 1)];
            j += 1;
        }
        k += 1;
    }
    points
}

/// Takes the points of a code book apart.
const fn halves<const WIDTH: usize>(packed: &[u8], magnitudes: &[u8]) -> Halves {
    let bits = if WIDTH == 8 { 2 } else { 3 };
    let size = bits * WIDTH / 2;
    let mut halves =
        Halves { counts: [0; 2], coordinates: [[[0.0; HALVES]; 4]; 2], starts: [0; HALVES + 1], first: [0; MOST] };
    // The place of each half as packed.
    let mut places = [[HALVES; 256]; 2];
    let mut k = 0;
    while 2 * k < packed.len() {
        let word = u16::from_le_bytes([packed[2 * k], packed[2 * k + 1]]) as usize;
        let codes = [word & ((1 << size) - 1), word >> size];
        let mut part = 0;
        while part < 2 {
            let at = halves.counts[part];
            if places[part][codes[part]] == HALVES {
                places[part][codes[part]] = at;
                halves.counts[part] += 1;
                let mut j = 0;
                while j < WIDTH / 2 {
                    let magnitude = magnitudes[codes[part] >> (bits * j) & ((1 << bits) - 1)];
                    halves.coordinates[part][j][at] = magnitude as f32;
                    j += 1;
                }
            }
            part += 1;
        }
        let second = places[1][codes[1]];
        halves.first[k] = places[0][codes[0]] as u8;
        halves.starts[second + 1] = k as u16 + 1;
        assert!(second + 1 == halves.counts[1], "points with the same second half follow each other");
        k += 1;
    }
    halves
}

/// Declares a code book: its name, file, magnitudes, coordinates of a point, number of points, and whether signs are even.
macro_rules! book {
    ($name:ident, $file:literal, $magnitudes:expr, $width:literal, $count:literal, $even:literal) => {
        #[doc = concat!("The points of `", $file, "`.")]
        pub(crate) struct $name;

        impl Book for $name {
            const WIDTH: usize = $width;
            const TARGETS: [f32; 16] = targets(&$magnitudes);
            const EVEN: bool = $even;

            #[inline(always)]
            fn magnitudes(points: [u16; 2]) -> [u8; 8] {
                static POINTS: [[u8; $width]; $count] = unpacked(include_bytes!($file), &$magnitudes);
                let mut out = [0; 8];
                for (out, point) in out.chunks_exact_mut($width).zip(points) {
                    out.copy_from_slice(&POINTS[usize::from(point) % $count]);
                }
                out
            }

            #[inline(always)]
            fn halves() -> &'static Halves {
                static HALVES: Halves = halves::<$width>(include_bytes!($file), &$magnitudes);
                &HALVES
            }
        }
    };
}

book!(Iq2Xxs, "books/iq2_xxs.bin", IQ2, 8, 256, true);
book!(Iq2Xs, "books/iq2_xs.bin", IQ2, 8, 512, true);
book!(Iq2S, "books/iq2_s.bin", IQ2, 8, 1024, false);
book!(Iq3Xxs, "books/iq3_xxs.bin", IQ3_XXS, 4, 256, true);
book!(Iq3S, "books/iq3_s.bin", IQ3_S, 4, 512, false);

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn points_differ_and_signs_are_even() {
        fn count<B: Book>() -> usize {
            let halves = B::halves();
            let half = |part: usize, k: usize| halves.coordinates[part][..B::WIDTH / 2].iter().map(move |y| y[k] as u8);
            let mut points = Vec::new();
            for second in 0..halves.counts[1] {
                let (before, start) = halves.before(second);
                assert_eq!(usize::from(start), points.len());
                for first in before {
                    let point: Vec<u8> = half(0, usize::from(*first)).chain(half(1, second)).collect();
                    assert_eq!(point, B::magnitudes([points.len() as u16, 0])[..B::WIDTH]);
                    points.push(point);
                }
            }
            let all = points.len();
            assert_eq!(points.into_iter().collect::<HashSet<_>>().len(), all);
            all
        }
        let counts = [count::<Iq2Xxs>(), count::<Iq2Xs>(), count::<Iq2S>(), count::<Iq3Xxs>(), count::<Iq3S>()];
        assert_eq!(counts, [256, 512, 1024, 256, 512]);
        let signs: HashSet<u8> = (0..128).map(even_signs).collect();
        assert!(signs.len() == 128 && signs.iter().all(|s| s.count_ones() % 2 == 0));
    }
}
