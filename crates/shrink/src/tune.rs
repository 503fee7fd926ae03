//! Tuning: the scales of a quantized model are trained until it says what its base says.
//!
//! The quants stay; each group's scale and min, and all vectors (norms, biases), move against the divergence from the base, end to
//! end, so that layers make up for each other's errors, which rounding a layer at a time cannot see (PEQA: Kim et al. 2023;
//! EfficientQAT: Chen et al. 2024; DWQ of mlx-lm). What is trained goes back into the format's own scales, so that the file is as
//! large as before and every program reads it.
//!
//! Where to start: [`Tuning`] is a task for the [`Trainer`](crate::train::Trainer); [`Tuning::agreement`] says before whether there is anything to
//! gain, [`Tuning::write`] writes what came of it.

use crate::distill::{Divergence, Soft, SoftLabels, Teacher, TextTask};
use crate::text::Sequence;
use crate::train::{Pass, Task};
use crate::{Error, identity, students};
use bantam_checkpoint::{Checkpoint, GgufWriter, TensorInfo, provenance};
use bantam_formats::{Format, Grid};
use bantam_nn::Model;
use bantam_nn::train::{Objective, Parameters, Variable};
use rayon::prelude::*;
use std::path::Path;

/// Numbers that a thread takes at a time.
const PART: usize = 1 << 14;

/// Learning scales, with a [`TextTask`] that has the base as its teacher.
///
/// What is trained is 0 at the beginning, and in units of the error that rounding made anyway, so that one learning rate suits all: with `n`
/// levels a scale `s` becomes `s (1 + 16/n a)`, the min beside it `m + 8 s b`; a vector `v + c/16` root mean squares of its own. Without this the
/// noise of the steps would do more harm to an embedding of 8 bits than rounding did.
pub struct Tuning<'a> {
    task: TextTask<'a>,
    /// By what a saved run knows its student: what is trained begins at 0 for every one.
    identity: u64,
    /// The student's weights, as its scales have them now.
    weights: Parameters,
    /// How each of the weights' variables follows from what is trained.
    kinds: Vec<Kind>,
}

/// A tensor of the student.
enum Kind {
    /// In a block format.
    Matrix(Matrix),
    /// Values of their own, and what their shares are counted in.
    Vector { values: Vec<f32>, unit: f32 },
    /// Not trained: matrices in formats without scales, vectors of zeros, factors of the rotary frequencies.
    Fixed,
}

/// A matrix in a block format, taken apart.
struct Matrix {
    grid: &'static Grid,
    quants: Vec<u8>,
    scales: Vec<f32>,
    mins: Vec<f32>,
}

impl Matrix {
    fn of(data: &[u8], format: &Format, grid: &'static Grid) -> Self {
        let (blocks, groups) = (data.len() / format.bytes, format.block / grid.group);
        let (mut quants, mut scales) = (vec![0; blocks * format.block], vec![0.0; blocks * groups]);
        let mut mins = scales.clone();
        let parts = scales.par_chunks_mut(groups).zip(mins.par_chunks_mut(groups));
        let blocks = data.par_chunks(format.bytes).zip(quants.par_chunks_mut(format.block));
        blocks.zip(parts).for_each(|((block, quants), (scales, mins))| (grid.read)(block, quants, scales, mins));
        Self { grid, quants, scales, mins }
    }

    /// Scale and min of a group, with the shares that they moved by.
    fn moved(&self, group: usize, shares: &[f32], min_shares: Option<&[f32]>) -> (f32, f32) {
        let scale = self.scales[group];
        let min = self.mins[group] + min_shares.map_or(0.0, |b| MIN_UNIT * scale * b[group]);
        (scale * (1.0 + self.unit() * shares[group]), min)
    }

    /// What a scale's share is counted in: 1 for formats of four bits.
    fn unit(&self) -> f32 {
        16.0 / self.grid.levels.len() as f32
    }
}

/// What a min's share is counted in, in scales: as much as a scale of four bits moves the outermost weights.
const MIN_UNIT: f32 = 8.0;

/// What a vector's share is counted in, in root mean squares.
const VECTOR_UNIT: f32 = 1.0 / 16.0;

fn scales_of(path: &str) -> String {
    format!("{path}/scales")
}

fn mins_of(path: &str) -> String {
    format!("{path}/mins")
}

