//! Choosing each tensor's format within a budget, and showing what was chosen.

use crate::args::{Global, above_zero};
use crate::calibration::Calibrated;
use crate::choice::{Chosen, Widened};
use crate::intermediate::Intermediate;
use crate::judge::Judge;
use crate::tuning::Foretold;
use crate::{forecast, output, progress, training};
use anyhow::{bail, ensure};
use bantam_checkpoint::output::beside;
use bantam_checkpoint::{Checkpoint, Config};
use bantam_shrink::allocate::{
    Allocation, Budget, Coherence, Dearer, Kept, Measured, Sensitivity, Speed, measure, possible, tensors,
};
use bantam_shrink::estimate::Rates;
use bantam_shrink::quantize::Plan;
use bantam_shrink::widen::Widening;
use bantam_shrink::{Error, Mix};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};

/// What a user allows.
#[derive(Args)]
pub struct BudgetArgs {
    /// Choose each tensor's format so that the model loses least at this many bits per weight, scales included
    #[arg(long, value_name = "BITS", value_parser = parse_bits)]
    bits: Option<f64>,
    /// Choose each tensor's format so that the model loses least in a file of at most this size, for example 300MB
    #[arg(long, value_name = "SIZE", value_parser = output::parse_size, conflicts_with = "bits")]
    fit: Option<u64>,
    /// Of what --bits, --fit or --effort best allows choose formats with which this machine generates at least so many tokens a second, as predicted from
    /// products that are timed here: some narrow formats are slow. Other runs may choose otherwise; --save-mix keeps the choice
    #[arg(long, value_name = "N", value_parser = above_zero::<f64>)]
    tokens_per_second: Option<f64>,
}

fn parse_bits(text: &str) -> anyhow::Result<f64> {
    let bits: f64 = text.parse()?;
    ensure!((1.0..=32.0).contains(&bits), "a weight has between 1 and 32 bits");
    Ok(bits)
}

impl BudgetArgs {
    /// The budget, if one was given.
    pub fn budget(&self) -> Option<Budget> {
        self.bits.map(Budget::Bits).or(self.fit.map(Budget::File))
    }

    /// How fast it has to be, if that was asked for.
    pub fn tokens_per_second(&self) -> Option<f64> {
        self.tokens_per_second
    }
}

/// When rows are made longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Widen {
    /// Where formats are chosen (--bits, --fit, --effort best) and it loses less; with --to if a file of formats says so
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// A choice made.
pub struct Allocated {
    pub mix: Mix,
    pub chosen: Chosen,
    /// The wider model that it is for, if that is better.
    pub widened: Option<Intermediate>,
}

/// A choice for the model as it is or for the wider one, as its mix says.
struct Best {
    allocation: Allocation,
    /// Of the wider model: what is predicted of the best choice for the model as it is, if there is one.
    instead_of: Option<f64>,
}

/// Of two models that no budget fits, the one that asks for less.
fn lesser(plain: Error, longer: Error) -> Error {
    match (&plain, &longer) {
        (Error::Bits { least, .. }, Error::Bits { least: of_longer, .. }) if of_longer < least => longer,
        (Error::Bytes { least, .. }, Error::Bytes { least: of_longer, .. }) if of_longer < least => longer,
        _ => plain,
    }
}

/// What of a model became longer: the stream, or where that is as it was the neurons of a layer.
fn widths(before: &Config, after: &Config) -> (usize, usize) {
    let stream = (before.embedding_length, after.embedding_length);
    if stream.0 < stream.1 { stream } else { (before.feed_forward_length, after.feed_forward_length) }
}

/// A choice to be made.
pub struct Choosing<'a> {
    pub checkpoint: &'a Checkpoint,
    pub budget: Budget,
    /// How fast it has to be, if that matters.
    pub tokens_per_second: Option<f64>,
    pub widen: Widen,
    /// Where what is measured is kept for the next time.
    pub kept: Option<&'a Path>,
    pub calibrated: &'a Calibrated,
    /// What its scales are trained like afterwards; what that says of itself is a part of the size.
    pub tuning: Foretold,
}

