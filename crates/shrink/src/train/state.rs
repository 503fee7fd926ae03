//! A training run on disk: values, the optimizer's averages, the losses so far. One GGUF file, replaced as a whole.

use crate::Error;
use bantam_checkpoint::metadata::Array;
use bantam_checkpoint::{Checkpoint, GgufWriter, Metadata, TensorInfo, Value};
use bantam_formats::Format;
use bantam_nn::train::{Optimizer, Parameters};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const ARCHITECTURE: &str = "bantam-training";
const RUN: &str = "bantam-training.run";
const STEPS: &str = "bantam-training.steps";
const LOSSES: &str = "bantam-training.losses";
const ITEMS: &str = "bantam-training.items";
const CHECKSUM: &str = "bantam-training.checksum";

/// What is known of a run's past beside values and averages.
#[derive(Clone, Debug, Default)]
pub(super) struct Past {
    /// The loss of each step.
    pub losses: Vec<f32>,
    /// What was learned from: tokens, images.
    pub items: u64,
}

/// Keeps a second run from saving where one does: what one saved the other would replace, or take for its own.
///
/// The lock is on a file beside the state, which itself is replaced with every saving. One that a killed run left is no lock.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
    /// Whether the file goes with the lock.
    goes: bool,
}

impl Lock {
    /// The lock of the state at `path`.
    ///
    /// # Errors
    /// If another process has it, or the file cannot be made.
    pub fn of(state: &Path) -> Result<Self, Error> {
        let mut path = state.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        let goes = !path.exists();
        let file = File::create(&path).map_err(|e| Error::Data { path: path.clone(), problem: e.to_string() })?;
        // (Some file systems have no locks.)
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::InUse { path: state.to_owned() }),
            _ => Ok(Self { path, _file: file, goes }),
        }
    }

    /// Takes the place of a killed run, whose file goes with this one's end. (What is refused before changes nothing.)
    pub fn begin(&mut self) {
        self.goes = true;
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if self.goes {
            // What is left behind does no harm.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes the state to `path`. `run` says what the run is: a state of another is not gone on with.
pub(super) fn save(
    path: &Path,
    run: &str,
    past: &Past,
    parameters: &Parameters,
    optimizer: &Optimizer,
) -> Result<(), Error> {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String(ARCHITECTURE.to_owned()));
    metadata.set(RUN, Value::String(run.to_owned()));
    metadata.set(STEPS, Value::U64(optimizer.steps()));
    metadata.set(LOSSES, Value::Array(Array::F32(past.losses.clone())));
    metadata.set(ITEMS, Value::U64(past.items));
    let f32 = Format::f32();
    let variables = || parameters.variables().iter().enumerate().filter(|(_, v)| v.trained());
    let mut tensors: Vec<(String, &[f32])> = variables().map(|(_, v)| (v.path.clone(), &v.values[..])).collect();
    for (m, moments) in optimizer.moments().iter().enumerate() {
        tensors.extend(variables().map(|(i, v)| (moment_name(m, &v.path), &moments[i][..])));
    }
    let checked = checksum(run, past, optimizer.steps(), tensors.iter().map(|(_, values)| *values));
    metadata.set(CHECKSUM, Value::U64(checked));
    let infos: Vec<TensorInfo> = tensors
        .iter()
        .map(|(name, values)| TensorInfo { name: name.clone(), shape: vec![values.len()], format: f32 })
        .collect();
    let mut writer = GgufWriter::create(path, &metadata, &infos)?;
    for (_, values) in tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        writer.write(&bytes)?;
    }
    Ok(writer.finish()?)
}

