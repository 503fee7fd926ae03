//! IDX files, as MNIST and its kin come in (LeCun, Cortes, Burges 1998).

use crate::Error;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Images with their labels.
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Grey values from 0 to 1, `[count, height * width]`.
    pub pixels: Vec<f32>,
    /// The class of each.
    pub labels: Vec<u8>,
    /// Rows of an image.
    pub height: usize,
    /// Columns of an image.
    pub width: usize,
}

/// The magic numbers: unsigned bytes in 3 dimensions and in 1.
const IMAGES: u32 = 0x803;
const LABELS: u32 = 0x801;

impl Images {
    /// Reads the file of images and that of their labels.
    ///
    /// # Errors
    /// If a file cannot be read, is no such file, is shorter or longer than it says, or their counts differ.
    pub fn read(images: &Path, labels: &Path) -> Result<Self, Error> {
        let (shape, pixels) = read(images, IMAGES)?;
        let (count, labels_bytes) = read(labels, LABELS)?;
        if count[0] != shape[0] {
            let problem = format!("it has {} labels, {} has {} images", count[0], images.display(), shape[0]);
            return Err(Error::Data { path: labels.to_owned(), problem });
        }
        let pixels = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
        Ok(Self { pixels, labels: labels_bytes, height: shape[1], width: shape[2] })
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Classes: the largest label and those below it.
    pub fn classes(&self) -> usize {
        self.labels.iter().max().map_or(0, |&label| usize::from(label) + 1)
    }

    /// Values of an image.
    pub fn size(&self) -> usize {
        self.height * self.width
    }

    /// One image.
    pub fn image(&self, i: usize) -> &[f32] {
        &self.pixels[i * self.size()..(i + 1) * self.size()]
    }

    /// A hash of all pixels and labels.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = Xxh3::new();
        hash.update(&[self.height, self.width].map(|n| (n as u64).to_le_bytes()).concat());
        hash.update(bytemuck::cast_slice(&self.pixels));
        hash.update(&self.labels);
        hash.digest()
    }

    /// Those whose label `keep` wants.
    pub fn only(&self, keep: impl Fn(u8) -> bool) -> Self {
        let kept = || (0..self.len()).filter(|&i| keep(self.labels[i]));
        Self {
            pixels: kept().flat_map(|i| self.image(i)).copied().collect(),
            labels: kept().map(|i| self.labels[i]).collect(),
            ..*self
        }
    }
}

/// The dimensions and the bytes of an IDX file of unsigned bytes.
fn read(path: &Path, magic: u32) -> Result<(Vec<usize>, Vec<u8>), Error> {
    let error = |problem: String| Error::Data { path: path.to_owned(), problem };
    let mut bytes = std::fs::read(path).map_err(|e| error(e.to_string()))?;
    let words: Vec<u32> = bytes.as_chunks().0.iter().take(4).map(|&b| u32::from_be_bytes(b)).collect();
    if words.first() != Some(&magic) {
        let kind = if magic == IMAGES { "images" } else { "labels" };
        return Err(error(format!(
            "it is no IDX file of {kind}: it should begin with {magic:#010x}; is it compressed?"
        )));
    }
    let dimensions = (magic & 0xff) as usize;
    let header = 4 + 4 * dimensions;
    let shape: Vec<usize> = words.iter().skip(1).take(dimensions).map(|&n| n as usize).collect();
    match shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) {
        Some(data) if shape.len() == dimensions && data > 0 && bytes.len() - header == data => {}
        _ => {
            return Err(error(format!(
                "it says {shape:?} bytes of data and has {}",
                bytes.len().saturating_sub(header)
            )));
        }
    }
    Ok((shape, bytes.split_off(header)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, name: &str, words: &[u32], data: &[u8]) -> std::path::PathBuf {
        let path = folder.join(name);
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_be_bytes()).chain(data.iter().copied()).collect();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn images_and_labels_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let images = file(folder.path(), "images", &[IMAGES, 2, 1, 3], &[0, 255, 51, 1, 2, 3]);
        let labels = file(folder.path(), "labels", &[LABELS, 2], &[7, 3]);
        let read = Images::read(&images, &labels).unwrap();
        assert_eq!((read.len(), read.height, read.width), (2, 1, 3));
        assert_eq!(read.image(0), [0.0, 1.0, 0.2]);
        assert_eq!(read.only(|label| label == 3).labels, [3]);
    }

    #[test]
    fn what_is_no_such_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let labels = file(folder.path(), "labels", &[LABELS, 2], &[7, 3]);
        let wrong = [
            file(folder.path(), "short", &[IMAGES, 2, 1, 3], &[0; 5]),
            file(folder.path(), "long", &[IMAGES, 2, 1, 3], &[0; 7]),
            file(folder.path(), "huge", &[IMAGES, u32::MAX, u32::MAX, u32::MAX], &[0; 7]),
            file(folder.path(), "none", &[IMAGES, 0, 28, 28], &[]),
            file(folder.path(), "cut", &[IMAGES, 2], &[]),
            file(folder.path(), "empty", &[], &[]),
            file(folder.path(), "three", &[IMAGES, 3, 1, 1], &[0; 3]),
        ];
        for path in wrong {
            let error = Images::read(&path, &labels).unwrap_err().to_string();
            assert!(error.contains(folder.path().to_str().unwrap()), "{error}");
        }
    }
}
