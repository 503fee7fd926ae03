//! How far a student's embeddings are from its teacher's, and which way that pushes the student.

use std::str::FromStr;

/// What is matched of a batch's sentences, and how heavily: the loss is the weighted sum of these.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct EmbeddingMatching {
    /// One minus the cosine between embeddings.
    pub cosine: f32,
    /// The squared distance between embeddings before they become unit vectors, as a share of the teacher's squares (Reimers,
    /// Gurevych 2020).
    pub mse: f32,
    /// The squared difference of the cosines within each pair of the batch (Park et al. 2019, relational distillation): it needs no
    /// projection where widths differ.
    pub relation: f32,
    /// Hidden states of mapped layers.
    pub hidden: States,
    /// The divergence between maps of which other tokens of its sentence each token is like in mapped layers (after Wang et al. 2020,
    /// MiniLM, whose maps are of a layer's queries, keys and values): it needs no projection where widths differ.
    pub token_relation: f32,
}

/// How heavily hidden states are matched, by what.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct States {
    /// The squared distance as a share of the teacher's squares (Jiao et al. 2020).
    pub squares: f32,
    /// One minus the cosine between the states of each token (Sanh et al. 2019): their sizes do not matter.
    pub cosine: f32,
}

impl States {
    /// Whether they are matched at all.
    pub fn any(self) -> bool {
        self != Self::default()
    }

    /// Adds the gradient for states `x` and their targets, `[tokens, width]`, times `share`; returns the loss.
    pub(super) fn loss(self, x: &[f32], target: &[f32], width: usize, share: f32, gradient: &mut [f32]) -> f64 {
        let mut loss = 0.0;
        if self.squares > 0.0 {
            loss += squares(x, target, self.squares * share, gradient);
        }
        if self.cosine > 0.0 {
            loss += cosine(x, target, width, self.cosine * share, gradient);
        }
        loss
    }
}

impl EmbeddingMatching {
    /// Whether states of layers are matched, token by token.
    pub fn of_layers(&self) -> bool {
        self.hidden.any() || self.token_relation > 0.0
    }
}

/// A name that is none of these.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "`{0}` is nothing to match; there are cosine, mse, relation, hidden, hidden-cosine and token-relation, each with an optional weight above 0, as in \
     cosine,hidden:0.5"
)]
pub struct UnknownMatching(String);

impl FromStr for EmbeddingMatching {
    type Err = UnknownMatching;

    /// Reads `cosine,relation:10`; a weight left out is 1.
    fn from_str(text: &str) -> Result<Self, UnknownMatching> {
        let mut matching = Self::default();
        for part in text.split(',') {
            let unknown = || UnknownMatching(part.to_owned());
            let (name, weight) = part.split_once(':').unwrap_or((part, "1"));
            let weight = weight.parse().ok().filter(|w: &f32| *w > 0.0 && w.is_finite()).ok_or_else(unknown)?;
            match name {
                "cosine" => matching.cosine = weight,
                "mse" => matching.mse = weight,
                "relation" => matching.relation = weight,
                "hidden" => matching.hidden.squares = weight,
                "hidden-cosine" => matching.hidden.cosine = weight,
                "token-relation" => matching.token_relation = weight,
                _ => return Err(unknown()),
            }
        }
        Ok(matching)
    }
}

/// Adds the gradient of the mean of one minus the cosine between rows of `x` and of `target`, times `weight`; returns the loss.
pub(super) fn cosine(x: &[f32], target: &[f32], width: usize, weight: f32, gradient: &mut [f32]) -> f64 {
    assert_eq!(x.len(), target.len(), "each row has its target");
    let share = f64::from(weight) * width as f64 / x.len() as f64;
    let rows = x.chunks_exact(width).zip(target.chunks_exact(width)).zip(gradient.chunks_exact_mut(width));
    let losses = rows.map(|((x, t), g)| {
        let (x_norm, t_norm) = (norm(x), norm(t));
        let cosine = dot(x, t) / (x_norm * t_norm);
        for ((g, x), t) in g.iter_mut().zip(x).zip(t) {
            let slope = (cosine * f64::from(*x) / x_norm - f64::from(*t) / t_norm) / x_norm;
            *g += (share * slope) as f32;
        }
        share * (1.0 - cosine)
    });
    losses.sum()
}

