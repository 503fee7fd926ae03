//! Rows of Parquet files, as JSON.

use crate::Error;
use parquet::file::reader::{FileReader, SerializedFileReader};
use serde_json::Value;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// Calls `each` with the number of each row, counted from 1, and the row: an object of its columns.
///
/// # Errors
/// If the file cannot be read or is no Parquet file, or what `each` says.
pub(crate) fn rows(path: &Path, mut each: impl FnMut(usize, Value) -> Result<(), Error>) -> Result<(), Error> {
    let error = |problem: String| Error::Data { path: path.to_owned(), problem };
    let file = File::open(path).map_err(|e| error(e.to_string()))?;
    // The library panics at some damaged files.
    let guarded = catch_unwind(AssertUnwindSafe(|| {
        let reader = SerializedFileReader::new(file).map_err(|e| error(format!("no Parquet file: {e}")))?;
        for (i, row) in reader.get_row_iter(None).map_err(|e| error(e.to_string()))?.enumerate() {
            let row = row.map_err(|e| error(format!("row {}: {e}", i + 1)))?;
            each(i + 1, row.to_json_value())?;
        }
        Ok(())
    }));
    guarded.unwrap_or_else(|_| Err(error("the Parquet file is damaged".to_owned())))
}
