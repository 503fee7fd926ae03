//! F32, F16, BF16.

use super::FloatLayout;
use crate::kernels::isa::Isa;

/// Single precision.
pub(crate) struct F32;

impl FloatLayout for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn load<S: Isa>(s: S, bytes: &[u8]) -> S::F {
        s.from_bits(s.load(bytes.first_chunk().expect("16 weights")))
    }
}

/// Half precision.
pub(crate) struct F16;

impl FloatLayout for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Isa>(s: S, bytes: &[u8]) -> S::F {
        s.load_f16(bytes.first_chunk().expect("16 weights"))
    }
}

/// The upper half of single precision.
pub(crate) struct BF16;

impl FloatLayout for BF16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn load<S: Isa>(s: S, bytes: &[u8]) -> S::F {
        s.load_bf16(bytes.first_chunk().expect("16 weights"))
    }
}
