//! Points of a code book: IQ2_XXS, IQ2_XS, IQ2_S, IQ3_XXS, IQ3_S.

use super::{Layout, u16_at};
use crate::blocks::books::Book;
use crate::blocks::points::Points;
use crate::blocks::{iq2, iq3};
use crate::format::Activation;
use crate::kernels::isa::Isa;
use std::marker::PhantomData;

pub(crate) type IQ2_XXS = OfPoints<iq2::Iq2Xxs>;
pub(crate) type IQ2_XS = OfPoints<iq2::Iq2Xs>;
pub(crate) type IQ2_S = OfPoints<iq2::Iq2S>;
pub(crate) type IQ3_XXS = OfPoints<iq3::Iq3Xxs>;
pub(crate) type IQ3_S = OfPoints<iq3::Iq3S>;

/// `d: f16`, points, signs and scales as `P` has them; 256 weights
pub(crate) struct OfPoints<P>(PhantomData<P>);

impl<P: Points> Layout for OfPoints<P> {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = P::BYTES;
    const PIECE_BYTES: usize = P::BYTES;
    const GROUP: usize = P::GROUP;
    const OFFSET: u8 = 128;
    const WIDE: bool = true;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        let step = &step[..P::BYTES];
        let (mut magnitudes, mut signs) = ([[0; 8]; 8], [0; 8]);
        for (i, (magnitudes, signs)) in magnitudes.iter_mut().zip(&mut signs).enumerate() {
            let eight = P::eight(step, 8 * chunk + i);
            *magnitudes = P::Book::magnitudes(eight.points);
            *signs = eight.signs;
        }
        let negative = s.bits(u64::from_le_bytes(signs), 0xff);
        let v = s.load(&bytemuck::cast(magnitudes));
        // The complement plus one, where negative; then 128 is added, to what is less.
        s.xor(s.sub_bytes(s.xor(v, negative), negative), s.splat(0x80))
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        let step = &step[..P::BYTES];
        let mut codes = [0; 16];
        for (g, code) in codes.iter_mut().enumerate() {
            *code = 2 * P::code(step, g * 16 / P::GROUP) + 1;
        }
        let d = s.splat_f(s.f16(u16_at(step, 0)) * (1.0 / P::UNITS));
        (s.mul(d, s.load_u8(codes)), s.splat_f(0.0))
    }
}
