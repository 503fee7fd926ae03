//! The allocation: the least sum of divergences under a budget of bytes.

use super::Sensitivity;

/// The choice for each tensor, by its place among the tensor's choices, that loses least within `budget` bytes. `None` if even the
/// narrowest formats need more.
///
/// From the narrowest formats on, each next step is the one that gains most divergence per byte: steps along each tensor's lower
/// convex hull, where gains only become smaller, so that this is the best allocation of its size (Shoham, Gersho 1988). What the last
/// step leaves of the budget goes to the best steps that fit.
pub fn choose(tensors: &[Sensitivity], budget: u64) -> Option<Vec<usize>> {
    let mut used = least(tensors);
    if used > budget {
        return None;
    }
    let hulls: Vec<Vec<usize>> = tensors.iter().map(hull).collect();
    let mut steps: Vec<Step> = (0..tensors.len()).flat_map(|tensor| steps(tensors, &hulls, tensor)).collect();
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    let mut chosen = vec![0; tensors.len()];
    for step in steps {
        // A step whose predecessor did not fit is none.
        if chosen[step.tensor] == step.from && used + step.bytes <= budget {
            chosen[step.tensor] = step.from + 1;
            used += step.bytes;
        }
    }
    Some(chosen.iter().zip(&hulls).map(|(&at, hull)| hull[at]).collect())
}

/// The bytes of the narrowest formats.
pub fn least(tensors: &[Sensitivity]) -> u64 {
    tensors.iter().filter_map(|t| t.choices.iter().map(|c| c.bytes).min()).sum()
}

/// From one choice on a tensor's hull to the next.
struct Step {
    tensor: usize,
    from: usize,
    bytes: u64,
    /// Divergence per byte.
    gain: f64,
}

fn steps(tensors: &[Sensitivity], hulls: &[Vec<usize>], tensor: usize) -> Vec<Step> {
    let choices = &tensors[tensor].choices;
    let step = |(from, pair): (usize, &[usize])| {
        let (a, b) = (&choices[pair[0]], &choices[pair[1]]);
        let bytes = b.bytes - a.bytes;
        Step { tensor, from, bytes, gain: (a.divergence - b.divergence) / bytes as f64 }
    };
    hulls[tensor].windows(2).enumerate().map(step).collect()
}

/// The choices that some budget makes best, from the narrowest on: the lower convex hull of divergence over bytes.
fn hull(tensor: &Sensitivity) -> Vec<usize> {
    let choices = &tensor.choices;
    let mut order: Vec<usize> = (0..choices.len()).collect();
    order.sort_by(|&a, &b| {
        (choices[a].bytes, choices[a].divergence)
            .partial_cmp(&(choices[b].bytes, choices[b].divergence))
            .expect("finite")
    });
    let mut hull: Vec<usize> = Vec::new();
    for next in order {
        let worse = |&last: &usize| choices[next].divergence >= choices[last].divergence;
        if hull.last().is_some_and(worse) {
            continue;
        }
        let slope = |a: usize, b: usize| {
            (choices[a].divergence - choices[b].divergence) / (choices[b].bytes - choices[a].bytes) as f64
        };
        while let [.., before, last] = hull[..]
            && slope(last, next) >= slope(before, last)
        {
            hull.pop();
        }
        hull.push(next);
    }
    hull
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocate::Choice;
    use bantam_formats::Format;
    use bantam_nn::random::SplitMix64;

    fn tensor(choices: &[(u64, f64)]) -> Sensitivity {
        let format = Format::by_name("Q4_0").unwrap();
        let choices = choices.iter().map(|&(bytes, divergence)| Choice { format, bytes, divergence }).collect();
        Sensitivity { tensor: "t".into(), choices }
    }

    fn total(tensors: &[Sensitivity], chosen: &[usize]) -> (u64, f64) {
        let chosen = tensors.iter().zip(chosen).map(|(t, &at)| t.choices[at]);
        chosen.fold((0, 0.0), |(bytes, sum), c| (bytes + c.bytes, sum + c.divergence))
    }

    #[test]
    fn choices_that_no_budget_wants_are_not_on_the_hull() {
        // The second is dear for what it gains, the fourth worse than the third, the last as large and worse.
        let tensor = tensor(&[(10, 8.0), (20, 7.9), (30, 2.0), (40, 2.5), (50, 0.0), (50, 1.0)]);
        assert_eq!(hull(&tensor), [0, 2, 4]);
    }

    #[test]
    fn it_is_nearly_as_good_as_trying_everything() {
        let mut random = SplitMix64::new(1);
        for _ in 0..50 {
            let tensors: Vec<Sensitivity> = (0..5)
                .map(|_| {
                    let mut choices: Vec<(u64, f64)> = (1..5).map(|i| (10 * i + random.below(9) as u64, 0.0)).collect();
                    let mut divergence = random.unit();
                    choices.iter_mut().rev().for_each(|c| {
                        c.1 = divergence;
                        divergence += random.unit();
                    });
                    tensor(&choices)
                })
                .collect();
            let budget = 130;
            let mut best = f64::MAX;
            for code in 0..4usize.pow(5) {
                let chosen: Vec<usize> = (0..5).map(|i| code / 4usize.pow(i) % 4).collect();
                let (bytes, divergence) = total(&tensors, &chosen);
                best = if bytes <= budget { best.min(divergence) } else { best };
            }
            let (bytes, divergence) = total(&tensors, &choose(&tensors, budget).unwrap());
            assert!(bytes <= budget);
            // One step of the hull at most is missing.
            let largest = tensors.iter().map(|t| t.choices[0].divergence - t.choices[3].divergence).fold(0.0, f64::max);
            assert!(divergence >= best && divergence <= best + largest, "{divergence}, not {best}");
        }
    }

    #[test]
    fn the_extremes_are_the_narrowest_and_the_best() {
        let tensors = [tensor(&[(10, 3.0), (20, 1.0)]), tensor(&[(10, 2.0), (20, 1.5), (30, 0.0)])];
        assert_eq!(choose(&tensors, 19), None);
        assert_eq!(choose(&tensors, 20), Some(vec![0, 0]));
        assert_eq!(choose(&tensors, 1000), Some(vec![1, 2]));
        assert_eq!(least(&tensors), 20);
    }
}
