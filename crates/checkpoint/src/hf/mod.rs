//! Hugging Face directories, in GGUF's terms.
//!
//! A directory holds `config.json`, `model.safetensors` or several shards with `model.safetensors.index.json`, and the
//! tokenizer's files. [`open`] translates it; [`write_hf`] translates back.
//!
//! Where to start: `family` for the families and their tensors' names, `config` for the hyperparameters,
//! `translation` for what is done to the numbers, `integers` for quantized weights, `pooling` for what makes a sentence encoder of a model.

mod config;
mod family;
pub mod integers;
mod pooling;
mod translation;
mod write;

pub use write::write_hf;

use crate::checkpoint::{Source, TensorData, TensorInfo};
use crate::safetensors::{self, Stored};
use crate::{Checkpoint, Error, Metadata, Result, Value, mapped, provenance};
use bantam_formats::Format;
use config::ConfigJson;
use family::{Family, Name};
pub(crate) use integers::Packed;
use integers::Quantization;
use serde::Deserialize;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
pub(crate) use translation::Translation;

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const TOKENIZER: &str = "tokenizer.json";

/// Parts of tensor names that old exports carry and no model needs.
const IGNORED: [&str; 3] = [".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"];

/// Opens a Hugging Face directory: headers only, the weights are mapped and translated when they are read.
///
/// # Errors
/// If files are missing or malformed, or the model is of a kind that bantam does not support.
pub fn open(dir: &Path) -> Result<Checkpoint> {
    if !dir.join(CONFIG).exists() {
        let message =
            format!("this directory has no {CONFIG}, so it is no Hugging Face model. Give one, or a GGUF file.");
        return Err(Error::malformed(dir, message));
    }
    let (family, config) = read_config(&dir.join(CONFIG), &mapped::read_text(&dir.join(CONFIG))?)?;
    let mut metadata = general(dir, family);
    config.metadata(family).iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    if family.is_encoder() {
        let key = format!("{}.pooling_type", family.architecture);
        metadata.set(&key, Value::U32(pooling::read(dir)?.code()));
    }
    if dir.join(TOKENIZER).exists() {
        let tokenizer = crate::tokenizer::gguf_metadata_from_hf(dir, config.vocab_size as usize)?;
        tokenizer.iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    }
    let mut tensors = Vec::new();
    let mut names = HashSet::new();
    let mut quantization = quantization(&dir.join(CONFIG), &config)?;
    for file in weight_files(dir)? {
        let path = dir.join(file);
        let map = mapped::map(&path)?;
        let taken = quantization.as_mut().map(|q| q.take(&path, &map)).transpose()?.unwrap_or_default();
        let needed = |name: &str| !ignored(family, name) && !taken.contains(name);
        for stored in safetensors::read_needed(&path, &map, needed)? {
            let Some(name) = translate_name(&path, family, &config, &stored.info.name)? else { continue };
            if !names.insert(name.gguf.clone()) {
                return Err(Error::malformed(&path, format!("tensor {} is in two files.", stored.info.name)));
            }
            tensors.push((name.place, translate_tensor(&path, family, &config, name, stored, &map)?));
        }
        if let Some(record) = safetensors::read_metadata(&path, &map, provenance::KEY)? {
            metadata.set(provenance::KEY, Value::String(record));
        }
    }
    for weight in quantization.into_iter().flat_map(Quantization::weights) {
        let (path, name, packed) = weight?;
        let Some(name) = translate_name(&path, family, &config, &name)? else { continue };
        if !names.insert(name.gguf.clone()) {
            return Err(Error::malformed(&path, format!("tensor {} is there twice, as integers and not.", name.hf)));
        }
        tensors.push((name.place, translate_packed(&path, family, &config, name, packed)?));
    }
    complete(dir, family, &config, &names)?;
    tensors.sort_by_key(|(place, _)| *place);
    let mut tensors: Vec<_> = tensors.into_iter().map(|(_, tensor)| tensor).collect();
    if let Some(factors) = config.rope_factors() {
        tensors.insert(0, rope_freqs(&factors));
    }
    metadata.set("general.file_type", Value::U32(file_type(&tensors)));
    metadata.set("general.quantization_version", Value::U32(2));
    let (tensors, sources) = tensors.into_iter().unzip();
    Ok(Checkpoint::assemble(dir, metadata, tensors, sources))
}

