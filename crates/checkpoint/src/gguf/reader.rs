//! Reading a GGUF header, and checking everything that it claims.

use super::cursor::Cursor;
use super::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, value_type};
use crate::metadata::Array;
use crate::{Error, Metadata, Result, TensorInfo, Value};
use bantam_formats::{Format, ggml_type_name};
use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

/// What a GGUF header says, checked against the file's length.
#[derive(Debug)]
pub struct Header {
    /// The format version, 2 or 3.
    pub version: u32,
    /// The metadata, in file order.
    pub metadata: Metadata,
    /// The tensors, in file order.
    pub tensors: Vec<TensorInfo>,
    /// Where in the file each tensor's bytes are. The ranges lie inside the file and do not overlap.
    pub ranges: Vec<Range<usize>>,
}

/// The most dimensions that ggml's tensors have.
const MAX_RANK: u32 = 4;

/// Bytes of the shortest metadata entry: key length, one byte of key, type, a one-byte value.
const SHORTEST_ENTRY: usize = 8 + 1 + 4 + 1;

/// Bytes of the shortest tensor entry: name length, one byte of name, rank, type, offset.
const SHORTEST_TENSOR: usize = 8 + 1 + 4 + 4 + 8;

/// Entries for which memory is reserved at once, however many a header claims.
const RESERVE: usize = 1 << 16;

/// Reads the header of the GGUF file whose bytes these are. Pure: `path` only names the file in errors. Memory use is
/// bounded by a small multiple of the bytes given; tensors' bytes are not touched.
///
/// # Errors
/// If the bytes break the format in any way, or hold a version or a tensor type that bantam does not support.
pub fn read_header(path: &Path, bytes: &[u8]) -> Result<Header> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    let version = read_version(&mut cursor)?;
    let tensor_count = cursor.count(SHORTEST_TENSOR, "the number of tensors")?;
    let entry_count = cursor.count(SHORTEST_ENTRY, "the number of metadata entries")?;
    let metadata = read_metadata(&mut cursor, entry_count)?;
    if let Some(parts) = metadata.uint("split.count").filter(|&n| n > 1) {
        let message = format!(
            "this is one of {parts} parts of a split model. Join them with `llama-gguf-split --merge FIRST-PART OUTPUT`, \
             and give the result."
        );
        return Err(Error::unsupported(path, message));
    }
    let alignment = alignment(path, &metadata)?;

    let mut names = HashSet::with_capacity(tensor_count.min(RESERVE));
    let mut tensors = Vec::with_capacity(tensor_count.min(RESERVE));
    let mut offsets = Vec::with_capacity(tensor_count.min(RESERVE));
    for i in 0..tensor_count {
        let at = cursor.at;
        let (tensor, offset) = read_tensor(&mut cursor, i)?;
        if !names.insert(tensor.name.clone()) {
            let name = &tensor.name;
            return Err(cursor.malformed(at, format_args!("tensor {name} appears twice; names must be unique")));
        }
        tensors.push(tensor);
        offsets.push(offset);
    }
    let ranges = locate(&cursor, alignment, &tensors, &offsets)?;
    Ok(Header { version, metadata, tensors, ranges })
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let magic: [u8; 4] = cursor.array("the magic number")?;
    if magic != MAGIC {
        return Err(cursor.malformed(
            0,
            format_args!(
                "the file begins with {:?}, not with \"GGUF\"; it is no GGUF file. Bantam opens GGUF files and \
                    Hugging Face directories (the directory, not a file in it)",
                magic.escape_ascii().to_string()
            ),
        ));
    }
    let unsupported = |message: String| Err(Error::unsupported(cursor.path, message));
    match cursor.u32("the version")? {
        version @ (2 | 3) => Ok(version),
        1 => unsupported(
            "this is GGUF version 1, which was in use for two weeks of 2023. Convert the original model \
            again; bantam reads versions 2 and 3."
                .into(),
        ),
        version if version & 0xFFFF == 0 => unsupported(
            "this GGUF file is big-endian. Bantam reads little-endian files; download that variant, or \
                convert it with gguf-convert-endian."
                .into(),
        ),
        version => unsupported(format!("this is GGUF version {version}; bantam reads versions 2 and 3.")),
    }
}

