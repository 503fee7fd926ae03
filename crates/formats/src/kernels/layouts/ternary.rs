//! Three values a weight: TQ1_0, TQ2_0.

use super::k_quants::two_bits;
use super::{Layout, u16_at};
use crate::blocks::ternary::{TRITS, trit};
use crate::format::Activation;
use crate::kernels::isa::Isa;

/// `five trits: [u8; 48], four trits: [u8; 4], d: f16`, 256 weights
pub(crate) struct TQ1_0;

impl Layout for TQ1_0 {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 54;
    const PIECE_BYTES: usize = 54;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        let mut quants = [0; 64];
        // Runs of one trit of several bytes, those that lie in the chunk.
        let mut at = 0;
        for (first, count, trits) in TRITS {
            for n in 0..trits {
                if at / 64 == chunk {
                    let bytes = &step[first..first + count];
                    for (quant, byte) in quants[at % 64..][..count].iter_mut().zip(bytes) {
                        *quant = trit(*byte, n);
                    }
                }
                at += count;
            }
        }
        s.load(&quants)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (s.splat_f(s.f16(u16_at(step, 52))), s.splat_f(0.0))
    }
}

/// `two bits: [u8; 64], d: f16`, 256 weights
pub(crate) struct TQ2_0;

impl Layout for TQ2_0 {
    const ACTIVATION: Activation = Activation::Int8x256;
    const STEP_BYTES: usize = 66;
    const PIECE_BYTES: usize = 66;
    const GROUP: usize = 32;
    const OFFSET: u8 = 1;

    #[inline(always)]
    fn quants<S: Isa>(s: S, step: &[u8], chunk: usize) -> S::V {
        two_bits(s, &step[..64], chunk)
    }

    #[inline(always)]
    fn scales<S: Isa>(s: S, step: &[u8]) -> (S::F, S::F) {
        (s.splat_f(s.f16(u16_at(step, 64))), s.splat_f(0.0))
    }
}
