//! The safetensors file format: eight bytes of header length, a JSON header, and the tensors' bytes.
//!
//! The format's specification is the README of huggingface/safetensors. Where to start: [`read_header`].

use crate::{Error, Result, TensorInfo};
use bantam_formats::Format;
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
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

/// The longest header that the specification allows.
const MAX_HEADER: usize = 100_000_000;

/// The formats that bantam reads, by the names that safetensors gives them.
const DTYPES: [(&str, &str); 3] = [("F32", "F32"), ("F16", "F16"), ("BF16", "BF16")];

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
    let Header(entries) = serde_json::from_slice(json)
        .map_err(|e| malformed(format!("the header (from byte 8 on) is not what safetensors asks for: {e}.")))?;
    let data = Data { start: 8 + json.len(), len: rest.len() - json.len() };
    let mut names = HashSet::with_capacity(entries.len());
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, entry) in &entries {
        if needed(name) {
            tensors.push(check(name, entry, &data).map_err(|problem| problem.at(path, name))?);
        }
        if !names.insert(name) {
            return Err(malformed(format!("tensor {name} appears twice in the header; names must be unique.")));
        }
    }
    check_covered(path, &entries, &data)?;
    Ok(tensors)
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
    let Entry { dtype, shape, data_offsets: [start, end] } = entry;
    let format = DTYPES.iter().find(|(theirs, _)| theirs == dtype).and_then(|(_, ours)| Format::by_name(ours));
    let format = format.ok_or_else(|| {
        Problem::Unsupported(format!(
            "its type is {dtype}, and bantam reads F32, F16 and BF16. Save the model in one of these"
        ))
    })?;
    if shape.len() > 4 || shape.contains(&0) {
        return Err(Problem::Malformed(format!(
            "its shape is {shape:?}; it must have at most 4 dimensions, none of them 0"
        )));
    }
    let bytes = shape.iter().try_fold(format.bytes, |product, &dim| product.checked_mul(dim));
    let bytes = bytes.ok_or_else(|| Problem::Malformed(format!("the size of its shape {shape:?} overflows")))?;
    if *end > data.len || start.checked_add(bytes) != Some(*end) {
        return Err(Problem::Malformed(format!(
            "its bytes are {start}..{end} of the {} that follow the header, but {dtype} of shape {shape:?} takes {bytes}. \
             The file is truncated or its header wrong; download it again",
            data.len
        )));
    }
    let info = TensorInfo { name: name.to_owned(), shape: shape.clone(), format };
    Ok(Stored { info, range: data.start + start..data.start + end })
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

/// The JSON header: its entries in order, duplicates and all.
struct Header(Vec<(String, Entry)>);

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
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        map.next_value::<IgnoredAny>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}
