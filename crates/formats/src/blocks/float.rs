//! Floating point: F32, F16, BF16. A block is one weight.

use crate::format::Format;
use crate::kernels::RowDot;

/// IEEE single precision.
pub static F32: Format =
    Format { name: "F32", id: 0, block: 1, bytes: 4, decode: decode_f32, encode: Some(encode_f32), dot: RowDot::Float };

/// IEEE half precision.
pub static F16: Format =
    Format { name: "F16", id: 1, block: 1, bytes: 2, decode: decode_f16, encode: Some(encode_f16), dot: RowDot::Float };

/// The upper half of an f32.
pub static BF16: Format = Format {
    name: "BF16",
    id: 30,
    block: 1,
    bytes: 2,
    decode: decode_bf16,
    encode: Some(encode_bf16),
    dot: RowDot::Float,
};

fn decode_f32(src: &[u8], dst: &mut [f32]) {
    for (b, d) in src.chunks_exact(4).zip(dst) {
        *d = f32::from_le_bytes([b[0], b[1], b[2], b[3]]);
    }
}

fn encode_f32(src: &[f32], _: Option<&[f32]>, dst: &mut [u8]) {
    for (s, b) in src.iter().zip(dst.chunks_exact_mut(4)) {
        b.copy_from_slice(&s.to_le_bytes());
    }
}

fn decode_f16(src: &[u8], dst: &mut [f32]) {
    for (b, d) in src.chunks_exact(2).zip(dst) {
        *d = half::f16::from_le_bytes([b[0], b[1]]).to_f32();
    }
}

fn encode_f16(src: &[f32], _: Option<&[f32]>, dst: &mut [u8]) {
    for (s, b) in src.iter().zip(dst.chunks_exact_mut(2)) {
        b.copy_from_slice(&half::f16::from_f32(*s).to_le_bytes());
    }
}

fn decode_bf16(src: &[u8], dst: &mut [f32]) {
    for (b, d) in src.chunks_exact(2).zip(dst) {
        *d = half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
    }
}

fn encode_bf16(src: &[f32], _: Option<&[f32]>, dst: &mut [u8]) {
    for (s, b) in src.iter().zip(dst.chunks_exact_mut(2)) {
        b.copy_from_slice(&half::bf16::from_f32(*s).to_le_bytes());
    }
}