/// Bytes that tuning a student takes beside what a batch does: weights and their gradients, quants, scales and mins, and what Adam keeps of what
/// is trained.
pub fn memory(student: &Checkpoint) -> u64 {
    const OF_SHARES: usize = 4 * size_of::<f32>();
    let bytes = |tensor: &TensorInfo| match &tensor.format.grid {
        Some(grid) => {
            let trained = if grid.zero.is_none() { 2 } else { 1 };
            9 * tensor.len() + tensor.len() / grid.group * (8 + trained * OF_SHARES)
        }
        None => tensor.len() * (8 + if tensor.stays_f32() { 4 + OF_SHARES } else { 0 }),
    };
    student.tensors().iter().map(|tensor| bytes(tensor) as u64).sum()
}

impl<'a> Tuning<'a> {
    /// Takes a quantized student apart; `task` has it as its student, and its base as teacher.
    ///
    /// # Errors
    /// If the student cannot be read.
    pub fn new(student: &Checkpoint, task: TextTask<'a>) -> Result<Self, Error> {
        let mut weights = Parameters::of(student)?;
        let kind = |tensor: &TensorInfo| -> Result<Kind, Error> {
            Ok(match &tensor.format.grid {
                _ if tensor.name == bantam_checkpoint::ROPE_FREQS => Kind::Fixed,
                Some(grid) => Kind::Matrix(Matrix::of(&student.data(&tensor.name)?, tensor.format, grid)),
                None if tensor.stays_f32() => {
                    let values = students::values(student, tensor)?;
                    let squares: f32 = values.iter().map(|v| v * v).sum();
                    let unit = VECTOR_UNIT * (squares / values.len().max(1) as f32).sqrt();
                    if unit > 0.0 { Kind::Vector { values, unit } } else { Kind::Fixed }
                }
                None => Kind::Fixed,
            })
        };
        let kinds = student.tensors().iter().map(kind).collect::<Result<Vec<_>, _>>()?;
        let pairs = || student.tensors().iter().zip(&kinds);
        weights.freeze(|path| pairs().any(|(tensor, kind)| tensor.name == path && matches!(kind, Kind::Fixed)));
        Ok(Self { task, identity: identity::of_model_and_text(student, &[])?, weights, kinds })
    }

    /// What is trained, at the beginning.
    pub fn parameters(&self) -> Parameters {
        let mut shares = Parameters::default();
        let mut add = |path: &str, len: usize| shares.insert(path, &[len], vec![0.0; len]);
        for (variable, kind) in self.weights.variables().iter().zip(&self.kinds) {
            match kind {
                Kind::Matrix(matrix) => {
                    add(&scales_of(&variable.path), matrix.scales.len());
                    if matrix.grid.zero.is_none() {
                        add(&mins_of(&variable.path), matrix.mins.len());
                    }
                }
                Kind::Vector { values, .. } => add(&variable.path, values.len()),
                Kind::Fixed => {}
            }
        }
        shares
    }

    /// How far text agrees on where to go from the beginning: the cosine between the gradients of two halves of a few batches, mean over what is
    /// trained. Where layers were rounded so that their outputs' errors are least, and these are small, it is near 0, and training only
    /// follows the noise of its batches; what was rounded to the nearest, or to few bits, has much in common. Calls `progress` after each of
    /// [`LOOKED_AT`] batches.
    ///
    /// # Errors
    /// As a step of training.
    pub fn agreement(&mut self, shares: &mut Parameters, progress: &mut dyn FnMut()) -> Result<f64, Error> {
        let zeros = || shares.variables().iter().map(|v| vec![0.0; v.gradient.len()]).collect();
        let mut halves: [Vec<Vec<f32>>; 2] = [zeros(), zeros()];
        for step in 0..LOOKED_AT {
            shares.clear_gradients();
            self.pass(step, shares)?;
            for (sum, variable) in halves[step as usize % 2].iter_mut().zip(shares.variables()) {
                sum.iter_mut().zip(&variable.gradient).for_each(|(sum, g)| *sum += g);
            }
            progress();
        }
        shares.clear_gradients();
        let [first, second] = &halves;
        let cosines: f64 = first.iter().zip(second).map(|(a, b)| cosine(a, b)).sum();
        Ok(cosines / first.len().max(1) as f64)
    }

