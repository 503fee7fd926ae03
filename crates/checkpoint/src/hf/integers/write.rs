//! Writing a directory of integers.

use super::super::family::{Family, Name};
use super::super::translation::{Translation, to_halves};
use super::super::write::{Planned, Stop, check_heads, config_of, write_config, write_tensor};
use super::super::{WEIGHTS, pooling};
use super::{Group, Integers, Packing, Shape};
use crate::output::{OutputDir, OutputFile};
use crate::{Checkpoint, Config, Error, Metadata, Result, TensorInfo, TensorWriter, provenance, safetensors};
use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Writes a Hugging Face directory whose linear layers are integers, tensor by tensor in any order, from rows of blocks. The
/// directory appears when it is complete.
pub struct IntegerWriter<'a> {
    checkpoint: &'a Checkpoint,
    packing: &'static Packing,
    family: &'static Family,
    config: Config,
    output: OutputDir,
    file: OutputFile,
    path: PathBuf,
    tensors: Vec<Place>,
    current: usize,
    /// What has come of the current tensor.
    bytes: Vec<u8>,
}

/// A tensor of the model, and where what is written of it goes.
struct Place {
    tensor: TensorInfo,
    name: Name,
    /// From the beginning of the file; several of integers.
    offsets: Vec<u64>,
    complete: bool,
}

/// A tensor of the file.
struct Piece {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    /// Which of the model's tensors it is of, and which of that one's pieces.
    of: (usize, usize),
}

impl<'a> IntegerWriter<'a> {
    /// For these tensors of `checkpoint`, in their new formats; `metadata` is what is recorded.
    ///
    /// # Errors
    /// If transformers has no model of this kind, the packing cannot hold a tensor, the target is there and not empty, or cannot be written.
    pub fn create(
        dir: &Path,
        checkpoint: &'a Checkpoint,
        packing: &'static Packing,
        metadata: &Metadata,
        tensors: &[TensorInfo],
    ) -> Result<Self> {
        let config = Config::of(checkpoint)?;
        let family = Family::by_architecture(&config.architecture).expect("Config::of knows the families only");
        let mut places = tensors
            .iter()
            // Transformers computes the frequencies from the configuration.
            .filter(|t| t.name != crate::ROPE_FREQS)
            .map(|tensor| {
                let name = family.by_gguf_name(&tensor.name).ok_or_else(|| {
                    let message = format!("tensor {} has no name in transformers' {}.", tensor.name, family.class);
                    Error::unsupported(checkpoint.path(), message)
                })?;
                check_heads(checkpoint, tensor, Translation::to_hf(family, &tensor.name, &config))?;
                Ok(Place { tensor: tensor.clone(), name, offsets: Vec::new(), complete: false })
            })
            .collect::<Result<Vec<_>>>()?;
        one_format_a_role(&places, family).map_err(|message| Error::unsupported(checkpoint.path(), message))?;
        let mut pieces = Vec::new();
        for (i, place) in places.iter_mut().enumerate() {
            pieces.extend(place.pieces(i, packing).map_err(|message| Error::unsupported(checkpoint.path(), message))?);
        }
        // Large numbers first, so that all are aligned.
        let size = |piece: &Piece| safetensors::size_of(piece.dtype).expect("a known type");
        pieces.sort_by_key(|piece| std::cmp::Reverse(size(piece)));
        let said = metadata.str(provenance::KEY).map(|record| (provenance::KEY, record));
        let named = pieces.iter().map(|p| (&p.name[..], p.dtype, &p.shape[..]));
        let header = safetensors::header(named, said.as_slice());
        let mut end = header.len() as u64;
        for piece in &pieces {
            places[piece.of.0].offsets[piece.of.1] = end;
            end += (piece.shape.iter().product::<usize>() * size(piece)) as u64;
        }
        let output = OutputDir::create(dir)?;
        let path = output.path().join(WEIGHTS);
        let mut file = OutputFile::create(&path).map_err(|e| output.renamed(e))?;
        file.write_all(&header).map_err(|e| output.renamed(Error::io(&path, "write")(e)))?;
        let (tensors, bytes) = (places, Vec::new());
        Ok(Self { checkpoint, packing, family, config, output, file, path, tensors, current: usize::MAX, bytes })
    }

    /// Writes the current tensor, of which all has come.
    fn put(&mut self) -> Result<()> {
        let Place { tensor, name, offsets, .. } = &self.tensors[self.current];
        let translation = Translation::to_hf(self.family, &tensor.name, &self.config);
        let pieces = match shape_of(tensor) {
            Some(shape) => {
                let integers = Integers::of(shape, &self.bytes);
                let integers = match translation.heads {
                    Some(heads) => integers.reordered(|row| to_halves(row, shape.rows / heads)),
                    None => integers,
                };
                (self.packing.pack)(&integers)
            }
            None => {
                let planned = Planned { tensor, name: name.clone(), format: tensor.format };
                let mut bytes = Vec::new();
                let written = write_tensor(&mut bytes, &self.path, self.checkpoint, &planned, translation, &self.bytes);
                written.map_err(|stop| match stop {
                    Stop::Failed(error) => error,
                    Stop::Overflow => {
                        let message = format!("tensor {} has a number that is too large for F16.", tensor.name);
                        Error::unsupported(self.checkpoint.path(), message)
                    }
                })?;
                vec![bytes]
            }
        };
        for (piece, offset) in pieces.iter().zip(offsets) {
            let written = self.file.seek(SeekFrom::Start(*offset)).and_then(|_| self.file.write_all(piece));
            written.map_err(|e| self.output.renamed(Error::io(&self.path, "write")(e)))?;
        }
        self.bytes.clear();
        self.tensors[self.current].complete = true;
        Ok(())
    }