/// Adds the gradient of the squared distance as a share of the target's squares, times `weight`; returns the loss.
pub(super) fn squares(x: &[f32], target: &[f32], weight: f32, gradient: &mut [f32]) -> f64 {
    assert_eq!(x.len(), target.len(), "each value has its target");
    let share = f64::from(weight) / dot(target, target).max(TINY);
    let mut sum = 0.0;
    for ((g, x), t) in gradient.iter_mut().zip(x).zip(target) {
        let difference = f64::from(x - t);
        sum += difference * difference;
        *g += (2.0 * share * difference) as f32;
    }
    share * sum
}

/// Adds the gradient of the mean squared difference between the cosines of pairs of rows of `x`, `[n, width]`, and those of
/// `target`, `[n, target_width]`, times `weight`; returns the loss.
pub(super) fn relation(
    x: &[f32],
    width: usize,
    target: &[f32],
    target_width: usize,
    weight: f32,
    gradient: &mut [f32],
) -> f64 {
    let (units, norms) = unit_rows(x, width);
    let (targets, target_norms) = unit_rows(target, target_width);
    let n = norms.len();
    assert_eq!(n, target_norms.len(), "each row has its target");
    if n < 2 {
        return 0.0;
    }
    let share = f64::from(weight) / (n * (n - 1)) as f64;
    let row = |all: &[f32], i: usize, width: usize| all[i * width..(i + 1) * width].to_vec();
    let mut loss = 0.0;
    for i in 0..n {
        let (unit, goal) = (row(&units, i, width), row(&targets, i, target_width));
        let mut slope = vec![0f64; width];
        for j in (0..n).filter(|&j| j != i) {
            let (other, other_goal) = (&units[j * width..][..width], &targets[j * target_width..][..target_width]);
            let difference = dot(&unit, other) - dot(&goal, other_goal);
            loss += share * difference * difference;
            // Each pair counts twice, once from either side.
            slope.iter_mut().zip(other).for_each(|(s, o)| *s += 4.0 * share * difference * f64::from(*o));
        }
        let along: f64 = slope.iter().zip(&unit).map(|(s, u)| s * f64::from(*u)).sum();
        for ((g, s), u) in gradient[i * width..][..width].iter_mut().zip(&slope).zip(&unit) {
            *g += ((s - along * f64::from(*u)) / norms[i]) as f32;
        }
    }
    loss
}

/// Adds the gradient of the mean Kullback-Leibler divergence between the [maps](relation_map) of sentences' tokens, of the target's from those of
/// `x`, times `weight`; returns the loss. Both are one sentence after the other, of these lengths, `[tokens, width]` and `[tokens, target_width]`.
pub(super) fn token_relation(
    (x, width): (&[f32], usize),
    (target, target_width): (&[f32], usize),
    lengths: &[usize],
    weight: f32,
    gradient: &mut [f32],
) -> f64 {
    let tokens: usize = lengths.iter().sum();
    assert!(x.len() == tokens * width && target.len() == tokens * target_width, "each token has its target");
    let share = f64::from(weight) / tokens.max(1) as f64;
    let (mut loss, mut begin) = (0.0, 0);
    for &n in lengths {
        let x = &x[begin * width..][..n * width];
        let ours = relation_map(x, width);
        let theirs = relation_map(&target[begin * target_width..][..n * target_width], target_width);
        // The slope of a softmax' divergence, of each similarity: it pulls at both of its tokens.
        let slope: Vec<f64> = ours.iter().zip(&theirs).map(|(p, t)| share * (p - t)).collect();
        let known = theirs.iter().zip(&ours).filter(|(t, _)| **t > 0.0);
        loss += share * known.map(|(t, p)| t * (t / p.max(TINY)).ln()).sum::<f64>();
        for i in 0..n {
            let own = &mut gradient[(begin + i) * width..][..width];
            for j in (0..n).filter(|&j| j != i) {
                let pull = (slope[i * n + j] + slope[j * n + i]) / (width as f64).sqrt();
                own.iter_mut().zip(&x[j * width..][..width]).for_each(|(g, v)| *g += (pull * f64::from(*v)) as f32);
            }
        }
        begin += n;
    }
    loss
}

