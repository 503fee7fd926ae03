//! A model on disk, whichever kind of file holds it.

use crate::{Metadata, Result};
use bantam_formats::Format;
use std::borrow::Cow;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What a tensor is, without its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The GGUF name, for example `blk.0.attn_q.weight`.
    pub name: String,
    /// Row-major shape, outermost first: `[rows, cols]` of a matrix. (GGUF files store it reversed.) At most 4 long.
    pub shape: Vec<usize>,
    /// The number format of the rows.
    pub format: &'static Format,
}

impl TensorInfo {
    /// The number of weights.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The length of a row, the innermost dimension.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// The number of rows, all dimensions but the innermost.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// The bytes of the tensor.
    pub fn bytes(&self) -> usize {
        self.rows() * self.format.bytes_of(self.cols()).expect("checked when the file was opened")
    }
}

/// A tensor's bytes, shared with the mapped file or owned; cheap to clone.
#[derive(Clone)]
pub enum TensorData {
    /// A range of a mapped file.
    Mapped {
        /// The map.
        map: Arc<memmap2::Mmap>,
        /// The bytes in it.
        range: Range<usize>,
    },
    /// Bytes that had to be rearranged on reading.
    Owned(Arc<[u8]>),
}

impl Deref for TensorData {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            TensorData::Mapped { map, range } => &map[range.clone()],
            TensorData::Owned(bytes) => bytes,
        }
    }
}

/// A model on disk: metadata, tensors, and lazily read bytes, in GGUF's terms.
pub struct Checkpoint {
    path: PathBuf,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
}

impl Checkpoint {
    /// Opens a GGUF file or a Hugging Face directory. Reads the header only; tensors are mapped.
    ///
    /// # Errors
    /// If the path cannot be read, is neither kind of file, is malformed, or needs what bantam does not support.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let _ = path;
        todo!()
    }

    /// Where the model was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The metadata, in GGUF's keys.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors, in file order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.iter().find(|t| t.name == name)
    }

    /// The bytes of the tensor of this name.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn data(&self, name: &str) -> Result<TensorData> {
        let _ = name;
        todo!()
    }

    /// What quantized this checkpoint's weights before, if anything: for saying so beside every result.
    /// `None` when all matrices are F32, F16 or BF16.
    pub fn quantized_as(&self) -> Option<Cow<'_, str>> {
        todo!()
    }
}
