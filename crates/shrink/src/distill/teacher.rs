//! What a teacher says of a sequence: the likeliest next tokens with their probabilities, position by position.

use super::Soft;
use crate::Error;
use crate::text::{Sequence, Source, UNTOLD};
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_nn::train::softmax;
use bantam_nn::{Model, Session};
use rayon::prelude::*;
use xxhash_rust::xxh3::Xxh3;

/// Stands after the tokens of a position of which fewer than k were said.
const NONE: u32 = u32::MAX;

/// The likeliest tokens that follow each position of a sequence, `k` each.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Said {
    /// Tokens kept of each position.
    pub k: usize,
    /// `[positions, k]`, the likeliest first.
    pub tokens: Vec<u32>,
    /// Their log-probabilities, `[positions, k]`.
    pub log_probabilities: Vec<f32>,
    /// The logarithm of the probability that all other tokens have together, `[positions]`; -∞ where there is none.
    pub log_rests: Vec<f32>,
    /// The residual stream after the layers asked for, each `[positions, width]`, one after another.
    pub hidden: Vec<f32>,
}

impl Said {
    /// Of one position; `None` where nothing was said.
    pub fn at(&self, position: usize) -> Option<Soft<'_>> {
        let range = position * self.k..(position + 1) * self.k;
        let kept = self.tokens[range.clone()].iter().take_while(|&&token| token != NONE).count();
        let range = range.start..range.start + kept;
        (kept > 0).then(|| Soft::Top {
            tokens: &self.tokens[range.clone()],
            log_probabilities: &self.log_probabilities[range],
            log_rest: self.log_rests[position],
        })
    }

    /// How many positions.
    pub fn positions(&self) -> usize {
        self.tokens.len() / self.k.max(1)
    }
}

/// Tells what a teacher says of a sequence.
pub trait Teacher {
    /// What is said after each token of sequence number `sequence`.
    ///
    /// # Errors
    /// If the teacher cannot be run, or what it said cannot be read.
    fn says(&mut self, sequence: u64, tokens: &[u32]) -> Result<Said, Error>;

    /// Who the teacher is, and how it was asked.
    fn description(&self) -> String;
}

/// How exactly probabilities are told: logarithms are written with four decimals. A rest of 0 would be as sure that the student must never say
/// anything else.
const TOLD_WITHIN: f64 = 1e-4;

/// The word of a served teacher, as it came with the text that it wrote.
pub struct Told<'a> {
    sequences: Vec<&'a Sequence>,
    k: usize,
}

impl<'a> Told<'a> {
    /// What was told of these sources' sequences.
    ///
    /// # Errors
    /// If nothing was told of one.
    pub fn new(sources: &'a [Source]) -> Result<Self, Error> {
        let silent = sources.iter().find(|s| s.sequences.iter().any(|s| s.told.iter().all(Vec::is_empty)));
        if let Some(source) = silent {
            return Err(Error::Data { path: source.spec.path.clone(), problem: UNTOLD.to_owned() });
        }
        let sequences: Vec<&Sequence> = sources.iter().flat_map(|s| &s.sequences).collect();
        let k = sequences.iter().flat_map(|s| &s.told).map(Vec::len).max().unwrap_or(0);
        Ok(Self { sequences, k })
    }
}

impl Teacher for Told<'_> {
    fn says(&mut self, sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        let (k, n) = (self.k, tokens.len() * self.k);
        let mut said = Said {
            k,
            tokens: vec![NONE; n],
            log_probabilities: vec![0.0; n],
            log_rests: vec![f32::NEG_INFINITY; tokens.len()],
            hidden: Vec::new(),
        };
        // What is told of a token was said at the place before it.
        let told = self.sequences[sequence as usize].told.iter().skip(1);
        for (at, told) in told.enumerate() {
            for (i, &(token, log)) in told.iter().enumerate() {
                said.tokens[at * k + i] = token;
                said.log_probabilities[at * k + i] = log;
            }
            let sum: f64 = told.iter().map(|(_, log)| f64::from(*log).exp()).sum();
            said.log_rests[at] = (1.0 - sum).max(TOLD_WITHIN).ln() as f32;
        }
        Ok(said)
    }

    fn description(&self) -> String {
        format!("told with the text, up to {} tokens", self.k)
    }
}