fn read_metadata(cursor: &mut Cursor<'_>, count: usize) -> Result<Metadata> {
    let mut keys = HashSet::with_capacity(count.min(RESERVE));
    let mut entries = Vec::with_capacity(count.min(RESERVE));
    for i in 0..count {
        let at = cursor.at;
        let key = cursor.string(format_args!("the key of metadata entry {i}"))?;
        if key.is_empty() {
            return Err(cursor.malformed(at, format_args!("the key of metadata entry {i} is empty")));
        }
        if !keys.insert(key) {
            return Err(
                cursor.malformed(at, format_args!("the metadata key {key:?} appears twice; keys must be unique"))
            );
        }
        let type_id = cursor.u32(format_args!("the type of {key}"))?;
        let value = read_value(cursor, type_id, key)?;
        entries.push((key.to_owned(), value));
    }
    Ok(Metadata::from_unique(entries))
}

fn read_value(cursor: &mut Cursor<'_>, type_id: u32, key: &str) -> Result<Value> {
    let what = format_args!("the value of {key}");
    Ok(match type_id {
        value_type::U8 => Value::U8(u8::from_le_bytes(cursor.array(what)?)),
        value_type::I8 => Value::I8(i8::from_le_bytes(cursor.array(what)?)),
        value_type::U16 => Value::U16(u16::from_le_bytes(cursor.array(what)?)),
        value_type::I16 => Value::I16(i16::from_le_bytes(cursor.array(what)?)),
        value_type::U32 => Value::U32(u32::from_le_bytes(cursor.array(what)?)),
        value_type::I32 => Value::I32(i32::from_le_bytes(cursor.array(what)?)),
        value_type::F32 => Value::F32(f32::from_le_bytes(cursor.array(what)?)),
        value_type::U64 => Value::U64(u64::from_le_bytes(cursor.array(what)?)),
        value_type::I64 => Value::I64(i64::from_le_bytes(cursor.array(what)?)),
        value_type::F64 => Value::F64(f64::from_le_bytes(cursor.array(what)?)),
        value_type::STRING => Value::String(cursor.string(what)?.to_owned()),
        value_type::BOOL => {
            let at = cursor.at;
            let [byte] = cursor.array(what)?;
            Value::Bool(boolean(cursor, at, byte, key)?)
        }
        value_type::ARRAY => Value::Array(read_array(cursor, key)?),
        other => return Err(unknown_value_type(cursor, other, key)),
    })
}

fn read_array(cursor: &mut Cursor<'_>, key: &str) -> Result<Array> {
    let type_id = cursor.u32(format_args!("the element type of {key}"))?;
    Ok(match type_id {
        value_type::U8 => Array::U8(numbers(cursor, key, u8::from_le_bytes)?),
        value_type::I8 => Array::I8(numbers(cursor, key, i8::from_le_bytes)?),
        value_type::U16 => Array::U16(numbers(cursor, key, u16::from_le_bytes)?),
        value_type::I16 => Array::I16(numbers(cursor, key, i16::from_le_bytes)?),
        value_type::U32 => Array::U32(numbers(cursor, key, u32::from_le_bytes)?),
        value_type::I32 => Array::I32(numbers(cursor, key, i32::from_le_bytes)?),
        value_type::F32 => Array::F32(numbers(cursor, key, f32::from_le_bytes)?),
        value_type::U64 => Array::U64(numbers(cursor, key, u64::from_le_bytes)?),
        value_type::I64 => Array::I64(numbers(cursor, key, i64::from_le_bytes)?),
        value_type::F64 => Array::F64(numbers(cursor, key, f64::from_le_bytes)?),
        value_type::BOOL => {
            let bytes = numbers(cursor, key, u8::from_le_bytes)?;
            let start = cursor.at - bytes.len();
            let booleans = bytes.iter().enumerate().map(|(i, &b)| boolean(cursor, start + i, b, key));
            Array::Bool(booleans.collect::<Result<_>>()?)
        }
        value_type::STRING => {
            let count = cursor.count(8, format_args!("the length of the array {key}"))?;
            let strings = (0..count).map(|i| cursor.string(format_args!("element {i} of {key}")).map(str::to_owned));
            Array::String(strings.collect::<Result<_>>()?)
        }
        value_type::ARRAY => {
            let message = format!(
                "the metadata key {key} holds an array of arrays, which bantam does not read. Remove the key with \
                    gguf-new-metadata --remove-metadata."
            );
            return Err(Error::unsupported(cursor.path, message));
        }
        other => return Err(unknown_value_type(cursor, other, key)),
    })
}

