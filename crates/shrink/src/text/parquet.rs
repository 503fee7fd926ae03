//! Rows of Parquet files, as JSON.

use super::entries::Fields;
use crate::Error;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use serde_json::Value;
use std::cell::Cell;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

/// Calls `each` with the number of each row, counted from 1, and its columns.
///
/// # Errors
/// If the file cannot be read or is no Parquet file, if a column holds bytes where text is needed, or what `each` says.
pub(super) fn rows(path: &Path, mut each: impl FnMut(usize, Fields) -> Result<(), Error>) -> Result<(), Error> {
    let error = |problem: String| Error::Data { path: path.to_owned(), problem };
    let damaged = || error("the Parquet file is damaged".to_owned());
    let file = File::open(path).map_err(|e| error(e.to_string()))?;
    let reader = guarded(|| SerializedFileReader::new(file)).ok_or_else(damaged)?;
    let reader = reader.map_err(|e| error(format!("no Parquet file: {e}")))?;
    let rows = guarded(|| reader.get_row_iter(None)).ok_or_else(damaged)?;
    let mut rows = rows.map_err(|e| error(e.to_string()))?;
    for number in 1.. {
        let Some(row) = guarded(|| rows.next()).ok_or_else(damaged)? else { break };
        let row = row.map_err(|e| error(format!("row {number}: {e}")))?;
        let fields = fields(&row).map_err(|problem| error(format!("row {number}: {problem}")))?;
        each(number, fields)?;
    }
    Ok(())
}

/// The columns that are read; otherwise what is wrong with one.
fn fields(row: &Row) -> Result<Fields, String> {
    let mut fields = Fields::default();
    for (name, field) in row.get_column_iter() {
        let Some(to) = fields.named(name) else { continue };
        *to = Some(json(field)).filter(|value| !value.is_null());
        if to.is_none() && matches!(field, Field::Bytes(_)) {
            return Err(format!("the column `{name}` holds bytes that are no UTF-8 text; write it as text"));
        }
    }
    Ok(fields)
}

/// A value as JSON. Text may be stored as bytes without a word that it is text; JSON has no bytes, and others are null.
fn json(field: &Field) -> Value {
    match field {
        Field::Bytes(bytes) => str::from_utf8(bytes.data()).map_or(Value::Null, Value::from),
        Field::Group(row) => row.get_column_iter().map(|(name, field)| (name.clone(), json(field))).collect(),
        Field::ListInternal(list) => list.elements().iter().map(json).collect(),
        Field::MapInternal(map) => {
            let text = |key: &Field| json(key).as_str().map_or_else(|| key.to_string(), str::to_owned);
            map.entries().iter().map(|(key, value)| (text(key), json(value))).collect()
        }
        other => other.to_json_value(),
    }
}

thread_local! {
    /// Whether a panic of this thread is expected, and caught.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// What the library reads; `None` if it panics, as it does at some damaged files. Nothing is printed then.
fn guarded<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let report = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                report(panic);
            }
        }));
    });
    GUARDED.set(true);
    let read = catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    read.ok()
}
