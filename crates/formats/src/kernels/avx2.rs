//! AVX2: each 64-byte vector is two registers.

use super::isa::{Isa, Kernel};
use std::arch::x86_64::*;

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// `Some` if this machine has it.
    pub fn detect() -> Option<Self> {
        let has =
            is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        has.then_some(Avx2(()))
    }

    /// Compiles `kernel` with these features and runs it.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn with_features<K: Kernel>(s: Avx2, kernel: K) -> K::Output {
            kernel.run(s)
        }
        // SAFETY: `self` exists only where `detect` found the features.
        unsafe { with_features(self, kernel) }
    }
}

/// Runs intrinsics. Sound because an [`Avx2`] is at hand wherever this is used.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: `self` exists only where `detect` found the features; pointers come from references of that size.
        unsafe { $($body)* }
    };
}

/// An expression of each half. Not a closure: that would be compiled without the instruction set if not inlined.
macro_rules! both {
    ($v:expr, |$x:ident| $body:expr) => {{
        let [a, b] = $v;
        let low = {
            let $x = a;
            $body
        };
        let high = {
            let $x = b;
            $body
        };
        [low, high]
    }};
}

/// The products of four neighbouring bytes of `w` (unsigned, or with `WIDE` offset by 128) and `x`, summed.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn dot<const WIDE: bool>(acc: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller's.
    unsafe {
        // The sum of two products must fit 16 bits: 63 * 127 * 2 does, 255 * 127 * 2 does not, 128 * 127 * 2 does.
        let pairs = if WIDE {
            let w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
            _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w))
        } else {
            _mm256_maddubs_epi16(w, x)
        };
        _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))
    }
}

/// The transpose of an 8 × 8 block: the half `half` of eight rows.
///
/// # Safety
/// The machine must have AVX2.
#[inline(always)]
unsafe fn transpose8(rows: &[[__m256i; 2]], half: usize) -> [__m256i; 8] {
    let mut out = [rows[0][half]; 8];
    // SAFETY: the caller's.
    unsafe {
        // quads[q][j]: the columns j and j + 4 of the rows 4 q .. 4 q + 4.
        let mut quads = [[rows[0][half]; 4]; 2];
        for (quad, rows) in quads.iter_mut().zip(rows.chunks_exact(4)) {
            let low = _mm256_unpacklo_epi32(rows[0][half], rows[1][half]);
            let high = _mm256_unpackhi_epi32(rows[0][half], rows[1][half]);
            let low2 = _mm256_unpacklo_epi32(rows[2][half], rows[3][half]);
            let high2 = _mm256_unpackhi_epi32(rows[2][half], rows[3][half]);
            quad[0] = _mm256_unpacklo_epi64(low, low2);
            quad[1] = _mm256_unpackhi_epi64(low, low2);
            quad[2] = _mm256_unpacklo_epi64(high, high2);
            quad[3] = _mm256_unpackhi_epi64(high, high2);
        }
        for j in 0..4 {
            out[j] = _mm256_permute2x128_si256::<0x20>(quads[0][j], quads[1][j]);
            out[4 + j] = _mm256_permute2x128_si256::<0x31>(quads[0][j], quads[1][j]);
        }
    }
    out
}

impl Isa for Avx2 {
    type V = [__m256i; 2];
    type I = [__m256i; 2];
    type F = [__m256; 2];

    const CENTERED: bool = true;
    const COLUMNS: usize = 3;
    // Twelve sums: two products start in each cycle and take four, so that eight sums at least keep the units busy.
    const FLOAT_COLUMNS: usize = 6;

    #[inline(always)]
    fn load(self, p: &[u8; 64]) -> [__m256i; 2] {
        simd!([_mm256_loadu_si256(p.as_ptr().cast()), _mm256_loadu_si256(p.as_ptr().add(32).cast())])
    }

    #[inline(always)]
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> [__m256i; 2] {
        simd!([_mm256_loadu_si256(a.as_ptr().cast()), _mm256_loadu_si256(b.as_ptr().cast())])
    }

    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> [__m256i; 2] {
        simd! {
            both!([a, b], |p| {
                let v = _mm_loadu_si128(p.as_ptr().cast());
                let v = _mm256_set_m128i(_mm_srli_epi16::<4>(v), v);
                _mm256_and_si256(v, _mm256_set1_epi8(0x0f))
            })
        }
    }

    #[inline(always)]
    fn splat(self, v: u8) -> [__m256i; 2] {
        simd!([_mm256_set1_epi8(v as i8); 2])
    }

