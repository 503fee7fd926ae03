//! Blocks of points of a code book: eight weights with one scale are one point of eight coordinates or two of four, and signs.
//!
//! At a scale `s` the weighted error of a point `y` is `sum w x² - 2 s sum(w x y) + s² sum(w y²)`, `x` the weights' magnitudes. The
//! points for which it is least are found at sixteen scales, one a lane (`halves.rs`): none is missed, as it would be by rounding
//! first. Few points are the best at any scale, so that from there on only those found count. Where an even
//! number of signs must be negative and is not, one of the weights gets the other sign: the one whose `w x y` is least.
//!
//! As in `superblock.rs` the groups' ideal scales choose the f16, then each group its code, here among all sixteen that there are,
//! and the f16 is fitted again.

use super::halves::{Sums, Work};
use super::lanes::{LANES, Lanes, round_to_f16};
use super::symmetric::{NEGLIGIBLE, Odd, Scale};
use super::units;
use crate::blocks::books::{Book, Eight};
use crate::kernels::Isa;
use half::f16;
use std::array::from_fn;

/// How often the f16 is fitted again, if that keeps gaining.
const ROUNDS: usize = 4;

/// A block of 256 weights: `weight = scale * (2 code + 1) / units * coordinate`.
pub struct Fit {
    /// The scale.
    pub scale: f16,
    /// The groups' codes, from 0 to 15.
    pub codes: [u8; 16],
    /// The weights, eight by eight.
    pub eights: [Eight; 32],
}

/// Encodes groups of `group` weights (16 or 32), their scales in units of `1 / units` of the f16.
#[inline(always)]
pub fn superblock<S: Isa, B: Book>(s: S, x: &[f32; 256], w: &[f32; 256], group: usize, units: f32) -> Fit {
    let (mut sums, mut work) = (Sums::new(), Work::new());
    let mut eights = [Candidates::default(); 32];
    let (mut scales, mut curvatures) = ([0f32; 16], [0f32; 16]);
    for (g, eights) in eights.chunks_exact_mut(group / 8).enumerate() {
        let (x, w) = (&x[g * group..][..group], &w[g * group..][..group]);
        let ideal = ideal::<S, B>(s, x, w, eights, &mut sums, &mut work);
        (scales[g], curvatures[g]) = (ideal.scale * units, ideal.curvature);
    }
    let scale = match group {
        16 => units::nearest::<S, Odd, 16>(s, &scales, &curvatures).unit,
        _ => units::nearest::<S, Odd, 8>(s, &scales[..8], &curvatures[..8]).unit,
    };
    let mut best = choose::<S, B>(s, &eights, group, units, scale.to_f32());
    for _ in 0..ROUNDS {
        let again = choose::<S, B>(s, &eights, group, units, best.refitted);
        if again.cost >= best.cost {
            break;
        }
        best = again;
    }
    Fit { scale: f16::from_f32(best.scale), codes: best.codes, eights: best.eights }
}

/// The nearest points to eight weights at the scale 1, their squared errors counting `w`.
#[inline(always)]
pub fn nearest<S: Isa, B: Book>(s: S, x: &[f32; 8], w: &[f32; 8]) -> Eight {
    let mut candidates = Candidates::default();
    candidates.find::<S, B>(s, x, w, None, &mut Sums::new(), &mut Work::new());
    candidates.best::<B>(1.0).eight
}

/// A block's codes and points at one scale.
struct Chosen {
    scale: f32,
    codes: [u8; 16],
    eights: [Eight; 32],
    /// The weighted error, but for what does not depend on the choice.
    cost: f32,
    /// The f16 that fits these codes and points best.
    refitted: f32,
}

/// The best of all codes of each group, and the best points.
#[inline(always)]
fn choose<S: Isa, B: Book>(s: S, eights: &[Candidates; 32], group: usize, units: f32, scale: f32) -> Chosen {
    let mut chosen = Chosen { scale, codes: [0; 16], eights: [Eight::default(); 32], cost: 0.0, refitted: scale };
    if scale == 0.0 {
        return chosen;
    }
    let odd: [f32; LANES] = from_fn(|i| (2 * i + 1) as f32);
    let scales = Lanes::load(s, &odd) * (scale / units);
    let (mut xy, mut yy) = (0f32, 0f32);
    let each = group / 8;
    for (g, eights) in eights.chunks_exact(each).enumerate() {
        let code = costs::<S, B>(s, eights, scales).argmin();
        chosen.codes[g] = code as u8;
        for (i, eight) in eights.iter().enumerate() {
            let best = eight.best::<B>(odd[code] * (scale / units));
            chosen.eights[g * each + i] = best.eight;
            chosen.cost += best.cost;
            xy += odd[code] * best.xy;
            yy += odd[code] * odd[code] * best.yy;
        }
    }
    if xy > 0.0 && yy > 0.0 {
        chosen.refitted = round_to_f16(units * xy / yy);
    }
    chosen
}

