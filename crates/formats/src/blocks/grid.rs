//! A format's [`Grid`], from its layout and encoder.

use super::layout::{Encoder, MAX_BLOCK, level};
use crate::format::GROUP;
use crate::grid::{Grid, nearest_place};
use crate::kernels::{Isa, Kernel};
use std::marker::PhantomData;

/// The grid of a format.
pub const fn grid<E: Encoder>() -> Grid {
    let consecutive = E::LEVELS[E::LEVELS.len() - 1] as usize - E::LEVELS[0] as usize == E::LEVELS.len() - 1;
    Grid {
        levels: E::LEVELS,
        zero: E::ZERO,
        vector: E::VECTOR,
        group: E::SHARING,
        read: read::<E>,
        put_quants: put_quants::<E>,
        put_scales: put_scales::<E>,
        book: if consecutive { None } else { Some(&Tables::<E>::BOOK) },
        together: E::TOGETHER_NEAREST,
    }
}

/// What follows from a format's levels.
struct Tables<E>(PhantomData<E>);

impl<E: Encoder> Tables<E> {
    /// The code of the level nearest to each integer.
    const CODES: [u8; 256] = {
        let mut codes = [0; 256];
        let mut i = 0;
        while i < 256 {
            codes[i] = nearest_place(E::LEVELS, 4 * i as i32) as u8;
            i += 1;
        }
        codes
    };
    /// [`Grid::book`].
    const BOOK: [u8; 512] = {
        let mut book = [0; 512];
        let mut i = 0;
        while i < 512 {
            book[i] = E::LEVELS[nearest_place(E::LEVELS, 2 * i as i32 + 1)];
            i += 1;
        }
        book
    };
}

fn read<E: Encoder>(block: &[u8], quants: &mut [u8], scales: &mut [f32], mins: &mut [f32]) {
    // One for each 16 weights, as layouts give them.
    let (mut all_scales, mut all_mins) = ([0f32; MAX_BLOCK / GROUP], [0f32; MAX_BLOCK / GROUP]);
    E::quants(block, quants);
    E::scales(block, &mut all_scales[..E::BLOCK / GROUP], &mut all_mins[..E::BLOCK / GROUP]);
    let each = E::SHARING / GROUP;
    for (g, (scale, min)) in scales.iter_mut().zip(mins).enumerate() {
        (*scale, *min) = (all_scales[g * each], all_mins[g * each]);
    }
}

fn put_quants<E: Encoder>(block: &mut [u8], quants: &[u8]) {
    let mut codes = [0; MAX_BLOCK];
    for (code, quant) in codes.iter_mut().zip(quants) {
        *code = Tables::<E>::CODES[usize::from(*quant)];
    }
    E::put_codes(&codes[..E::BLOCK], block);
}

fn put_scales<E: Encoder>(block: &mut [u8], scales: &[f32], mins: &[f32], weights: &[f32]) {
    level().dispatch(PutScales::<E> { block, scales, mins, weights, encoder: PhantomData });
}

struct PutScales<'a, E> {
    block: &'a mut [u8],
    scales: &'a [f32],
    mins: &'a [f32],
    weights: &'a [f32],
    encoder: PhantomData<E>,
}

impl<E: Encoder> Kernel for PutScales<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, s: S) {
        E::put_scales(s, self.scales, self.mins, self.weights, self.block);
    }
}
