//! Floating point: F32, F16, BF16. A block is one weight.

use crate::format::Format;
use crate::kernels::{Isa, Kernel, Level, Product, layouts};
use half::f16;
use half::slice::HalfFloatSliceExt;

/// IEEE single precision.
pub static F32: Format = Format {
    name: "F32",
    id: 0,
    block: 1,
    bytes: 4,
    largest: f32::MAX,
    decode: decode_f32,
    encode: Some(encode_f32),
    per_row: false,
    grid: None,
    product: Product::float::<layouts::F32>(),
};

/// IEEE half precision.
pub static F16: Format = Format {
    name: "F16",
    id: 1,
    block: 1,
    bytes: 2,
    largest: 65504.0,
    decode: decode_f16,
    encode: Some(encode_f16),
    per_row: false,
    grid: None,
    product: Product::float::<layouts::F16>(),
};

/// The upper half of an f32.
pub static BF16: Format = Format {
    name: "BF16",
    id: 30,
    block: 1,
    bytes: 2,
    largest: f32::from_bits(0x7f7f_0000),
    decode: decode_bf16,
    encode: Some(encode_bf16),
    per_row: false,
    grid: None,
    product: Product::float::<layouts::BF16>(),
};

fn decode_f32(src: &[u8], dst: &mut [f32]) {
    for (b, d) in src.as_chunks().0.iter().zip(dst) {
        *d = f32::from_le_bytes(*b);
    }
}

fn encode_f32(src: &[f32], _: Option<&[f32]>, dst: &mut [u8]) {
    for (s, b) in src.iter().zip(dst.as_chunks_mut().0) {
        *b = s.to_le_bytes();
    }
}

/// F16 weights converted at a time: the bytes need not be aligned, the conversion's input must be.
const CHUNK: usize = 256;

fn decode_f16(src: &[u8], dst: &mut [f32]) {
    let mut halves = [f16::ZERO; CHUNK];
    for (bytes, dst) in src.chunks(2 * CHUNK).zip(dst.chunks_mut(CHUNK)) {
        for (b, h) in bytes.as_chunks().0.iter().zip(&mut halves) {
            *h = f16::from_le_bytes(*b);
        }
        halves[..dst.len()].convert_to_f32_slice(dst);
    }
}

fn encode_f16(src: &[f32], _: Option<&[f32]>, dst: &mut [u8]) {
    let mut halves = [f16::ZERO; CHUNK];
    for (src, bytes) in src.chunks(CHUNK).zip(dst.chunks_mut(2 * CHUNK)) {
        halves[..src.len()].convert_from_f32_slice(src);
        for (h, b) in halves.iter().zip(bytes.as_chunks_mut().0) {
            *b = h.to_le_bytes();
        }
    }
}

fn decode_bf16(src: &[u8], dst: &mut [f32]) {
    Level::best().dispatch(DecodeBf16 { src, dst });
}

struct DecodeBf16<'a> {
    src: &'a [u8],
    dst: &'a mut [f32],
}

impl Kernel for DecodeBf16<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Isa>(self, _: S) {
        for (b, d) in self.src.as_chunks().0.iter().zip(self.dst) {
            *d = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
        }
    }
}

fn encode_bf16(src: &[f32], _: Option<&[f32]>, dst: &mut [u8]) {
    for (s, b) in src.iter().zip(dst.as_chunks_mut().0) {
        *b = half::bf16::from_f32(*s).to_le_bytes();
    }
}
