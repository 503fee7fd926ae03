//! From a file to sentences, each of which is learned by itself.

use super::SourceSpec;
use super::entries::{Entry, Layout, entries};
use crate::Error;
use xxhash_rust::xxh3::Xxh3;

/// A file's sentences.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentences {
    /// Where they are from.
    pub spec: SourceSpec,
    /// In the order of the file.
    pub texts: Vec<String>,
    /// Lines and entries without words, which were left out.
    pub blank: usize,
}

impl Sentences {
    /// Reads a file of one sentence a line; in a `.jsonl` or `.parquet` file each entry has a `text`. Empty ones are left out.
    ///
    /// # Errors
    /// If the file cannot be read, is not UTF-8, has an entry without text, or no sentence.
    pub fn read(spec: SourceSpec) -> Result<Self, Error> {
        let error = |problem: String| Error::Data { path: spec.path.clone(), problem };
        let mut texts = Vec::new();
        let is_text = Layout::of(&spec.path) == Layout::Text;
        entries(&spec.path, &mut |place, entry| {
            match entry {
                Entry::Text { text } if is_text => texts.extend(text.lines().map(|line| line.trim().to_owned())),
                Entry::Text { text } => texts.push(text),
                Entry::Chat { .. } | Entry::Continued { .. } => {
                    return Err(error(format!("{place}: a conversation is no sentence; give a `text`")));
                }
            }
            Ok(())
        })?;
        let all = texts.len();
        texts.retain(|text| !text.trim().is_empty());
        if texts.is_empty() {
            return Err(error("it has no sentences; give one a line".to_owned()));
        }
        Ok(Self { spec, blank: all - texts.len(), texts })
    }

    /// A hash of all sentences in their order.
    pub fn fingerprint(sources: &[Self]) -> u64 {
        let mut hash = Xxh3::new();
        for text in sources.iter().flat_map(|s| &s.texts) {
            hash.update(&(text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        hash.digest()
    }
}
