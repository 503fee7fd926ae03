//! The best points of a code book, found by halves.
//!
//! What a point costs at a scale (`points.rs`) is the sum of what its halves cost, and few halves differ: 81 in a book of 1024 points.
//! So costs are computed of halves. Points that share their second half are looked at only if that half could be a part of something
//! better than what is known already: together with the first half that costs least, whether there is such a point or not. What is
//! known are the points with second halves that by themselves cost least. No point is missed, and of those that cost the same the first is found.
//!
//! Where one sign must be turned, the weight that has it is in one of the halves: a point costs the lesser of two sums.

use super::lanes::{LANES, Lanes};
use crate::blocks::books::{Book, HALVES};
use crate::kernels::Isa;

/// The scales, of sixteen, at which second halves that cost least are looked at first.
const SEEDS: [usize; 3] = [2, 7, 12];

/// The sums of some weights with all first halves and with all second ones.
pub struct Sums([Half; 2]);

/// The sums of one half of the weights with each of a book's.
#[repr(align(64))]
struct Half {
    /// `sum(w x y)`.
    xy: [f32; HALVES],
    /// The same with the sign of one weight turned, whichever costs least.
    turned: [f32; HALVES],
    /// `sum(w y²)`.
    yy: [f32; HALVES],
}

/// What sixteen halves cost at one scale, or one half at sixteen: the error over the scale's square, less what all have in common.
#[derive(Clone, Copy)]
struct Cost<S: Isa> {
    plain: Lanes<S>,
    turned: Lanes<S>,
}

impl<S: Isa> Cost<S> {
    #[inline(always)]
    fn most(s: S) -> Self {
        let most = Lanes::splat(s, f32::MAX);
        Cost { plain: most, turned: most }
    }

    #[inline(always)]
    fn new(xy: Lanes<S>, turned: Lanes<S>, yy: Lanes<S>, twice: Lanes<S>) -> Self {
        Cost { plain: yy - twice * xy, turned: yy - twice * turned }
    }

    #[inline(always)]
    fn least(self, other: Self) -> Self {
        Cost { plain: self.plain.min(other.plain), turned: self.turned.min(other.turned) }
    }

    /// Two halves together.
    #[inline(always)]
    fn join<const TURN: bool>(self, other: Self) -> Lanes<S> {
        if TURN { (self.turned + other.plain).min(self.plain + other.turned) } else { self.plain + other.plain }
    }
}

impl Half {
    const NEW: Self = Half { xy: [0.0; HALVES], turned: [0.0; HALVES], yy: [0.0; HALVES] };

    #[inline(always)]
    fn fill<S: Isa, B: Book>(&mut self, s: S, part: usize, x: &[f32], w: &[f32], turn: bool) {
        let book = B::halves();
        for k in (0..book.counts[part]).step_by(LANES) {
            let zero = Lanes::splat(s, 0.0);
            let (mut xy, mut yy, mut least) = (zero, zero, Lanes::splat(s, f32::MAX));
            for j in 0..B::WIDTH / 2 {
                let y = sixteen(s, &book.coordinates[part][j], k);
                let wy = y * w[j];
                let wxy = wy * x[j].abs();
                xy = xy + wxy;
                yy = yy + wy * y;
                if turn {
                    least = wxy.min(least);
                }
            }
            put(xy, &mut self.xy, k);
            put(yy, &mut self.yy, k);
            if turn {
                put(xy - least * 2.0, &mut self.turned, k);
            }
        }
    }

    /// What half `k` costs at the scales of which twice the inverses are given, over their squares.
    #[inline(always)]
    fn at_scales<S: Isa>(&self, s: S, k: usize, twice: Lanes<S>) -> Cost<S> {
        let (xy, turned) = (Lanes::splat(s, self.xy[k]), Lanes::splat(s, self.turned[k]));
        Cost::new(xy, turned, Lanes::splat(s, self.yy[k]), twice)
    }

    /// What the halves from `k` on cost at the scale of which twice the inverse is given.
    #[inline(always)]
    fn at_one<S: Isa>(&self, s: S, k: usize, twice: f32) -> Cost<S> {
        let (xy, turned) = (sixteen(s, &self.xy, k), sixteen(s, &self.turned, k));
        Cost::new(xy, turned, sixteen(s, &self.yy, k), Lanes::splat(s, twice))
    }

    /// What half `k` costs at the scale 1, and with a sign turned.
    #[inline(always)]
    fn one_at_one(&self, k: usize) -> (f32, f32) {
        (self.yy[k] - 2.0 * self.xy[k], self.yy[k] - 2.0 * self.turned[k])
    }

    /// The half that costs least at one scale by itself.
    #[inline(always)]
    fn cheapest<S: Isa>(&self, s: S, count: usize, twice: f32) -> usize {
        let (mut least, mut place) = (Lanes::splat(s, f32::MAX), Lanes::splat(s, 0.0));
        for k in (0..count).step_by(LANES) {
            let cost = self.at_one(s, k, twice).plain;
            place = least.if_exceeds(cost, Lanes::splat(s, k as f32), place);
            least = cost.min(least);
        }
        let lane = least.argmin();
        (place.array()[lane] as usize + lane).min(count - 1)
    }
}

