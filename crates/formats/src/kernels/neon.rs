//! NEON: each 64-byte vector is four registers.
//!
//! Only what every 64-bit ARM has is used: products of bytes go through 16-bit pairs, not through the dot product
//! instructions of later ones.

use super::isa::{Isa, Kernel};
use std::arch::aarch64::*;

/// NEON, and conversion of half precision.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// `Some` if this machine has it.
    pub fn detect() -> Option<Self> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }

    /// Compiles `kernel` with NEON and runs it.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "neon")]
        fn with_features<K: Kernel>(s: Neon, kernel: K) -> K::Output {
            kernel.run(s)
        }
        // SAFETY: `self` exists only where `detect` found the feature.
        unsafe { with_features(self, kernel) }
    }
}

/// Runs intrinsics. Sound because a [`Neon`] is at hand wherever this is used.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: `self` exists only where `detect` found the feature; pointers come from references of that size.
        unsafe { $($body)* }
    };
}

/// An array of an expression of each quarter `$i`. Not a closure: that might not be inlined.
macro_rules! four {
    (|$i:ident| $body:expr) => {{
        let a = {
            const $i: usize = 0;
            $body
        };
        let b = {
            const $i: usize = 1;
            $body
        };
        let c = {
            const $i: usize = 2;
            $body
        };
        let d = {
            const $i: usize = 3;
            $body
        };
        [a, b, c, d]
    }};
}

/// The products of four neighbouring bytes of `w` (with `WIDE` offset by 128) and `x`, summed.
///
/// # Safety
/// The machine must have NEON.
#[inline(always)]
unsafe fn dot<const WIDE: bool>(acc: int32x4_t, w: uint8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: the caller's.
    unsafe {
        let w = vreinterpretq_s8_u8(if WIDE { veorq_u8(w, vdupq_n_u8(0x80)) } else { w });
        let low = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        let high = vmull_s8(vget_high_s8(w), vget_high_s8(x));
        vaddq_s32(acc, vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high)))
    }
}

impl Isa for Neon {
    type V = [uint8x16_t; 4];
    type I = [int32x4_t; 4];
    type F = [float32x4_t; 4];

    const CENTERED: bool = true;
    const COLUMNS: usize = 2;
    const FLOAT_COLUMNS: usize = 2;

    #[inline(always)]
    fn load(self, p: &[u8; 64]) -> Self::V {
        simd!(four!(|I| vld1q_u8(p.as_ptr().add(16 * I))))
    }

    #[inline(always)]
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::V {
        simd!(four!(|I| vld1q_u8((if I < 2 { a } else { b }).as_ptr().add(16 * (I % 2)))))
    }

    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> Self::V {
        simd! {
            let (a, b) = (vld1q_u8(a.as_ptr()), vld1q_u8(b.as_ptr()));
            let mask = vdupq_n_u8(0x0f);
            [vandq_u8(a, mask), vshrq_n_u8::<4>(a), vandq_u8(b, mask), vshrq_n_u8::<4>(b)]
        }
    }

    #[inline(always)]
    fn splat(self, v: u8) -> Self::V {
        simd!([vdupq_n_u8(v); 4])
    }

    #[inline(always)]
    fn or(self, a: Self::V, b: Self::V) -> Self::V {
        simd!(four!(|I| vorrq_u8(a[I], b[I])))
    }

    #[inline(always)]
    fn xor(self, a: Self::V, b: Self::V) -> Self::V {
        simd!(four!(|I| veorq_u8(a[I], b[I])))
    }

    #[inline(always)]
    fn sub_bytes(self, a: Self::V, b: Self::V) -> Self::V {
        simd!(four!(|I| vsubq_u8(a[I], b[I])))
    }

    #[inline(always)]
    fn shift_halves(self, v: Self::V, lo: u32, hi: u32, mask: u8) -> Self::V {
        simd! {
            let mask = vdupq_n_u8(mask);
            // A shift to the left by a negative count is one to the right.
            let counts = [vdupq_n_s8(-(lo as i8)), vdupq_n_s8(-(hi as i8))];
            four!(|I| vandq_u8(vshlq_u8(v[I], counts[I / 2]), mask))
        }
    }

    #[inline(always)]
    fn shift_left<const N: i32>(self, v: Self::V) -> Self::V {
        simd!(four!(|I| vshlq_n_u8::<N>(v[I])))
    }

