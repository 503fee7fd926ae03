//! Writing a GGUF file, streamed.

use super::{ALIGNMENT, ALIGNMENT_KEY, MAGIC, value_type};
use crate::metadata::Array;
use crate::output::{OutputFile, TensorWriter};
use crate::{Error, Metadata, Result, TensorInfo, Value};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Writes a GGUF v3 file tensor by tensor. Nothing appears under the target's name before [`finish`](Self::finish);
/// dropping an unfinished writer removes the temporary file beside the target.
///
/// ```no_run
/// # fn main() -> bantam_checkpoint::Result<()> {
/// use bantam_checkpoint::{Checkpoint, GgufWriter};
/// let model = Checkpoint::open("model.gguf")?;
/// let mut writer = GgufWriter::create("copy.gguf".as_ref(), model.metadata(), model.tensors())?;
/// for tensor in model.tensors() {
///     writer.write(&model.data(&tensor.name)?)?;
/// }
/// writer.finish()
/// # }
/// ```
pub struct GgufWriter {
    file: OutputFile,
    target: PathBuf,
    tensors: Vec<Place>,
    /// The tensor that is being written.
    current: usize,
    /// Its bytes that are written.
    written: usize,
}

/// Where a tensor's bytes go.
struct Place {
    name: String,
    size: usize,
    /// From the beginning of the file.
    offset: u64,
    /// Whether all of them are written, padding included.
    complete: bool,
}

impl GgufWriter {
    /// Writes the header for these tensors (in this order) to a temporary file beside `path`. The alignment is 32,
    /// whatever `general.alignment` says, so that key is left out.
    ///
    /// # Errors
    /// If the target is a directory or cannot be written, or GGUF does not have a tensor's format.
    pub fn create(path: &Path, metadata: &Metadata, tensors: &[TensorInfo]) -> Result<Self> {
        if let Some(tensor) = tensors.iter().find(|t| !t.format.in_gguf()) {
            let (name, format) = (&tensor.name, tensor.format);
            let message =
                format!("tensor {name} is {format}, which GGUF files cannot hold. Convert the model to F16 first.");
            return Err(Error::target(path, message));
        }
        let header = header(metadata, tensors);
        let file = OutputFile::create(path)?;
        let mut end = header.len() as u64;
        let place = |t: &TensorInfo| {
            let offset = end;
            end += t.bytes().next_multiple_of(ALIGNMENT) as u64;
            Place { name: t.name.clone(), size: t.bytes(), offset, complete: false }
        };
        let tensors = tensors.iter().map(place).collect();
        let mut writer = Self { file, target: path.to_owned(), tensors, current: 0, written: 0 };
        writer.put(&header)?;
        Ok(writer)
    }

    /// The size of the file that would be written, exactly.
    pub fn file_bytes(metadata: &Metadata, tensors: &[TensorInfo]) -> u64 {
        let padded = |t: &TensorInfo| t.bytes().next_multiple_of(ALIGNMENT) as u64;
        header(metadata, tensors).len() as u64 + tensors.iter().map(padded).sum::<u64>()
    }

    /// Goes to a tensor, whose bytes are then written. Tensors come in any order this way; without it they follow each other
    /// as they were given to `create`.
    ///
    /// # Errors
    /// If there is no such tensor, it is written already, or the one before is not complete.
    pub fn begin(&mut self, name: &str) -> Result<()> {
        if self.written > 0 {
            return Err(self.incomplete(self.missing(self.current)));
        }
        match self.tensors.iter().position(|t| t.name == name && !t.complete) {
            Some(at) => {
                self.current = at;
                let to = SeekFrom::Start(self.tensors[at].offset);
                self.file.seek(to).map(drop).map_err(Error::io(&self.target, "write"))
            }
            None => Err(self.incomplete(format!("there is no tensor {name} that is not written yet"))),
        }
    }

    /// Appends bytes of the current tensor, which may come in several pieces. Padding between tensors is added when it is
    /// complete; the next is then that which follows in the file.
    ///
    /// # Errors
    /// If the disk refuses (full), or the bytes are more than the current tensor has left.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        let Some(&Place { ref name, size, complete, .. }) = self.tensors.get(self.current) else {
            return Err(self.incomplete(format!("{} bytes came after the last tensor", bytes.len())));
        };
        if complete || bytes.len() > size - self.written {
            return Err(self.incomplete(format!("tensor {name} has {size} bytes, and more were written to it")));
        }
        self.put(bytes)?;
        self.written += bytes.len();
        if self.written == size {
            self.put(&[0; ALIGNMENT][..padding(size)])?;
            self.tensors[self.current].complete = true;
            self.current += 1;
            self.written = 0;
        }
        Ok(())
    }

    /// Checks that every tensor is complete, syncs, and renames the file to its target.
    ///
    /// # Errors
    /// If a tensor is missing bytes, or the disk refuses.
    pub fn finish(self) -> Result<()> {
        if let Some(at) = self.tensors.iter().position(|t| !t.complete) {
            return Err(self.incomplete(self.missing(at)));
        }
        self.file.finish()
    }

    fn missing(&self, at: usize) -> String {
        let written = if at == self.current { self.written } else { 0 };
        format!("tensor {} has {written} of its {} bytes", self.tensors[at].name, self.tensors[at].size)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io(&self.target, "write"))
    }

    fn incomplete(&self, message: String) -> Error {
        Error::target(&self.target, format!("the output was given wrong data: {message}."))
    }
}

