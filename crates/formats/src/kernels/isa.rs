//! One vocabulary of vector operations, and the choice among its implementations at run time.
//!
//! A kernel is written once, generic over [`Isa`], in terms of 64-byte vectors: 64 quants, 16 integers or 16 floats.
//! [`super::scalar`], [`super::avx2`], [`super::avx512`] and [`super::neon`] say what each operation is on a machine;
//! the scalar one is also the reference that the others are tested against. All of them sum in the same order,
//! lane by lane, so that they differ only where one has a fused multiply-add and another has not.

/// A kernel: code generic over the instruction set, run by [`Level::dispatch`].
pub(crate) trait Kernel {
    /// What it computes.
    type Output;
    /// The body. Must be `#[inline(always)]`, so that it is compiled with the features of `s`.
    fn run<S: Isa>(self, s: S) -> Self::Output;
}

/// The vector operations of an instruction set.
///
/// A value of an implementing type is the proof that this machine has the instructions.
pub(crate) trait Isa: Copy {
    /// 64 bytes.
    type V: Copy;
    /// 16 `i32`.
    type I: Copy;
    /// 16 `f32`.
    type F: Copy;

    /// Whether products with quants of 8 bits are taken of `quant - 128`, not of the quant: the instruction set has no
    /// product of unsigned and signed bytes that holds them.
    const CENTERED: bool;
    /// Columns of rounded activations that a tile computes at once, as the registers allow: each takes a sum of integers
    /// and one of floats.
    const COLUMNS: usize;
    /// The same for activations in f32, which take one sum each.
    const FLOAT_COLUMNS: usize;