/// A model that is run for each sequence.
pub struct ModelTeacher<'m> {
    session: Session<'m>,
    name: String,
    /// Rows of the head, and how many of them are tokens.
    vocab: usize,
    among: usize,
    width: usize,
    k: usize,
    temperature: f32,
    /// The layers whose hidden states are told.
    layers: Vec<usize>,
    /// Logits held at once, but at least those of a row.
    at_once: usize,
}

/// Logits held at once: 32 MB.
const LOGITS: usize = 1 << 23;

impl<'m> ModelTeacher<'m> {
    /// A teacher of sequences of up to `length` tokens that tells the `k` likeliest tokens of its vocabulary at a temperature. The name tells it
    /// apart from others, as [`identity::name`](crate::identity::name) does.
    pub fn new(model: &'m Model, name: &str, length: usize, k: usize, temperature: f32) -> Self {
        let config = model.config();
        Self {
            session: model.session(length),
            name: name.to_owned(),
            vocab: config.vocab_size,
            among: model.tokens(),
            width: config.embedding_length,
            k: k.clamp(1, model.tokens()),
            temperature,
            layers: Vec::new(),
            at_once: LOGITS,
        }
    }

    /// Tells the hidden states after these layers too.
    pub fn with_hidden(self, layers: &[usize]) -> Self {
        Self { layers: layers.to_vec(), ..self }
    }

    /// Numbers of the hidden states told of each position.
    pub fn hidden_numbers(&self) -> usize {
        self.layers.len() * self.width
    }

    /// Tokens told of each position.
    pub fn kept(&self) -> usize {
        self.k
    }
}

/// Refuses a student whose tokens are not the teacher's: what is said of one means nothing for the other.
///
/// # Errors
/// If a vocabulary is missing or they differ.
pub fn same_tokens(teacher: &Checkpoint, student: &Checkpoint) -> Result<(), Error> {
    let (ours, theirs) = (Tokenizer::of(student)?, Tokenizer::of(teacher)?);
    let differing =
        (0..ours.vocab_size().max(theirs.vocab_size()) as u32).find(|&t| ours.token_text(t) != theirs.token_text(t));
    match differing {
        None => Ok(()),
        Some(token) => Err(Error::Tokens {
            student: student.path().to_owned(),
            teacher: teacher.path().to_owned(),
            token,
            ours: ours.token_text(token).unwrap_or("missing").to_owned(),
            theirs: theirs.token_text(token).unwrap_or("missing").to_owned(),
        }),
    }
}

/// A hash of all sequences in their order, and of what was told of them: by it a run of training knows its text.
pub(crate) fn fingerprint(sources: &[Source]) -> u64 {
    let mut hash = Xxh3::new();
    for sequence in sources.iter().flat_map(|s| &s.sequences) {
        hash.update(&(sequence.tokens.len() as u64).to_le_bytes());
        sequence.tokens.iter().for_each(|t| hash.update(&t.to_le_bytes()));
        for (token, log) in sequence.told.iter().flatten() {
            hash.update(&token.to_le_bytes());
            hash.update(&log.to_le_bytes());
        }
    }
    hash.digest()
}

