//! How long quantizing with calibration will take on this machine: its work is counted, and small pieces of it are timed.
//!
//! Where to start: [`Rates::of`] times the pieces (seconds), [`Rates::measuring`] and [`Rates::rounding`] say what all of it takes at these
//! rates.

use crate::allocate::{self, measured_on};
use crate::calibrate::{Moments, Walk};
use crate::mix::quantizable_role;
use crate::quantize::{self, Feedback, Method, POWERS, sampled_rows};
use crate::widen::Widening;
use crate::{Error, students};
use bantam_checkpoint::{Checkpoint, Config, TensorInfo};
use bantam_formats::{Activation, FORMATS, Format};
use bantam_nn::{Model, together};
use std::sync::Arc;
use std::time::Instant;

/// Tokens that go through a layer to be timed.
const TOKENS: usize = 1024;

/// Seconds that a piece is timed for: those that all depends on, and formats, of which there are many.
const LONG: f64 = 0.5;
const SHORT: f64 = 0.1;

/// Rows for each thread that are rounded to be timed, of as many weights; the blocks of all formats divide them.
const ROWS: usize = 128;
const COLS: usize = 512;

/// What small pieces of the work took here, in seconds.
pub struct Rates<'a> {
    checkpoint: &'a Checkpoint,
    config: Config,
    /// Tokens of the calibration text.
    tokens: f64,
    /// For a token to go through a layer as it is.
    pass: f64,
    /// For the same in half precision.
    sharp_pass: f64,
    /// For a product and its sum, in full precision.
    product: f64,
    /// For the factors of inputs, by the cube of their channels.
    factors: f64,
    /// Channels of a layer's inputs, each counted once.
    inputs: Vec<f64>,
    /// Weights that are rounded to be timed.
    sample: Vec<f32>,
}

impl<'a> Rates<'a> {
    /// Those of this model and the beginning of these sequences of tokens.
    ///
    /// # Errors
    /// If the model cannot be run.
    pub fn of(checkpoint: &'a Checkpoint, sequences: &[Vec<u32>]) -> Result<Self, Error> {
        let model = Model::load(checkpoint)?;
        let few = together(sequences, TOKENS).next().unwrap_or_default();
        let mut walk = Walk::new(&model, few)?;
        let inputs = walk.look(&model, false).map_err(|error| quantize::cause(checkpoint, error))?;
        let tokens = walk.tokens().max(1) as f64;
        let pass = seconds(LONG, || Walk::new(&model, few)?.go_on(&model))?;
        let mut shared: Vec<&Arc<Moments>> = inputs.values().collect();
        shared.sort_by_key(|moments| (moments.cols(), Arc::as_ptr(moments)));
        shared.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let narrowest = shared[0].cols();
        let x = vec![1.0; TOKENS * narrowest];
        let mut moments = Moments::new(narrowest);
        let product = seconds(LONG, || {
            moments.add(&x);
            Ok(())
        })?;
        let factors = seconds(LONG, || {
            Feedback::of(shared[0], 0);
            Ok(())
        })?;
        let product = product / (TOKENS as f64 * Moments::work(narrowest as f64));
        let layer = || checkpoint.tensors().iter().filter(|t| inputs.contains_key(&t.name));
        let weights_of_layer = layer().map(|t| t.len()).sum::<usize>() as f64;
        let is_packed = layer().any(|t| t.format.product.activation != Activation::F32);
        let (name, _) = inputs.first_key_value().expect("a layer has inputs");
        let weights = students::values(checkpoint, checkpoint.tensor(name).expect("it was loaded"))?;
        Ok(Self {
            checkpoint,
            config: model.config().clone(),
            tokens: sequences.iter().map(|s| s.len() as f64).sum(),
            pass: pass / tokens,
            sharp_pass: if is_packed { product * weights_of_layer } else { pass / tokens },
            product,
            factors: factors / (narrowest as f64).powi(3),
            inputs: shared.iter().map(|moments| moments.cols() as f64).collect(),
            sample: weights.into_iter().cycle().take(ROWS * rayon::current_num_threads() * COLS).collect(),
        })
    }

    /// What going through the model once takes, to see what its layers see.
    pub fn observing(&self) -> f64 {
        let layers = self.config.block_count as f64;
        layers * self.tokens * self.pass
    }

