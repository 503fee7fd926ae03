//! The order in which sequences of several sources are drawn.

use super::{Sentences, Source};
use bantam_nn::random::SplitMix64;

/// Draws from sources by their weights, within a source in random order, each sequence once before any comes again.
///
/// A draw is a function of its number: sources take turns such that after any number of draws each has had its share to
/// within one, and a source's order follows from the seed and how often it was gone through.
pub struct Mixture {
    /// Sequences and share of the draws, for each source.
    sources: Vec<(usize, f64)>,
    seed: u64,
    /// The next draw, and how many each source has had.
    next: u64,
    counts: Vec<u64>,
    /// The order of each source, with how often it was gone through before.
    orders: Vec<(u64, Vec<u32>)>,
}

impl Mixture {
    /// A mixture of these sources' sequences.
    pub fn new(sources: &[Source], seed: u64) -> Self {
        Self::weighed(sources.iter().map(|s| (s.sequences.len(), s.spec.weight)).collect(), seed)
    }

    /// A mixture of sentences.
    pub fn of_sentences(sources: &[Sentences], seed: u64) -> Self {
        Self::weighed(sources.iter().map(|s| (s.texts.len(), s.spec.weight)).collect(), seed)
    }

    /// Of sequences and weights. Without weights all are drawn as if from one source, beside weights a source without one has 1.
    fn weighed(sources: Vec<(usize, Option<f64>)>, seed: u64) -> Self {
        let some_have_one = sources.iter().any(|(_, weight)| weight.is_some());
        let other = |len: usize| if some_have_one { 1.0 } else { len as f64 };
        Self::of(sources.into_iter().map(|(len, weight)| (len, weight.unwrap_or(other(len)))).collect(), seed)
    }

    fn of(mut sources: Vec<(usize, f64)>, seed: u64) -> Self {
        let sum: f64 = sources.iter().map(|s| s.1).sum();
        sources.iter_mut().for_each(|s| s.1 /= sum);
        let orders = sources.iter().map(|_| (u64::MAX, Vec::new())).collect();
        Self { counts: vec![0; sources.len()], sources, seed, next: 0, orders }
    }

    /// The share of the draws that each source has.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        self.sources.iter().map(|&(_, share)| share)
    }

    /// Draw number `draw`: the source, and the sequence within it. Draws may be asked for in any order, but quickest in theirs.
    pub fn draw(&mut self, draw: u64) -> (usize, usize) {
        if draw < self.next {
            self.next = 0;
            self.counts.fill(0);
        }
        loop {
            let source = self.turn();
            let drawn = self.counts[source];
            self.counts[source] += 1;
            self.next += 1;
            if self.next > draw {
                return (source, self.sequence(source, drawn));
            }
        }
    }

    /// All sequences, each once, in the order of the draws. Where a source has none left the others go on without it, by their weights.
    pub fn each_once(mut self) -> impl Iterator<Item = (usize, usize)> {
        let mut drawn = vec![0; self.sources.len()];
        std::iter::from_fn(move || {
            let source = self.turn();
            if self.sources.get(source)?.1 == 0.0 {
                return None;
            }
            let sequence = self.sequence(source, drawn[source]);
            drawn[source] += 1;
            self.counts[source] += 1;
            self.next += 1;
            if drawn[source] == self.sources[source].0 as u64 {
                self.sources[source].1 = 0.0;
                let sum: f64 = self.sources.iter().map(|s| s.1).sum();
                self.sources.iter_mut().filter(|s| s.1 > 0.0).for_each(|s| s.1 /= sum);
                self.counts.fill(0);
                self.next = 0;
            }
            Some((source, sequence))
        })
    }

    /// The source that is furthest behind its share once the next draw is made.
    fn turn(&self) -> usize {
        let behind = |i: usize| self.sources[i].1 * (self.next + 1) as f64 - self.counts[i] as f64;
        (0..self.sources.len()).reduce(|a, b| if behind(b) > behind(a) { b } else { a }).unwrap_or(0)
    }

    fn sequence(&mut self, source: usize, drawn: u64) -> usize {
        let len = self.sources[source].0;
        let round = drawn / len as u64;
        let (of, order) = &mut self.orders[source];
        if *of != round {
            *order = (0..len as u32).collect();
            SplitMix64::child(SplitMix64::child(self.seed, source as u64).next(), round).shuffle(order);
            *of = round;
        }
        order[(drawn % len as u64) as usize] as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_have_their_shares_and_sequences_their_turns() {
        let mut mixture = Mixture::of(vec![(10, 3.0), (5, 1.0)], 1);
        let draws: Vec<_> = (0..40).map(|i| mixture.draw(i)).collect();
        let first: Vec<usize> = draws.iter().filter(|d| d.0 == 0).map(|d| d.1).collect();
        assert_eq!(first.len(), 30);
        for round in first.chunks(10) {
            let mut seen = round.to_vec();
            seen.sort_unstable();
            assert_eq!(seen, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(first[..10], first[10..20], "another order each time");
        let early = draws[..8].iter().filter(|d| d.0 == 1).count();
        assert_eq!(early, 2, "shares hold from the beginning");
    }

    #[test]
    fn beside_weights_a_source_without_one_has_1() {
        let shares = |weights: [Option<f64>; 2]| {
            let sources = [30, 10].into_iter().zip(weights).collect();
            Mixture::weighed(sources, 1).shares().collect::<Vec<_>>()
        };
        assert_eq!(shares([None, None]), [0.75, 0.25], "each sequence as often as any other");
        assert_eq!(shares([None, Some(3.0)]), [0.25, 0.75]);
        assert_eq!(shares([Some(3.0), Some(1.0)]), [0.75, 0.25]);
    }

    #[test]
    fn each_sequence_is_drawn_once_whatever_the_weights() {
        for weights in [[1.0, 1.0, 1.0], [1.0, 1e-9, 1e-300], [5.0, 1.0, 2.0]] {
            let mixture = || Mixture::of([4, 40, 20].into_iter().zip(weights).collect(), 3);
            let drawn: Vec<_> = mixture().each_once().collect();
            let mut sorted = drawn.clone();
            sorted.sort_unstable();
            let all = [(0, 4), (1, 40), (2, 20)].into_iter().flat_map(|(s, len)| (0..len).map(move |at| (s, at)));
            assert!(sorted.into_iter().eq(all), "{weights:?}");
            let mut draws = mixture();
            let same = drawn.iter().enumerate().take_while(|(i, drawn)| draws.draw(*i as u64) == **drawn).count();
            assert!(same >= 4, "{weights:?}: as drawn until a source is used up");
        }
        let drawn: Vec<_> =
            Mixture::of(vec![(2, 1.0), (30, 2.0), (30, 1.0)], 3).each_once().skip(10).take(12).collect();
        assert_eq!(drawn.iter().filter(|d| d.0 == 1).count(), 8, "the others keep their weights: {drawn:?}");
        assert_eq!(Mixture::of(Vec::new(), 3).each_once().count(), 0);
    }

    #[test]
    fn a_draw_is_a_function_of_its_number() {
        let mut mixture = Mixture::of(vec![(3, 1.0), (7, 0.3), (2, 0.5)], 5);
        let forth: Vec<_> = (0..50).map(|i| mixture.draw(i)).collect();
        let mut back: Vec<_> = (0..50).rev().map(|i| mixture.draw(i)).collect();
        back.reverse();
        assert_eq!(forth, back);
    }
}
