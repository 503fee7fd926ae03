//! The safetensors file format: eight bytes of header length, a JSON header, and the tensors' bytes.
//!
//! The format's specification is the README of huggingface/safetensors. Where to start: [`read_header`]; [`read_parts`] for tensors
//! of integers, [`header`] to write.

use crate::{Error, Result, TensorInfo};
use bantam_formats::Format;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// A tensor as the file describes it, under its own name.
pub struct Stored {
    /// Name, shape and format.
    pub info: TensorInfo,
    /// Where in the file its bytes are.
    pub range: Range<usize>,
}

/// A tensor of any type that bantam knows, integers too, under its own name.
pub struct Part {
    /// Its name.
    pub name: String,
    /// Its type as the file calls it: `F16`, `I32`.
    pub dtype: String,
    /// Its shape, outermost dimension first.
    pub shape: Vec<usize>,
    /// Where in the file its bytes are.
    pub range: Range<usize>,
}

/// The longest header that the specification allows.
const MAX_HEADER: usize = 100_000_000;

/// The formats that bantam reads, by the names that safetensors gives them.
const DTYPES: [(&str, &str); 3] = [("F32", "F32"), ("F16", "F16"), ("BF16", "BF16")];

/// All types of which bantam knows the size in bytes, by the names that safetensors gives them.
const SIZES: [(&str, usize); 7] = [("F32", 4), ("F16", 2), ("BF16", 2), ("I8", 1), ("U8", 1), ("I32", 4), ("I64", 8)];

/// Bytes of a number of this type.
pub(crate) fn size_of(dtype: &str) -> Option<usize> {
    SIZES.iter().find(|(name, _)| *name == dtype).map(|(_, size)| *size)
}

/// Reads the header of the file whose bytes these are. Pure: `path` only names the file in errors.
///
/// # Errors
/// If the bytes break the format, or a tensor has a type other than F32, F16 and BF16.
pub fn read_header(path: &Path, bytes: &[u8]) -> Result<Vec<Stored>> {
    read_needed(path, bytes, |_| true)
}

/// [`read_header`] without the tensors of whose names `needed` says no, which may be of any type.
///
/// # Errors
/// As [`read_header`].
pub fn read_needed(path: &Path, bytes: &[u8], needed: impl Fn(&str) -> bool) -> Result<Vec<Stored>> {
    let file = File::parse(path, bytes)?;
    let wanted = file.entries.iter().filter(|(name, _)| needed(name));
    let stored =
        |(name, entry): &(String, Entry)| check(name, entry, &file.data).map_err(|problem| problem.at(path, name));
    let tensors = wanted.map(stored).collect::<Result<_>>()?;
    file.check(path)?;
    Ok(tensors)
}

/// Reads where the tensors of which `needed` says yes, given name and type, lie.
///
/// # Errors
/// If the bytes break the format, or such a tensor has a type that bantam does not know.
pub fn read_parts(path: &Path, bytes: &[u8], needed: impl Fn(&str, &str) -> bool) -> Result<Vec<Part>> {
    let file = File::parse(path, bytes)?;
    let part = |(name, entry): &(String, Entry)| {
        let size = size_of(&entry.dtype).ok_or_else(|| {
            let known = SIZES.map(|(name, _)| name).join(", ");
            Problem::Unsupported(format!("its type is {}, and bantam reads {known}", entry.dtype))
        });
        let range = size.and_then(|size| range(entry, size, &file.data)).map_err(|problem| problem.at(path, name))?;
        Ok(Part { name: name.clone(), dtype: entry.dtype.clone(), shape: entry.shape.clone(), range })
    };
    let parts = file.entries.iter().filter(|(name, entry)| needed(name, &entry.dtype)).map(part);
    let parts = parts.collect::<Result<_>>()?;
    file.check(path)?;
    Ok(parts)
}

/// What the file's header says beside its tensors (`__metadata__`), under `key`.
///
/// # Errors
/// If the bytes break the format.
pub fn read_metadata(path: &Path, bytes: &[u8], key: &str) -> Result<Option<String>> {
    let file = File::parse(path, bytes)?;
    Ok(file.metadata.get(key).and_then(|value| value.as_str()).map(str::to_owned))
}

/// The beginning of a file: the header's length and the header, padded to 8 bytes as the format asks. `tensors` are names, types
/// and shapes in the order of their bytes, which follow without gaps; `metadata` is what the file says beside them.
///
/// # Panics
/// If a type is none that bantam knows.
pub fn header<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a str, &'a [usize])>,
    metadata: &[(&str, &str)],
) -> Vec<u8> {
    let mut entries = serde_json::Map::new();
    let said = [("format", "pt")].iter().chain(metadata).map(|(key, value)| ((*key).to_owned(), (*value).into()));
    entries.insert("__metadata__".into(), serde_json::Value::Object(said.collect()));
    let mut at = 0;
    for (name, dtype, shape) in tensors {
        let end = at + shape.iter().product::<usize>() * size_of(dtype).expect("a known type");
        entries.insert(name.into(), serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [at, end] }));
        at = end;
    }
    let mut json = serde_json::Value::Object(entries).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(8), b' ');
    [&(json.len() as u64).to_le_bytes()[..], &json].concat()
}