impl Choosing<'_> {
    /// Measures how far each tensor moves the predictions in each format, and chooses. The wider model, if it is chosen, is kept beside `output`.
    pub fn allocate(&self, output: &Path, global: &Global) -> anyhow::Result<Allocated> {
        let checkpoint = self.checkpoint;
        let widening = widening(checkpoint, self.widen)?;
        let speed = match self.tokens_per_second {
            Some(least) => Some((least, timed(checkpoint, global)?)),
            None => None,
        };
        // What no choice of formats fits is refused before anything is measured.
        let planned = widening.as_ref().map(|widening| widening.planned(checkpoint));
        let fits = |of: &Checkpoint| self.within(of, &possible(of), speed.as_ref());
        match &planned {
            Some(wider) if self.widen == Widen::Always => fits(wider)?,
            // What asks for less is said where neither fits.
            Some(wider) => fits(checkpoint).or_else(|plain| fits(wider).map_err(|longer| lesser(plain, longer)))?,
            None => fits(checkpoint)?,
        };
        let mut measured = self.measured(output, global)?;
        let choose = |measured: &Measured| self.best(measured, planned.as_ref(), speed.as_ref());
        let (Best { allocation, instead_of }, dearer) = self.checked(&mut measured, &choose, global)?;
        let of = measured.of(&allocation.mix);
        let chosen = Chosen { dearer, ..Chosen::of(&allocation, of, speed.as_ref().map(|(_, speed)| speed)) };
        match widening.filter(|_| allocation.mix.widen) {
            Some(widening) => {
                let wider = widen(checkpoint, &widening, output, global)?;
                let (from, to) = widths(&Config::of(checkpoint)?, &Config::of(&wider.checkpoint)?);
                let widened = Some(Widened { from, to, instead_of });
                Ok(Allocated { mix: allocation.mix, chosen: Chosen { widened, ..chosen }, widened: Some(wider) })
            }
            None => Ok(Allocated { mix: allocation.mix, chosen, widened: None }),
        }
    }

    /// The best choice by what was measured of tensors one by one, corrected until it holds of the model as a whole, and the formats that are
    /// dearer than they seemed.
    fn checked(
        &self,
        measured: &mut Measured,
        choose: &dyn Fn(&Measured) -> anyhow::Result<Best>,
        global: &Global,
    ) -> anyhow::Result<(Best, Vec<Dearer>)> {
        let mut coherence = Coherence::of(self.checkpoint, &self.calibrated.text)?;
        let mut dearer: Vec<Dearer> = Vec::new();
        loop {
            let best = choose(measured)?;
            let bar = progress::bar(global, "check the choice", 1, "layers");
            let (of, choices) = (measured.of(&best.allocation.mix), &best.allocation.choices);
            let found = coherence.dearer(of, choices, &mut |done, all| {
                bar.set_length(all as u64);
                bar.set_position(done as u64);
            });
            bar.finish_and_clear();
            let mut found = found?;
            found.retain(|new| dearer.iter().all(|known| known.format != new.format));
            if found.is_empty() {
                return Ok((best, dearer));
            }
            measured.raise(&found);
            dearer.extend(found);
        }
    }

    /// The best choice, for the model as it is or for the wider one.
    fn best(
        &self,
        measured: &Measured,
        planned: Option<&Checkpoint>,
        speed: Option<&(f64, Speed)>,
    ) -> anyhow::Result<Best> {
        let plain = self.within(self.checkpoint, &measured.plain, speed);
        let wider = measured.widened.as_ref().zip(planned).map(|(of_wider, wider)| self.within(wider, of_wider, speed));
        match self.better(&plain, wider)? {
            Some(mut allocation) => {
                allocation.mix.widen = true;
                Ok(Best { allocation, instead_of: plain.ok().map(|plain| plain.divergence()) })
            }
            None => Ok(Best { allocation: plain?, instead_of: None }),
        }
    }

    /// The best of these choices for a model that the budget allows, and that are fast enough.
    fn within(
        &self,
        of: &Checkpoint,
        choices: &[Sensitivity],
        speed: Option<&(f64, Speed)>,
    ) -> Result<Allocation, bantam_shrink::Error> {
        let weights = self.checkpoint.weights() as usize;
        let file_bytes = |mix: &_| {
            let plan = Plan::new(of, mix)?.with_settings(&self.calibrated.settings);
            Ok(plan.file_bytes(self.calibrated.method()) + self.tuning.record)
        };
        let of_size = |choices: &[Sensitivity]| self.budget.allocate(of, weights, choices, &file_bytes);
        match speed {
            Some((least, speed)) => speed.allocate(*least, choices, &of_size),
            None => of_size(choices),
        }
    }

    /// What each tensor loses in each format, measured now or before.
    fn measured(&self, output: &Path, global: &Global) -> anyhow::Result<Measured> {
        let (checkpoint, text) = (self.checkpoint, &self.calibrated.text);
        let kept = match self.kept {
            Some(path) => Kept::open(path, checkpoint, text)?,
            None => {
                let path = measured_of(output);
                Kept::open(&path, checkpoint, text).or_else(|e| match e {
                    bantam_shrink::Error::InUse { .. } => Err(e),
                    _ => {
                        output::set_aside(&path);
                        Kept::open(&path, checkpoint, text)
                    }
                })?
            }
        };
        if kept.count() > 0 && !global.quiet {
            output::say(format_args!("note: {} of {} tensors were measured before", kept.count(), tensors(checkpoint)));
        }
        if forecast::is_wanted(global) {
            let rates = Rates::of(checkpoint, text)?;
            let left = 1.0 - kept.count() as f64 / tensors(checkpoint).max(1) as f64;
            let rounding = rates.rounding_to_bits(self.calibrated.method(), self.budget.bits(checkpoint));
            let products = training::products(checkpoint);
            let training = rates.tuning(self.tuning.tokens, products);
            // What is trained is judged on the way; other files at the end.
            let judging = match self.tuning.tokens {
                0 => rates.tuning(Judge::tokens(&self.calibrated.held_out) / 2, products),
                _ => 0.0,
            };
            let measuring = left * rates.measuring()? + judging;
            forecast::say(&[(measuring, "measure"), (rounding, "round"), (training, "train scales")]);
        }
        let bar = progress::bar(global, "measure tensors", tensors(checkpoint), "tensors");
        let measured = measure(checkpoint, text, kept, &mut || bar.inc(1));
        bar.finish_and_clear();
        if self.kept.is_none() && measured.as_ref().is_err_and(never_will_be_measured) {
            drop(std::fs::remove_file(measured_of(output)));
        }
        Ok(measured?)
    }

    /// The wider model's allocation, if it is better than that of the model as it is.
    fn better(
        &self,
        plain: &Result<Allocation, bantam_shrink::Error>,
        wider: Option<Result<Allocation, bantam_shrink::Error>>,
    ) -> anyhow::Result<Option<Allocation>> {
        /// A wider model is slower: it has to lose so much less.
        const WORTH: f64 = 0.9;
        match (wider, plain) {
            (Some(wider), _) if self.widen == Widen::Always => Ok(Some(wider?)),
            // What is too little for the one may be enough for the other; if for neither, the plain one says so.
            (Some(Ok(wider)), Err(_)) => Ok(Some(wider)),
            (Some(Ok(wider)), Ok(plain)) if wider.divergence() < WORTH * plain.divergence() => Ok(Some(wider)),
            _ => Ok(None),
        }
    }
}