impl Sums {
    /// None yet.
    pub const fn new() -> Self {
        Sums([Half::NEW; 2])
    }

    /// Takes the sums of as many weights as a point has coordinates; `turn` says whether a sign is going to be turned.
    #[inline(always)]
    pub fn fill<S: Isa, B: Book>(&mut self, s: S, x: &[f32], w: &[f32], turn: bool) {
        for (part, half) in self.0.iter_mut().enumerate() {
            let first = part * B::WIDTH / 2;
            half.fill::<S, B>(s, part, &x[first..], &w[first..], turn);
        }
    }

    /// The best point at each of sixteen scales, or at the scale 1 if none are given; `TURN` says that one sign must be turned.
    #[inline(always)]
    pub fn best<S: Isa, B: Book, const TURN: bool>(
        &self,
        s: S,
        scales: Option<Lanes<S>>,
        work: &mut Work,
    ) -> [u16; LANES] {
        match scales {
            Some(scales) => self.best_at_scales::<S, B, TURN>(s, scales, work),
            None => [self.best_at_one::<S, B, TURN>(s); LANES],
        }
    }

    #[inline(always)]
    fn best_at_scales<S: Isa, B: Book, const TURN: bool>(
        &self,
        s: S,
        scales: Lanes<S>,
        work: &mut Work,
    ) -> [u16; LANES] {
        let (book, [first, second]) = (B::halves(), &self.0);
        let twice = scales.reciprocal() * 2.0;
        let mut floor = Cost::most(s);
        for k in 0..book.counts[0] {
            let cost = first.at_scales(s, k, twice);
            work.plain[k] = cost.plain.array();
            if TURN {
                work.turned[k] = cost.turned.array();
            }
            floor = floor.least(cost);
        }
        let mut ceiling = Lanes::splat(s, f32::MAX);
        for scale in SEEDS {
            let seed = second.cheapest(s, book.counts[1], twice.array()[scale]);
            let cost = second.at_scales(s, seed, twice);
            for first in book.before(seed).0 {
                ceiling = cost.join::<TURN>(work.first::<S, TURN>(s, *first)).min(ceiling);
            }
        }
        // A trifle more, so that these are found again, in their order.
        let ceiling = ceiling + (ceiling.abs() * f32::EPSILON + f32::MIN_POSITIVE);
        // Without a branch that nobody could foresee.
        let (mut promising, mut count) = ([0u8; HALVES], 0);
        for k in 0..book.counts[1] {
            let bound = second.at_scales(s, k, twice).join::<TURN>(floor);
            promising[count] = k as u8;
            count += usize::from(ceiling.any_exceeds(bound));
        }
        let (mut least, mut place) = (ceiling, Lanes::splat(s, 0.0));
        for k in &promising[..count] {
            let cost = second.at_scales(s, usize::from(*k) % HALVES, twice);
            let (before, start) = book.before(usize::from(*k));
            for (i, first) in before.iter().enumerate() {
                let cost = cost.join::<TURN>(work.first::<S, TURN>(s, *first));
                place = least.if_exceeds(cost, Lanes::splat(s, f32::from(start + i as u16)), place);
                least = cost.min(least);
            }
        }
        place.array().map(|place| place as u16)
    }

    #[inline(always)]
    fn best_at_one<S: Isa, B: Book, const TURN: bool>(&self, s: S) -> u16 {
        let (book, [first, second]) = (B::halves(), &self.0);
        let mut floor = Cost::most(s);
        for k in (0..book.counts[0]).step_by(LANES) {
            floor = floor.least(first.at_one(s, k, 2.0));
        }
        let floor = Cost { plain: Lanes::splat(s, floor.plain.least()), turned: Lanes::splat(s, floor.turned.least()) };
        let mut bounds = [0f32; HALVES];
        for k in (0..book.counts[1]).step_by(LANES) {
            put(second.at_one(s, k, 2.0).join::<TURN>(floor), &mut bounds, k);
        }
        let seed = second.cheapest(s, book.counts[1], 2.0);
        // As with many scales, the points that are known are found again, in their order.
        let (mut best, mut least) = (0, self.look::<B, TURN>(seed, 0, f32::MAX).1.next_up());
        for (k, bound) in bounds[..book.counts[1]].iter().enumerate() {
            if *bound < least {
                (best, least) = self.look::<B, TURN>(k, best, least);
            }
        }
        best
    }

    /// The best at the scale 1 of the points with a second half and of one that is given with its cost.
    #[inline(always)]
    fn look<B: Book, const TURN: bool>(&self, second: usize, mut best: u16, mut least: f32) -> (u16, f32) {
        let (plain, turned) = self.0[1].one_at_one(second);
        let (before, start) = B::halves().before(second);
        for (i, first) in before.iter().enumerate() {
            let first = self.0[0].one_at_one(usize::from(*first) % HALVES);
            let cost = if TURN {
                let (a, b) = (turned + first.0, plain + first.1);
                if a < b { a } else { b }
            } else {
                plain + first.0
            };
            if cost < least {
                (best, least) = (start + i as u16, cost);
            }
        }
        (best, least)
    }
}

