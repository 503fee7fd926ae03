//! The vector operations as plain loops: the reference, and what runs where nothing better is known.

use super::isa::Isa;
use std::array::from_fn;

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

impl Isa for Scalar {
    type V = [u8; 64];
    type I = [i32; 16];
    type F = [f32; 16];

    const CENTERED: bool = false;
    const COLUMNS: usize = 2;
    const FLOAT_COLUMNS: usize = 2;

    #[inline(always)]
    fn load(self, p: &[u8; 64]) -> [u8; 64] {
        *p
    }

    #[inline(always)]
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> [u8; 64] {
        from_fn(|i| if i < 32 { a[i] } else { b[i - 32] })
    }

    #[inline(always)]
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> [u8; 64] {
        from_fn(|i| {
            let byte = if i < 32 { a[i % 16] } else { b[i % 16] };
            byte >> (4 * (i / 16 % 2)) & 0x0f
        })
    }

    #[inline(always)]
    fn splat(self, v: u8) -> [u8; 64] {
        [v; 64]
    }

    #[inline(always)]
    fn or(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn xor(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i] ^ b[i])
    }

    #[inline(always)]
    fn sub_bytes(self, a: [u8; 64], b: [u8; 64]) -> [u8; 64] {
        from_fn(|i| a[i].wrapping_sub(b[i]))
    }

    #[inline(always)]
    fn shift_halves(self, v: [u8; 64], lo: u32, hi: u32, mask: u8) -> [u8; 64] {
        from_fn(|i| v[i] >> if i < 32 { lo } else { hi } & mask)
    }

    #[inline(always)]
    fn shift_left<const N: i32>(self, v: [u8; 64]) -> [u8; 64] {
        v.map(|b| b << N)
    }

    #[inline(always)]
    fn crumbs(self, p: &[u8; 16]) -> [u8; 64] {
        from_fn(|i| p[i / 4] >> (2 * (i % 4)) & 3)
    }

    #[inline(always)]
    fn bits(self, mask: u64, value: u8) -> [u8; 64] {
        from_fn(|i| if mask >> i & 1 == 1 { value } else { 0 })
    }

    #[inline(always)]
    fn lookup(self, table: &[u8; 16], v: [u8; 64]) -> [u8; 64] {
        v.map(|i| table[usize::from(i & 15)])
    }

    #[inline(always)]
    fn transpose(self, rows: [[u8; 64]; 16]) -> [[u8; 64]; 16] {
        from_fn(|r| from_fn(|b| rows[b / 4][4 * r + b % 4]))
    }

    #[inline(always)]
    fn store(self, v: [u8; 64], p: &mut [u8; 64]) {
        *p = v;
    }

    #[inline(always)]
    fn splat_i(self, v: i32) -> [i32; 16] {
        [v; 16]
    }

    #[inline(always)]
    fn dot<const WIDE: bool>(self, mut acc: [i32; 16], w: [u8; 64], x: &[i8; 64]) -> [i32; 16] {
        for (i, (&w, &x)) in w.iter().zip(x).enumerate() {
            acc[i / 4] += i32::from(w) * i32::from(x);
        }
        acc
    }

    #[inline(always)]
    fn dot_splat<const WIDE: bool>(self, mut acc: [i32; 16], w: [u8; 64], x: [i8; 4]) -> [i32; 16] {
        for (i, &w) in w.iter().enumerate() {
            acc[i / 4] += i32::from(w) * i32::from(x[i % 4]);
        }
        acc
    }

    #[inline(always)]
    fn to_f(self, v: [i32; 16]) -> [f32; 16] {
        v.map(|v| v as f32)
    }

    #[inline(always)]
    fn splat_f(self, v: f32) -> [f32; 16] {
        [v; 16]
    }

    #[inline(always)]
    fn load_f(self, p: &[f32; 16]) -> [f32; 16] {
        *p
    }

    #[inline(always)]
    fn load_f16(self, p: &[u8; 32]) -> [f32; 16] {
        from_fn(|i| half::f16::from_le_bytes([p[2 * i], p[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn load_bf16(self, p: &[u8; 32]) -> [f32; 16] {
        from_fn(|i| half::bf16::from_le_bytes([p[2 * i], p[2 * i + 1]]).to_f32())
    }

    #[inline(always)]
    fn load_u8(self, p: [u8; 16]) -> [f32; 16] {
        p.map(f32::from)
    }

    #[inline(always)]
    fn load_i8(self, p: [i8; 16]) -> [f32; 16] {
        p.map(f32::from)
    }

    #[inline(always)]
    fn twice_u8(self, p: [u8; 8]) -> [f32; 16] {
        from_fn(|i| f32::from(p[i / 2]))
    }

    #[inline(always)]
    fn twice_f16(self, p: [u16; 8]) -> [f32; 16] {
        from_fn(|i| self.f16(p[i / 2]))
    }

    #[inline(always)]
    fn store_low_bytes(self, v: [u8; 64], p: &mut [i8; 16]) {
        *p = from_fn(|i| v[4 * i] as i8);
    }

    #[inline(always)]
    fn store_f(self, v: [f32; 16], p: &mut [f32; 16]) {
        *p = v;
    }

    #[inline(always)]
    fn to_bits(self, v: [f32; 16]) -> [u8; 64] {
        bytemuck::cast(v)
    }

    #[inline(always)]
    fn from_bits(self, v: [u8; 64]) -> [f32; 16] {
        bytemuck::cast(v)
    }

    #[inline(always)]
    fn add(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn max(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn if_greater(self, a: [f32; 16], b: [f32; 16], then: [f32; 16], otherwise: [f32; 16]) -> [f32; 16] {
        from_fn(|i| if a[i] > b[i] { then[i] } else { otherwise[i] })
    }

    #[inline(always)]
    fn any_greater(self, a: [f32; 16], b: [f32; 16]) -> bool {
        (0..16).any(|i| a[i] > b[i])
    }

    #[inline(always)]
    fn fma(self, a: [f32; 16], b: [f32; 16], c: [f32; 16]) -> [f32; 16] {
        from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn spread(self, v: [f32; 16], chunk: usize) -> [f32; 16] {
        from_fn(|i| v[4 * chunk + i / 4])
    }

    #[inline(always)]
    fn sum(self, v: [f32; 16]) -> f32 {
        let v: [f32; 8] = from_fn(|i| v[i] + v[i + 8]);
        let v: [f32; 4] = from_fn(|i| v[i] + v[i + 4]);
        (v[0] + v[2]) + (v[1] + v[3])
    }

    #[inline(always)]
    fn f16(self, v: u16) -> f32 {
        half::f16::from_bits(v).to_f32()
    }
}
