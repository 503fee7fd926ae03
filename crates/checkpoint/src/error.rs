//! What can be wrong with a model file, said so that its owner can act.

use std::path::{Path, PathBuf};

/// The result of reading or writing a model file.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What was wrong, where, and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: cannot {action}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried: `read`, `write`, `rename`.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The file's content breaks its format.
    #[error("{path}: {message}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What was wrong, where, and what would be right.
        message: String,
    },
    /// The output cannot be written as asked.
    #[error("{path}: {message}")]
    Target {
        /// Where the output should have gone.
        path: PathBuf,
        /// What stands in the way, and what would be right.
        message: String,
    },
    /// A sound file that asks for something bantam cannot do.
    #[error("{path}: {message}")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What is not supported, and what is.
        message: String,
    },
}

impl Error {
    /// An [`Error::Io`] at `path` while doing `action`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.to_owned();
        move |source| Error::Io { path, action, source }
    }

    /// An [`Error::Malformed`] at `path`.
    pub fn malformed(path: &Path, message: impl Into<String>) -> Error {
        Error::Malformed { path: path.to_owned(), message: message.into() }
    }

    /// An [`Error::Target`] at `path`.
    pub fn target(path: &Path, message: impl Into<String>) -> Error {
        Error::Target { path: path.to_owned(), message: message.into() }
    }

    /// An [`Error::Unsupported`] at `path`.
    pub fn unsupported(path: &Path, message: impl Into<String>) -> Error {
        Error::Unsupported { path: path.to_owned(), message: message.into() }
    }
}