/// A model that is yet to be made: the hyperparameters of a `config.json`, the tokenizer of `tokens_of`, and no weights (Llama
/// 3's frequency factors excepted, which are part of the architecture). The second answer is whether its head is its embedding.
///
/// # Errors
/// If the file is missing or malformed, describes a model that bantam does not support, or one of another number of tokens.
pub fn planned(config: &Path, tokens_of: &Checkpoint) -> Result<(Checkpoint, bool)> {
    let (family, json) = read_config(config, &mapped::read_text(config)?)?;
    let tokens = tokens_of.metadata().strings("tokenizer.ggml.tokens").map_or(0, <[_]>::len);
    let vocab_size = json.vocab_size as usize;
    let embedded = tokens_of.tensor("token_embd.weight").map_or(tokens, TensorInfo::rows);
    if vocab_size < tokens || vocab_size > embedded.max(tokens) {
        let message = format!("the vocab_size is {vocab_size}; {} has {embedded} tokens.", tokens_of.path().display());
        return Err(Error::malformed(config, message));
    }
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String(family.architecture.into()));
    metadata.set("general.type", Value::String("model".into()));
    json.metadata(family).iter().for_each(|(key, value)| metadata.set(key, value.clone()));
    let pooling = format!("{}.pooling_type", family.architecture);
    let tokenizer = tokens_of.metadata().iter().filter(|(key, _)| key.starts_with("tokenizer.") || **key == pooling);
    tokenizer.for_each(|(key, value)| metadata.set(key, value.clone()));
    metadata.set("general.quantization_version", Value::U32(2));
    let (tensors, sources) = json.rope_factors().map(|factors| rope_freqs(&factors)).into_iter().unzip();
    Ok((Checkpoint::assemble(config, metadata, tensors, sources), json.tied()))
}

/// Reads `config.json` and refuses what is not supported. Pure: `path` only names the file in errors.
///
/// # Errors
/// If it is malformed, or describes a model that bantam does not support.
fn read_config(path: &Path, json: &str) -> Result<(&'static Family, ConfigJson)> {
    #[derive(Deserialize)]
    struct Kind {
        model_type: Option<String>,
    }
    let malformed =
        |e: serde_json::Error| Error::malformed(path, format!("this is not the configuration of a model: {e}."));
    let kind: Kind = serde_json::from_str(json).map_err(malformed)?;
    let kind = kind
        .model_type
        .ok_or_else(|| Error::malformed(path, "there is no model_type, which names the kind of model."))?;
    let family = Family::by_model_type(&kind).ok_or_else(|| {
        let known: Vec<&str> = family::FAMILIES.iter().flat_map(|f| f.model_types).copied().collect();
        Error::unsupported(path, format!("the model_type is {kind:?}; bantam reads {}.", known.join(", ")))
    })?;
    let config: ConfigJson = serde_json::from_str(json).map_err(malformed)?;
    if let Some(message) = config.malformed(family) {
        return Err(Error::malformed(path, format!("{message}.")));
    }
    if let Some(message) = config.unsupported(family) {
        return Err(Error::unsupported(path, format!("bantam does not support this model: {message}.")));
    }
    Ok((family, config))
}

/// Checks a `config.json` as [`open`] does, for tests and fuzzing.
///
/// # Errors
/// As [`open`].
pub fn check_config(path: &Path, json: &str) -> Result<Metadata> {
    let (family, config) = read_config(path, json)?;
    let _ = config.rope_factors().filter(|_| config.head_dim() < 4096);
    Ok(config.metadata(family))
}

/// Metadata about the model as a whole.
fn general(dir: &Path, family: &Family) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", Value::String(family.architecture.into()));
    metadata.set("general.type", Value::String("model".into()));
    if let Some(name) = dir.canonicalize().ok().as_deref().and_then(Path::file_name) {
        metadata.set("general.name", Value::String(name.to_string_lossy().into()));
    }
    metadata
}

/// The names of the safetensors files, sorted.
fn weight_files(dir: &Path) -> Result<BTreeSet<String>> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let path = dir.join(INDEX);
    if !path.exists() {
        return Ok([WEIGHTS.to_owned()].into());
    }
    let index: Index = serde_json::from_str(&mapped::read_text(&path)?)
        .map_err(|e| Error::malformed(&path, format!("this is not an index of safetensors files: {e}.")))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    match files.iter().find(|name| Path::new(name).file_name() != Some(name.as_ref())) {
        Some(name) => {
            Err(Error::malformed(&path, format!("it names the file {name:?}; files must lie beside the index.")))
        }
        None => Ok(files),
    }
}

/// Whether no model needs the tensor of this name.
fn ignored(family: &Family, name: &str) -> bool {
    IGNORED.iter().any(|ignored| name.ends_with(ignored)) || family.ignores(name)
}

/// Checks that the weights (biases aside) of these GGUF names are those of the layers that the configuration has, no fewer
/// and no more: a directory whose download was cut short is no model.
fn complete(dir: &Path, family: &Family, config: &ConfigJson, names: &HashSet<String>) -> Result<()> {
    let layers = config.num_hidden_layers as usize;
    if let Some(missing) = family.weights(layers, config.tied()).find(|name| !names.contains(&name.gguf)) {
        let message = format!("there is no tensor {}, which {CONFIG} asks for. Is a file missing?", missing.hf);
        return Err(Error::malformed(dir, message));
    }
    let beyond = |name: &Name| name.layer().is_some_and(|layer| layer >= layers);
    match names.iter().filter_map(|name| family.by_gguf_name(name)).filter(beyond).min_by_key(|name| name.place) {
        Some(name) => {
            let message = format!("there is a tensor {}, but {CONFIG} has {layers} layers, from 0.", name.hf);
            Err(Error::malformed(dir, message))
        }
        None => Ok(()),
    }
}