/// The best scale of one group, as [`super::symmetric::best_scale`], and the points that count from here on.
#[inline(always)]
fn ideal<S: Isa, B: Book>(
    s: S,
    x: &[f32],
    w: &[f32],
    eights: &mut [Candidates],
    sums: &mut Sums,
    work: &mut Work,
) -> Scale {
    let extreme = x.iter().fold(0f32, |a, b| if b.abs() > a { b.abs() } else { a });
    if extreme < NEGLIGIBLE {
        return Scale::default();
    }
    let scales = Lanes::load(s, &B::TARGETS).reciprocal() * extreme;
    for (i, eight) in eights.iter_mut().enumerate() {
        eight.find::<S, B>(s, eight_of(x, i), eight_of(w, i), Some(scales), sums, work);
    }
    // Among these scales, then around the best of them.
    let coarse = scales.array()[costs::<S, B>(s, eights, scales).argmin()];
    let scales = Lanes::from_fn(s, |i| coarse * (0.89 + 0.015 * i as f32));
    let scale = scales.array()[costs::<S, B>(s, eights, scales).argmin()];
    let (mut xy, mut yy) = (0f32, 0f32);
    for eight in eights.iter() {
        let best = eight.best::<B>(scale);
        xy += best.xy;
        yy += best.yy;
    }
    if xy > 0.0 && yy > 0.0 { Scale { scale: xy / yy, curvature: yy } } else { Scale::default() }
}

/// The weighted error of the best points at each lane's scale, less `sum w x²`.
#[inline(always)]
fn costs<S: Isa, B: Book>(s: S, eights: &[Candidates], scales: Lanes<S>) -> Lanes<S> {
    let mut costs = Lanes::splat(s, 0.0);
    for eight in eights {
        costs = costs + eight.costs::<S, B>(s, scales);
    }
    costs
}

#[inline(always)]
fn eight_of(v: &[f32], i: usize) -> &[f32; 8] {
    v[8 * i..].first_chunk().expect("groups are eights")
}

/// The points that are the best at one of sixteen scales.
#[derive(Clone, Copy)]
struct Found {
    count: usize,
    points: [u16; LANES],
    /// `sum(w x y)`.
    xy: [f32; LANES],
    /// `sum(w y²)`.
    yy: [f32; LANES],
}

impl Default for Found {
    /// The first point, for weights of nothing.
    #[inline(always)]
    fn default() -> Self {
        Found { count: 1, points: [0; LANES], xy: [0.0; LANES], yy: [0.0; LANES] }
    }
}

impl Found {
    /// The points at these places, of equal neighbours one; `turn` says that one sign is turned.
    #[inline(always)]
    fn of<B: Book>(points: &[u16], x: &[f32], w: &[f32], turn: bool) -> Self {
        let mut found = Found { count: 0, ..Found::default() };
        for (i, k) in points.iter().enumerate() {
            if i > 0 && points[i - 1] == *k {
                continue;
            }
            let (mut xy, mut yy, mut least) = (0f32, 0f32, f32::MAX);
            let y = B::magnitudes([*k, 0]);
            for j in 0..B::WIDTH {
                let y = f32::from(y[j]);
                let wy = y * w[j];
                let wxy = wy * x[j].abs();
                xy += wxy;
                yy += wy * y;
                least = if wxy < least { wxy } else { least };
            }
            let at = found.count;
            (found.points[at], found.yy[at]) = (*k, yy);
            found.xy[at] = if turn { xy - least * 2.0 } else { xy };
            found.count += 1;
        }
        found
    }

    /// The error at each lane's scale.
    #[inline(always)]
    fn costs<S: Isa>(&self, s: S, scale: Lanes<S>) -> Lanes<S> {
        let mut least = Lanes::splat(s, f32::MAX);
        for i in 0..self.count {
            least = ((scale * self.yy[i] - 2.0 * self.xy[i]) * scale).min(least);
        }
        least
    }