/// What the first halves cost at sixteen scales, and with a sign turned. Vectors that lie across cache lines would be slow.
#[repr(align(64))]
pub struct Work {
    plain: [[f32; LANES]; HALVES],
    turned: [[f32; LANES]; HALVES],
}

impl Work {
    /// Nothing yet.
    pub const fn new() -> Self {
        Work { plain: [[0.0; LANES]; HALVES], turned: [[0.0; LANES]; HALVES] }
    }

    #[inline(always)]
    fn first<S: Isa, const TURN: bool>(&self, s: S, k: u8) -> Cost<S> {
        let k = usize::from(k) % HALVES;
        let plain = Lanes::load(s, &self.plain[k]);
        Cost { plain, turned: if TURN { Lanes::load(s, &self.turned[k]) } else { plain } }
    }
}

/// The sixteen numbers from `k` on.
#[inline(always)]
fn sixteen<S: Isa>(s: S, of: &[f32; HALVES], k: usize) -> Lanes<S> {
    Lanes::load(s, of[k..].first_chunk().expect("HALVES is a multiple of sixteen"))
}

/// Writes sixteen numbers from `k` on.
#[inline(always)]
fn put<S: Isa>(v: Lanes<S>, to: &mut [f32; HALVES], k: usize) {
    to[k..k + LANES].copy_from_slice(&v.array());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::books::{Iq2S, Iq2Xs, Iq2Xxs, Iq3S, Iq3Xxs};
    use crate::kernels::{Kernel, Level};
    use std::marker::PhantomData;

    const SCALES: [f32; LANES] = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.3, 1.5, 2.0, 3.0, 5.0, 9.0];

    struct Search<'a, B, const TURN: bool>(&'a [f32], &'a [f32], PhantomData<B>);

    impl<B: Book, const TURN: bool> Kernel for Search<'_, B, TURN> {
        type Output = [[u16; LANES]; 2];

        #[inline(always)]
        fn run<S: Isa>(self, s: S) -> Self::Output {
            let (mut sums, mut work) = (Sums::new(), Work::new());
            sums.fill::<S, B>(s, self.0, self.1, TURN);
            [Some(Lanes::load(s, &SCALES)), None].map(|scales| sums.best::<S, B, TURN>(s, scales, &mut work))
        }
    }

    /// A point's cost at a scale by definition.
    fn cost<B: Book>(x: &[f32], w: &[f32], k: usize, scale: f32, turn: bool) -> f64 {
        let y = B::magnitudes([k as u16, 0]);
        let of = |j: usize| f64::from(w[j]) * f64::from(x[j].abs()) * f64::from(y[j]);
        let xy = (0..B::WIDTH).map(of).sum::<f64>();
        let least = if turn { (0..B::WIDTH).map(of).fold(f64::MAX, f64::min) } else { 0.0 };
        let yy = (0..B::WIDTH).map(|j| f64::from(w[j]) * f64::from(y[j]).powi(2)).sum::<f64>();
        f64::from(scale).powi(2) * yy - 2.0 * f64::from(scale) * (xy - 2.0 * least)
    }

    fn finds_the_best<B: Book, const TURN: bool>() {
        let mut state = 3u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 24) as f32
        };
        let book = B::halves();
        let count = usize::from(book.starts[book.counts[1]]);
        for round in 0..60 {
            let most = f32::from(B::magnitudes([count as u16 - 1, 0])[B::WIDTH - 1]);
            let mut x: Vec<f32> =
                (0..B::WIDTH).map(|_| (uniform() - 0.5) * most * (1.0 + (round % 7) as f32)).collect();
            let mut w: Vec<f32> = (0..B::WIDTH).map(|_| uniform() * (3.0 * uniform()).exp()).collect();
            // Weights of nothing, and such as do not count.
            x[0] *= (round % 3) as f32;
            w[1] *= (round % 4) as f32;
            for level in Level::all() {
                let [many, one] = level.dispatch(Search::<B, TURN>(&x, &w, PhantomData));
                for (scale, found) in SCALES.into_iter().zip(many).chain([(1.0, one[0])]) {
                    let costs = (0..count).map(|k| cost::<B>(&x, &w, k, scale, TURN));
                    let (least, found) = (costs.fold(f64::MAX, f64::min), usize::from(found));
                    let excess = cost::<B>(&x, &w, found, scale, TURN) - least;
                    assert!(
                        excess <= 1e-5 * least.abs() + 1e-4,
                        "{level:?} at {scale}: {found} costs {excess} too much"
                    );
                }
            }
        }
    }

    #[test]
    fn the_points_found_are_the_best_of_all() {
        finds_the_best::<Iq2Xxs, false>();
        finds_the_best::<Iq2Xxs, true>();
        finds_the_best::<Iq2Xs, false>();
        finds_the_best::<Iq2Xs, true>();
        finds_the_best::<Iq2S, false>();
        finds_the_best::<Iq3Xxs, false>();
        finds_the_best::<Iq3Xxs, true>();
        finds_the_best::<Iq3S, false>();
    }
}
