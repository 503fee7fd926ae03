//! AVX-512 with VNNI: 64-byte registers and the four-way product of unsigned and signed bytes.

use super::isa::{Isa, Kernel};
use std::arch::x86_64::*;

/// AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// `Some` if this machine has it.
    pub fn detect() -> Option<Self> {
        let has = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vnni")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        has.then_some(Avx512(()))
    }

    /// Compiles `kernel` with these features and runs it.
    #[inline]
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn with_features<K: Kernel>(s: Avx512, kernel: K) -> K::Output {
            kernel.run(s)
        }
        // SAFETY: `self` exists only where `detect` found the features.
        unsafe { with_features(self, kernel) }
    }
}

/// Runs intrinsics. Sound because an [`Avx512`] is at hand wherever this is used.
macro_rules! simd {
    ($($body:tt)*) => {
        // SAFETY: `self` exists only where `detect` found the features; pointers come from references of that size.
        unsafe { $($body)* }
    };
}

impl Isa for Avx512 {
    type V = __m512i;
    type I = __m512i;
    type F = __m512;

    const CENTERED: bool = false;
    const COLUMNS: usize = 12;
    const FLOAT_COLUMNS: usize = 12;

    #[inline(always)]
    fn load(self, p: &[u8; 64]) -> __m512i {
        simd!(_mm512_loadu_si512(p.as_ptr().cast()))
    }

