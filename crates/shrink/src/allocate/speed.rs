//! What a token takes this machine, by the formats of the tensors that it is generated with.
//!
//! Generating reads every weight once for a token, so that fewer bytes are faster, unless a format takes longer to unpack than memory
//! to bring it: points of code books do on many machines.

use super::{Allocation, Choice, Sensitivity};
use crate::Error;
use crate::mix::quantizable_role;
use bantam_checkpoint::{Checkpoint, TensorInfo};
use bantam_formats::kernels::parallel;
use bantam_formats::{FORMATS, Format, INTEGERS, Matrix, Scratch, matmul};
use bantam_nn::Model;
use std::path::PathBuf;
use std::time::Instant;

/// Bytes of weights that a format is timed on, more than caches hold, unless the model has fewer.
const BYTES: usize = 128 << 20;

/// Times that all is timed, of which the best counts: other work on the machine comes and goes.
const ROUNDS: usize = 3;

/// Tokens generated to be timed.
const TOKENS: usize = 8;

/// The blocks of all formats divide rows of such a multiple.
const BLOCK: usize = 256;

/// What products with one vector took here, in seconds.
pub struct Speed {
    path: PathBuf,
    /// For a byte, by format.
    rates: Vec<(&'static Format, f64)>,
    /// For what a token takes beside the products with tensors that may be quantized.
    rest: f64,
    /// The tensor of which a token reads a single row: an embedding that is no head.
    looked_up: Option<String>,
}

impl Speed {
    /// That of this machine with this model, on the threads of the current rayon pool: takes seconds. Where other work slows the
    /// machine all the while, it is less than it could be. Calls `progress` after each of [`pieces`](Self::pieces).
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn of(checkpoint: &Checkpoint, progress: &mut dyn FnMut()) -> Result<Self, Error> {
        let mut model = Model::load(checkpoint)?;
        let embedding = model.embedding_mut().path.clone();
        let looked_up = (model.definition().head().path != embedding).then_some(embedding);
        let tensors: Vec<&TensorInfo> = checkpoint.tensors().iter().filter(|t| quantizable_role(t).is_some()).collect();
        let largest = tensors.iter().filter(|t| t.name.starts_with("blk.")).max_by_key(|t| t.len());
        let (rows, cols) = largest.map_or((BLOCK, BLOCK), |t| (t.rows(), t.cols().next_multiple_of(BLOCK)));
        let weights: usize = tensors.iter().map(|t| t.len()).sum();
        // What blocks hold takes no part in the time; none of it is infinite.
        let blocks: Vec<u8> = (0..BYTES).map(|i| ((i * 2_654_435_761) >> 9) as u8 & 0x3f).collect();
        let mut rates: Vec<(&'static Format, f64)> =
            timed(checkpoint).into_iter().map(|format| (format, f64::MAX)).collect();
        let mut whole = f64::MAX;
        for _ in 0..ROUNDS {
            for (format, rate) in &mut rates {
                let bytes = format.bytes_of(weights.next_multiple_of(BLOCK)).expect("all blocks divide it");
                *rate = rate.min(seconds_a_byte(format, rows, cols, &blocks[..BYTES.min(bytes)]));
                progress();
            }
            whole = whole.min(token(&model)?);
            progress();
        }
        let mut speed = Self { path: checkpoint.path().to_owned(), rates, rest: 0.0, looked_up };
        let products = tensors.iter().map(|t| speed.seconds(&t.name, t.format, t.bytes() as u64)).sum::<f64>();
        speed.rest = (whole - products).max(0.0);
        Ok(speed)
    }

    /// What is timed of this model, piece by piece.
    pub fn pieces(checkpoint: &Checkpoint) -> u64 {
        (ROUNDS * (timed(checkpoint).len() + 1)) as u64
    }

    /// Tokens per second, as predicted, with these choices for the tensors measured.
    pub fn predicted(&self, measured: &[Sensitivity], choices: &[Choice]) -> f64 {
        let products = measured.iter().zip(choices).map(|(tensor, choice)| self.of_choice(tensor, choice));
        1.0 / (self.rest + products.sum::<f64>())
    }

    /// The mix that loses least among those that `allocate` allows and that are predicted to generate so many tokens per second.
    ///
    /// Each tensor's divergence becomes dearer by what its time costs, at the lowest price at which the whole is fast enough: the multiplier
    /// of a second constraint beside that of size.
    ///
    /// # Errors
    /// If no mix that is allowed is as fast, or as `allocate` does.
    pub fn allocate(
        &self,
        tokens_per_second: f64,
        measured: &[Sensitivity],
        allocate: &dyn Fn(&[Sensitivity]) -> Result<Allocation, Error>,
    ) -> Result<Allocation, Error> {
        /// Prices tried from that of the first guess, each four times the one before.
        const RAISED: usize = 40;
        /// The first guess is at least such a part of the largest divergence.
        const LEAST_GUESSED: f64 = 1024.0;
        /// Halvings between a price that is too low and one that is not.
        const HALVED: usize = 20;
        let at = |price: f64| self.at_price(price, measured, allocate);
        let is_fast = |allocation: &Allocation| self.predicted(measured, &allocation.choices) >= tokens_per_second;
        let free = at(0.0)?;
        if is_fast(&free) {
            return Ok(free);
        }
        // A price by which time and divergence cost about the same, also where nothing is lost without haste.
        let divergences = measured.iter().flat_map(|tensor| &tensor.choices).map(|choice| choice.divergence);
        let most = divergences.filter(|divergence| divergence.is_finite()).fold(f64::MIN_POSITIVE.sqrt(), f64::max);
        let (mut low, mut high) = (0.0, free.divergence().max(most / LEAST_GUESSED) * tokens_per_second);
        let mut fast = at(high)?;
        for _ in 0..RAISED {
            if is_fast(&fast) {
                break;
            }
            (low, high) = (high, 4.0 * high);
            fast = at(high)?;
        }
        if !is_fast(&fast) {
            let most = self.predicted(measured, &fast.choices);
            return Err(Error::TooSlow { path: self.path.clone(), asked: tokens_per_second, most });
        }
        for _ in 0..HALVED {
            let middle = (low + high) / 2.0;
            let allocation = at(middle)?;
            if is_fast(&allocation) {
                (high, fast) = (middle, allocation);
            } else {
                low = middle;
            }
        }
        Ok(fast)
    }

    /// What is best at a price of a second, in nats.
    fn at_price(
        &self,
        price: f64,
        measured: &[Sensitivity],
        allocate: &dyn Fn(&[Sensitivity]) -> Result<Allocation, Error>,
    ) -> Result<Allocation, Error> {
        let dearer = |tensor: &Sensitivity| {
            let choice = |c: &Choice| Choice { divergence: c.divergence + price * self.of_choice(tensor, c), ..*c };
            Sensitivity { tensor: tensor.tensor.clone(), choices: tensor.choices.iter().map(choice).collect() }
        };
        let mut allocation = allocate(&measured.iter().map(dearer).collect::<Vec<_>>())?;
        for (tensor, chosen) in measured.iter().zip(&mut allocation.choices) {
            *chosen = *tensor.choices.iter().find(|c| c.format == chosen.format).expect("it was chosen of them");
        }
        Ok(allocation)
    }

    fn of_choice(&self, tensor: &Sensitivity, choice: &Choice) -> f64 {
        self.seconds(&tensor.tensor, choice.format, choice.bytes)
    }

    /// Of a tensor of so many bytes.
    fn seconds(&self, tensor: &str, format: &Format, bytes: u64) -> f64 {
        if self.looked_up.as_deref() == Some(tensor) {
            return 0.0;
        }
        let (_, rate) = self.rates.iter().find(|(timed, _)| *timed == format).expect("all formats were timed");
        rate * bytes as f64
    }
}

/// Formats that are timed: all of GGUF's, and those of other engines that this model has.
fn timed(checkpoint: &Checkpoint) -> Vec<&'static Format> {
    let theirs = |f: &&Format| checkpoint.tensors().iter().any(|t| t.format == *f);
    FORMATS.iter().copied().chain(INTEGERS.iter().copied().filter(theirs)).collect()
}

/// For a byte of these blocks of a format, as matrices of this shape, one after another as layers are.
fn seconds_a_byte(format: &'static Format, rows: usize, cols: usize, blocks: &[u8]) -> f64 {
    /// Products that are timed at least.
    const TIMED: usize = 24;
    let row = format.bytes_of(cols).expect("all blocks divide it");
    let rows = rows.min(blocks.len() / row);
    let (x, mut y) = (vec![1.0; cols], vec![0.0; rows]);
    let mut scratch = Scratch::default();
    let times = parallel::section(|| {
        let matrices = blocks.chunks_exact(rows * row).map(|data| Matrix { format, data, rows, cols });
        let count = TIMED.max(2 * matrices.len());
        matrices.cycle().take(count).map(|matrix| time(|| matmul(&matrix, &x, &mut y, &mut scratch))).collect()
    });
    undisturbed(times) / (rows * row) as f64
}

/// To generate a token with this model at the beginning of a text.
fn token(model: &Model) -> Result<f64, Error> {
    let mut session = model.session(TOKENS);
    let mut logits = vec![0.0; model.config().vocab_size];
    let mut times = Vec::new();
    for _ in 0..TOKENS {
        let start = Instant::now();
        let hidden = session.forward(&[0])?.to_vec();
        session.logits(&hidden, &mut logits);
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(undisturbed(times))
}

/// Seconds that this takes.
fn time(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

/// The time that a quarter stays below: other processes disturb most runs on a busy machine, not all.
fn undisturbed(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mix;
    use crate::allocate::choose::choose;
    use std::path::Path;

    const FORMATS: [&str; 4] = ["IQ2_XXS", "IQ3_XXS", "Q3_K", "Q4_K"];

    /// Formats with code books take longer than wider ones without, and the widest longer than the one before it.
    fn speed() -> Speed {
        let seconds_a_weight = [8.0, 6.0, 3.0, 4.0];
        let rate = |(name, seconds): (&&str, f64)| {
            let format = Format::by_name(name).unwrap();
            (format, seconds * 8.0 / format.bits())
        };
        let rates = FORMATS.iter().zip(seconds_a_weight).map(rate).collect();
        Speed { path: "x.gguf".into(), rates, rest: 1000.0, looked_up: Some("token_embd.weight".into()) }
    }

    fn tensor(name: &str, weights: u64, divergences: [f64; 4]) -> Sensitivity {
        let choice = |(name, divergence): (&&str, f64)| {
            let format = Format::by_name(name).unwrap();
            Choice { format, bytes: weights * format.bytes as u64 / format.block as u64, divergence }
        };
        Sensitivity { tensor: name.to_owned(), choices: FORMATS.iter().zip(divergences).map(choice).collect() }
    }

    fn tensors() -> Vec<Sensitivity> {
        vec![
            tensor("token_embd.weight", 1024, [4.0, 2.0, 1.9, 1.0]),
            tensor("blk.0.ffn_up.weight", 512, [5.0, 2.5, 2.4, 0.5]),
            tensor("blk.0.ffn_down.weight", 512, [9.0, 4.0, 3.0, 1.0]),
            tensor("blk.1.ffn_up.weight", 256, [3.0, 1.0, 0.8, 0.2]),
        ]
    }

    fn allocation(measured: &[Sensitivity], chosen: &[usize]) -> Allocation {
        let choices = measured.iter().zip(chosen).map(|(t, &at)| t.choices[at]).collect();
        Allocation { mix: Mix::by_name("Q4_0").unwrap().clone(), choices }
    }

    fn bytes(allocation: &Allocation) -> u64 {
        allocation.choices.iter().map(|c| c.bytes).sum()
    }

    #[test]
    fn the_least_is_lost_of_what_is_small_and_fast_enough() {
        let (speed, tensors) = (speed(), tensors());
        for budget in [800, 900, 1000] {
            let all = (0..FORMATS.len().pow(4))
                .map(|code| allocation(&tensors, &[code % 4, code / 4 % 4, code / 16 % 4, code / 64 % 4]));
            let small: Vec<Allocation> = all.filter(|a| bytes(a) <= budget).collect();
            let fastest = small.iter().map(|a| speed.predicted(&tensors, &a.choices)).fold(0.0, f64::max);
            let within = |choices: &[Sensitivity]| Ok(allocation(choices, &choose(choices, budget).unwrap()));
            let free = within(&tensors).unwrap();
            let slow = speed.predicted(&tensors, &free.choices);
            assert!(slow < fastest, "time is no matter at {budget} bytes");
            let unhurried = speed.allocate(slow, &tensors, &within).unwrap();
            assert_eq!(unhurried.divergence(), free.divergence());
            for asked in [0.9 * slow + 0.1 * fastest, 0.5 * (slow + fastest)] {
                let chosen = speed.allocate(asked, &tensors, &within).unwrap();
                let is_fast = |a: &Allocation| speed.predicted(&tensors, &a.choices) >= asked;
                let best = small.iter().filter(|a| is_fast(a)).map(Allocation::divergence).fold(f64::MAX, f64::min);
                assert!(is_fast(&chosen) && bytes(&chosen) <= budget);
                // Multipliers reach the convex hull only: of four tensors, one choice may be missed.
                assert!(chosen.divergence() < best + 2.5, "{budget}, {asked}: {} {best}", chosen.divergence());
            }
            let error = speed.allocate(2.0 * fastest, &tensors, &within).unwrap_err().to_string();
            assert!(error.starts_with("x.gguf: ") && error.contains("tokens per second"), "{error}");
        }
    }

    #[test]
    fn where_nothing_is_lost_without_haste_something_is_with_it() {
        let speed = speed();
        let tensors: Vec<Sensitivity> = tensors().into_iter().map(exact_where_widest).collect();
        let within = |choices: &[Sensitivity]| Ok(allocation(choices, &choose(choices, 1 << 20).unwrap()));
        let free = within(&tensors).unwrap();
        assert_eq!(free.divergence(), 0.0);
        let (slow, fast) = (
            speed.predicted(&tensors, &free.choices),
            speed.predicted(&tensors, &allocation(&tensors, &[3, 2, 2, 2]).choices),
        );
        let chosen = speed.allocate((slow + fast) / 2.0, &tensors, &within).unwrap();
        assert!(chosen.divergence() > 0.0 && chosen.divergence() < 2.4 + 3.0, "{}", chosen.divergence());
    }

    fn exact_where_widest(mut tensor: Sensitivity) -> Sensitivity {
        tensor.choices[3].divergence = 0.0;
        tensor
    }

    #[test]
    fn an_embedding_that_is_no_head_takes_no_time() {
        let (speed, tensors) = (speed(), tensors());
        let at = |formats: [usize; 4]| speed.predicted(&tensors, &allocation(&tensors, &formats).choices);
        assert_eq!(at([0, 2, 2, 2]), at([3, 2, 2, 2]));
        assert!(at([0, 3, 2, 2]) < at([0, 2, 2, 2]));
        let expected = 1.0 / (1000.0 + 3.0 * (512.0 + 512.0 + 256.0));
        assert!((at([1, 2, 2, 2]) / expected - 1.0).abs() < 1e-9);
    }

    #[test]
    fn all_formats_are_timed_here_and_those_that_a_directory_has() {
        for (name, theirs) in [("llama", 0), ("w4a16", 1), ("w8a8", 1)] {
            let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures").join(name);
            let checkpoint = Checkpoint::open(fixture).unwrap();
            let mut pieces = 0;
            let speed = Speed::of(&checkpoint, &mut || pieces += 1).unwrap();
            assert_eq!(pieces, Speed::pieces(&checkpoint));
            assert_eq!(speed.rates.len(), bantam_formats::FORMATS.len() + theirs, "{name}");
            assert!(speed.rest >= 0.0 && speed.rates.iter().all(|(_, rate)| *rate > 0.0 && *rate < 1e-3), "{name}");
        }
    }
}
