//! Rows that stand for all of a tensor where errors are compared.

/// Weights of a sample, in at least so many rows: rows differ more than parts of one do.
const WEIGHTS: usize = 1 << 17;
const ROWS: usize = 32;

/// Rows of so many weights in a sample, at most.
pub(crate) fn sampled_rows(cols: usize) -> usize {
    ROWS.max(WEIGHTS / cols)
}

/// Some of the rows `[rows, cols]`, in even steps.
pub(crate) fn sample(weights: &[f32], cols: usize) -> Vec<f32> {
    let step = (weights.len() / cols).div_ceil(sampled_rows(cols));
    weights.chunks_exact(cols).step_by(step).flatten().copied().collect()
}