/// A file's header.
struct File {
    entries: Vec<(String, Entry)>,
    metadata: serde_json::Map<String, serde_json::Value>,
    data: Data,
}

impl File {
    /// Takes the header apart.
    fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        let malformed = |message: String| Error::malformed(path, message);
        let Some((length, rest)) = bytes.split_first_chunk() else {
            return Err(malformed(format!("the file has {} bytes; a safetensors file has at least 8.", bytes.len())));
        };
        let length = u64::from_le_bytes(*length);
        let json =
            usize::try_from(length).ok().filter(|&n| n <= MAX_HEADER).and_then(|n| rest.get(..n)).ok_or_else(|| {
                malformed(format!(
                    "the header claims {length} bytes, but {} follow and at most {MAX_HEADER} are allowed. The file is \
                 truncated or no safetensors file; download it again.",
                    rest.len()
                ))
            })?;
        let Header { entries, metadata } = serde_json::from_slice(json)
            .map_err(|e| malformed(format!("the header (from byte 8 on) is not what safetensors asks for: {e}.")))?;
        let data = Data { start: 8 + json.len(), len: rest.len() - json.len() };
        Ok(Self { entries, metadata, data })
    }

    /// That names are unique, and the tensors fill the file.
    fn check(&self, path: &Path) -> Result<()> {
        let mut names = HashSet::with_capacity(self.entries.len());
        if let Some((name, _)) = self.entries.iter().find(|(name, _)| !names.insert(name)) {
            let message = format!("tensor {name} appears twice in the header; names must be unique.");
            return Err(Error::malformed(path, message));
        }
        check_covered(path, &self.entries, &self.data)
    }
}

/// The part of the file that holds the tensors.
struct Data {
    start: usize,
    len: usize,
}

/// What is wrong with one tensor.
enum Problem {
    Malformed(String),
    Unsupported(String),
}

impl Problem {
    fn at(self, path: &Path, name: &str) -> Error {
        match self {
            Problem::Malformed(message) => Error::malformed(path, format!("tensor {name}: {message}.")),
            Problem::Unsupported(message) => Error::unsupported(path, format!("tensor {name}: {message}.")),
        }
    }
}

fn check(name: &str, entry: &Entry, data: &Data) -> Result<Stored, Problem> {
    let Entry { dtype, shape, .. } = entry;
    let format = DTYPES.iter().find(|(theirs, _)| theirs == dtype).and_then(|(_, ours)| Format::by_name(ours));
    let format = format.ok_or_else(|| {
        Problem::Unsupported(format!(
            "its type is {dtype}, and bantam reads F32, F16 and BF16. Save the model in one of these"
        ))
    })?;
    let range = range(entry, format.bytes, data)?;
    let info = TensorInfo { name: name.to_owned(), shape: shape.clone(), format };
    Ok(Stored { info, range })
}

/// Where in the file a tensor's bytes are, `size` a number.
fn range(entry: &Entry, size: usize, data: &Data) -> Result<Range<usize>, Problem> {
    let Entry { dtype, shape, data_offsets: [start, end] } = entry;
    if shape.len() > 4 || shape.contains(&0) {
        return Err(Problem::Malformed(format!(
            "its shape is {shape:?}; it must have at most 4 dimensions, none of them 0"
        )));
    }
    let bytes = shape.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
    let bytes = bytes.ok_or_else(|| Problem::Malformed(format!("the size of its shape {shape:?} overflows")))?;
    if *end > data.len || start.checked_add(bytes) != Some(*end) {
        return Err(Problem::Malformed(format!(
            "its bytes are {start}..{end} of the {} that follow the header, but {dtype} of shape {shape:?} takes {bytes}. \
             The file is truncated or its header wrong; download it again",
            data.len
        )));
    }
    Ok(data.start + start..data.start + end)
}

/// That the tensors neither overlap nor leave gaps, as the specification demands.
fn check_covered(path: &Path, entries: &[(String, Entry)], data: &Data) -> Result<()> {
    let mut order: Vec<(&str, [usize; 2])> = entries.iter().map(|(name, e)| (&name[..], e.data_offsets)).collect();
    order.sort_by_key(|(_, [start, _])| *start);
    let mut at = 0;
    for (name, [start, end]) in order {
        let what = match () {
            () if start < at => "overlaps the tensor before it",
            () if start > at => "leaves a gap before it",
            () if end < start || end > data.len => "does not lie within the file",
            () => {
                at = end;
                continue;
            }
        };
        let message = format!(
            "tensor {name} {what}: it begins at byte {}, and must at byte {}.",
            data.start.saturating_add(start),
            data.start + at
        );
        return Err(Error::malformed(path, message));
    }
    if at != data.len {
        let message = format!("{} bytes follow the last tensor; the file must end with it.", data.len - at);
        return Err(Error::malformed(path, message));
    }
    Ok(())
}

/// The JSON header: its entries in order, duplicates and all, and what is said beside them.
struct Header {
    entries: Vec<(String, Entry)>,
    metadata: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [usize; 2],
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let (mut entries, mut metadata) = (Vec::new(), serde_json::Map::new());
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        // Whatever else others put there is no concern of ours.
                        if let serde_json::Value::Object(said) = map.next_value()? {
                            metadata = said;
                        }
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header { entries, metadata })
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
