//! How far what was made is from its base, on text that nothing was learned from.

use crate::args::Global;
use crate::{forecast, output, progress};
use bantam_checkpoint::Checkpoint;
use bantam_nn::Model;
use bantam_shrink::distill::ModelTeacher;
use bantam_shrink::identity;
use bantam_shrink::text::Sequence;
use bantam_shrink::tune::divergence;
use std::path::Path;

/// Tokens that the base tells of each position; all others are one outcome.
const KEPT: usize = 256;

/// Tells how far models are from their base, in nats a token, on text that nothing was learned from.
pub struct Judge<'a> {
    base: Model,
    name: String,
    held_out: &'a [Sequence],
    global: &'a Global,
}

impl<'a> Judge<'a> {
    /// By what this base says of this text.
    pub fn by(base: &Checkpoint, held_out: &'a [Sequence], global: &'a Global) -> anyhow::Result<Self> {
        Ok(Self { base: Model::load(base)?, name: identity::name(base)?, held_out, global })
    }

    /// Tokens that it takes in.
    pub fn tokens(held_out: &[Sequence]) -> usize {
        held_out.iter().map(|sequence| sequence.tokens.len()).sum()
    }

    /// The base, to be learned from in sequences of up to `length` tokens.
    pub fn teacher(&self, length: usize) -> ModelTeacher<'_> {
        ModelTeacher::new(&self.base, &self.name, length, KEPT, 1.0)
    }

    /// The divergence of a model, run as its users run it.
    pub fn divergence(&self, model: &Checkpoint) -> anyhow::Result<f64> {
        let longest = self.held_out.iter().map(|sequence| sequence.tokens.len()).max().unwrap_or(1);
        let held_out: Vec<(u64, &Sequence)> = self.held_out.iter().map(|sequence| (0, sequence)).collect();
        let bar = progress::bar(self.global, "measure", Self::tokens(self.held_out) as u64, "tokens");
        let found = divergence(model, &mut self.teacher(longest), &held_out, &mut |tokens| bar.inc(tokens));
        bar.finish_and_clear();
        Ok(found?)
    }
}

/// How far the output, which is complete, is from its base on text that was held out. `None` if there is none, or it cannot be told.
pub fn judged(base: &Checkpoint, held_out: &[Sequence], output: &Path, global: &Global) -> Option<f64> {
    if held_out.is_empty() {
        return None;
    }
    if forecast::is_wanted(global) {
        output::say(format_args!("{} is complete, and stays if you stop here; now it is measured", output.display()));
    }
    let divergence = || Judge::by(base, held_out, global)?.divergence(&Checkpoint::open(output)?);
    let found = divergence().inspect_err(|e| {
        output::say(format_args!("note: {} is complete, but it could not be measured: {e:#}", output.display()));
    });
    found.ok()
}
