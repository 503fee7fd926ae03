//! Steps from gradients: AdamW.

use super::{Parameters, Variable};
use rayon::prelude::*;

/// Adam with decoupled weight decay (Kingma, Ba 2015; Loshchilov, Hutter 2019).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How slowly the mean of gradients and that of their squares follow.
    pub betas: (f32, f32),
    /// Added to the root of the mean square.
    pub eps: f32,
    /// The share, times the learning rate, by which matrices shrink at each step; vectors (norms, biases) do not.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
}

/// An [`AdamW`] with its moments.
pub struct Optimizer {
    settings: AdamW,
    steps: u64,
    /// The means of gradients and of their squares, one pair per variable; empty where it is held fixed.
    moments: Vec<[Vec<f32>; 2]>,
}

impl Optimizer {
    /// Before the first step.
    pub fn new(settings: AdamW, parameters: &Parameters) -> Self {
        let zeros = |v: &Variable| [vec![0.0; v.gradient.len()], vec![0.0; v.gradient.len()]];
        Self { settings, steps: 0, moments: parameters.variables().iter().map(zeros).collect() }
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moves all trained variables against their gradients.
    pub fn step(&mut self, parameters: &mut Parameters, learning_rate: f32) {
        self.steps += 1;
        let AdamW { betas, eps, weight_decay } = self.settings;
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(self.steps.min(i32::MAX as u64) as i32);
        let rate = (f64::from(learning_rate) / correction(betas.0)) as f32;
        let root = correction(betas.1).sqrt() as f32;
        for (variable, [mean, square]) in parameters.variables_mut().iter_mut().zip(&mut self.moments) {
            let decay = if variable.shape.len() > 1 { 1.0 - learning_rate * weight_decay } else { 1.0 };
            let Variable { values, gradient, .. } = variable;
            const PART: usize = 1 << 14;
            let values = values.par_chunks_mut(PART).zip(gradient.par_chunks(PART));
            let moments = mean.par_chunks_mut(PART).zip(square.par_chunks_mut(PART));
            values.zip(moments).for_each(|((values, gradient), (mean, square))| {
                super::vector::adam(values, gradient, mean, square, betas, rate, root, eps, decay);
            });
        }
    }
}

/// Scales all gradients so that their norm is at most `limit`; returns the norm that they had.
pub fn clip(parameters: &mut Parameters, limit: f32) -> f32 {
    let squares = |v: &Variable| v.gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let norm = parameters.variables().par_iter().map(squares).collect::<Vec<_>>().iter().sum::<f64>().sqrt() as f32;
    if norm > limit {
        parameters.variables_mut().par_iter_mut().for_each(|v| super::vector::scale(&mut v.gradient, limit / norm));
    }
    norm
}