    #[inline(always)]
    fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        simd!([_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])])
    }

    #[inline(always)]
    fn xor(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        simd!([_mm256_xor_si256(a[0], b[0]), _mm256_xor_si256(a[1], b[1])])
    }

    #[inline(always)]
    fn sub_bytes(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        simd!([_mm256_sub_epi8(a[0], b[0]), _mm256_sub_epi8(a[1], b[1])])
    }

    #[inline(always)]
    fn shift_halves(self, v: [__m256i; 2], lo: u32, hi: u32, mask: u8) -> [__m256i; 2] {
        simd! {
            let mask = _mm256_set1_epi8(mask as i8);
            both!([(v[0], lo), (v[1], hi)], |v| {
                _mm256_and_si256(_mm256_srl_epi16(v.0, _mm_cvtsi32_si128(v.1 as i32)), mask)
            })
        }
    }

    #[inline(always)]
    fn shift_left<const N: i32>(self, v: [__m256i; 2]) -> [__m256i; 2] {
        simd!(both!(v, |v| _mm256_slli_epi16::<N>(v)))
    }

    #[inline(always)]
    fn crumbs(self, p: &[u8; 16]) -> [__m256i; 2] {
        simd! {
            let v = _mm_loadu_si128(p.as_ptr().cast());
            // Each byte to the low byte of a 32-bit lane, copied so that each byte of the lane finds its crumb lowest.
            both!([v, _mm_srli_si128::<8>(v)], |v| {
                let v = _mm256_cvtepu8_epi32(v);
                let pairs = _mm256_or_si256(v, _mm256_slli_epi32::<12>(v));
                let all = _mm256_or_si256(pairs, _mm256_slli_epi32::<6>(pairs));
                _mm256_and_si256(all, _mm256_set1_epi8(3))
            })
        }
    }

    #[inline(always)]
    fn bits(self, mask: u64, value: u8) -> [__m256i; 2] {
        simd! {
            both!([mask as i32, (mask >> 32) as i32], |mask| {
                // Byte i of the mask to the eight bytes whose bits it has, then each byte's own bit.
                let from = _mm256_set_epi64x(
                    0x0303030303030303, 0x0202020202020202, 0x0101010101010101, 0x0000000000000000,
                );
                let v = _mm256_shuffle_epi8(_mm256_set1_epi32(mask), from);
                let bit = _mm256_set1_epi64x(0x8040201008040201u64 as i64);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(v, bit), bit);
                _mm256_and_si256(set, _mm256_set1_epi8(value as i8))
            })
        }
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: [__m256i; 2]) -> [__m256i; 2] {
        simd! {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            both!(v, |v| _mm256_shuffle_epi8(table, v))
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [[__m256i; 2]; 16]) -> [[__m256i; 2]; 16] {
        simd! {
            let mut out = rows;
            for half in 0..2 {
                let (a, b) = (transpose8(&rows[..8], half), transpose8(&rows[8..], half));
                for i in 0..8 {
                    out[8 * half + i] = [a[i], b[i]];
                }
            }
            out
        }
    }

    #[inline(always)]
    fn store(self, v: [__m256i; 2], p: &mut [u8; 64]) {
        simd! {
            _mm256_storeu_si256(p.as_mut_ptr().cast(), v[0]);
            _mm256_storeu_si256(p.as_mut_ptr().add(32).cast(), v[1]);
        }
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> [__m256i; 2] {
        simd!([_mm256_set1_epi32(v); 2])
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: [__m256i; 2], w: [__m256i; 2], x: &[i8; 64]) -> [__m256i; 2] {
        simd! {
            let x0 = _mm256_loadu_si256(x.as_ptr().cast());
            let x1 = _mm256_loadu_si256(x.as_ptr().add(32).cast());
            [dot::<WIDE>(acc[0], w[0], x0), dot::<WIDE>(acc[1], w[1], x1)]
        }
    }

    #[inline(always)]
    fn dot_splat<const WIDE: bool>(self, acc: [__m256i; 2], w: [__m256i; 2], x: [i8; 4]) -> [__m256i; 2] {
        simd! {
            let x = _mm256_set1_epi32(bytemuck::cast(x));
            [dot::<WIDE>(acc[0], w[0], x), dot::<WIDE>(acc[1], w[1], x)]
        }
    }

    #[inline(always)]
    fn to_f(self, v: [__m256i; 2]) -> [__m256; 2] {
        simd!(both!(v, |v| _mm256_cvtepi32_ps(v)))
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> [__m256; 2] {
        simd!([_mm256_set1_ps(v); 2])
    }

    #[inline(always)]
    fn load_f(self, p: &[f32; 16]) -> [__m256; 2] {
        simd!([_mm256_loadu_ps(p.as_ptr()), _mm256_loadu_ps(p.as_ptr().add(8))])
    }

    #[inline(always)]
    fn load_f16(self, p: &[u8; 32]) -> [__m256; 2] {
        simd! {
            both!([0, 16], |at| _mm256_cvtph_ps(_mm_loadu_si128(p.as_ptr().add(at).cast())))
        }
    }

    #[inline(always)]
    fn load_bf16(self, p: &[u8; 32]) -> [__m256; 2] {
        simd! {
            both!([0, 16], |at| {
                let v = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.as_ptr().add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(v))
            })
        }
    }

    #[inline(always)]
    fn load_u8(self, p: [u8; 16]) -> [__m256; 2] {
        simd! {
            let v = _mm_loadu_si128(p.as_ptr().cast());
            both!([v, _mm_srli_si128::<8>(v)], |v| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)))
        }
    }

    #[inline(always)]
    fn load_i8(self, p: [i8; 16]) -> [__m256; 2] {
        simd! {
            let v = _mm_loadu_si128(p.as_ptr().cast());
            both!([v, _mm_srli_si128::<8>(v)], |v| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(v)))
        }
    }

    #[inline(always)]
    fn twice_u8(self, p: [u8; 8]) -> [__m256; 2] {
        simd! {
            let v = _mm_loadl_epi64(p.as_ptr().cast());
            let v = _mm_unpacklo_epi8(v, v);
            both!([v, _mm_srli_si128::<8>(v)], |v| _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(v)))
        }
    }

    #[inline(always)]
    fn twice_f16(self, p: [u16; 8]) -> [__m256; 2] {
        simd! {
            let v = _mm_loadu_si128(p.as_ptr().cast());
            [_mm256_cvtph_ps(_mm_unpacklo_epi16(v, v)), _mm256_cvtph_ps(_mm_unpackhi_epi16(v, v))]
        }
    }

    #[inline(always)]
    fn store_low_bytes(self, v: [__m256i; 2], p: &mut [i8; 16]) {
        simd! {
            let low = _mm256_set1_epi32(0xff);
            // Packing works within 128 bits: 0..4, 8..12, 4..8, 12..16.
            let words = _mm256_packus_epi32(_mm256_and_si256(v[0], low), _mm256_and_si256(v[1], low));
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            _mm_storeu_si128(p.as_mut_ptr().cast(), bytes);
        }
    }

    #[inline(always)]
    fn store_f(self, v: [__m256; 2], p: &mut [f32; 16]) {
        simd! {
            _mm256_storeu_ps(p.as_mut_ptr(), v[0]);
            _mm256_storeu_ps(p.as_mut_ptr().add(8), v[1]);
        }
    }

    #[inline(always)]
    fn to_bits(self, v: [__m256; 2]) -> [__m256i; 2] {
        simd!(both!(v, |v| _mm256_castps_si256(v)))
    }

    #[inline(always)]
    fn from_bits(self, v: [__m256i; 2]) -> [__m256; 2] {
        simd!(both!(v, |v| _mm256_castsi256_ps(v)))
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        simd!([_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        simd!([_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        simd!([_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        simd!([_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        simd!([_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        simd!([_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])])
    }

    #[inline(always)]
    fn if_greater(self, a: [__m256; 2], b: [__m256; 2], then: [__m256; 2], otherwise: [__m256; 2]) -> [__m256; 2] {
        simd! {
            let low = _mm256_blendv_ps(otherwise[0], then[0], _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]));
            let high = _mm256_blendv_ps(otherwise[1], then[1], _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]));
            [low, high]
        }
    }

    #[inline(always)]
    fn any_greater(self, a: [__m256; 2], b: [__m256; 2]) -> bool {
        simd! {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]);
            _mm256_movemask_ps(_mm256_or_ps(low, high)) != 0
        }
    }

    #[inline(always)]
    fn fma(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        simd!([_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])])
    }

    #[inline(always)]
    fn spread(self, v: [__m256; 2], chunk: usize) -> [__m256; 2] {
        simd! {
            let base = 4 * (chunk % 2) as i32;
            both!([base, base + 2], |l| {
                let lanes = _mm256_set_epi32(l + 1, l + 1, l + 1, l + 1, l, l, l, l);
                _mm256_permutevar8x32_ps(v[chunk / 2], lanes)
            })
        }
    }

    #[inline(always)]
    fn sum(self, v: [__m256; 2]) -> f32 {
        simd! {
            let v = _mm256_add_ps(v[0], v[1]);
            let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
            _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
        }
    }

    #[inline(always)]
    fn f16(self, v: u16) -> f32 {
        simd!(_mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(v)))))
    }
}