    /// What rounding by this method takes, if tensors become of these formats. Without text to feed errors back by it is soon done.
    pub fn rounding(&self, method: Method<'_>, becomes: impl Fn(&TensorInfo) -> &'static Format) -> f64 {
        if method.text().is_none() {
            return 0.0;
        }
        let mut rates = Rounding::new(self, method.passes());
        let tensors = self.checkpoint.tensors().iter().map(|tensor| (tensor, becomes(tensor)));
        let rounded = tensors.filter(|(tensor, format)| tensor.format != *format);
        let rounded: Vec<(&TensorInfo, &'static Format)> = rounded.collect();
        let mut seconds: f64 =
            rounded.iter().map(|(tensor, format)| rates.of(tensor.rows(), tensor.cols(), format)).sum();
        if method.scales() {
            let mut rates = Rounding::new(self, 0);
            let once: f64 = rounded.iter().map(|(t, format)| rates.trial(t.rows(), t.cols(), format)).sum();
            seconds += (1 + POWERS.len()) as f64 * once;
        }
        let layers = self.config.block_count as f64;
        // Each layer is gone through twice: looked at, and gone on from when it is rounded.
        let passes = layers * self.tokens * self.pass * 2.0;
        seconds + passes + self.looking(self.tokens, layers)
    }

    /// The same where formats are yet to be chosen, of so many bits.
    pub fn rounding_to_bits(&self, method: Method<'_>, bits: f64) -> f64 {
        let near = |format: &Format| (format.bits() - bits).abs();
        let formats = FORMATS.iter().copied().filter(|f| f.encode.is_some() && f.grid.is_some() && f.divides(COLS));
        let nearest = formats.min_by(|a, b| near(a).total_cmp(&near(b))).expect("there are formats");
        self.rounding(method, |tensor| if quantizable_role(tensor).is_some() { nearest } else { tensor.format })
    }

    /// What [measuring](allocate::measure) what tensors cost takes.
    ///
    /// # Errors
    /// If the model's hyperparameters make no sense.
    pub fn measuring(&self) -> Result<f64, Error> {
        let mut rates = Rounding::new(self, 0);
        let wider = Widening::of(self.checkpoint)?.map(|widening| widening.planned(self.checkpoint));
        let layers = self.config.block_count;
        let on = measured_on(self.checkpoint);
        let mut seconds = self.looking(self.tokens.min(on.inputs as f64), layers as f64);
        seconds += layers as f64 * self.tokens.min(on.inputs as f64) * self.sharp_pass;
        for tensor in self.checkpoint.tensors().iter().filter(|t| quantizable_role(t).is_some()) {
            let ahead = students::layer_of(&tensor.name).map_or(layers, |(layer, _)| layers - layer);
            seconds += ahead as f64 * on.tokens as f64 * self.sharp_pass;
            let wide = wider.as_ref().and_then(|wider| wider.tensor(&tensor.name));
            for of in [Some(tensor), wide].into_iter().flatten() {
                // What stays as it is is not tried.
                let tried = allocate::candidates(of).into_iter().filter(|format| *format != of.format);
                seconds += tried.map(|format| rates.trial(tensor.rows(), of.cols(), format)).sum::<f64>();
            }
            // Once as a whole.
            seconds += rates.of(tensor.rows(), tensor.cols(), Format::by_name("Q4_0").expect("it is a format"));
        }
        Ok(seconds)
    }

    /// What [training scales](crate::tune) takes, if it learns from so many tokens, each multiplied with so many weights.
    pub fn tuning(&self, tokens: usize, weights: f64) -> f64 {
        /// The student's way forth, twice as much back, and the base's way forth.
        const PASSES: f64 = 4.0;
        /// For what is no product of matrices: making weights of scales, attention, probabilities.
        const ALL_ELSE: f64 = 1.5;
        PASSES * ALL_ELSE * tokens as f64 * weights * self.product
    }

    /// What the moments of the inputs of so many layers take, and of those of the head, with their factors.
    fn looking(&self, tokens: f64, layers: f64) -> f64 {
        tokens * self.product * self.inputs(layers, Moments::work)
            + self.factors * self.inputs(layers, |cols| cols.powi(3))
    }

    /// The work for all inputs of so many layers, and for the head's, by their channels.
    fn inputs(&self, layers: f64, work: impl Fn(f64) -> f64) -> f64 {
        let of_layer: f64 = self.inputs.iter().map(|&cols| work(cols)).sum();
        layers * of_layer + work(self.config.embedding_length as f64)
    }
}

/// Seconds for a weight to be rounded, by formats.
struct Rounding<'a> {
    rates: &'a Rates<'a>,
    passes: usize,
    feedback: Feedback,
    known: Vec<(&'static Format, f64)>,
}

impl<'a> Rounding<'a> {
    /// Where what was rounded is gone over so many times.
    fn new(rates: &'a Rates<'a>, passes: usize) -> Self {
        Self { rates, passes, feedback: Feedback::of(&Moments::new(COLS), passes), known: Vec::new() }
    }