    fn wrong(&self, message: String) -> Error {
        Error::target(self.output.target(), format!("the output was given wrong data: {message}."))
    }

    /// The `quantization_config`.
    fn quantization(&self) -> serde_json::Value {
        let mut groups: Vec<Group> = Vec::new();
        let mut ignored = vec!["lm_head".to_owned()];
        for Place { tensor, name, .. } in &self.tensors {
            let Some(module) = name.hf.strip_suffix(".weight") else { continue };
            match (shape_of(tensor), role(self.family, module)) {
                (Some(shape), Some(role)) => {
                    let at = groups.iter().position(|g| g.format == shape.format).unwrap_or_else(|| {
                        groups.push(Group { format: shape.format, modules: Vec::new() });
                        groups.len() - 1
                    });
                    if groups.iter().all(|g| g.modules.iter().all(|m| m != role)) {
                        groups[at].modules.push(role.to_owned());
                    }
                }
                (None, Some(_)) if tensor.shape.len() > 1 => ignored.push(module.to_owned()),
                _ => {}
            }
        }
        (self.packing.config)(&groups, &ignored)
    }
}

/// What a module of a layer is called in each of them, as `self_attn.q_proj`.
fn role<'n>(family: &Family, module: &'n str) -> Option<&'n str> {
    Some(module.strip_prefix(family.layers)?.split_once('.')?.1)
}

/// Refuses formats that the `quantization_config` cannot say: it names the modules of all layers alike.
fn one_format_a_role(places: &[Place], family: &Family) -> std::result::Result<(), String> {
    let mut formats: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for Place { tensor, name, .. } in places.iter().filter(|place| place.tensor.shape.len() > 1) {
        let Some(role) = name.hf.strip_suffix(".weight").and_then(|module| role(family, module)) else { continue };
        let (first, format) = formats.entry(role).or_insert((&tensor.name, tensor.format.name));
        if *format != tensor.format.name {
            return Err(format!(
                "{first} is to be {format} and {} {}: such directories have one format for the tensors of a kind in all layers; give them one.",
                tensor.name, tensor.format.name
            ));
        }
    }
    Ok(())
}

impl TensorWriter for IntegerWriter<'_> {
    fn begin(&mut self, name: &str) -> Result<()> {
        if !self.bytes.is_empty() {
            return Err(self.wrong(format!("tensor {} is not complete", self.tensors[self.current].tensor.name)));
        }
        let at = self.tensors.iter().position(|t| t.tensor.name == name && !t.complete);
        if at.is_none() && name != crate::ROPE_FREQS {
            return Err(self.wrong(format!("there is no tensor {name} that is not written yet")));
        }
        self.current = at.unwrap_or(usize::MAX);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(Place { tensor, complete, .. }) = self.tensors.get(self.current) else { return Ok(()) };
        let (size, name) = (tensor.bytes(), &tensor.name);
        if bytes.is_empty() {
            return Ok(());
        }
        if *complete || self.bytes.len() + bytes.len() > size {
            return Err(self.wrong(format!("tensor {name} has {size} bytes, and more were written to it")));
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() == size { self.put() } else { Ok(()) }
    }

    fn finish(self: Box<Self>) -> Result<()> {
        if let Some(missing) = self.tensors.iter().find(|t| !t.complete) {
            return Err(self.wrong(format!("tensor {} is missing", missing.tensor.name)));
        }
        let quantization = self.quantization();
        let Self { checkpoint, family, config, output, file, .. } = *self;
        let written = || {
            file.finish()?;
            let mut json = config_of(checkpoint, family, &config, "float16")?;
            json["quantization_config"] = quantization;
            write_config(&json, output.path())?;
            if let Some(encoder) = &config.encoder {
                pooling::write(output.path(), encoder.pooling, config.embedding_length, config.context_length)?;
            }
            match checkpoint.metadata().get("tokenizer.ggml.tokens") {
                Some(_) => crate::tokenizer::write_hf_tokenizer(checkpoint, output.path()),
                None => Ok(()),
            }
        };
        written().map_err(|e| output.renamed(e))?;
        output.finish()
    }
}

impl Place {
    /// What is written of this tensor, the model's `at`th.
    ///
    /// # Errors
    /// If the packing cannot hold it.
    fn pieces(&mut self, at: usize, packing: &Packing) -> Result<Vec<Piece>, String> {
        let (module, kind) = self.name.hf.rsplit_once('.').unwrap_or(("", &self.name.hf));
        let pieces: Vec<Piece> = match shape_of(&self.tensor) {
            None => {
                let (name, dtype, shape) = (self.name.hf.clone(), self.tensor.format.name, self.tensor.shape.clone());
                vec![Piece { name, dtype, shape, of: (at, 0) }]
            }
            Some(shape) if kind == "weight" && shape.rows.is_multiple_of(8) => (packing.parts)(&shape)
                .into_iter()
                .enumerate()
                .map(|(i, part)| {
                    let name = format!("{module}.{}", part.suffix);
                    Piece { name, dtype: part.dtype, shape: part.shape, of: (at, i) }
                })
                .collect(),
            Some(shape) => {
                return Err(format!(
                    "tensor {} has {} rows, and {} packs eight together.",
                    self.tensor.name, shape.rows, packing.name
                ));
            }
        };
        self.offsets = vec![0; pieces.len()];
        Ok(pieces)
    }
}

/// The shape of a tensor of integers, `None` of others.
fn shape_of(tensor: &TensorInfo) -> Option<Shape> {
    let integer = !tensor.format.in_gguf();
    integer.then(|| Shape { rows: tensor.rows(), cols: tensor.cols(), format: tensor.format })
}