    /// 64 bytes.
    fn load(self, p: &[u8; 64]) -> Self::V;
    /// `[a, b]`.
    fn load_halves(self, a: &[u8; 32], b: &[u8; 32]) -> Self::V;
    /// The low four bits of `a`, the high four bits of `a`, then the same of `b`.
    fn nibbles(self, a: &[u8; 16], b: &[u8; 16]) -> Self::V;
    /// `v` in all bytes.
    fn splat(self, v: u8) -> Self::V;
    /// Bitwise or.
    fn or(self, a: Self::V, b: Self::V) -> Self::V;
    /// Bitwise exclusive or.
    fn xor(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a - b` byte by byte, modulo 256.
    fn sub_bytes(self, a: Self::V, b: Self::V) -> Self::V;
    /// `(v >> n) & mask` byte by byte, with `n = lo` in the first half and `n = hi` in the second.
    fn shift_halves(self, v: Self::V, lo: u32, hi: u32, mask: u8) -> Self::V;
    /// Byte by byte `v << N`; the bits shifted out must be zero.
    fn shift_left<const N: i32>(self, v: Self::V) -> Self::V;
    /// Spreads 16 bytes of two-bit values, four a byte from the low bits up, to 64 bytes.
    fn crumbs(self, p: &[u8; 16]) -> Self::V;
    /// `value` in the bytes whose bit in `mask` is set, else 0.
    fn bits(self, mask: u64, value: u8) -> Self::V;
    /// `table[v]`, every byte of `v` being below 16.
    fn lookup(self, table: &[u8; 16], v: Self::V) -> Self::V;
    /// The 16 × 16 transpose of 32-bit lanes.
    fn transpose(self, rows: [Self::V; 16]) -> [Self::V; 16];
    /// Writes 64 bytes.
    fn store(self, v: Self::V, p: &mut [u8; 64]);

    /// `v` in all lanes.
    fn splat_i(self, v: i32) -> Self::I;
    /// Adds to lane `l` the products of the bytes `4 l .. 4 l + 4` of `w` (unsigned) and `x` (signed).
    ///
    /// `WIDE` says that `w` uses all 8 bits (see [`Isa::CENTERED`]); otherwise it stays below 64. `x` is never -128.
    fn dot<const WIDE: bool>(self, acc: Self::I, w: Self::V, x: &[i8; 64]) -> Self::I;
    /// [`Isa::dot`] with the same four bytes of `x` for all lanes.
    fn dot_splat<const WIDE: bool>(self, acc: Self::I, w: Self::V, x: [i8; 4]) -> Self::I;
    /// To floating point.
    fn to_f(self, v: Self::I) -> Self::F;

    /// `v` in all lanes.
    fn splat_f(self, v: f32) -> Self::F;
    /// 16 floats.
    fn load_f(self, p: &[f32; 16]) -> Self::F;
    /// 16 half-precision floats, little endian.
    fn load_f16(self, p: &[u8; 32]) -> Self::F;
    /// 16 bfloat16, little endian.
    fn load_bf16(self, p: &[u8; 32]) -> Self::F;
    /// 16 bytes to floats.
    fn load_u8(self, p: [u8; 16]) -> Self::F;
    /// 16 signed bytes to floats.
    fn load_i8(self, p: [i8; 16]) -> Self::F;
    /// Eight bytes to floats, each twice.
    fn twice_u8(self, p: [u8; 8]) -> Self::F;
    /// Eight half-precision floats, each twice.
    fn twice_f16(self, p: [u16; 8]) -> Self::F;
    /// Writes the lowest byte of each 32-bit lane.
    fn store_low_bytes(self, v: Self::V, p: &mut [i8; 16]);
    /// Writes 16 floats.
    fn store_f(self, v: Self::F, p: &mut [f32; 16]);
    /// The bits of 16 floats.
    fn to_bits(self, v: Self::F) -> Self::V;
    /// The floats of these bits.
    #[allow(clippy::wrong_self_convention, reason = "`self` is the proof of the instruction set, as everywhere here")]
    fn from_bits(self, v: Self::V) -> Self::F;
    /// `a + b`.
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a - b`.
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b`.
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a / b`.
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// The greater lane by lane; the second where either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The lesser lane by lane; the second where either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `then` in the lanes where `a > b`, else `otherwise`.
    fn if_greater(self, a: Self::F, b: Self::F, then: Self::F, otherwise: Self::F) -> Self::F;
    /// Whether `a > b` in any lane.
    fn any_greater(self, a: Self::F, b: Self::F) -> bool;
    /// `a * b + c`, fused where the machine can.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// Lane `l` of the result is lane `4 chunk + l / 4` of `v`: brings one scale per 16 weights to the 64 weights of
    /// a chunk, `chunk < 4`.
    fn spread(self, v: Self::F, chunk: usize) -> Self::F;
    /// The sum of the lanes, adding halves, then quarters, and so on.
    fn sum(self, v: Self::F) -> f32;
    /// Half precision to single.
    fn f16(self, v: u16) -> f32;
}

/// An instruction set that this machine has.
#[derive(Clone, Copy)]
pub struct Level(Choice);

#[derive(Clone, Copy)]
enum Choice {
    Scalar(super::scalar::Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(super::avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(super::avx512::Avx512),
    #[cfg(target_arch = "aarch64")]
    Neon(super::neon::Neon),
}

impl Level {
    /// All that this machine has, the plainest first.
    pub fn all() -> Vec<Level> {
        let mut all = vec![Level(Choice::Scalar(super::scalar::Scalar))];
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(super::avx2::Avx2::detect().map(|s| Level(Choice::Avx2(s))));
            all.extend(super::avx512::Avx512::detect().map(|s| Level(Choice::Avx512(s))));
        }
        #[cfg(target_arch = "aarch64")]
        all.extend(super::neon::Neon::detect().map(|s| Level(Choice::Neon(s))));
        all
    }

    /// The fastest that this machine has.
    pub fn best() -> Level {
        static BEST: std::sync::OnceLock<Level> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| *Level::all().last().expect("scalar code runs everywhere"))
    }

    /// Its name, for example `avx512-vnni`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Choice::Scalar(_) => "scalar",
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(_) => "avx512-vnni",
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(_) => "neon",
        }
    }

    /// Runs a kernel compiled for this instruction set.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            Choice::Scalar(s) => kernel.run(s),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(s) => s.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(s) => s.run(kernel),
            #[cfg(target_arch = "aarch64")]
            Choice::Neon(s) => s.run(kernel),
        }
    }
}

impl std::fmt::Debug for Level {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Default for Level {
    fn default() -> Self {
        Level::best()
    }
}