/// Goes on from the state at `path`, if there is one; returns its past.
pub(super) fn restore(
    path: &Path,
    run: &str,
    parameters: &mut Parameters,
    optimizer: &mut Optimizer,
) -> Result<Past, Error> {
    if !path.exists() {
        return Ok(Past::default());
    }
    let error = |problem: String| Error::TrainingState { path: path.to_owned(), problem };
    let state = Checkpoint::open(path).map_err(|e| match e {
        bantam_checkpoint::Error::Io { .. } => e.into(),
        // What its reader advises is for models.
        _ => error("it is damaged, or no state of a training run".to_owned()),
    })?;
    let metadata = state.metadata();
    let of = metadata.str(RUN).ok_or_else(|| error("it is no state of a training run".to_owned()))?;
    if of != run {
        let differing = differences(of, run);
        return Err(error(format!("it belongs to another run ({differing}); repeat the command that began it")));
    }
    let values = |name: &str, len: usize| -> Result<Vec<f32>, Error> {
        match state.tensor(name) {
            Some(tensor) if tensor.len() == len && tensor.format.name == "F32" => {
                let bytes = state.data(name)?;
                Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
            }
            _ => Err(error(format!("`{name}` of {len} numbers is missing"))),
        }
    };
    let steps = metadata.uint(STEPS).ok_or_else(|| error("it does not say how many steps were made".to_owned()))?;
    let Some(Value::Array(Array::F32(losses))) = metadata.get(LOSSES) else {
        return Err(error("it has no losses".to_owned()));
    };
    let trained = || parameters.variables().iter().enumerate().filter(|(_, v)| v.trained());
    let read = |name: &dyn Fn(&str) -> String| -> Result<Vec<(usize, Vec<f32>)>, Error> {
        trained().map(|(i, v)| Ok((i, values(&name(&v.path), v.values.len())?))).collect()
    };
    let restored = read(&str::to_owned)?;
    let averages = (0..optimizer.moments().len()).map(|m| read(&|path| moment_name(m, path)));
    let averages = averages.collect::<Result<Vec<_>, _>>()?;
    let past = Past { losses: losses.clone(), items: metadata.uint(ITEMS).unwrap_or(0) };
    let tensors = restored.iter().chain(averages.iter().flatten()).map(|(_, values)| &values[..]);
    if metadata.uint(CHECKSUM) != Some(checksum(run, &past, steps, tensors)) {
        return Err(error("it is damaged (its checksum does not match), or of another version of bantam".to_owned()));
    }
    // Nothing is copied: a run that just fits into memory must fit when it goes on.
    let mut moments: Vec<Vec<Vec<f32>>> = optimizer.moments().iter().map(|m| vec![Vec::new(); m.len()]).collect();
    for (moments, averages) in moments.iter_mut().zip(averages) {
        averages.into_iter().for_each(|(at, values)| moments[at] = values);
    }
    restored.into_iter().for_each(|(at, values)| parameters.variables_mut()[at].values = values);
    optimizer.restore(steps, moments);
    Ok(past)
}

/// By which damage is known.
fn checksum<'a>(run: &str, past: &'a Past, steps: u64, tensors: impl Iterator<Item = &'a [f32]>) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(run.as_bytes());
    [steps, past.items].into_iter().for_each(|number| hash.update(&number.to_le_bytes()));
    [&past.losses[..]].into_iter().chain(tensors).for_each(|values| hash.update(bytemuck::cast_slice(values)));
    hash.digest()
}

/// Characters shown of what differs, and the parts that are.
const SHOWN: (usize, usize) = (48, 4);

/// Where two descriptions differ, as `steps 100 then, 50 now`.
fn differences(then: &str, now: &str) -> String {
    let parts = |text: &str| -> Vec<String> {
        let parts = text.split([',', ';', '{', '}']).map(|part| part.trim().replace(':', ""));
        parts.filter(|part| !part.is_empty()).collect()
    };
    let (then, now) = (parts(then), parts(now));
    if then.len() != now.len() {
        // Something has more to say: what the two have in common says nothing.
        let only = |of: &[String], other: &[String]| {
            let only: Vec<&str> = of.iter().filter(|p| !other.contains(p)).take(SHOWN.1).map(String::as_str).collect();
            if only.is_empty() { "nothing of that".to_owned() } else { shown(&only.join(", ")) }
        };
        return format!("{} then, {} now", only(&then, &now), only(&now, &then));
    }
    let differing = then.iter().zip(&now).filter(|(then, now)| then != now).map(|(then, now)| {
        let same = then.split(' ').zip(now.split(' ')).take_while(|(a, b)| a == b).map(|(a, _)| a.len() + 1).sum();
        format!("{} then, {} now", shown(then), shown(now.get(same..).unwrap_or(now)))
    });
    differing.take(SHOWN.1).collect::<Vec<_>>().join("; ")
}

fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN.0).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn moment_name(moment: usize, path: &str) -> String {
    format!("moment{moment}.{path}")
}

#[cfg(test)]
mod tests {
    use super::differences;

    #[test]
    fn of_two_runs_only_what_differs_is_said() {
        let run = |steps: u64, text: &str, teacher: &str| {
            format!("text {text}, batch 4, teacher {teacher}; Schedule {{ peak: 0.003, steps: {steps} }}; clip None")
        };
        let then = run(100_000, "1f", "none");
        assert_eq!(differences(&then, &run(50_000, "1f", "none")), "steps 100000 then, 50000 now");
        let both = differences(&then, &run(5, "2e", "none"));
        assert_eq!(both, "text 1f then, 2e now; steps 100000 then, 5 now");
        let taught = differences(&then, &run(100_000, "1f", "big.gguf, 64 likeliest tokens"));
        assert_eq!(taught, "teacher none then, teacher big.gguf, 64 likeliest tokens now");
        let long = differences("a", &"b".repeat(1000));
        assert!(long.len() < 100, "{long}");
    }
}