/// Of each token how it is divided among the others by likeness, `[n, n]`: the softmax of their products over the root of the width.
fn relation_map(x: &[f32], width: usize) -> Vec<f64> {
    let n = x.len() / width;
    let row = |i: usize| &x[i * width..][..width];
    let mut map = vec![0.0; n * n];
    for (i, to) in map.chunks_exact_mut(n.max(1)).enumerate() {
        let others = || (0..n).filter(|&j| j != i);
        others().for_each(|j| to[j] = dot(row(i), row(j)) / (width as f64).sqrt());
        let highest = others().map(|j| to[j]).fold(f64::NEG_INFINITY, f64::max);
        others().for_each(|j| to[j] = (to[j] - highest).exp());
        let sum: f64 = to.iter().sum();
        to.iter_mut().for_each(|p| *p /= sum.max(TINY));
    }
    map
}

/// Rows scaled to length 1, and the lengths that they had.
fn unit_rows(x: &[f32], width: usize) -> (Vec<f32>, Vec<f64>) {
    let norms: Vec<f64> = x.chunks_exact(width).map(norm).collect();
    let units = x
        .chunks_exact(width)
        .zip(&norms)
        .flat_map(|(row, &norm)| row.iter().map(move |x| (f64::from(*x) / norm) as f32));
    (units.collect(), norms)
}

/// Keeps a vector of zeros from dividing.
const TINY: f64 = 1e-30;

fn norm(x: &[f32]) -> f64 {
    dot(x, x).sqrt().max(TINY)
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(len: usize, from: usize) -> Vec<f32> {
        (from..from + len).map(|i| (i as f32 * 0.7).sin() + 0.3).collect()
    }

    type Loss<'a> = &'a dyn Fn(&[f32], &mut [f32]) -> f64;

    #[test]
    fn gradients_agree_with_finite_differences() {
        let (x, target, narrow) = (rows(5 * 6, 0), rows(5 * 6, 50), rows(5 * 4, 9));
        let losses: [(&str, Loss<'_>); 4] = [
            ("token relation", &|x, g| token_relation((x, 6), (&narrow, 4), &[3, 0, 1, 1], 20.0, g)),
            ("cosine", &|x, g| cosine(x, &target, 6, 2.0, g)),
            ("squares", &|x, g| squares(x, &target, 2.0, g)),
            ("relation", &|x, g| relation(x, 6, &narrow, 4, 2.0, g)),
        ];
        for (name, loss) in losses {
            let mut gradient = vec![1.0; x.len()];
            assert!(loss(&x, &mut gradient) > 0.01, "{name}");
            for i in 0..x.len() {
                let at = |h: f32| {
                    let mut moved = x.clone();
                    moved[i] += h;
                    loss(&moved, &mut vec![0.0; x.len()])
                };
                let found = (at(1e-2) - at(-1e-2)) / 2e-2;
                let expected = f64::from(gradient[i]) - 1.0;
                assert!((found - expected).abs() < 1e-3, "{name}, {i}: {expected}, by differences {found}");
            }
        }
    }

    #[test]
    fn a_student_equal_to_its_teacher_has_nothing_to_learn() {
        let (x, scaled) = (rows(30, 0), rows(30, 0).iter().map(|x| x * 3.0).collect::<Vec<f32>>());
        let mut gradient = vec![0.0; 30];
        let sum = cosine(&x, &scaled, 6, 1.0, &mut gradient)
            + relation(&x, 6, &scaled, 6, 1.0, &mut gradient)
            + squares(&x, &x, 1.0, &mut gradient)
            + token_relation((&x, 6), (&x, 6), &[2, 3], 1.0, &mut gradient);
        assert!(sum.abs() < 1e-9 && gradient.iter().all(|g| g.abs() < 1e-6));
        assert_eq!(relation(&x[..6], 6, &x[..6], 6, 1.0, &mut gradient), 0.0, "one sentence has no pairs");
    }

    #[test]
    fn weights_are_read_and_wrong_ones_answered() {
        let read = "cosine,relation:10".parse();
        assert_eq!(read, Ok(EmbeddingMatching { cosine: 1.0, relation: 10.0, ..Default::default() }));
        for wrong in ["", "cosines", "mse:-1", "hidden:nan", "cosine:"] {
            let answer = wrong.parse::<EmbeddingMatching>().unwrap_err().to_string();
            assert!(answer.contains("hidden-cosine and token-relation"), "{answer}");
        }
    }
}
