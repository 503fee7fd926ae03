//! What a block format must say about its bytes; decoding follows from it for all formats alike.

use super::search::lanes::round_to_f16;
use crate::format::GROUP;
use crate::kernels::{Isa, Kernel, Level};
use std::marker::PhantomData;

/// The largest block of any format, in weights.
pub const MAX_BLOCK: usize = 256;

/// How the weights of one block lie in its bytes: as small unsigned quants, with a scale (and for affine formats an
/// offset) per group of [`GROUP`] weights. Formats with wider groups repeat a scale.
pub(crate) trait Layout {
    /// Weights per block, a multiple of [`GROUP`].
    const BLOCK: usize;
    /// Bytes per block.
    const BYTES: usize;
    /// The quant that means zero, for symmetric formats: `weight = scale * (quant - zero)`.
    /// `None` for affine formats: `weight = scale * quant - min`.
    const ZERO: Option<u8>;
    /// The largest magnitude that a weight can have whatever the block's others: that of the scales, if they are f16.
    const LARGEST: f32 = 65504.0;

    /// Reads the quants of one block.
    fn quants(block: &[u8], quants: &mut [u8]);

    /// Reads the scales of one block, one per group; for affine formats also the mins (symmetric formats leave them).
    fn scales(block: &[u8], scales: &mut [f32], mins: &mut [f32]);
}

/// A layout that bantam also writes.
pub(crate) trait Encoder: Layout {
    /// Blocks that are encoded at a time.
    const TOGETHER: usize = 1;
    /// The quants that are written, ascending. A level's code is its place here.
    const LEVELS: &'static [u8];
    /// Weights that share a scale, a multiple of [`GROUP`].
    const SHARING: usize;

    /// Weights that choose their quants together, and how they do: [`Grid::nearest_together`](crate::Grid::nearest_together).
    const VECTOR: usize = 1;
    /// See [`VECTOR`](Self::VECTOR).
    const TOGETHER_NEAREST: Option<crate::grid::Together> = None;

    /// Encodes up to [`TOGETHER`](Self::TOGETHER) blocks of weights, weighing errors by `importance` where given.
    /// `#[inline(always)]`, see [`Kernel`].
    fn encode<S: Isa>(s: S, x: &[f32], importance: Option<&[f32]>, blocks: &mut [u8]);

    /// Writes the quants of one block, given the codes of their levels.
    fn put_codes(codes: &[u8], block: &mut [u8]);

    /// Writes the scales and mins of one block, one per [`SHARING`](Self::SHARING) weights, as
    /// [`Grid::put_scales`](crate::Grid::put_scales) has it. `#[inline(always)]`, see [`Kernel`].
    fn put_scales<S: Isa>(s: S, scales: &[f32], mins: &[f32], weights: &[f32], block: &mut [u8]);
}

/// The levels of most formats: `count` integers from `first`.
pub const fn levels(first: usize, count: usize) -> &'static [u8] {
    const ALL: [u8; 256] = {
        let mut all = [0; 256];
        let mut i = 0;
        while i < 256 {
            all[i] = i as u8;
            i += 1;
        }
        all
    };
    ALL.split_at(first).1.split_at(count).0
}

/// Decodes whole blocks (a [`Format::decode`](crate::Format::decode)). Multiplies in the order ggml does, so that every
/// bit agrees.
pub fn decode<L: Layout>(src: &[u8], dst: &mut [f32]) {
    level().dispatch(Decode::<L> { src, dst, layout: PhantomData });
}

/// Encodes whole blocks (a [`Encode`](crate::format::Encode)). Blocks do not depend on each other, and every instruction
/// set gives the same bytes: the search never fuses a product and a sum, and its sums have one order.
pub fn encode<E: Encoder>(src: &[f32], importance: Option<&[f32]>, dst: &mut [u8]) {
    // What was never activated is encoded as if nothing were known of it.
    let importance = importance.filter(|v| v.iter().any(|w| *w > 0.0));
    level().dispatch(EncodeBlocks::<E> { src, importance, dst, layout: PhantomData });
}

/// The instruction set to run with; a test may set another.
pub(super) fn level() -> Level {
    #[cfg(test)]
    if let Some(level) = tests::LEVEL.get() {
        return level;
    }
    Level::best()
}

struct Decode<'a, L> {
    src: &'a [u8],
    dst: &'a mut [f32],
    layout: PhantomData<L>,
}

impl<L: Layout> Kernel for Decode<'_, L> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, _: S) {
        let mut quants = [0u8; MAX_BLOCK];
        let (mut scales, mut mins) = ([0f32; MAX_BLOCK / GROUP], [0f32; MAX_BLOCK / GROUP]);
        let groups = L::BLOCK / GROUP;
        for (block, weights) in self.src.chunks_exact(L::BYTES).zip(self.dst.chunks_exact_mut(L::BLOCK)) {
            L::quants(block, &mut quants[..L::BLOCK]);
            L::scales(block, &mut scales[..groups], &mut mins[..groups]);
            for (g, w) in weights.as_chunks_mut::<GROUP>().0.iter_mut().enumerate() {
                let q: &[u8; GROUP] = quants[g * GROUP..][..GROUP].try_into().expect("a group");
                let (scale, min) = (scales[g], mins[g]);
                match L::ZERO {
                    Some(zero) => {
                        for i in 0..GROUP {
                            w[i] = scale * (i32::from(q[i]) - i32::from(zero)) as f32;
                        }
                    }
                    None => {
                        for i in 0..GROUP {
                            w[i] = scale * f32::from(q[i]) - min;
                        }
                    }
                }
            }
        }
    }
}

