//! The learning rate over the steps.

/// How the learning rate falls after its warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Not at all.
    Constant,
    /// Along a half cosine (Loshchilov, Hutter 2017).
    Cosine,
    /// Along a line.
    Linear,
}

/// The learning rate over the steps: up along a line from 0, then down.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The highest learning rate.
    pub peak: f32,
    /// The learning rate that the last step ends at, as a share of the peak.
    pub floor: f32,
    /// Steps in which it rises.
    pub warmup: u64,
    /// All steps.
    pub steps: u64,
    /// How it falls.
    pub decay: Decay,
}

impl Schedule {
    /// The learning rate of a step, counted from 0.
    pub fn rate(&self, step: u64) -> f32 {
        if step < self.warmup {
            return self.peak * (step + 1) as f32 / self.warmup as f32;
        }
        let fallen = (step - self.warmup) as f64 / (self.steps.saturating_sub(self.warmup)).max(1) as f64;
        let fallen = fallen.min(1.0);
        let share = match self.decay {
            Decay::Constant => 1.0,
            Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * fallen).cos()),
            Decay::Linear => 1.0 - fallen,
        };
        self.peak * (self.floor + (1.0 - self.floor) * share as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn up_then_down() {
        let schedule = Schedule { peak: 1.0, floor: 0.1, warmup: 10, steps: 110, decay: Decay::Cosine };
        assert_eq!(schedule.rate(0), 0.1);
        assert_eq!(schedule.rate(9), 1.0);
        assert_eq!(schedule.rate(10), 1.0);
        assert!((schedule.rate(60) - 0.55).abs() < 1e-6);
        assert!((schedule.rate(110) - 0.1).abs() < 1e-6);
        assert_eq!(schedule.rate(60), Schedule { decay: Decay::Linear, ..schedule }.rate(60));
        assert_eq!(Schedule { decay: Decay::Constant, ..schedule }.rate(100), 1.0);
    }
}