/// Whether it is the model's weights that are in the way.
fn never_will_be_measured(error: &bantam_shrink::Error) -> bool {
    use bantam_shrink::Error::{Activations, NonFinite, OutOfRange, Predictions};
    matches!(error, Activations { .. } | NonFinite { .. } | OutOfRange { .. } | Predictions { .. })
}

/// Where what is measured for an output is kept until that is finished, unless a file is given for it.
pub fn measured_of(output: &Path) -> PathBuf {
    beside(output, "sensitivity")
}

/// Times what a token takes this machine.
fn timed(checkpoint: &Checkpoint, global: &Global) -> anyhow::Result<Speed> {
    let bar = progress::bar(global, "time formats", Speed::pieces(checkpoint), "timings");
    let speed = Speed::of(checkpoint, &mut || bar.inc(1))?;
    bar.finish_and_clear();
    Ok(speed)
}

/// How the model gets rows that blocks of 256 divide. `None` if it has them, or never shall; what must be widened `always` and cannot is refused.
pub fn widening(checkpoint: &Checkpoint, when: Widen) -> anyhow::Result<Option<Widening>> {
    if when == Widen::Never {
        return Ok(None);
    }
    let widening = Widening::of(checkpoint)?;
    let short = checkpoint.tensors().iter().find(|t| t.shape.len() > 1 && !t.cols().is_multiple_of(256));
    if let (Widen::Always, None, Some(tensor)) = (when, &widening, short) {
        bail!(
            "{}: its rows (of {} in {}) cannot be made longer in this architecture; leave out --widen always",
            checkpoint.path().display(),
            tensor.cols(),
            tensor.name
        );
    }
    Ok(widening)
}

/// The model with longer rows, for an output to be made of.
pub fn widen(
    checkpoint: &Checkpoint,
    widening: &Widening,
    output: &Path,
    global: &Global,
) -> anyhow::Result<Intermediate> {
    let bar = progress::bar(global, "make rows longer", widening.planned(checkpoint).parameters(), "weights");
    let made =
        Intermediate::make(checkpoint, output, |path| Ok(widening.write(checkpoint, path, &mut |n| bar.inc(n))?))?;
    bar.finish_and_clear();
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_a_number_of_bits() {
        assert_eq!(parse_bits("3.5").unwrap(), 3.5);
        for wrong in ["", "x", "0", "-1", "NaN", "1e9"] {
            assert!(parse_bits(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_speed_is_above_nothing() {
        assert_eq!(above_zero::<f64>("40.5").unwrap(), 40.5);
        for wrong in ["", "x", "0", "-1", "NaN", "inf"] {
            assert!(above_zero::<f64>(wrong).is_err(), "{wrong}");
        }
    }
}