    /// For so many rows of so many weights as are sampled of a tensor, and for what their errors are.
    fn trial(&mut self, rows: usize, cols: usize, format: &'static Format) -> f64 {
        let rows = rows.min(sampled_rows(cols));
        self.of(rows, cols, format) + self.rates.product * (rows * cols * cols) as f64
    }

    /// For so many rows of so many weights.
    fn of(&mut self, rows: usize, cols: usize, format: &'static Format) -> f64 {
        let rate = match self.known.iter().find(|(known, _)| *known == format) {
            Some((_, rate)) => *rate,
            None => {
                let sample = &self.rates.sample;
                let mut blocks = vec![0; sample.len() / COLS * format.bytes_of(COLS).expect("all blocks divide it")];
                let round = || {
                    self.feedback.round(sample, format, &mut blocks);
                    Ok(())
                };
                let rate = seconds(SHORT, round).expect("nothing goes wrong") / sample.len() as f64;
                self.known.push((format, rate));
                rate
            }
        };
        // Errors of half the weights, on average, are fed back to a weight, and each time that it is gone over those of all.
        let others = (0.5 + self.passes as f64) * (cols as f64 - COLS as f64);
        (rows * cols) as f64 * (rate + self.rates.product * others).max(0.0)
    }
}

/// What this work takes, on average over at least `during` seconds: a machine that does other things too is slow at times.
fn seconds(during: f64, mut work: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    // Not timed: what it reads may still be on the disk.
    work()?;
    let (start, mut times) = (Instant::now(), 0.0);
    loop {
        work()?;
        times += 1.0;
        let elapsed = start.elapsed().as_secs_f64();
        if elapsed >= during {
            return Ok(elapsed / times);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn checkpoint() -> Checkpoint {
        Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama")).unwrap()
    }

    #[test]
    fn work_is_counted() {
        let checkpoint = checkpoint();
        let config = Config::of(&checkpoint).unwrap();
        let (layers, width) = (config.block_count as f64, config.embedding_length as f64);
        let none = Rates {
            checkpoint: &checkpoint,
            config,
            tokens: 100.0,
            pass: 0.0,
            sharp_pass: 0.0,
            product: 0.0,
            factors: 0.0,
            inputs: vec![width; 4],
            sample: vec![1.0; COLS],
        };
        let as_it_is = |tensor: &TensorInfo| tensor.format;
        let method = Method::Descent(&[]);
        let passes =
            Rates { pass: 1.0, config: none.config.clone(), inputs: vec![width; 4], sample: Vec::new(), ..none };
        assert_eq!(passes.observing(), 100.0 * layers);
        assert_eq!(passes.rounding(method, as_it_is), 100.0 * layers * 2.0);
        let products = Rates { product: 1.0, pass: 0.0, ..passes };
        assert_eq!(products.rounding(method, as_it_is), 100.0 * (4.0 * layers + 1.0) * Moments::work(width));
        assert_eq!(products.observing(), 0.0);
        let factors = Rates { factors: 1.0, product: 0.0, ..products };
        assert_eq!(factors.rounding(method, as_it_is), (4.0 * layers + 1.0) * width.powi(3));
        assert_eq!(factors.observing(), 0.0);
        let [plain, fed_back] = [Method::Nearest, method].map(|method| none.rounding_to_bits(method, 4.0));
        assert!(plain == 0.0 && fed_back > 0.0, "{plain} and {fed_back}");
    }

    #[test]
    fn formats_that_can_only_be_read_are_not_timed() {
        let of = checkpoint();
        let format = Format::by_name("MXFP4").unwrap();
        let packed = |t: &TensorInfo| match quantizable_role(t) {
            Some(_) => TensorInfo { format, ..t.clone() },
            None => t.clone(),
        };
        let tensors = of.tensors().iter().map(packed).collect();
        let checkpoint = Checkpoint::planned(of.path(), of.metadata().clone(), tensors);
        let rates = Rates {
            checkpoint: &checkpoint,
            config: Config::of(&of).unwrap(),
            tokens: 100.0,
            pass: 0.0,
            sharp_pass: 0.0,
            product: 0.0,
            factors: 0.0,
            inputs: vec![1.0],
            sample: vec![1.0; COLS],
        };
        assert!(rates.measuring().unwrap() > 0.0);
    }

    #[test]
    fn pieces_are_timed() {
        let checkpoint = checkpoint();
        let sequences = vec![(0..32).collect(); 4];
        let rates = Rates::of(&checkpoint, &sequences).unwrap();
        let rounding = rates.rounding_to_bits(Method::Gptq(&sequences), 3.0);
        for seconds in [rates.observing(), rounding, rates.measuring().unwrap()] {
            assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
        }
    }
}