    /// Brings the student's weights in line with what is trained.
    fn follow(&mut self, shares: &Parameters) {
        let of = |path: &str| shares.get(path).map(|v| &v.values[..]);
        for (variable, kind) in self.weights.variables_mut().iter_mut().zip(&self.kinds) {
            match kind {
                Kind::Matrix(matrix) => {
                    let (scales, mins) = (of(&scales_of(&variable.path)).expect("there"), of(&mins_of(&variable.path)));
                    let group = matrix.grid.group;
                    let parts = variable.values.par_chunks_mut(group).zip(matrix.quants.par_chunks(group));
                    parts.with_min_len(PART / group).enumerate().for_each(|(g, (values, quants))| {
                        let (scale, min) = matrix.moved(g, scales, mins);
                        values.iter_mut().zip(quants).for_each(|(v, q)| *v = matrix.grid.weight(*q, scale, min));
                    });
                }
                Kind::Vector { values, unit } => {
                    let shares = of(&variable.path).expect("there");
                    let moved = values.iter().zip(shares).map(|(v, c)| v + c * unit);
                    variable.values.iter_mut().zip(moved).for_each(|(v, moved)| *v = moved);
                }
                Kind::Fixed => {}
            }
        }
    }

    /// Brings the gradients of the student's weights to what is trained.
    fn collect(&self, shares: &mut Parameters) {
        let mut targets = shares.variables_mut().iter_mut();
        let mut next = || targets.next().expect("the variables of `parameters`, in its order");
        for (variable, kind) in self.weights.variables().iter().zip(&self.kinds) {
            match kind {
                Kind::Matrix(matrix) => {
                    let scales = next();
                    let mins = matrix.grid.zero.is_none().then(&mut next);
                    matrix.collect(&variable.gradient, scales, mins);
                }
                Kind::Vector { unit, .. } => {
                    let to = &mut next().gradient;
                    to.iter_mut().zip(&variable.gradient).for_each(|(to, g)| *to += g * unit);
                }
                Kind::Fixed => {}
            }
        }
    }

    /// Writes the student with the scales that were trained, as near as its formats can hold them.
    ///
    /// # Errors
    /// If the student cannot be read or the output written.
    pub fn write(
        &mut self,
        student: &Checkpoint,
        shares: &Parameters,
        step: provenance::Step,
        output: &Path,
    ) -> Result<(), Error> {
        student.refuse_overwriting(output)?;
        self.follow(shares);
        let mut metadata = student.metadata().clone();
        provenance::append(&mut metadata, step);
        let mut writer = GgufWriter::create(output, &metadata, student.tensors())?;
        for (i, (tensor, kind)) in student.tensors().iter().zip(&self.kinds).enumerate() {
            let data = student.data(&tensor.name)?;
            let values = &self.weights.variables()[i].values;
            match kind {
                Kind::Fixed => writer.write(&data)?,
                Kind::Vector { .. } => {
                    let encode = tensor.format.encode.expect("vectors are in a format that can be written");
                    let mut bytes = vec![0; data.len()];
                    encode(values, None, &mut bytes);
                    writer.write(&bytes)?;
                }
                Kind::Matrix(matrix) => {
                    let of = |path: &str| shares.get(path).map(|v| &v.values[..]);
                    let (scales, mins) = (of(&scales_of(&tensor.name)).expect("there"), of(&mins_of(&tensor.name)));
                    let mut bytes = data.to_vec();
                    matrix.put(&mut bytes, tensor.format, scales, mins);
                    writer.write(&bytes)?;
                }
            }
        }
        Ok(writer.finish()?)
    }
}

impl Matrix {
    /// `∂a = s Σ ∂w (q - zero)` and `∂b = -s Σ ∂w` over each group, times the units.
    fn collect(&self, gradient: &[f32], scales: &mut Variable, mins: Option<&mut Variable>) {
        let (group, zero) = (self.grid.group, f32::from(self.grid.zero.unwrap_or(0)));
        let groups = || gradient.par_chunks(group).with_min_len(PART / group).zip(&self.scales);
        scales.gradient.par_iter_mut().zip(groups().zip(self.quants.par_chunks(group))).for_each(
            |(to, ((gradient, scale), quants))| {
                let sum: f32 = gradient.iter().zip(quants).map(|(g, q)| g * (f32::from(*q) - zero)).sum();
                *to += self.unit() * scale * sum;
            },
        );
        if let Some(mins) = mins {
            mins.gradient.par_iter_mut().zip(groups()).for_each(|(to, (gradient, scale))| {
                *to -= MIN_UNIT * scale * gradient.iter().sum::<f32>();
            });
        }
    }