/// An array's length and its numbers.
fn numbers<T, const N: usize>(cursor: &mut Cursor<'_>, key: &str, from_le_bytes: fn([u8; N]) -> T) -> Result<Vec<T>> {
    let count = cursor.count(N, format_args!("the length of the array {key}"))?;
    let bytes = cursor.take(count * N, format_args!("the array {key}"))?;
    Ok(bytes.as_chunks::<N>().0.iter().map(|&chunk| from_le_bytes(chunk)).collect())
}

fn boolean(cursor: &Cursor<'_>, at: usize, byte: u8, key: &str) -> Result<bool> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(cursor.malformed(at, format_args!("{key} holds the boolean {other}; only 0 and 1 are booleans"))),
    }
}

fn unknown_value_type(cursor: &Cursor<'_>, type_id: u32, key: &str) -> Error {
    cursor.malformed(cursor.at - 4, format_args!("{key} has the value type {type_id}; GGUF knows types 0 to 12"))
}

/// The alignment of tensor data.
fn alignment(path: &Path, metadata: &Metadata) -> Result<usize> {
    match metadata.get(ALIGNMENT_KEY) {
        None => Ok(ALIGNMENT),
        Some(Value::U32(n)) if n.is_power_of_two() => Ok(*n as usize),
        Some(other) => Err(Error::malformed(
            path,
            format!("{ALIGNMENT_KEY} is {other:?}; it must be a power of two as a 32-bit unsigned number, usually 32."),
        )),
    }
}

/// One row of the tensor table: the tensor and its offset from the start of the data.
fn read_tensor(cursor: &mut Cursor<'_>, i: usize) -> Result<(TensorInfo, u64)> {
    let at = cursor.at;
    let name = cursor.string(format_args!("the name of tensor {i}"))?.to_owned();
    if name.is_empty() {
        return Err(cursor.malformed(at, format_args!("the name of tensor {i} is empty")));
    }
    let shape = read_shape(cursor, &name)?;
    let at = cursor.at;
    let type_id = cursor.u32(format_args!("the type of tensor {name}"))?;
    let format = Format::by_id(type_id).ok_or_else(|| unsupported_type(cursor, at, type_id, &name))?;
    let cols = shape.last().copied().unwrap_or(1);
    if !format.divides(cols) {
        return Err(cursor.malformed(
            at,
            format_args!(
                "tensor {name} has rows of {cols} weights, which are no whole number of {format} blocks of {}",
                format.block
            ),
        ));
    }
    let offset = cursor.u64(format_args!("the offset of tensor {name}"))?;
    Ok((TensorInfo { name, shape, format }, offset))
}

