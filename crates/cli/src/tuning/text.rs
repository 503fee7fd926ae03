//! What scales are trained on, and what is held out to judge them by.

use super::{LOOKED_AT, TuningArgs, USUAL_LENGTH, looks};
use crate::args::{Global, sequence_length};
use crate::judge::Judge;
use crate::{calibration, data};
use anyhow::ensure;
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_shrink::text::{Sequence, Source, SourceSpec};

/// Steps unless something else is asked for: what more of them gained was little (BENCHMARKS.md).
const MOST_STEPS: usize = 50;

/// Every so many sequences one is held out, up to so many in all.
const HELD_OUT: (usize, usize) = (8, 16);

/// The most bytes that the record of tuning adds to a file, beside the names of its text.
const RECORD: u64 = 8 << 10;

/// What is known of a run before it.
#[derive(Clone, Copy, Default)]
pub struct Foretold {
    /// The most bytes that its record adds to a file.
    pub record: u64,
    /// Tokens that it learns from.
    pub tokens: usize,
}

/// Text to learn on and to judge by.
pub struct Text {
    pub(super) names: Vec<String>,
    pub(super) sources: Vec<Source>,
    pub(super) held_out: Vec<Sequence>,
    /// Tokens of a sequence, at most.
    pub(super) length: usize,
    /// Steps that are made on it.
    pub(super) steps: usize,
}

impl Text {
    /// Reads these files, or takes the text that comes with bantam if there are none, in sequences that both models go through.
    pub fn read(
        files: &[SourceSpec],
        (base, student): (&Checkpoint, &Checkpoint),
        args: &TuningArgs,
        global: &Global,
    ) -> anyhow::Result<Self> {
        let length = sequence_length("--length", args.length, USUAL_LENGTH, &[base, student])?;
        let mut sources = calibration::sources(files, base, length, global)?;
        let held_out = hold_out(&mut sources);
        Self::of(calibration::names(files), sources, held_out, (length, args))
    }

    /// Of text that was read, a part of it held out.
    pub fn of(
        names: Vec<String>,
        sources: Vec<Source>,
        held_out: Vec<Sequence>,
        (length, args): (usize, &TuningArgs),
    ) -> anyhow::Result<Self> {
        ensure!(
            !held_out.is_empty() && !sources.is_empty(),
            "the text has too few sequences of {length} tokens to train scales on and hold some out: give more"
        );
        let steps = args.steps.unwrap_or_else(|| steps_on(&sources, args.batch));
        Ok(Self { names, sources, held_out, length, steps })
    }

    /// What a run on it will be like.
    pub fn foretells(&self, args: &TuningArgs) -> Foretold {
        let judged = Judge::tokens(&self.held_out);
        // Judging is going forth, twice; learning is that and back, which is as much again.
        let judging = judged * (1 + looks(self.steps as u64).len()) / 2;
        let sequences: usize = self.sources.iter().map(|source| source.sequences.len()).sum();
        let tokens: usize = self.sources.iter().map(Source::tokens).sum();
        let learned = (self.steps + LOOKED_AT as usize) * args.batch * tokens / sequences.max(1);
        Foretold { record: RECORD + self.names.join(", ").len() as u64, tokens: learned + judging }
    }

    /// Says so where it is text that bantam measures on.
    pub fn warn_of_overlap(&self, base: &Checkpoint) -> anyhow::Result<()> {
        let sequences = self.sources.iter().flat_map(|s| &s.sequences).map(|s| &s.tokens[..]);
        data::warn_of_overlap(sequences, &Tokenizer::of(base)?, "learned from");
        Ok(())
    }
}

/// How many steps to make where nothing is said, of so many sequences each. What is seen a second time is learned by heart: on text held out
/// the model moves away then (BENCHMARKS.md).
fn steps_on(sources: &[Source], batch: usize) -> usize {
    let sequences: usize = sources.iter().map(|source| source.sequences.len()).sum();
    MOST_STEPS.min(sequences.div_ceil(batch))
}

/// Takes sequences out that nothing is learned from: every so many of all, as many of each source.
fn hold_out(sources: &mut Vec<Source>) -> Vec<Sequence> {
    let (every, most) = HELD_OUT;
    let each = (most / sources.len().max(1)).max(1);
    let (mut at, mut held_out) = (0, Vec::new());
    for source in &mut *sources {
        let mut taken = 0;
        let there = held_out.len();
        let take = |_: &mut Sequence| {
            at += 1;
            let take = at % every == 0 && taken < each && there + taken < most;
            taken += usize::from(take);
            take
        };
        held_out.extend(source.sequences.extract_if(.., take));
    }
    // Of one that has none left nothing could be drawn, whatever its weight.
    sources.retain(|source| !source.sequences.is_empty());
    held_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    fn sources(files: usize, sequences: usize) -> Vec<Source> {
        let spec = || SourceSpec { category: "text".into(), path: PathBuf::new(), weight: None };
        let sequence = |token| Sequence { tokens: vec![token; 4], learned: vec![true; 4], told: Vec::new() };
        let sequences = || (0..sequences as u32).map(sequence).collect();
        (0..files).map(|_| Source { spec: spec(), sequences: sequences(), unanswered: (0, 0), cut: 0 }).collect()
    }

    #[test]
    fn some_text_is_held_out_of_many_short_files_and_of_few_long_ones() {
        for (files, sequences, held_out) in [(50, 3, 16), (3, 100, 15), (1, 7, 0), (9, 1, 1)] {
            let mut sources = sources(files, sequences);
            let held = hold_out(&mut sources);
            assert_eq!(held.len(), held_out, "{files} files");
            assert!(sources.iter().all(|source| !source.sequences.is_empty()), "{files} files");
            let left: usize = sources.iter().map(|s| s.sequences.len()).sum();
            assert_eq!(held.len() + left, files * sequences);
        }
    }

    #[test]
    fn no_more_steps_are_made_than_go_through_the_text_once() {
        assert_eq!(steps_on(&sources(2, 10), 4), 5);
        assert_eq!(steps_on(&sources(1, 9), 4), 3);
        assert_eq!(steps_on(&sources(1, 1000), 4), MOST_STEPS);
    }
}
