//! The older binary form: the number of entries; for each its name, the number of chunks, and its sums, scaled as if
//! every token had come in chunks of the same length; then, in newer files, the number of chunks and the name of the
//! text. Integers are 32-bit, signed; lengths come before what they measure.

use super::{Entry, Imatrix, checked_sums, fitting};
use crate::gguf::Cursor;
use crate::output::OutputFile;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::io::Write;
use std::path::Path;

/// Bytes of the shortest entry: the length of its name, a byte of name, chunks, the number of sums, one sum.
const SHORTEST_ENTRY: usize = 4 + 1 + 4 + 4 + 4;

pub fn parse(path: &Path, bytes: &[u8]) -> Result<Imatrix> {
    let mut cursor = Cursor { path, bytes, at: 0 };
    // Nothing marks this form, so that what is wrong with it may well be that it is something else.
    let entries = entries(&mut cursor).map_err(|e| match e {
        Error::Malformed { message, .. } => Error::malformed(
            path,
            format!(
                "read as an importance matrix of the older form, since it does not begin with \"GGUF\": {message} If \
                 it is something else: give a file that llama-imatrix or bantam made."
            ),
        ),
        other => other,
    })?;
    let mut imatrix = Imatrix { entries, ..Imatrix::default() };
    if cursor.at < bytes.len() {
        imatrix.chunks = unsigned(&mut cursor, "the number of chunks")?;
        if cursor.at < bytes.len() {
            let len = length(&mut cursor, 0, 1, "the length of the text's name")?;
            let name = cursor.take(len, "the text's name")?;
            imatrix.datasets.extend((len > 0).then(|| String::from_utf8_lossy(name).into_owned()));
        }
    }
    Ok(imatrix)
}

fn entries(cursor: &mut Cursor<'_>) -> Result<BTreeMap<String, Entry>> {
    let count = length(cursor, 1, SHORTEST_ENTRY, "the number of entries")?;
    let mut entries = BTreeMap::new();
    for i in 0..count {
        let at = cursor.at;
        let len = length(cursor, 1, 1, format_args!("the length of the name of entry {i}"))?;
        let name = cursor.take(len, format_args!("the name of entry {i}"))?;
        let name = std::str::from_utf8(name).map_err(|e| {
            cursor.malformed(at + 4 + e.valid_up_to(), format_args!("the name of entry {i} is not UTF-8"))
        })?;
        let chunks = unsigned(cursor, format_args!("the number of chunks of {name}"))?;
        let len = length(cursor, 1, 4, format_args!("the number of sums of {name}"))?;
        let sums = checked_sums(cursor.path, name, cursor.take(4 * len, format_args!("the sums of {name}"))?)?;
        // Where no chunks are counted llama.cpp takes the sums for means.
        let entry = Entry::new(sums, vec![chunks.max(1) as u64]);
        if entries.insert(name.to_owned(), entry).is_some() {
            return Err(cursor.malformed(at, format_args!("entry {i}, {name}, appears twice; names must be unique")));
        }
    }
    Ok(entries)
}

/// A number that is not negative.
fn unsigned(cursor: &mut Cursor<'_>, what: impl Display) -> Result<usize> {
    let at = cursor.at;
    let value = i32::from_le_bytes(cursor.array(&what)?);
    value.try_into().map_err(|_| cursor.malformed(at, format_args!("{what} is {value}; it cannot be negative")))
}

/// How many things follow, of at least `each` bytes: `least` or more, and no more than the file has room for.
fn length(cursor: &mut Cursor<'_>, least: usize, each: usize, what: impl Display) -> Result<usize> {
    let at = cursor.at;
    let value = i32::from_le_bytes(cursor.array(&what)?);
    let most = (cursor.bytes.len() - cursor.at) / each;
    usize::try_from(value).ok().filter(|n| (least..=most).contains(n)).ok_or_else(|| {
        cursor.malformed(
            at,
            format_args!(
                "{what} is {value}; it must be at least {least}, and the rest of the file has room for {most}. The \
                 file is truncated or corrupt"
            ),
        )
    })
}

pub fn write(imatrix: &Imatrix, path: &Path) -> Result<()> {
    let entries: Vec<_> = imatrix.entries.iter().filter(|(_, entry)| !entry.is_unseen()).collect();
    let number = |value: usize, what: &str| fitting::<i32>(path, value as u64, what).map(i32::to_le_bytes);
    let mut file = OutputFile::create(path)?;
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(Error::io(path, "write"));
    put(&number(entries.len(), "the number of entries")?)?;
    for (name, entry) in entries {
        put(&number(name.len(), "the length of a name")?)?;
        put(name.as_bytes())?;
        let tokens = entry.counts.iter().copied().max().unwrap_or(0);
        let chunks = tokens.div_ceil(imatrix.chunk_tokens.unwrap_or(1).max(1) as u64);
        put(&fitting::<i32>(path, chunks, format_args!("the number of chunks of {name}"))?.to_le_bytes())?;
        put(&number(entry.sums.len(), "the number of sums")?)?;
        let scaled = |(sum, count): (f32, u64)| match count {
            0 => chunks as f32,
            // In doubles, so that a sum whose count already is in chunks stays the same to the bit.
            _ => (f64::from(sum) / count as f64 * chunks as f64) as f32,
        };
        let sums = entry.parts().flat_map(|(sums, count)| sums.iter().map(move |&sum| (sum, count)));
        let bytes: Vec<u8> = sums.flat_map(|sum| scaled(sum).to_le_bytes()).collect();
        put(&bytes)?;
    }
    put(&number(imatrix.chunks, "the number of chunks")?)?;
    let dataset = imatrix.datasets.last().map_or("", String::as_str);
    put(&number(dataset.len(), "the length of the text's name")?)?;
    put(dataset.as_bytes())?;
    file.finish()
}
