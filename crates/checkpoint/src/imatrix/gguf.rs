//! The GGUF form: for each tensor `NAME.in_sum2`, `[experts, cols]`, and `NAME.counts`, `[experts, 1]`, both F32.

use super::{Entry, Imatrix, checked_sums, fitting};
use crate::gguf::{Header, read_header};
use crate::metadata::Array;
use crate::{Error, GgufWriter, Metadata, Result, TensorInfo, Value};
use bantam_formats::Format;
use std::collections::BTreeMap;
use std::path::Path;

/// The value of `general.type`.
const TYPE: &str = "imatrix";

const TYPE_KEY: &str = "general.type";
const DATASETS_KEY: &str = "imatrix.datasets";
const CHUNK_COUNT_KEY: &str = "imatrix.chunk_count";
const CHUNK_SIZE_KEY: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The largest count that is believed; there is no text of more tokens.
const MAX_COUNT: f32 = (1u64 << 53) as f32;

pub fn parse(path: &Path, bytes: &[u8]) -> Result<Imatrix> {
    let header = read_header(path, bytes)?;
    refuse_other_kinds(path, &header)?;
    let uint = |key| header.metadata.uint(key).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    Ok(Imatrix {
        datasets: header.metadata.strings(DATASETS_KEY).unwrap_or_default().to_vec(),
        chunk_tokens: Some(uint(CHUNK_SIZE_KEY)).filter(|&n| n > 0),
        chunks: uint(CHUNK_COUNT_KEY),
        entries: entries(path, bytes, &header)?,
    })
}

/// A file that does not say its type is known by its tensors, as in llama.cpp.
fn refuse_other_kinds(path: &Path, header: &Header) -> Result<()> {
    let kind = header.metadata.str(TYPE_KEY);
    if kind == Some(TYPE) || (kind.is_none() && header.tensors.iter().any(|t| t.name.ends_with(SUMS))) {
        return Ok(());
    }
    let what = match (header.metadata.str("general.architecture"), kind) {
        (Some(architecture), None | Some("model")) => format!("a {architecture} model"),
        (_, Some(kind)) => format!("a GGUF file of the type {kind:?}"),
        (None, None) => "a GGUF file of another kind".into(),
    };
    let message = format!(
        "this is {what}, not an importance matrix. Give the file that llama-imatrix or bantam made from the model and \
         some text."
    );
    Err(Error::malformed(path, message))
}

/// The bytes of the two tensors that make an entry.
#[derive(Default)]
struct Pair<'a> {
    sums: Option<&'a [u8]>,
    counts: Option<&'a [u8]>,
}

fn entries(path: &Path, bytes: &[u8], header: &Header) -> Result<BTreeMap<String, Entry>> {
    let mut found: BTreeMap<&str, Pair<'_>> = BTreeMap::new();
    for (tensor, range) in header.tensors.iter().zip(&header.ranges) {
        let data = Some(&bytes[range.clone()]);
        if let Some(name) = tensor.name.strip_suffix(SUMS) {
            found.entry(name).or_default().sums = data;
        } else if let Some(name) = tensor.name.strip_suffix(COUNTS) {
            found.entry(name).or_default().counts = data;
        } else {
            continue;
        }
        if tensor.format.name != "F32" {
            let message = format!("{} is in {}; importance matrices are in F32.", tensor.name, tensor.format);
            return Err(Error::malformed(path, message));
        }
    }
    let entry = |(name, pair): (&str, Pair<'_>)| match pair {
        Pair { sums: Some(sums), counts: Some(counts) } => Ok((name.to_owned(), entry(path, name, sums, counts)?)),
        Pair { sums, .. } => {
            let (there, missing) = if sums.is_some() { (SUMS, COUNTS) } else { (COUNTS, SUMS) };
            let message = format!("there is {name}{there}, but no {name}{missing}; every tensor needs both.");
            Err(Error::malformed(path, message))
        }
    };
    found.into_iter().map(entry).collect()
}

fn entry(path: &Path, name: &str, sums: &[u8], counts: &[u8]) -> Result<Entry> {
    let sums = checked_sums(path, name, sums)?;
    let count = |&bytes: &[u8; 4]| {
        let count = f32::from_le_bytes(bytes);
        if (0.0..=MAX_COUNT).contains(&count) {
            return Ok(count.round() as u64);
        }
        let message = format!("{name}{COUNTS} holds {count}, which is no number of tokens. The file is corrupt.");
        Err(Error::malformed(path, message))
    };
    let counts: Vec<u64> = counts.as_chunks().0.iter().map(count).collect::<Result<_>>()?;
    if !sums.len().is_multiple_of(counts.len()) {
        let (sums, counts) = (sums.len(), counts.len());
        let message =
            format!("{name} has {sums} sums and {counts} counts; each count must be of the same number of sums.");
        return Err(Error::malformed(path, message));
    }
    Ok(Entry::new(sums, counts))
}

pub fn write(imatrix: &Imatrix, path: &Path) -> Result<()> {
    let uint = |value: usize, key| fitting(path, value as u64, key).map(Value::U32);
    let mut metadata = Metadata::default();
    metadata.set(TYPE_KEY, Value::String(TYPE.into()));
    metadata.set(DATASETS_KEY, Value::Array(Array::String(imatrix.datasets.clone())));
    metadata.set(CHUNK_COUNT_KEY, uint(imatrix.chunks, CHUNK_COUNT_KEY)?);
    // All three keys must be there for llama-quantize, which does not use this one.
    metadata.set(CHUNK_SIZE_KEY, uint(imatrix.chunk_tokens.unwrap_or(0), CHUNK_SIZE_KEY)?);

    let format = Format::f32();
    let tensors = imatrix.entries.iter().flat_map(|(name, entry)| {
        let (sums, experts) = (entry.sums.len(), entry.counts.len());
        // ggml leaves an outermost dimension of one out; so the bytes are llama.cpp's.
        let tensor = |part, cols| TensorInfo {
            name: format!("{name}{part}"),
            shape: if experts == 1 { vec![cols] } else { vec![experts, cols] },
            format,
        };
        [tensor(SUMS, sums / experts), tensor(COUNTS, 1)]
    });
    let mut writer = GgufWriter::create(path, &metadata, &tensors.collect::<Vec<_>>())?;
    for entry in imatrix.entries.values() {
        let counts: Vec<f32> = entry.counts.iter().map(|&n| n as f32).collect();
        for values in [&entry.sums, &counts] {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            writer.write(&bytes)?;
        }
    }
    writer.finish()
}