impl TensorWriter for GgufWriter {
    fn begin(&mut self, name: &str) -> Result<()> {
        GgufWriter::begin(self, name)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        GgufWriter::write(self, bytes)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        GgufWriter::finish(*self)
    }
}

/// Zero bytes after `len` bytes up to the alignment.
fn padding(len: usize) -> usize {
    len.next_multiple_of(ALIGNMENT) - len
}

/// Everything before the tensors' bytes, padded.
fn header(metadata: &Metadata, tensors: &[TensorInfo]) -> Vec<u8> {
    let entries: Vec<_> = metadata.iter().filter(|(key, _)| *key != ALIGNMENT_KEY).collect();
    let mut out = Vec::new();
    out.extend(MAGIC);
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((entries.len() as u64).to_le_bytes());
    for (key, value) in entries {
        put_string(&mut out, key);
        put_value(&mut out, value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        for &dim in tensor.shape.iter().rev() {
            out.extend((dim as u64).to_le_bytes());
        }
        out.extend(tensor.format.id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT) as u64;
    }
    out.resize(out.len() + padding(out.len()), 0);
    out
}

fn put_string(out: &mut Vec<u8>, string: &str) {
    out.extend((string.len() as u64).to_le_bytes());
    out.extend(string.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! scalar {
        ($type_id:expr, $bytes:expr) => {{
            out.extend(($type_id).to_le_bytes());
            out.extend($bytes);
        }};
    }
    match value {
        Value::U8(v) => scalar!(value_type::U8, v.to_le_bytes()),
        Value::I8(v) => scalar!(value_type::I8, v.to_le_bytes()),
        Value::U16(v) => scalar!(value_type::U16, v.to_le_bytes()),
        Value::I16(v) => scalar!(value_type::I16, v.to_le_bytes()),
        Value::U32(v) => scalar!(value_type::U32, v.to_le_bytes()),
        Value::I32(v) => scalar!(value_type::I32, v.to_le_bytes()),
        Value::F32(v) => scalar!(value_type::F32, v.to_le_bytes()),
        Value::U64(v) => scalar!(value_type::U64, v.to_le_bytes()),
        Value::I64(v) => scalar!(value_type::I64, v.to_le_bytes()),
        Value::F64(v) => scalar!(value_type::F64, v.to_le_bytes()),
        Value::Bool(v) => scalar!(value_type::BOOL, [u8::from(*v)]),
        Value::String(v) => {
            out.extend(value_type::STRING.to_le_bytes());
            put_string(out, v);
        }
        Value::Array(array) => {
            out.extend(value_type::ARRAY.to_le_bytes());
            put_array(out, array);
        }
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($type_id:expr, $values:expr) => {{
            out.extend(($type_id).to_le_bytes());
            out.extend(($values.len() as u64).to_le_bytes());
            out.extend($values.iter().flat_map(|v| v.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(v) => numbers!(value_type::U8, v),
        Array::I8(v) => numbers!(value_type::I8, v),
        Array::U16(v) => numbers!(value_type::U16, v),
        Array::I16(v) => numbers!(value_type::I16, v),
        Array::U32(v) => numbers!(value_type::U32, v),
        Array::I32(v) => numbers!(value_type::I32, v),
        Array::F32(v) => numbers!(value_type::F32, v),
        Array::U64(v) => numbers!(value_type::U64, v),
        Array::I64(v) => numbers!(value_type::I64, v),
        Array::F64(v) => numbers!(value_type::F64, v),
        Array::Bool(v) => {
            let bytes: Vec<u8> = v.iter().map(|&b| u8::from(b)).collect();
            numbers!(value_type::BOOL, bytes);
        }
        Array::String(v) => {
            out.extend(value_type::STRING.to_le_bytes());
            out.extend((v.len() as u64).to_le_bytes());
            v.iter().for_each(|s| put_string(out, s));
        }
    }
}