/// The tensor's name on both sides, `None` if the model does not need it.
fn translate_name(path: &Path, family: &Family, config: &ConfigJson, name: &str) -> Result<Option<Name>> {
    match family.by_hf_name(name) {
        Some(known) if known.gguf == "output.weight" && config.tied() => Ok(None),
        Some(known) => Ok(Some(known)),
        None => Err(Error::unsupported(
            path,
            format!("bantam does not know the tensor {name} in {} models.", family.architecture),
        )),
    }
}

/// How a tensor of so many rows is translated.
fn translation(path: &Path, family: &Family, config: &ConfigJson, name: &Name, rows: usize) -> Result<Translation> {
    let translation =
        Translation::to_gguf(family, &name.gguf, config.num_attention_heads as usize, config.head_count_kv() as usize);
    match translation.heads {
        Some(heads) if !rows.is_multiple_of(2 * heads) => {
            let message = format!("tensor {} has {rows} rows, which {heads} heads do not divide into pairs.", name.hf);
            Err(Error::malformed(path, message))
        }
        _ => Ok(translation),
    }
}

fn translate_packed(
    path: &Path,
    family: &Family,
    config: &ConfigJson,
    name: Name,
    packed: Packed,
) -> Result<(TensorInfo, Source)> {
    let (rows, cols, format) = packed.shape();
    let translation = translation(path, family, config, &name, rows)?;
    let info = TensorInfo { name: name.gguf, shape: vec![rows, cols], format };
    Ok((info, Source::Packed(packed.with_heads(translation.heads))))
}

/// What the configuration says of integers, if it does.
fn quantization(path: &Path, config: &ConfigJson) -> Result<Option<Quantization>> {
    let read = |json: &serde_json::Value| {
        let unsupported = |m| Error::unsupported(path, format!("bantam cannot read its quantization_config: {m}."));
        Quantization::of(json).map_err(unsupported)
    };
    config.quantization_config.as_ref().map(read).transpose()
}

fn translate_tensor(
    path: &Path,
    family: &Family,
    config: &ConfigJson,
    name: Name,
    stored: Stored,
    map: &Arc<memmap2::Mmap>,
) -> Result<(TensorInfo, Source)> {
    let translation = translation(path, family, config, &name, stored.info.shape.first().copied().unwrap_or(1))?;
    let mut info = TensorInfo { name: name.gguf, ..stored.info.clone() };
    if info.stays_f32() {
        info.format = Format::f32();
    }
    let format = info.format;
    let data = TensorData::Mapped { map: map.clone(), range: stored.range };
    let source = if translation.is_identity() && format == stored.info.format {
        Source::Stored(data)
    } else {
        Source::Translated { stored: stored.info, data, translation }
    };
    Ok((info, source))
}

/// Llama 3's frequency factors as a tensor.
fn rope_freqs(factors: &[f32]) -> (TensorInfo, Source) {
    let format = Format::f32();
    let bytes: Vec<u8> = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
    let info = TensorInfo { name: crate::ROPE_FREQS.into(), shape: vec![factors.len()], format };
    (info, Source::Stored(TensorData::Owned(bytes.into())))
}

/// llama.cpp's `general.file_type`: the format of most of the weights.
fn file_type(tensors: &[(TensorInfo, Source)]) -> u32 {
    let matrices = tensors.iter().filter(|(info, _)| info.shape.len() > 1);
    match matrices.max_by_key(|(info, _)| info.len()).map_or("F32", |(info, _)| info.format.name) {
        "F16" => 1,
        "BF16" => 32,
        _ => 0,
    }
}

/// The files that a model in a directory consists of: of those directly in it the ones that [`is_a_models`] says are, and of
/// safetensors files the ones that [`open`] reads; in the order of their names. A link counts as the file it leads to: a download's
/// cache is made of links.
///
/// # Errors
/// If the directory, or the index of its weights, cannot be read.
pub fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let weights = weight_files(dir)?;
    let read = |path: &Path| weights.iter().any(|name| path.ends_with(name));
    let is_weights = |path: &Path| path.extension().is_some_and(|extension| extension == "safetensors");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "read"))? {
        let path = entry.map_err(Error::io(dir, "read"))?.path();
        if is_a_models(&path) && (read(&path) || !is_weights(&path)) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Whether a file is one of those that a model's directory consists of, by its name: weights, configuration, tokenizer, chat template.
pub fn is_a_models(file: &Path) -> bool {
    let extensions = ["safetensors", "json", "txt", "model", "jinja"];
    file.extension().is_some_and(|of| extensions.iter().any(|extension| of == *extension))
}