/// The dimensions, outermost first; their product fits `usize`.
fn read_shape(cursor: &mut Cursor<'_>, name: &str) -> Result<Vec<usize>> {
    let at = cursor.at;
    let rank = cursor.u32(format_args!("the number of dimensions of tensor {name}"))?;
    if rank > MAX_RANK {
        return Err(cursor
            .malformed(at, format_args!("tensor {name} claims {rank} dimensions; tensors have at most {MAX_RANK}")));
    }
    let mut shape = Vec::with_capacity(rank as usize);
    let mut len = 1usize;
    for d in 0..rank {
        let at = cursor.at;
        let dim = cursor.u64(format_args!("dimension {d} of tensor {name}"))?;
        if dim == 0 {
            return Err(
                cursor.malformed(at, format_args!("dimension {d} of tensor {name} is 0; it must be at least 1"))
            );
        }
        let product = usize::try_from(dim).ok().and_then(|dim| Some((dim, len.checked_mul(dim)?)));
        let (dim, product) = product.ok_or_else(|| {
            cursor
                .malformed(at, format_args!("dimension {d} of tensor {name} is {dim}; the number of weights overflows"))
        })?;
        shape.push(dim);
        len = product;
    }
    shape.reverse();
    Ok(shape)
}

fn unsupported_type(cursor: &Cursor<'_>, at: usize, type_id: u32, tensor: &str) -> Error {
    match ggml_type_name(type_id) {
        Some(name) => Error::unsupported(
            cursor.path,
            format!(
                "tensor {tensor} has the type {name} (id {type_id}, at byte {at}), which bantam does not read. \
                Get the model in another type, for example Q8_0 or F16."
            ),
        ),
        None => cursor.malformed(
            at,
            format_args!(
                "tensor {tensor} has the type id {type_id}, which ggml does not know. The file is corrupt \
                or newer than this bantam"
            ),
        ),
    }
}

/// Where each tensor's bytes are in the file: aligned, inside, and apart from each other.
fn locate(cursor: &Cursor<'_>, alignment: usize, tensors: &[TensorInfo], offsets: &[u64]) -> Result<Vec<Range<usize>>> {
    let len = cursor.bytes.len();
    let data_start = cursor.at.next_multiple_of(alignment);
    let mut ranges = Vec::with_capacity(tensors.len());
    for (tensor, &offset) in tensors.iter().zip(offsets) {
        let (name, format) = (&tensor.name, tensor.format);
        let malformed = |message: String| Err(Error::malformed(cursor.path, format!("tensor {name}: {message}.")));
        if !offset.is_multiple_of(alignment as u64) {
            return malformed(format!("its offset {offset} is no multiple of the alignment {alignment}"));
        }
        let Some(bytes) = tensor.format.bytes_of(tensor.cols()).and_then(|row| row.checked_mul(tensor.rows())) else {
            return malformed(format!("its shape {:?} in {format} is larger than any file", tensor.shape));
        };
        let start = usize::try_from(offset).ok().and_then(|offset| data_start.checked_add(offset));
        let range = start.and_then(|start| Some(start..start.checked_add(bytes)?)).filter(|range| range.end <= len);
        let Some(range) = range else {
            return malformed(format!(
                "its {bytes} bytes ({format}, shape {:?}) at offset {offset} after the header's {data_start} bytes \
                 end beyond the file's {len}. The file is truncated; download it again",
                tensor.shape
            ));
        };
        ranges.push(range);
    }
    check_apart(cursor.path, tensors, &ranges)?;
    Ok(ranges)
}

/// That no two tensors share bytes.
fn check_apart(path: &Path, tensors: &[TensorInfo], ranges: &[Range<usize>]) -> Result<()> {
    let mut order: Vec<usize> = (0..ranges.len()).collect();
    order.sort_by_key(|&i| ranges[i].start);
    for pair in order.windows(2) {
        let (a, b) = (pair[0], pair[1]);
        if ranges[a].end > ranges[b].start {
            return Err(Error::malformed(
                path,
                format!(
                    "tensor {} (bytes {:?}) and tensor {} (bytes {:?}) overlap; the offsets in the header are wrong.",
                    tensors[a].name, ranges[a], tensors[b].name, ranges[b]
                ),
            ));
        }
    }
    Ok(())
}
