//! Reading: which tensors of a directory belong together, and what weight they are.

use super::{Packed, Packing, PartInfo, SCALE_TYPES, Shape, compressed_tensors, format_of, gptq};
use crate::safetensors::{self, Part};
use crate::{Error, Result, TensorData};
use memmap2::Mmap;
use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a directory's `quantization_config` says, and the tensors that it is about, gathered file by file.
pub(crate) struct Quantization {
    packing: &'static Packing,
    /// By the module's name.
    modules: BTreeMap<String, Module>,
}

/// The tensors of one module.
#[derive(Default)]
struct Module {
    /// Where it was seen first.
    path: PathBuf,
    parts: BTreeMap<&'static str, (Part, TensorData)>,
}

impl Quantization {
    /// Of this `quantization_config`.
    ///
    /// # Errors
    /// What it has that bantam does not read.
    pub fn of(config: &serde_json::Value) -> Result<Self, String> {
        let packing = match config["quant_method"].as_str() {
            Some("compressed-tensors") => compressed_tensors::packing_of(config)?,
            Some("gptq") => gptq::packing_of(config)?,
            _ => {
                let method = &config["quant_method"];
                return Err(format!("its quant_method is {method}; bantam reads \"compressed-tensors\" and \"gptq\""));
            }
        };
        Ok(Self { packing, modules: BTreeMap::new() })
    }

    /// Takes the tensors of a file that hold integers; returns the names of those that it took.
    ///
    /// # Errors
    /// If the file is malformed, or holds what bantam does not read.
    pub fn take(&mut self, path: &Path, map: &Arc<Mmap>) -> Result<HashSet<String>> {
        let shape = Shape { rows: 8, cols: 8, format: format_of(self.packing.bits, 128).expect("a format of ours") };
        let suffixes: Vec<&'static str> = (self.packing.parts)(&shape).iter().map(|part| part.suffix).collect();
        let suffix = |name: &str| suffixes.iter().find(|s| name.rsplit_once('.').is_some_and(|(_, end)| end == **s));
        // A `weight` may be one that is not quantized.
        let needed = |name: &str, dtype: &str| {
            suffix(name).is_some_and(|s| *s != "weight" || !SCALE_TYPES.contains(&dtype))
                || name.ends_with(".weight_zero_point")
        };
        let mut taken = HashSet::new();
        for part in safetensors::read_parts(path, map, needed)? {
            let Some(&suffix) = suffix(&part.name) else {
                let message = format!("tensor {}: bantam does not read asymmetric integers.", part.name);
                return Err(Error::unsupported(path, message));
            };
            let (module, _) = part.name.rsplit_once('.').expect("it has a suffix");
            let module = self.modules.entry(module.to_owned()).or_default();
            if module.parts.contains_key(suffix) {
                return Err(Error::malformed(path, format!("tensor {} is in two files.", part.name)));
            }
            module.path = path.to_owned();
            taken.insert(part.name.clone());
            let data = TensorData::Mapped { map: map.clone(), range: part.range.clone() };
            module.parts.insert(suffix, (part, data));
        }
        Ok(taken)
    }

    /// The weights, by the names that they would have if they were not quantized, with the file that they lie in. `heads` says of a weight
    /// whether its rows are reordered.
    ///
    /// # Errors
    /// If tensors are missing, do not fit each other, or hold what bantam does not read.
    pub fn weights(self) -> impl Iterator<Item = Result<(PathBuf, String, Packed)>> {
        let packing = self.packing;
        self.modules.into_iter().map(move |(name, module)| {
            let path = module.path.clone();
            let packed = module.packed(packing).map_err(|problem| match problem {
                Problem::Malformed(message) => Error::malformed(&path, format!("module {name}: {message}.")),
                Problem::Unsupported(message) => Error::unsupported(&path, format!("module {name}: {message}.")),
            })?;
            Ok((path, format!("{name}.weight"), packed))
        })
    }
}

/// What is wrong with a module.
enum Problem {
    Malformed(String),
    Unsupported(String),
}

impl Module {
    fn packed(mut self, packing: &'static Packing) -> Result<Packed, Problem> {
        let of = |suffix: &str| self.parts.get(suffix).map(|(part, _)| part.shape.clone());
        let (rows, cols, group) = (packing.shape)(&of).ok_or_else(|| {
            let there: Vec<&str> = self.parts.keys().copied().collect();
            Problem::Malformed(format!("{} do not make a weight as {} has it", there.join(", "), packing.name))
        })?;
        let format = format_of(packing.bits, group).ok_or_else(|| {
            Problem::Unsupported(format!("{group} weights share a scale, and bantam reads groups of 32, 64 and 128"))
        })?;
        if !format.divides(cols) {
            return Err(Problem::Unsupported(format!("its rows of {cols} are no multiple of {}", format.block)));
        }
        let shape = Shape { rows, cols, format };
        let (mut parts, mut scales) = (Vec::new(), String::new());
        for PartInfo { suffix, dtype, shape } in (packing.parts)(&shape) {
            let (part, data) =
                self.parts.remove(suffix).ok_or_else(|| Problem::Malformed(format!("there is no {suffix}")))?;
            let is_scale = dtype == "F16";
            let fits = if is_scale { SCALE_TYPES.contains(&&part.dtype[..]) } else { part.dtype == dtype };
            if !fits || part.shape != shape {
                let (theirs, dims) = (&part.dtype, &part.shape);
                return Err(Problem::Malformed(format!(
                    "its {suffix} is {theirs} {dims:?} and must be {dtype} {shape:?}"
                )));
            }
            if is_scale {
                scales = part.dtype;
            }
            parts.push(data);
        }
        let bytes: Vec<&[u8]> = parts.iter().map(|part| &part[..]).collect();
        (packing.check)(&shape, &bytes).map_err(Problem::Unsupported)?;
        Ok(Packed { packing, shape, parts, scales, heads: None })
    }
}

impl Packed {
    /// Rows, columns and format of the weight.
    pub fn shape(&self) -> (usize, usize, &'static bantam_formats::Format) {
        (self.shape.rows, self.shape.cols, self.shape.format)
    }

    /// The same with the rows of each head reordered, see [`Translation`](super::super::Translation).
    pub fn with_heads(self, heads: Option<usize>) -> Self {
        Self { heads, ..self }
    }
}
