//! What a model is measured on: texts and multiple-choice tasks. The built-in ones are in `data`.

use crate::{Error, Result, results::Category};
use std::path::Path;

/// A text to predict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The kind of text.
    pub category: Category,
    /// Its name or file.
    pub name: String,
    /// Where it comes from and its licence.
    pub source: String,
    /// The text itself.
    pub text: String,
}

/// A multiple-choice task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// The category it belongs to.
    pub category: Category,
    /// Where it comes from and its licence.
    pub source: String,
    /// The questions.
    pub questions: Vec<Question>,
}

/// A question with its options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// What the model reads first, without white space at its end.
    pub prompt: String,
    /// The possible continuations of the prompt, each beginning with its separator (mostly a space). At least two.
    pub options: Vec<String>,
    /// Index of the right option.
    pub answer: usize,
}

/// All that one evaluation measures.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Suite {
    /// Texts, any number per category.
    pub texts: Vec<Text>,
    /// Multiple-choice tasks.
    pub tasks: Vec<Task>,
}

impl Text {
    /// Reads the user's own text.
    ///
    /// # Errors
    /// If the file cannot be read, is empty, or is not UTF-8 (with the offset of the first wrong byte).
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let offset = error.utf8_error().valid_up_to();
            Error::NotUtf8 { path: path.to_owned(), offset, byte: error.as_bytes()[offset] }
        })?;
        if text.trim().is_empty() {
            return Err(Error::EmptyText { name: path.display().to_string() });
        }
        let name = path.file_name().map_or_else(|| path.display().to_string(), |n| n.to_string_lossy().into_owned());
        Ok(Text { category: Category::Own, name, source: path.display().to_string(), text })
    }
}

impl Task {
    /// What guessing gives: the mean over questions of one over the number of options.
    pub fn chance(&self) -> f64 {
        self.questions.iter().map(|q| 1.0 / q.options.len() as f64).sum::<f64>() / self.questions.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_says_where_the_bytes_stop_being_text() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes.txt");
        std::fs::write(&path, b"caf\xc3\xa9 caf\xe9!").unwrap();
        let message = Text::read(&path).unwrap_err().to_string();
        assert!(message.contains("notes.txt") && message.contains("byte 9") && message.contains("0xe9"), "{message}");
    }

    #[test]
    fn reading_refuses_empty_text_and_directories() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.txt");
        std::fs::write(&path, " \n\t").unwrap();
        assert!(matches!(Text::read(&path), Err(Error::EmptyText { .. })));
        assert!(matches!(Text::read(dir.path()), Err(Error::Read { .. })));
        assert!(matches!(Text::read(dir.path().join("absent")), Err(Error::Read { .. })));
    }

    #[test]
    fn chance_averages_over_questions() {
        let question = |n| Question { prompt: "?".into(), options: vec![" a".into(); n], answer: 0 };
        let task = Task {
            name: "mixed".into(),
            category: Category::Math,
            source: String::new(),
            questions: vec![question(2), question(4)],
        };
        assert_eq!(task.chance(), 0.375);
    }
}
