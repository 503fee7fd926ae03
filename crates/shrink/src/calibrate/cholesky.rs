//! Factors of second moments.

use bantam_nn::matrix::{Threads, View, multiply};
use rayon::prelude::*;

/// Columns that are factored together; the rest is matrix products.
const BLOCK: usize = 64;

/// The unit upper triangular `U` of `H = U D Uᵀ`, `[n, n]` with zeros below the diagonal and ones on it, and the diagonal `D`, `[n]`. `h` is
/// symmetric, `[n, n]`, and its contents are used up.
///
/// Returns `None` if `h` is not positive definite to within f32.
///
/// Turned around, rows and columns last to first, it is Cholesky's factor `L Lᵀ`, which is what is computed.
pub fn unit_upper(mut h: Vec<f32>, n: usize) -> Option<(Vec<f32>, Vec<f32>)> {
    h.reverse(); // of a symmetric matrix: both orders turned
    let mut panel = Vec::new();
    for first in (0..n).step_by(BLOCK) {
        let last = (first + BLOCK).min(n);
        let width = last - first;
        // What the columns before say of these, for all rows from here on.
        panel.resize((n - first) * width, 0.0);
        let done = View::new(&h, n);
        let (rows, cols) = (done.part(first..n, 0..first), done.part(first..last, 0..first));
        multiply(&mut panel, false, -1.0, rows, cols.transposed(), Threads::All);
        for (panel, row) in panel.chunks_exact_mut(width).zip(h[first * n..].chunks_exact(n)) {
            panel.iter_mut().zip(&row[first..last]).for_each(|(p, h)| *p += h);
        }
        let (corner, below) = panel.split_at_mut(width * width);
        factor(corner, width)?;
        below.par_chunks_exact_mut(width).for_each(|row| solve(corner, row));
        for (panel, row) in panel.chunks_exact(width).zip(h[first * n..].chunks_exact_mut(n)) {
            row[first..last].copy_from_slice(panel);
        }
    }
    // Columns by their diagonal, what is above it away, and all turned back.
    let diagonal: Vec<f32> = (0..n).map(|i| h[i * n + i]).collect();
    h.par_chunks_exact_mut(n).enumerate().for_each(|(i, row)| {
        row[..=i].iter_mut().zip(&diagonal).for_each(|(l, d)| *l /= d);
        row[i + 1..].fill(0.0);
    });
    h.reverse();
    Some((h, diagonal.iter().rev().map(|d| d * d).collect()))
}

/// Cholesky's factor of a small matrix in its lower triangle; `None` if it has none.
fn factor(a: &mut [f32], n: usize) -> Option<()> {
    for j in 0..n {
        let (_, from) = a.split_at_mut(j * n);
        let (row, below) = from.split_at_mut(n);
        let squares: f64 = row[..j].iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        let pivot = f64::from(row[j]) - squares;
        if !(pivot > 0.0 && pivot.is_finite()) {
            return None;
        }
        row[j] = pivot.sqrt() as f32;
        for other in below.chunks_exact_mut(n) {
            let product: f64 = other[..j].iter().zip(&row[..j]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            other[j] = ((f64::from(other[j]) - product) / f64::from(row[j])) as f32;
        }
    }
    Some(())
}

/// Solves `x Lᵀ = row` in place, `L` the lower triangle of `factor`.
fn solve(factor: &[f32], row: &mut [f32]) {
    let n = row.len();
    for j in 0..n {
        let (done, rest) = row.split_at_mut(j);
        let product: f32 = done.iter().zip(&factor[j * n..]).map(|(a, b)| a * b).sum();
        rest[0] = (rest[0] - product) / factor[j * n + j];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_nn::random::SplitMix64;

    #[test]
    fn the_factors_multiply_to_the_matrix() {
        let mut random = SplitMix64::new(1);
        for n in [1, 5, 64, 65, 200] {
            let samples: Vec<f32> = (0..2 * n * n).map(|_| random.normal() as f32).collect();
            let mut h = vec![0.0; n * n];
            let x = View::new(&samples, n);
            multiply(&mut h, false, 1.0 / (2 * n) as f32, x.transposed(), x, Threads::One);
            let (u, found) = unit_upper(h.clone(), n).unwrap();
            // D follows from the last column on: D = U⁻¹ H U⁻ᵀ; instead check H's own recursion.
            let mut d = vec![0.0f64; n];
            for j in (0..n).rev() {
                let above: f64 = (j + 1..n).map(|k| f64::from(u[j * n + k]).powi(2) * d[k]).sum();
                d[j] = f64::from(h[j * n + j]) - above;
                assert!(d[j] > 0.0 && (f64::from(found[j]) - d[j]).abs() < 1e-4, "{n}: {j}");
            }
            for i in 0..n {
                assert!(u[i * n..][..i].iter().all(|&v| v == 0.0) && u[i * n + i] == 1.0);
                for j in 0..n {
                    let product: f64 =
                        (i.max(j)..n).map(|k| f64::from(u[i * n + k]) * d[k] * f64::from(u[j * n + k])).sum();
                    assert!((product - f64::from(h[i * n + j])).abs() < 1e-4, "{n}: ({i}, {j})");
                }
            }
        }
    }

    #[test]
    fn what_is_not_positive_definite_has_none() {
        assert_eq!(unit_upper(vec![1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(unit_upper(vec![f32::NAN], 1), None);
        assert_eq!(unit_upper(vec![0.0], 1), None);
    }
}
