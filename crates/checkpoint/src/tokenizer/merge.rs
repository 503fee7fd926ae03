//! Merging neighbours, the heart of BPE and of SentencePiece's BPE.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// No neighbour.
const NONE: u32 = u32::MAX;

/// A symbol in the chain, with its living neighbours. One merged into its left neighbour is dead and has no symbol.
struct Node<S> {
    symbol: Option<S>,
    prev: u32,
    next: u32,
}

/// Two neighbours that may be merged. Ordered by rank, then from left to right.
struct Pair<R, S> {
    rank: R,
    left: u32,
    right: u32,
    symbols: (S, S),
    merged: S,
}

impl<R: Ord, S> Ord for Pair<R, S> {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.rank, self.left).cmp(&(&other.rank, other.left))
    }
}

impl<R: Ord, S> PartialOrd for Pair<R, S> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<R: Ord, S> PartialEq for Pair<R, S> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<R: Ord, S> Eq for Pair<R, S> {}

/// Merges the neighbours of the lowest rank, the leftmost first, until none can be merged, in O(n log n).
///
/// `pair` gives the rank of two neighbours and what they merge into, or `None` if they do not.
pub fn merge<S: Copy + Eq, R: Ord>(symbols: &[S], pair: impl Fn(S, S) -> Option<(R, S)>) -> impl Iterator<Item = S> {
    let len = u32::try_from(symbols.len()).expect("text is cut into parts below 4 GiB");
    let mut nodes: Vec<Node<S>> = (0..len)
        .zip(symbols)
        .map(|(i, &symbol)| Node {
            symbol: Some(symbol),
            prev: i.wrapping_sub(1),
            next: if i + 1 == len { NONE } else { i + 1 },
        })
        .collect();
    let candidate = |nodes: &[Node<S>], left: u32, right: u32| {
        let symbols = (nodes.get(left as usize)?.symbol?, nodes.get(right as usize)?.symbol?);
        let (rank, merged) = pair(symbols.0, symbols.1)?;
        Some(Reverse(Pair { rank, left, right, symbols, merged }))
    };
    let mut heap: BinaryHeap<_> = (1..len).filter_map(|right| candidate(&nodes, right - 1, right)).collect();
    while let Some(Reverse(best)) = heap.pop() {
        let (left, right) = (best.left as usize, best.right as usize);
        // A symbol only ever grows, so an equal one is the same one.
        if nodes[left].symbol != Some(best.symbols.0) || nodes[right].symbol != Some(best.symbols.1) {
            continue;
        }
        let next = nodes[right].next;
        nodes[left].symbol = Some(best.merged);
        nodes[left].next = next;
        nodes[right].symbol = None;
        if next != NONE {
            nodes[next as usize].prev = best.left;
        }
        heap.extend(candidate(&nodes, nodes[left].prev, best.left));
        heap.extend(candidate(&nodes, best.left, next));
    }
    nodes.into_iter().filter_map(|node| node.symbol)
}