    #[inline(always)]
    fn crumbs(self, p: &[u8; 16]) -> Self::V {
        simd! {
            let v = vld1q_u8(p.as_ptr());
            // Each byte four times, each shifted by its own amount.
            let from = [0u8, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3];
            let counts = [0i8, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6];
            let (from, counts, three) = (vld1q_u8(from.as_ptr()), vld1q_s8(counts.as_ptr()), vdupq_n_u8(3));
            four!(|I| {
                let bytes = vqtbl1q_u8(v, vaddq_u8(from, vdupq_n_u8(4 * I as u8)));
                vandq_u8(vshlq_u8(bytes, counts), three)
            })
        }
    }

    #[inline(always)]
    fn bits(self, mask: u64, value: u8) -> Self::V {
        simd! {
            let bit = [1u8, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
            let (bit, value) = (vld1q_u8(bit.as_ptr()), vdupq_n_u8(value));
            let bytes = mask.to_le_bytes();
            four!(|I| {
                let v = vcombine_u8(vdup_n_u8(bytes[2 * I]), vdup_n_u8(bytes[2 * I + 1]));
                vandq_u8(vtstq_u8(v, bit), value)
            })
        }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: Self::V) -> Self::V {
        simd! {
            let table = vld1q_u8(table.as_ptr());
            four!(|I| vqtbl1q_u8(table, v[I]))
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::V; 16]) -> [Self::V; 16] {
        let mut out = rows;
        simd! {
            for row in 0..4 {
                for column in 0..4 {
                    let mut r = [vdupq_n_u32(0); 4];
                    for i in 0..4 {
                        r[i] = vreinterpretq_u32_u8(rows[4 * row + i][column]);
                    }
                    let (a, b) = (vtrn1q_u32(r[0], r[1]), vtrn2q_u32(r[0], r[1]));
                    let (c, d) = (vtrn1q_u32(r[2], r[3]), vtrn2q_u32(r[2], r[3]));
                    let join_low = [(a, c), (b, d)];
                    for i in 0..2 {
                        let (x, y) = (vreinterpretq_u64_u32(join_low[i].0), vreinterpretq_u64_u32(join_low[i].1));
                        out[4 * column + i][row] = vreinterpretq_u8_u64(vtrn1q_u64(x, y));
                        out[4 * column + 2 + i][row] = vreinterpretq_u8_u64(vtrn2q_u64(x, y));
                    }
                }
            }
        }
        out
    }

    #[inline(always)]
    fn store(self, v: Self::V, p: &mut [u8; 64]) {
        for (v, p) in v.into_iter().zip(p.chunks_exact_mut(16)) {
            simd!(vst1q_u8(p.as_mut_ptr(), v));
        }
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> Self::I {
        simd!([vdupq_n_s32(v); 4])
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: Self::I, w: Self::V, x: &[i8; 64]) -> Self::I {
        simd!(four!(|I| dot::<WIDE>(acc[I], w[I], vld1q_s8(x.as_ptr().add(16 * I)))))
    }

    #[inline(always)]
    fn dot_splat<const WIDE: bool>(self, acc: Self::I, w: Self::V, x: [i8; 4]) -> Self::I {
        simd! {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(bytemuck::cast(x)));
            four!(|I| dot::<WIDE>(acc[I], w[I], x))
        }
    }

    #[inline(always)]
    fn to_f(self, v: Self::I) -> Self::F {
        simd!(four!(|I| vcvtq_f32_s32(v[I])))
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> Self::F {
        simd!([vdupq_n_f32(v); 4])
    }

    #[inline(always)]
    fn load_f(self, p: &[f32; 16]) -> Self::F {
        simd!(four!(|I| vld1q_f32(p.as_ptr().add(4 * I))))
    }

    #[inline(always)]
    fn load_f16(self, p: &[u8; 32]) -> Self::F {
        let mut floats = [0.0; 16];
        for (f, b) in floats.iter_mut().zip(p.as_chunks::<2>().0) {
            *f = self.f16(u16::from_le_bytes(*b));
        }
        self.load_f(&floats)
    }

    #[inline(always)]
    fn load_bf16(self, p: &[u8; 32]) -> Self::F {
        simd!(four!(|I| vreinterpretq_f32_u32(vshll_n_u16::<16>(vreinterpret_u16_u8(vld1_u8(p.as_ptr().add(8 * I)))))))
    }

    #[inline(always)]
    fn load_u8(self, p: [u8; 16]) -> Self::F {
        simd! {
            let v = vld1q_u8(p.as_ptr());
            let (low, high) = (vmovl_u8(vget_low_u8(v)), vmovl_high_u8(v));
            let words = [vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)];
            four!(|I| vcvtq_f32_u32(words[I]))
        }
    }

    #[inline(always)]
    fn load_i8(self, p: [i8; 16]) -> Self::F {
        simd! {
            let v = vld1q_s8(p.as_ptr());
            let (low, high) = (vmovl_s8(vget_low_s8(v)), vmovl_high_s8(v));
            let words = [vmovl_s16(vget_low_s16(low)), vmovl_high_s16(low), vmovl_s16(vget_low_s16(high)), vmovl_high_s16(high)];
            four!(|I| vcvtq_f32_s32(words[I]))
        }
    }

    #[inline(always)]
    fn twice_u8(self, p: [u8; 8]) -> Self::F {
        let twice = simd! {
            let v = vld1_u8(p.as_ptr());
            vcombine_u8(vzip1_u8(v, v), vzip2_u8(v, v))
        };
        let mut bytes = [0; 16];
        simd!(vst1q_u8(bytes.as_mut_ptr(), twice));
        self.load_u8(bytes)
    }

    #[inline(always)]
    fn twice_f16(self, p: [u16; 8]) -> Self::F {
        let mut floats = [0.0; 16];
        for (f, v) in floats.chunks_exact_mut(2).zip(p) {
            f.fill(self.f16(v));
        }
        self.load_f(&floats)
    }

    #[inline(always)]
    fn store_low_bytes(self, v: Self::V, p: &mut [i8; 16]) {
        simd! {
            let words = vuzp1q_u8(v[0], v[1]);
            let words2 = vuzp1q_u8(v[2], v[3]);
            vst1q_u8(p.as_mut_ptr().cast(), vuzp1q_u8(words, words2));
        }
    }

    #[inline(always)]
    fn store_f(self, v: Self::F, p: &mut [f32; 16]) {
        for (v, p) in v.into_iter().zip(p.chunks_exact_mut(4)) {
            simd!(vst1q_f32(p.as_mut_ptr(), v));
        }
    }

    #[inline(always)]
    fn to_bits(self, v: Self::F) -> Self::V {
        simd!(four!(|I| vreinterpretq_u8_f32(v[I])))
    }

    #[inline(always)]
    fn from_bits(self, v: Self::V) -> Self::F {
        simd!(four!(|I| vreinterpretq_f32_u8(v[I])))
    }

    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(four!(|I| vaddq_f32(a[I], b[I])))
    }

    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(four!(|I| vsubq_f32(a[I], b[I])))
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(four!(|I| vmulq_f32(a[I], b[I])))
    }

    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(four!(|I| vdivq_f32(a[I], b[I])))
    }

    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(four!(|I| vbslq_f32(vcgtq_f32(a[I], b[I]), a[I], b[I])))
    }

    #[inline(always)]
    fn min(self, a: Self::F, b: Self::F) -> Self::F {
        simd!(four!(|I| vbslq_f32(vcltq_f32(a[I], b[I]), a[I], b[I])))
    }

    #[inline(always)]
    fn if_greater(self, a: Self::F, b: Self::F, then: Self::F, otherwise: Self::F) -> Self::F {
        simd!(four!(|I| vbslq_f32(vcgtq_f32(a[I], b[I]), then[I], otherwise[I])))
    }

    #[inline(always)]
    fn any_greater(self, a: Self::F, b: Self::F) -> bool {
        simd! {
            let [p, q, r, s] = four!(|I| vcgtq_f32(a[I], b[I]));
            vmaxvq_u32(vorrq_u32(vorrq_u32(p, q), vorrq_u32(r, s))) != 0
        }
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        simd!(four!(|I| vfmaq_f32(c[I], a[I], b[I])))
    }

    #[inline(always)]
    fn spread(self, v: Self::F, chunk: usize) -> Self::F {
        simd! {
            let v = v[chunk];
            [vdupq_laneq_f32::<0>(v), vdupq_laneq_f32::<1>(v), vdupq_laneq_f32::<2>(v), vdupq_laneq_f32::<3>(v)]
        }
    }

    #[inline(always)]
    fn sum(self, v: Self::F) -> f32 {
        simd! {
            let v = vaddq_f32(vaddq_f32(v[0], v[2]), vaddq_f32(v[1], v[3]));
            let pairs = vadd_f32(vget_low_f32(v), vget_high_f32(v));
            vget_lane_f32::<0>(vpadd_f32(pairs, pairs))
        }
    }

    #[inline(always)]
    fn f16(self, v: u16) -> f32 {
        half::f16::from_bits(v).to_f32()
    }
}
