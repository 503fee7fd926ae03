//! A model on disk, whichever kind of file holds it.

use crate::{Error, Metadata, Result, gguf, hf, mapped, provenance};
use bantam_formats::Format;
use std::collections::HashMap;
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

    /// Whether llama.cpp wants the tensor in F32 whatever the model's format: vectors, and the small tables of positions and
    /// token types that encoders add to the embeddings.
    pub fn stays_f32(&self) -> bool {
        self.shape.len() <= 1 || ["position_embd.weight", "token_types.weight"].contains(&&self.name[..])
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

impl TensorData {
    /// Gives the pages that reading has filled back to the system, so that streaming through a large file does not hold it
    /// in memory. The bytes stay readable.
    pub fn release(&self) {
        self.release_part(0..self.len());
    }

    /// [`release`](Self::release) of some of the bytes.
    pub fn release_part(&self, part: Range<usize>) {
        #[cfg(unix)]
        if let TensorData::Mapped { map, range } = self {
            let part = range.start + part.start.min(range.len())..range.start + part.end.min(range.len());
            // SAFETY: the map is a read-only map of a file: pages that are dropped are read again when they are touched.
            // Pages shared with neighbouring tensors may go too, which costs no more than reading them again.
            // That it fails is no harm: memory is then given back later.
            let _ = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, part.start, part.len()) };
        }
    }
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

/// Where a tensor's bytes come from.
pub(crate) enum Source {
    /// They are stored as they are.
    Stored(TensorData),
    /// They are computed on reading, from a tensor stored otherwise.
    Translated {
        /// What is stored.
        stored: TensorInfo,
        /// Its bytes.
        data: TensorData,
        /// What is done to it.
        translation: hf::Translation,
    },
    /// They are rows of blocks, computed on reading from integers stored otherwise.
    Packed(hf::Packed),
    /// They are not there yet.
    Planned,
}