struct EncodeBlocks<'a, E> {
    src: &'a [f32],
    importance: Option<&'a [f32]>,
    dst: &'a mut [u8],
    layout: PhantomData<E>,
}

impl<E: Encoder> Kernel for EncodeBlocks<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        let weights = E::TOGETHER * E::BLOCK;
        let blocks = self.src.chunks(weights).zip(self.dst.chunks_mut(E::TOGETHER * E::BYTES));
        for (i, (x, blocks)) in blocks.enumerate() {
            let importance = self.importance.map(|v| &v[i * weights..][..x.len()]);
            E::encode(s, x, importance, blocks);
        }
    }
}

/// The f16 at byte `at`, as f32.
#[inline(always)]
pub fn f16_at(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Writes an f16 at byte `at`.
#[inline(always)]
pub fn put_f16(block: &mut [u8], at: usize, value: half::f16) {
    block[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Writes the nearest f16 at byte `at`: within the finite range, 0 for NaN.
#[inline(always)]
pub fn put_nearest_f16(block: &mut [u8], at: usize, value: f32) {
    put_f16(block, at, half::f16::from_f32(round_to_f16(value)));
}

/// Splits bytes into their low nibbles and their high nibbles: the first and the second half of `quants`.
#[inline(always)]
pub fn nibbles(bytes: &[u8], quants: &mut [u8]) {
    let (low, high) = quants.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(low).zip(high) {
        *low = byte & 15;
        *high = byte >> 4;
    }
}

/// Undoes [`nibbles`].
#[inline(always)]
pub fn put_nibbles(quants: &[u8], bytes: &mut [u8]) {
    let (low, high) = quants.split_at(bytes.len());
    for ((byte, low), high) in bytes.iter_mut().zip(low).zip(high) {
        *byte = (low & 15) | (high << 4);
    }
}

/// Declares a block format's row from its [`Layout`] and [`Encoder`]; `read only` if there is no encoder.
macro_rules! block_format {
    ($(#[$doc:meta])* $row:ident = $layout:ident, $id:literal) => {
        $crate::blocks::layout::block_format! {
            $(#[$doc])* $row = $layout, $id,
            Some($crate::blocks::layout::encode::<$layout>),
            Some($crate::blocks::grid::grid::<$layout>())
        }
    };
    ($(#[$doc:meta])* $row:ident = $layout:ident, $id:literal, read only) => {
        $crate::blocks::layout::block_format! { $(#[$doc])* $row = $layout, $id, None, None }
    };
    ($(#[$doc:meta])* $row:ident = $layout:ident, $id:literal, $encode:expr, $grid:expr) => {
        $(#[$doc])*
        pub static $row: $crate::format::Format = $crate::format::Format {
            name: stringify!($row),
            id: $id,
            block: <$layout as $crate::blocks::layout::Layout>::BLOCK,
            bytes: <$layout as $crate::blocks::layout::Layout>::BYTES,
            largest: <$layout as $crate::blocks::layout::Layout>::LARGEST,
            decode: $crate::blocks::layout::decode::<$layout>,
            encode: $encode,
            per_row: false,
            grid: $grid,
            product: $crate::kernels::Product::integer::<$crate::kernels::layouts::$row>(),
        };
    };
}
pub(crate) use block_format;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FORMATS;
    use std::cell::Cell;

    thread_local! {
        pub static LEVEL: Cell<Option<Level>> = const { Cell::new(None) };
    }

    /// Weights of many magnitudes, and an importance for each.
    fn sample(n: usize) -> (Vec<f32>, Vec<f32>) {
        let mut state = 7u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let weights = (0..n).map(|i| (uniform() - 0.5) * (uniform() * 4.0).exp() * [0.01, 1e-6, 30.0][i / 512 % 3]);
        (weights.collect(), (0..n).map(|i| if i / 32 % 7 == 0 { 0.0 } else { (i % 13) as f32 }).collect())
    }

    #[test]
    fn every_instruction_set_gives_the_same_bytes_and_weights() {
        let (weights, importance) = sample(4096);
        for format in FORMATS {
            let Some(encode) = format.encode else { continue };
            let outcomes = Level::all().into_iter().map(|level| {
                LEVEL.set(Some(level));
                let mut bytes = vec![0; format.bytes_of(weights.len()).expect("whole blocks")];
                let mut outcome = Vec::new();
                for importance in [None, Some(importance.as_slice())] {
                    encode(&weights, importance, &mut bytes);
                    let mut decoded = vec![0f32; weights.len()];
                    (format.decode)(&bytes, &mut decoded);
                    outcome.push((bytes.clone(), decoded));
                }
                if let Some(grid) = &format.grid {
                    let groups = format.block / grid.group;
                    for (block, values) in bytes.chunks_mut(format.bytes).zip(weights.windows(groups)) {
                        (grid.put_scales)(block, values, values, &importance[..groups]);
                    }
                    outcome.push((bytes.clone(), Vec::new()));
                }
                LEVEL.set(None);
                (level, outcome)
            });
            let outcomes: Vec<_> = outcomes.collect();
            for (level, outcome) in &outcomes[1..] {
                assert!(*outcome == outcomes[0].1, "{format} with {level:?} differs from {:?}", outcomes[0].0);
            }
        }
    }
}