impl Teacher for ModelTeacher<'_> {
    fn says(&mut self, _sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        self.session.truncate(0);
        let mut told = vec![Vec::new(); self.layers.len()];
        let mut layer = |at: usize, x: &[f32]| {
            let asked = self.layers.iter().zip(&mut told).filter(|(layer, _)| **layer == at);
            asked.for_each(|(_, kept)| kept.extend_from_slice(x));
        };
        let hidden = self.session.observe(tokens, &mut layer)?.to_vec();
        let (k, vocab, among, temperature) = (self.k, self.vocab, self.among, self.temperature);
        let n = tokens.len() * k;
        let mut said = Said {
            k,
            tokens: vec![0; n],
            log_probabilities: vec![0.0; n],
            log_rests: vec![0.0; tokens.len()],
            hidden: told.concat(),
        };
        let rows = (self.at_once / vocab).max(1);
        let mut logits = vec![0.0; rows.min(tokens.len()) * vocab];
        let outs = said.tokens.chunks_mut(rows * k).zip(said.log_probabilities.chunks_mut(rows * k));
        let outs = outs.zip(said.log_rests.chunks_mut(rows));
        for (hidden, ((tokens, log_probabilities), log_rests)) in hidden.chunks(rows * self.width).zip(outs) {
            let logits = &mut logits[..hidden.len() / self.width * vocab];
            self.session.logits(hidden, logits);
            let outs = tokens.par_chunks_mut(k).zip(log_probabilities.par_chunks_mut(k)).zip(log_rests);
            logits.par_chunks_mut(vocab).zip(outs).for_each(|(logits, ((tokens, log_probabilities), log_rest))| {
                *log_rest = likeliest(&mut logits[..among], temperature, tokens, log_probabilities);
            });
        }
        match said.log_probabilities.iter().any(|log| log.is_nan()) {
            true => Err(Error::Predictions { model: self.name.clone() }),
            false => Ok(said),
        }
    }

    fn description(&self) -> String {
        let said = format!("{}, {} likeliest tokens at temperature {}", self.name, self.k, self.temperature);
        if self.layers.is_empty() { said } else { format!("{said}, hidden states of layers {:?}", self.layers) }
    }
}

/// Logits of which the largest is looked at first.
const BLOCK: usize = 64;

