//! Reading numbers and strings from bytes that may lie.

use crate::{Error, Result};
use std::fmt::Display;
use std::path::Path;

/// A position in a file's bytes. Every read is checked against what is left, and an error says what was being read.
pub struct Cursor<'a> {
    pub path: &'a Path,
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Cursor<'a> {
    /// The next `n` bytes, which are `what`.
    pub fn take(&mut self, n: usize, what: impl Display) -> Result<&'a [u8]> {
        match self.bytes[self.at..].get(..n) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(self.malformed(
                self.at,
                format_args!(
                    "{what} needs {n} bytes, but only {} are left of the file's {}. The file is truncated, or a \
                     length in its header is wrong; download it again",
                    self.bytes.len() - self.at,
                    self.bytes.len()
                ),
            )),
        }
    }

    /// The next `N` bytes as an array.
    pub fn array<const N: usize>(&mut self, what: impl Display) -> Result<[u8; N]> {
        Ok(self.take(N, what)?.try_into().expect("take returns the length asked for"))
    }

    pub fn u32(&mut self, what: impl Display) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, what: impl Display) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that take at least `each` bytes in the file, so that nobody allocates for things that are
    /// not there.
    pub fn count(&mut self, each: usize, what: impl Display) -> Result<usize> {
        let at = self.at;
        let count = self.u64(&what)?;
        let most = (self.bytes.len() - self.at) / each;
        usize::try_from(count).ok().filter(|&n| n <= most).ok_or_else(|| {
            self.malformed(
                at,
                format_args!(
                    "{what} is {count}, but the rest of the file has room for at most {most}. The file is truncated \
                     or corrupt; download it again"
                ),
            )
        })
    }

    /// A string with its length before it.
    pub fn string(&mut self, what: impl Display) -> Result<&'a str> {
        let len = self.count(1, format_args!("the length of {what}"))?;
        let at = self.at;
        let bytes = self.take(len, &what)?;
        std::str::from_utf8(bytes).map_err(|e| {
            self.malformed(at + e.valid_up_to(), format_args!("{what} is not UTF-8; GGUF strings must be"))
        })
    }

    /// An error about the byte at `offset`.
    pub fn malformed(&self, offset: usize, message: impl Display) -> Error {
        Error::malformed(self.path, format!("at byte {offset}: {message}."))
    }
}