    /// The best at one scale, and its error.
    #[inline(always)]
    fn best(&self, scale: f32) -> (usize, f32) {
        let mut best = (0, f32::MAX);
        for i in 0..self.count {
            let cost = (scale * self.yy[i] - 2.0 * self.xy[i]) * scale;
            if cost < best.1 {
                best = (i, cost);
            }
        }
        best
    }
}

/// Eight weights, and the points that may be best for them: those of eight coordinates, or those of the first four weights and
/// then those of the others.
#[derive(Clone, Copy, Default)]
struct Candidates {
    x: [f32; 8],
    w: [f32; 8],
    /// Whether the sign of one weight must be turned.
    turn: bool,
    plain: [Found; 2],
    turned: [Found; 2],
}

/// The best points at a scale.
struct Best {
    eight: Eight,
    /// The weighted error less `sum w x²`.
    cost: f32,
    xy: f32,
    yy: f32,
}

impl Candidates {
    /// Takes eight weights, and finds the best points for them; at the scale 1 if no others are given.
    #[inline(always)]
    fn find<S: Isa, B: Book>(
        &mut self,
        s: S,
        x: &[f32; 8],
        w: &[f32; 8],
        scales: Option<Lanes<S>>,
        sums: &mut Sums,
        work: &mut Work,
    ) {
        (self.x, self.w) = (*x, *w);
        self.turn = B::EVEN && x.iter().filter(|x| **x < 0.0).count() % 2 == 1;
        for part in 0..8 / B::WIDTH {
            let (x, w) = (&x[part * B::WIDTH..][..B::WIDTH], &w[part * B::WIDTH..][..B::WIDTH]);
            sums.fill::<S, B>(s, x, w, self.turn);
            if B::WIDTH == 4 || !self.turn {
                self.plain[part] = Found::of::<B>(&sums.best::<S, B, false>(s, scales, work), x, w, false);
            }
            if self.turn {
                self.turned[part] = Found::of::<B>(&sums.best::<S, B, true>(s, scales, work), x, w, true);
            }
        }
    }

    #[inline(always)]
    fn costs<S: Isa, B: Book>(&self, s: S, scale: Lanes<S>) -> Lanes<S> {
        if B::WIDTH == 8 {
            return if self.turn { &self.turned[0] } else { &self.plain[0] }.costs(s, scale);
        }
        let (first, second) = (self.plain[0].costs(s, scale), self.plain[1].costs(s, scale));
        if !self.turn {
            return first + second;
        }
        (self.turned[0].costs(s, scale) + second).min(first + self.turned[1].costs(s, scale))
    }

    #[inline(always)]
    fn best<B: Book>(&self, scale: f32) -> Best {
        let mut best = Best { eight: Eight::default(), cost: 0.0, xy: 0.0, yy: 0.0 };
        for (i, x) in self.x.iter().enumerate() {
            best.eight.signs |= u8::from(*x < 0.0) << i;
        }
        let parts = 8 / B::WIDTH;
        let mut found = [(&self.plain[0], self.plain[0].best(scale)), (&self.plain[1], self.plain[1].best(scale))];
        if self.turn {
            let turned = [self.turned[0].best(scale), self.turned[1].best(scale)];
            // In the part where that adds least.
            let part = usize::from(parts == 2 && turned[1].1 - found[1].1.1 < turned[0].1 - found[0].1.1);
            found[part] = (&self.turned[part], turned[part]);
            let k = usize::from(self.turned[part].points[turned[part].0]);
            best.eight.signs ^= 1 << self.turning::<B>(part, k);
        }
        for (part, (of, (at, cost))) in found.into_iter().enumerate().take(parts) {
            best.eight.points[part] = of.points[at];
            best.cost += cost;
            best.xy += of.xy[at];
            best.yy += of.yy[at];
        }
        best
    }

    /// The weight of a part whose other sign costs least at point `k`.
    #[inline(always)]
    fn turning<B: Book>(&self, part: usize, k: usize) -> usize {
        let first = part * B::WIDTH;
        let y = B::magnitudes([k as u16, 0]);
        let (mut at, mut least) = (first, f32::MAX);
        for (j, y) in y.iter().enumerate().take(B::WIDTH) {
            let wxy = f32::from(*y) * self.w[first + j] * self.x[first + j].abs();
            if wxy < least {
                (at, least) = (first + j, wxy);
            }
        }
        at
    }
}