    #[inline(always)]
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> __m512i {
        simd! {
            let low = _mm512_castsi256_si512(_mm256_loadu_si256(a.as_ptr().cast()));
            _mm512_inserti64x4::<1>(low, _mm256_loadu_si256(b.as_ptr().cast()))
        }
    }

    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> __m512i {
        simd! {
            let a = _mm256_broadcastsi128_si256(_mm_loadu_si128(a.as_ptr().cast()));
            let b = _mm256_broadcastsi128_si256(_mm_loadu_si128(b.as_ptr().cast()));
            let v = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b);
            let counts = _mm512_set_epi64(4, 4, 0, 0, 4, 4, 0, 0);
            _mm512_and_si512(_mm512_srlv_epi64(v, counts), _mm512_set1_epi8(0x0f))
        }
    }

    #[inline(always)]
    fn splat(self, v: u8) -> __m512i {
        simd!(_mm512_set1_epi8(v as i8))
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_or_si512(a, b))
    }

    #[inline(always)]
    fn xor(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_xor_si512(a, b))
    }

    #[inline(always)]
    fn sub_bytes(self, a: __m512i, b: __m512i) -> __m512i {
        simd!(_mm512_sub_epi8(a, b))
    }

    #[inline(always)]
    fn shift_halves(self, v: __m512i, lo: u32, hi: u32, mask: u8) -> __m512i {
        simd! {
            let (lo, hi) = (i64::from(lo), i64::from(hi));
            let counts = _mm512_set_epi64(hi, hi, hi, hi, lo, lo, lo, lo);
            _mm512_and_si512(_mm512_srlv_epi64(v, counts), _mm512_set1_epi8(mask as i8))
        }
    }

    #[inline(always)]
    fn shift_left<const N: i32>(self, v: __m512i) -> __m512i {
        simd!(_mm512_sll_epi16(v, _mm_cvtsi32_si128(N)))
    }

    #[inline(always)]
    fn crumbs(self, p: &[u8; 16]) -> __m512i {
        simd! {
            // Each byte to the four bytes of its lane, then each byte of a lane shifted by its own amount.
            let v = _mm512_cvtepu8_epi32(_mm_loadu_si128(p.as_ptr().cast()));
            let pairs = _mm512_or_si512(v, _mm512_slli_epi32::<12>(v));
            let all = _mm512_or_si512(pairs, _mm512_slli_epi32::<6>(pairs));
            _mm512_and_si512(all, _mm512_set1_epi8(3))
        }
    }

    #[inline(always)]
    fn bits(self, mask: u64, value: u8) -> __m512i {
        simd!(_mm512_maskz_set1_epi8(mask, value as i8))
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: __m512i) -> __m512i {
        simd! {
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_shuffle_epi8(table, v)
        }
    }

    #[inline(always)]
    fn transpose(self, r: [__m512i; 16]) -> [__m512i; 16] {
        simd! {
            let mut a = r;
            for i in 0..8 {
                a[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
                a[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
            }
            // b[4 q + j], 128-bit lane l: column 4 l + j of the rows 4 q .. 4 q + 4.
            let mut b = a;
            for q in 0..4 {
                b[4 * q] = _mm512_unpacklo_epi64(a[4 * q], a[4 * q + 2]);
                b[4 * q + 1] = _mm512_unpackhi_epi64(a[4 * q], a[4 * q + 2]);
                b[4 * q + 2] = _mm512_unpacklo_epi64(a[4 * q + 1], a[4 * q + 3]);
                b[4 * q + 3] = _mm512_unpackhi_epi64(a[4 * q + 1], a[4 * q + 3]);
            }
            let mut c = b;
            for j in 0..4 {
                let low01 = _mm512_shuffle_i32x4::<0x44>(b[j], b[4 + j]);
                let high01 = _mm512_shuffle_i32x4::<0xee>(b[j], b[4 + j]);
                let low23 = _mm512_shuffle_i32x4::<0x44>(b[8 + j], b[12 + j]);
                let high23 = _mm512_shuffle_i32x4::<0xee>(b[8 + j], b[12 + j]);
                c[j] = _mm512_shuffle_i32x4::<0x88>(low01, low23);
                c[4 + j] = _mm512_shuffle_i32x4::<0xdd>(low01, low23);
                c[8 + j] = _mm512_shuffle_i32x4::<0x88>(high01, high23);
                c[12 + j] = _mm512_shuffle_i32x4::<0xdd>(high01, high23);
            }
            c
        }
    }

    #[inline(always)]
    fn store(self, v: __m512i, p: &mut [u8; 64]) {
        simd!(_mm512_storeu_si512(p.as_mut_ptr().cast(), v))
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> __m512i {
        simd!(_mm512_set1_epi32(v))
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(self, acc: __m512i, w: __m512i, x: &[i8; 64]) -> __m512i {
        simd!(_mm512_dpbusd_epi32(acc, w, _mm512_loadu_si512(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn dot_splat<const WIDE: bool>(self, acc: __m512i, w: __m512i, x: [i8; 4]) -> __m512i {
        simd!(_mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(bytemuck::cast(x))))
    }

    #[inline(always)]
    fn to_f(self, v: __m512i) -> __m512 {
        simd!(_mm512_cvtepi32_ps(v))
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> __m512 {
        simd!(_mm512_set1_ps(v))
    }

    #[inline(always)]
    fn load_f(self, p: &[f32; 16]) -> __m512 {
        simd!(_mm512_loadu_ps(p.as_ptr()))
    }

    #[inline(always)]
    fn load_f16(self, p: &[u8; 32]) -> __m512 {
        simd!(_mm512_cvtph_ps(_mm256_loadu_si256(p.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_bf16(self, p: &[u8; 32]) -> __m512 {
        simd! {
            let v = _mm512_cvtepu16_epi32(_mm256_loadu_si256(p.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(v))
        }
    }

    #[inline(always)]
    fn load_u8(self, p: [u8; 16]) -> __m512 {
        simd!(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(p.as_ptr().cast()))))
    }

    #[inline(always)]
    fn load_i8(self, p: [i8; 16]) -> __m512 {
        simd!(_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(p.as_ptr().cast()))))
    }

    #[inline(always)]
    fn twice_u8(self, p: [u8; 8]) -> __m512 {
        simd! {
            let v = _mm_loadl_epi64(p.as_ptr().cast());
            _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_unpacklo_epi8(v, v)))
        }
    }

    #[inline(always)]
    fn twice_f16(self, p: [u16; 8]) -> __m512 {
        simd! {
            let v = _mm_loadu_si128(p.as_ptr().cast());
            let twice = _mm256_set_m128i(_mm_unpackhi_epi16(v, v), _mm_unpacklo_epi16(v, v));
            _mm512_cvtph_ps(twice)
        }
    }

    #[inline(always)]
    fn store_low_bytes(self, v: __m512i, p: &mut [i8; 16]) {
        simd!(_mm_storeu_si128(p.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(v)))
    }

    #[inline(always)]
    fn store_f(self, v: __m512, p: &mut [f32; 16]) {
        simd!(_mm512_storeu_ps(p.as_mut_ptr(), v))
    }

    #[inline(always)]
    fn to_bits(self, v: __m512) -> __m512i {
        simd!(_mm512_castps_si512(v))
    }

    #[inline(always)]
    fn from_bits(self, v: __m512i) -> __m512 {
        simd!(_mm512_castsi512_ps(v))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        simd!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn if_greater(self, a: __m512, b: __m512, then: __m512, otherwise: __m512) -> __m512 {
        simd!(_mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), otherwise, then))
    }

    #[inline(always)]
    fn any_greater(self, a: __m512, b: __m512) -> bool {
        simd!(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) != 0)
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        simd!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn spread(self, v: __m512, chunk: usize) -> __m512 {
        simd! {
            // One lane of 128 bits to all four, then within lane l its element l.
            let lanes = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
            let lanes = _mm512_add_epi32(lanes, _mm512_set1_epi32(4 * chunk as i32));
            _mm512_permutexvar_ps(lanes, v)
        }
    }

    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        simd! {
            let v = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
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