/// The likeliest tokens of one row of logits at a temperature, and the logarithms of their probabilities; returns the logarithm of what is left
/// to all others. The logits are used up.
fn likeliest(logits: &mut [f32], temperature: f32, tokens: &mut [u32], log_probabilities: &mut [f32]) -> f32 {
    let k = tokens.len();
    // The k-th largest of the blocks' maxima has at least k logits that are no smaller: few others need sorting.
    let mut maxima: Vec<f32> =
        logits.chunks(BLOCK).map(|b| b.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
    let least = match k <= maxima.len() {
        true => *maxima.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1,
        false => f32::NEG_INFINITY,
    };
    let all = 0..logits.len() as u32;
    let mut order: Vec<u32> = all.clone().filter(|&i| logits[i as usize] >= least).collect();
    if order.len() < k {
        order = all.collect(); // there are NaN among them
    }
    order.sort_unstable_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
    order.truncate(k);
    // From the likeliest, near whose logit the sum's logarithm is: less the sum's own, a probability near 1 would be off by as much as the rest is.
    let highest = logits[order[0] as usize];
    let below: Vec<f32> = order.iter().map(|&i| (logits[i as usize] - highest) / temperature).collect();
    softmax(logits, temperature);
    let log = logits[order[0] as usize].ln();
    tokens.copy_from_slice(&order);
    log_probabilities.iter_mut().zip(below).for_each(|(to, below)| *to = below + log);
    order.iter().for_each(|&i| logits[i as usize] = 0.0);
    logits.iter().map(|&p| f64::from(p)).sum::<f64>().ln() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use bantam_nn::random::SplitMix64;
    use std::path::Path;

    #[test]
    fn the_likeliest_come_first_with_their_probabilities() {
        let logits = [2f32.ln(), 0.0, 5f32.ln(), 0.0];
        let (mut tokens, mut log) = ([0; 3], [0.0; 3]);
        let rest = likeliest(&mut logits.clone(), 1.0, &mut tokens, &mut log);
        assert!((rest.exp() - 1.0 / 9.0).abs() < 1e-6, "{rest}");
        assert_eq!(tokens, [2, 0, 1]);
        let p = log.map(f32::exp);
        assert!((p[0] - 5.0 / 9.0).abs() < 1e-6 && (p[1] - 2.0 / 9.0).abs() < 1e-6 && (p[2] - 1.0 / 9.0).abs() < 1e-6);
        likeliest(&mut logits.clone(), 1e6, &mut tokens, &mut log);
        assert!(log.iter().all(|l| (l.exp() - 0.25).abs() < 1e-5), "a hot teacher finds all equally likely");
    }

    #[test]
    fn the_likeliest_of_many_are_those_that_sorting_all_finds() {
        let mut random = SplitMix64::new(3);
        for (len, k) in [(1000, 16), (1000, 1), (70, 5), (64, 64), (1000, 16)] {
            // Rounded, so that some are equal: the first of them comes first.
            let logits: Vec<f32> = (0..len).map(|_| (random.normal() * 8.0).round() as f32 / 4.0).collect();
            let mut order: Vec<u32> = (0..len as u32).collect();
            order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]));
            let sum: f64 = logits.iter().map(|&z| f64::from(z / 2.0).exp()).sum();
            let (mut tokens, mut log) = (vec![0; k], vec![0.0; k]);
            likeliest(&mut logits.clone(), 2.0, &mut tokens, &mut log);
            assert_eq!(tokens, order[..k]);
            let expected = |token: u32| f64::from(logits[token as usize] / 2.0) - sum.ln();
            assert!(tokens.iter().zip(&log).all(|(&t, &l)| (f64::from(l) - expected(t)).abs() < 1e-5));
        }
        let mut log = [0.0; 3];
        likeliest(&mut [f32::NAN; 100], 1.0, &mut [0; 3], &mut log);
        assert!(log.iter().all(|l| l.is_nan()), "a broken teacher says nothing: {log:?}");
    }

    #[test]
    fn what_is_told_is_no_surer_than_it_was_told() {
        let told = vec![Vec::new(), vec![(3, 0.0)], vec![(4, 0.5f32.ln()), (5, 0.25f32.ln())]];
        let sequence = Sequence { tokens: vec![1, 3, 4], learned: vec![false, true, true], told };
        let spec = "told.jsonl".parse().unwrap();
        let sources = [Source { spec, sequences: vec![sequence], unanswered: (0, 0), cut: 0 }];
        let said = Told::new(&sources).unwrap().says(0, &[1, 3, 4]).unwrap();
        let rests: Vec<f32> = said.log_rests.iter().map(|log| log.exp()).collect();
        // A divergence that asks how much the student says beyond would be without bounds at a rest of 0.
        assert!((rests[0] - 1e-4).abs() < 1e-8 && (rests[1] - 0.25).abs() < 1e-6, "{rests:?}");
    }

    #[test]
    fn what_is_left_to_others_is_known_where_it_is_next_to_nothing() {
        // Logits near 20, where f32 has steps of 2e-6.
        let mut logits = vec![2.5f32; 10_000];
        logits[7] = 20.3;
        let mut log = [0.0];
        let rest = likeliest(&mut logits, 0.7, &mut [0], &mut log);
        let others = 9_999.0 * ((2.5f64 - f64::from(20.3f32)) / 0.7).exp();
        assert!((f64::from(log[0]) + others).abs() < 1e-7, "{} is not -{others}", log[0]);
        assert!((f64::from(rest) - others.ln()).abs() < 1e-5, "{rest} is not {}", others.ln());
    }

    #[test]
    fn few_logits_at_once_say_the_same_as_all() {
        let checkpoint = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
        let model = Model::load(&Checkpoint::open(checkpoint).unwrap()).unwrap();
        let tokens: Vec<u32> = (0..13).map(|i| 19 * i + 3).collect();
        let said = |at_once: usize| {
            let teacher = ModelTeacher::new(&model, "llama", tokens.len(), 3, 2.0);
            ModelTeacher { at_once, ..teacher }.says(0, &tokens).unwrap()
        };
        let (whole, vocab) = (said(LOGITS), model.config().vocab_size);
        // Another number of columns is another kernel's, and rounded otherwise.
        let close = |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4);
        // Five positions at a time leave three for the last part; less than a position's logits are a position's.
        for positions in [5, 1, 0] {
            let parts = said(positions * vocab + vocab / 2);
            assert_eq!(parts.tokens, whole.tokens, "{positions} at once");
            assert!(close(&parts.log_probabilities, &whole.log_probabilities), "{positions} at once: {parts:?}");
            assert!(close(&parts.log_rests, &whole.log_rests), "{positions} at once: {parts:?}");
        }
    }
}
