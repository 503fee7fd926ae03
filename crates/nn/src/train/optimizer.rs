//! Steps from gradients: AdamW, and stochastic gradient descent with momentum.

use super::{Parameters, Variable, vector};
use rayon::prelude::*;

/// How gradients become steps. Weight decay shrinks matrices alone; vectors (norms, biases) are left.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Method {
    /// Adam with decoupled weight decay (Kingma, Ba 2015; Loshchilov, Hutter 2019).
    AdamW(AdamW),
    /// Gradient descent with momentum.
    Sgd(Sgd),
}

/// Settings of AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// How slowly the mean of gradients and that of their squares follow.
    pub betas: (f32, f32),
    /// Added to the root of the mean square.
    pub eps: f32,
    /// The share, times the learning rate, by which matrices shrink at each step.
    pub weight_decay: f32,
}

impl Default for AdamW {
    fn default() -> Self {
        AdamW { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Settings of gradient descent: `m = momentum m + (g + weight_decay w)`, `w -= rate m`.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Sgd {
    /// How much of the last step goes into the next.
    pub momentum: f32,
    /// What of a weight is added to its gradient.
    pub weight_decay: f32,
}

impl From<AdamW> for Method {
    fn from(settings: AdamW) -> Self {
        Method::AdamW(settings)
    }
}

impl From<Sgd> for Method {
    fn from(settings: Sgd) -> Self {
        Method::Sgd(settings)
    }
}

impl Method {
    /// Averages kept of each number that is trained.
    fn moments(self) -> usize {
        match self {
            Method::AdamW(_) => 2,
            Method::Sgd(_) => 1,
        }
    }
}

/// Numbers that a thread takes at a time.
const PART: usize = 1 << 14;

/// A [`Method`] with its averages.
pub struct Optimizer {
    method: Method,
    steps: u64,
    /// The averages, first those of all variables' gradients, then those of their squares; empty where a variable is held
    /// fixed.
    moments: Vec<Vec<Vec<f32>>>,
}

impl Optimizer {
    /// Before the first step.
    pub fn new(method: impl Into<Method>, parameters: &Parameters) -> Self {
        let method = method.into();
        let zeros = |v: &Variable| vec![0.0; v.gradient.len()];
        let moments = (0..method.moments()).map(|_| parameters.variables().iter().map(zeros).collect()).collect();
        Self { method, steps: 0, moments }
    }

    /// Steps made.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// The averages: of each moment, one vector per variable.
    pub fn moments(&self) -> &[Vec<Vec<f32>>] {
        &self.moments
    }

    /// Goes on from where another optimizer of the same method and variables was.
    ///
    /// # Panics
    /// If the moments are not of this method and these variables.
    pub fn restore(&mut self, steps: u64, moments: Vec<Vec<Vec<f32>>>) {
        let lengths = |m: &[Vec<Vec<f32>>]| m.iter().flatten().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(lengths(&self.moments), lengths(&moments), "the averages of another optimizer");
        (self.steps, self.moments) = (steps, moments);
    }

    /// Moves all trained variables against their gradients.
    pub fn step(&mut self, parameters: &mut Parameters, learning_rate: f32) {
        self.steps += 1;
        let variables = parameters.variables_mut().iter_mut();
        match (self.method, &mut self.moments[..]) {
            (Method::AdamW(settings), [means, squares]) => {
                let step = settings.at(self.steps, learning_rate);
                variables.zip(means.iter_mut().zip(squares)).for_each(|(variable, (mean, square))| {
                    let step = AdamStep { decay: if variable.shape.len() > 1 { step.decay } else { 1.0 }, ..step };
                    let values = variable.values.par_chunks_mut(PART).zip(variable.gradient.par_chunks(PART));
                    let moments = mean.par_chunks_mut(PART).zip(square.par_chunks_mut(PART));
                    values.zip(moments).for_each(|((values, gradient), (mean, square))| {
                        vector::adam(values, gradient, mean, square, step);
                    });
                });
            }
            (Method::Sgd(settings), [means]) => variables.zip(means).for_each(|(variable, mean)| {
                let decay = if variable.shape.len() > 1 { settings.weight_decay } else { 0.0 };
                let values = variable.values.par_chunks_mut(PART).zip(variable.gradient.par_chunks(PART));
                values.zip(mean.par_chunks_mut(PART)).for_each(|((values, gradient), mean)| {
                    vector::sgd(values, gradient, mean, settings.momentum, decay, learning_rate);
                });
            }),
            _ => unreachable!("the moments are the method's"),
        }
    }
}

/// What a step of Adam is for each number.
#[derive(Clone, Copy)]
pub(super) struct AdamStep {
    pub betas: (f32, f32),
    pub eps: f32,
    /// The learning rate, corrected for the mean's beginning at 0.
    pub rate: f32,
    /// The root of the correction for the squares' beginning at 0.
    pub root: f32,
    /// What values are multiplied with before.
    pub decay: f32,
}

impl AdamW {
    fn at(self, steps: u64, learning_rate: f32) -> AdamStep {
        let correction = |beta: f32| 1.0 - f64::from(beta).powi(steps.min(i32::MAX as u64) as i32);
        AdamStep {
            betas: self.betas,
            eps: self.eps,
            rate: (f64::from(learning_rate) / correction(self.betas.0)) as f32,
            root: correction(self.betas.1).sqrt() as f32,
            decay: 1.0 - learning_rate * self.weight_decay,
        }
    }
}

/// Scales all gradients so that their norm is at most `limit`; returns the norm that they had.
pub fn clip(parameters: &mut Parameters, limit: f32) -> f32 {
    let squares = |v: &Variable| v.gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
    let norm = parameters.variables().par_iter().map(squares).collect::<Vec<_>>().iter().sum::<f64>().sqrt() as f32;
    if norm > limit {
        parameters.variables_mut().par_iter_mut().for_each(|v| vector::scale(&mut v.gradient, limit / norm));
    }
    norm
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: f32, gradient: f32) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.insert("w", &[1, 1], vec![value]);
        parameters.variables_mut()[0].gradient[0] = gradient;
        parameters
    }

    #[test]
    fn sgd_by_hand() {
        let mut parameters = one(1.0, 0.5);
        let mut optimizer = Optimizer::new(Sgd { momentum: 0.9, weight_decay: 0.1 }, &parameters);
        optimizer.step(&mut parameters, 0.1);
        assert!((parameters.variables()[0].values[0] - 0.94).abs() < 1e-6); // m = 0.6
        optimizer.step(&mut parameters, 0.1);
        assert!((parameters.variables()[0].values[0] - (0.94 - 0.1 * (0.54 + 0.594))).abs() < 1e-6);
    }

    #[test]
    fn adam_steps_by_the_rate_whatever_the_gradient() {
        for gradient in [1e-3, 10.0] {
            let mut parameters = one(1.0, gradient);
            Optimizer::new(AdamW::default(), &parameters).step(&mut parameters, 0.01);
            assert!((parameters.variables()[0].values[0] - 0.99).abs() < 1e-5);
        }
    }

    #[test]
    fn clipping_keeps_the_direction() {
        let mut parameters = one(0.0, 3.0);
        parameters.insert("v", &[1], vec![0.0]);
        parameters.variables_mut()[1].gradient[0] = -4.0;
        assert_eq!(clip(&mut parameters, 10.0), 5.0);
        assert_eq!(clip(&mut parameters, 1.0), 5.0);
        let gradients: Vec<f32> = parameters.variables().iter().map(|v| v.gradient[0]).collect();
        assert!((gradients[0] - 0.6).abs() < 1e-6 && (gradients[1] + 0.8).abs() < 1e-6);
    }
}