/// A model on disk: metadata, tensors, and lazily read bytes, in GGUF's terms.
pub struct Checkpoint {
    path: PathBuf,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    /// Where the bytes of each of `tensors` are.
    sources: Vec<Source>,
    /// Names to indices of `tensors`.
    index: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens a GGUF file or a Hugging Face directory. Reads the header only; tensors are mapped.
    ///
    /// # Errors
    /// If the path cannot be read, is neither kind of file, is malformed, or needs what bantam does not support.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_dir() {
            return hf::open(path);
        }
        if !path.exists() {
            let message = "there is no such file. Give a GGUF file or a Hugging Face directory.";
            return Err(Error::malformed(path, message));
        }
        let map = mapped::map(path)?;
        let header = gguf::read_header(path, &map)?;
        let source = |range| Source::Stored(TensorData::Mapped { map: map.clone(), range });
        let sources = header.ranges.into_iter().map(source).collect();
        Ok(Self::assemble(path, header.metadata, header.tensors, sources))
    }

    /// A checkpoint before it is written: what is known of it by its metadata and its tensors can be asked, their bytes cannot be read. Messages
    /// name it by `path`. Tensor names are unique, and formats divide their rows.
    pub fn planned(path: &Path, metadata: Metadata, tensors: Vec<TensorInfo>) -> Self {
        let sources = tensors.iter().map(|_| Source::Planned).collect();
        Self::assemble(path, metadata, tensors, sources)
    }

    /// A checkpoint of these parts; tensor names are unique.
    pub(crate) fn assemble(path: &Path, metadata: Metadata, tensors: Vec<TensorInfo>, sources: Vec<Source>) -> Self {
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Self { path: path.to_owned(), metadata, tensors, sources, index }
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
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of the tensor of this name.
    ///
    /// # Errors
    /// If there is no such tensor, or it is only [planned](Self::planned).
    pub fn data(&self, name: &str) -> Result<TensorData> {
        match self.index.get(name) {
            Some(&i) => Ok(match &self.sources[i] {
                Source::Stored(data) => data.clone(),
                Source::Translated { stored, data, translation } => {
                    TensorData::Owned(translation.apply(stored, data, self.tensors[i].format))
                }
                Source::Packed(packed) => TensorData::Owned(packed.blocks()),
                Source::Planned => {
                    return Err(Error::malformed(&self.path, format!("tensor {name} is not written yet.")));
                }
            }),
            None => Err(Error::malformed(&self.path, format!("there is no tensor {name}."))),
        }
    }

    /// The number of weights in all tensors.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(|t| t.len() as u64).sum()
    }

    /// The weights of the model: its parameters without what longer rows added to them, which carries nothing, where it was made of a model
    /// that bantam had widened.
    pub fn weights(&self) -> u64 {
        let steps = provenance::of(self.metadata());
        // Steps that take and leave all weights.
        let made_it = steps.iter().rev().find(|step| !["smooth", "quantize", "tune"].contains(&&step.step[..]));
        let widened = made_it.filter(|step| step.step == "widen");
        let before = widened.and_then(|step| step.get("weights")?.parse().ok());
        before.unwrap_or_else(|| self.parameters())
    }

    /// The bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes() as u64).sum()
    }

    /// Weights and bytes in each format, the format with the most bytes first.
    pub fn by_format(&self) -> Vec<FormatShare> {
        let mut shares: Vec<FormatShare> = Vec::new();
        for tensor in &self.tensors {
            let at = shares.iter().position(|s| s.format == tensor.format).unwrap_or_else(|| {
                shares.push(FormatShare { format: tensor.format, tensors: 0, parameters: 0, bytes: 0 });
                shares.len() - 1
            });
            shares[at].tensors += 1;
            shares[at].parameters += tensor.len() as u64;
            shares[at].bytes += tensor.bytes() as u64;
        }
        shares.sort_by_key(|share| std::cmp::Reverse(share.bytes));
        shares
    }

    /// How this checkpoint's weights were quantized, if they were: for saying so beside every result. For example `Q5_0, Q8_0`, the
    /// formats of the matrices by bytes; for a file of F32, F16 or BF16, what its record says it was made from.
    pub fn quantized_as(&self) -> Option<String> {
        let from_record = || provenance::of(&self.metadata).into_iter().find_map(|step| step.source_quantized_as);
        self.packed_as().or_else(from_record)
    }

    /// The formats of the matrices as they are, by bytes, if they are quantized.
    fn packed_as(&self) -> Option<String> {
        let names: Vec<_> = self.by_format().iter().filter(|s| s.format.block > 1).map(|s| s.format.name).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The record of a step done to this checkpoint, to be completed with its settings.
    pub fn step(&self, step: &str) -> provenance::Step {
        let source =
            self.path.file_name().map_or_else(|| self.path.display().to_string(), |n| n.to_string_lossy().into());
        // What earlier steps say need not be said again: every file carries it.
        provenance::Step::new(step, &source, self.packed_as().as_deref())
    }

    /// The bytes of the file or files that hold the model.
    ///
    /// # Errors
    /// If they cannot be looked at any more.
    pub fn file_bytes(&self) -> Result<u64> {
        mapped::size(&self.path)
    }

    /// Refuses `output` if it is this checkpoint itself: replacing a model by a smaller one loses work that may not be got back.
    ///
    /// # Errors
    /// If both are the same file or directory.
    pub fn refuse_overwriting(&self, output: &Path) -> Result<()> {
        match (self.path.canonicalize(), output.canonicalize()) {
            (Ok(input), Ok(output)) if input == output => {
                let message =
                    "the output would replace the model that is being read. Give another name for the output.";
                Err(Error::target(&self.path, message))
            }
            _ => Ok(()),
        }
    }
}

/// How much of a checkpoint is in one format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatShare {
    /// The format.
    pub format: &'static Format,
    /// Tensors in it.
    pub tensors: usize,
    /// Weights in it.
    pub parameters: u64,
    /// Bytes in it.
    pub bytes: u64,
}

impl std::fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("Checkpoint");
        f.field("path", &self.path).field("tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}