    /// Puts moved scales and mins into a matrix' blocks.
    fn put(&self, bytes: &mut [u8], format: &Format, shares: &[f32], min_shares: Option<&[f32]>) {
        let groups = format.block / self.grid.group;
        let zero = f32::from(self.grid.zero.unwrap_or(0));
        let blocks = bytes.par_chunks_mut(format.bytes).zip(self.quants.par_chunks(format.block));
        blocks.enumerate().for_each(|(i, (block, quants))| {
            let first = i * groups;
            let moved: Vec<(f32, f32)> = (first..first + groups).map(|g| self.moved(g, shares, min_shares)).collect();
            let (scales, mins): (Vec<f32>, Vec<f32>) = moved.into_iter().unzip();
            // A scale matters by the squares of what it multiplies.
            let squares = |quants: &[u8]| quants.iter().map(|q| (f32::from(*q) - zero).powi(2)).sum::<f32>() + 1.0;
            let weights: Vec<f32> = quants.chunks(self.grid.group).map(squares).collect();
            (self.grid.put_scales)(block, &scales, &mins, &weights);
        });
    }
}

impl Task for Tuning<'_> {
    fn description(&self) -> String {
        format!("tuning of the scales of {:016x}; {}", self.identity, self.task.description())
    }

    fn pass(&mut self, step: u64, shares: &mut Parameters) -> Result<Pass, Error> {
        self.follow(shares);
        self.weights.clear_gradients();
        let pass = self.task.pass(step, &mut self.weights)?;
        self.collect(shares);
        Ok(pass)
    }
}

/// Batches that [`Tuning::agreement`] is found on.
pub const LOOKED_AT: u64 = 8;

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// Rows of logits held at once.
const ROWS: usize = 64;

/// The mean divergence of a student, run as its users run it, from what its base says of these sequences, in nats a token: of those that are learned,
/// over the tokens that the base tells and all others as one. Calls `progress` with the tokens of each sequence.
///
/// # Errors
/// If one of the two cannot be run, or the student predicts what is not finite.
pub fn divergence(
    student: &Checkpoint,
    base: &mut dyn Teacher,
    sequences: &[(u64, &Sequence)],
    progress: &mut dyn FnMut(u64),
) -> Result<f64, Error> {
    let model = Model::load(student)?;
    let (width, vocab) = (model.config().embedding_length, model.config().vocab_size);
    let longest = sequences.iter().map(|(_, s)| s.tokens.len()).max().unwrap_or(1);
    let mut session = model.session(longest);
    let (mut total, mut positions) = (0.0, 0);
    let mut logits = vec![0.0; ROWS * vocab];
    for (number, sequence) in sequences {
        let said = base.says(*number, &sequence.tokens)?;
        session.truncate(0);
        let hidden = session.forward(&sequence.tokens)?.to_vec();
        for (part, hidden) in hidden.chunks(ROWS * width).enumerate() {
            let rows = hidden.len() / width;
            session.logits(hidden, &mut logits[..rows * vocab]);
            let learned = |at: usize| sequence.learned.get(at + 1).is_some_and(|learned| *learned);
            let places = part * ROWS..part * ROWS + rows;
            let teacher: Vec<Option<Soft<'_>>> = places.map(|at| said.at(at).filter(|_| learned(at))).collect();
            let objective = SoftLabels {
                teacher: &teacher,
                labels: &vec![None; rows],
                divergence: Divergence::Forward,
                temperature: 1.0,
                soft: 1.0,
            };
            let rows = logits[..rows * vocab].par_chunks_mut(vocab).enumerate();
            let losses: Vec<f64> = rows
                .filter(|(row, _)| objective.counts(*row))
                .map(|(row, logits)| objective.loss(row, logits))
                .collect();
            total += losses.iter().sum::<f64>();
            positions += losses.len();
        }
        progress(sequence.tokens.len() as u64);
    }
    let mean = total / positions.max(1) as f64;
    if mean.is_finite() { Ok(mean) } else { Err(Error::Predictions { model: student.path().display().to_string() }) }
}
