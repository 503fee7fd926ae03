//! Rows of Parquet files, as JSON.

use crate::Error;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use std::cell::Cell;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

/// Calls `each` with the number of each row, counted from 1, and the row: an object of its columns.
///
/// # Errors
/// If the file cannot be read or is no Parquet file, or what `each` says.
pub(crate) fn rows(path: &Path, mut each: impl FnMut(usize, Value) -> Result<(), Error>) -> Result<(), Error> {
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
        each(number, row.to_json_value())?;
    }
    Ok(())
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
