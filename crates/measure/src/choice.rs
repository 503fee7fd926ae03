//! Multiple choice: which of the given continuations a model finds most likely.
//!
//! Much as in EleutherAI's lm-evaluation-harness (`acc_norm`): an option's score is the log-likelihood of its tokens after the
//! question, divided by its length, since the plain likelihood favours short options; the highest score is the answer. The length is
//! that of the option as it is asked, in bytes, with the space before it; the harness counts characters, without that space, so
//! that the two may answer a close question differently. The tokens are those of question and option spelled together; the option's are those beyond as many tokens as the
//! question has alone. The tokens that all options begin with are read once and kept in the cache.

use crate::results::Choice;
use crate::{Error, Progress, Question, Result, Task, statistics};
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_nn::softmax::log_probability;
use bantam_nn::{Model, Session};
use std::path::Path;

/// The options that a model chooses, one per question.
///
/// # Errors
/// If a question cannot be asked, the model cannot be run, or its logits are not finite.
pub fn answers(
    model: &Model,
    path: &Path,
    tokenizer: &Tokenizer,
    task: &Task,
    progress: &dyn Progress,
) -> Result<Vec<u32>> {
    let questions: Vec<Spelled> =
        (0..task.questions.len()).map(|i| spell(task, i, tokenizer)).collect::<Result<_>>()?;
    let longest = questions.iter().flat_map(|q| &q.options).map(Vec::len).max().unwrap_or(0);
    let mut asker = Asker { model, path, session: model.session(longest), logits: Vec::new() };
    let mut answers = Vec::with_capacity(questions.len());
    for (i, (spelled, question)) in questions.iter().zip(&task.questions).enumerate() {
        progress.update(&task.name, i, questions.len(), "questions");
        answers.push(asker.ask(spelled, question, &format!("task {}, question {i}", task.name))?);
    }
    progress.update(&task.name, questions.len(), questions.len(), "questions");
    Ok(answers)
}

/// A question in tokens.
struct Spelled {
    /// Tokens of the question alone.
    prompt: usize,
    /// Question and option together, for each option.
    options: Vec<Vec<u32>>,
}

impl Spelled {
    /// How many tokens all options begin with; at least the last token of each is left out, since it is only predicted.
    fn shared(&self) -> usize {
        let first = &self.options[0];
        let common = |other: &Vec<u32>| first.iter().zip(other).take_while(|(a, b)| a == b).count();
        let shortest = self.options.iter().map(Vec::len).min().unwrap_or(0);
        self.options.iter().map(common).min().unwrap_or(0).min(shortest.saturating_sub(1)).min(self.prompt)
    }
}

fn spell(task: &Task, index: usize, tokenizer: &Tokenizer) -> Result<Spelled> {
    let error = |reason: String| Error::Question { task: task.name.clone(), question: index, reason };
    let Question { prompt, options, answer } = &task.questions[index];
    if options.len() < 2 || *answer >= options.len() {
        return Err(error(format!(
            "{} options and answer {answer}: two options at least, one of them right",
            options.len()
        )));
    }
    let alone = tokenizer.encode(prompt, Special::OPENING)?.len();
    let spelled = options.iter().map(|option| {
        let tokens = tokenizer.encode(&format!("{prompt}{option}"), Special::OPENING)?;
        if alone == 0 || tokens.len() <= alone {
            return Err(error(format!("the option {option:?} has no tokens of its own after the question")));
        }
        Ok(tokens)
    });
    Ok(Spelled { prompt: alone, options: spelled.collect::<Result<_>>()? })
}

struct Asker<'m> {
    model: &'m Model,
    path: &'m Path,
    session: Session<'m>,
    logits: Vec<f32>,
}

impl Asker<'_> {
    /// The index of the option with the highest score.
    fn ask(&mut self, spelled: &Spelled, question: &Question, place: &str) -> Result<u32> {
        let width = self.model.config().embedding_length;
        let shared = spelled.shared();
        self.session.truncate(0);
        let before = self.session.forward(&spelled.options[0][..shared])?;
        // The state after the shared tokens predicts the first token that is not shared.
        let before = before[before.len() - width.min(before.len())..].to_vec();
        let mut best = (0, f64::NEG_INFINITY);
        for (i, (tokens, text)) in spelled.options.iter().zip(&question.options).enumerate() {
            self.session.truncate(shared);
            let mut hidden = before.clone();
            hidden.extend_from_slice(self.session.forward(&tokens[shared..tokens.len() - 1])?);
            // Row r of `hidden` predicts token `shared + r`.
            let option = &hidden[(spelled.prompt - shared) * width..];
            let log_likelihood = self.log_likelihood(option, &tokens[spelled.prompt..]).ok_or_else(|| {
                Error::NotFinite { model: self.path.to_owned(), text: place.to_owned(), token: spelled.prompt }
            })?;
            let score = log_likelihood / text.len() as f64;
            if score > best.1 {
                best = (i as u32, score);
            }
        }
        Ok(best.0)
    }

    /// Log-likelihood of `targets`, of which each is predicted by a row of `hidden`; `None` if logits are not finite.
    fn log_likelihood(&mut self, hidden: &[f32], targets: &[u32]) -> Option<f64> {
        let config = self.model.config();
        let mut sum = 0.0;
        for (hidden, targets) in hidden.chunks(ROWS * config.embedding_length).zip(targets.chunks(ROWS)) {
            self.logits.resize(targets.len() * config.vocab_size, 0.0);
            self.session.logits(hidden, &mut self.logits);
            for (row, &target) in self.logits.chunks(config.vocab_size).zip(targets) {
                sum += log_probability(row, target as usize)?;
            }
        }
        Some(sum)
    }
}

/// Rows of logits at once: options are short, and a row of a large vocabulary is a megabyte.
const ROWS: usize = 16;

/// Marks the answers of candidate and base.
///
/// # Panics
/// If the answers are not as many as the questions.
pub fn mark(task: &Task, candidate: &[u32], base: &[u32]) -> Choice {
    assert!(candidate.len() == task.questions.len() && base.len() == task.questions.len(), "one answer a question");
    let right = |answers: &[u32]| -> Vec<bool> {
        task.questions.iter().zip(answers).map(|(q, &a)| q.answer == a as usize).collect()
    };
    let (candidate, base) = (right(candidate), right(base));
    let count = |of: &dyn Fn(bool, bool) -> bool| candidate.iter().zip(&base).filter(|&(&c, &b)| of(c, b)).count();
    let accuracy = |right| statistics::share(right, task.questions.len());
    Choice {
        task: task.name.clone(),
        category: task.category,
        questions: task.questions.len(),
        chance: task.chance(),
        accuracy: accuracy(count(&|c, _| c)),
        base_accuracy: accuracy(count(&|_, b| b)),
        lost: count(&|c, b| b && !c),
        gained: count(&|c, b| c && !b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::Category;

    fn task(answers: &[usize]) -> Task {
        let question = |&answer| Question { prompt: "?".into(), options: vec![" a".into(), " b".into()], answer };
        Task {
            name: "t".into(),
            category: Category::Chat,
            source: String::new(),
            questions: answers.iter().map(question).collect(),
        }
    }

    #[test]
    fn flips_are_counted_question_by_question() {
        let choice = mark(&task(&[0, 0, 0, 1, 1]), &[0, 1, 1, 1, 0], &[0, 0, 0, 0, 0]);
        assert_eq!((choice.questions, choice.lost, choice.gained), (5, 2, 1));
        assert_eq!((choice.accuracy.mean, choice.base_accuracy.mean, choice.chance), (0.4, 0.6, 0.5));
        assert!((choice.accuracy.se - (0.4f64 * 0.6 / 4.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn shared_tokens_stop_before_a_difference_the_options_and_the_last_token() {
        let spelled =
            |prompt, options: &[&[u32]]| Spelled { prompt, options: options.iter().map(|o| o.to_vec()).collect() };
        assert_eq!(spelled(3, &[&[1, 2, 3, 4], &[1, 2, 3, 5]]).shared(), 3);
        // The option changed how the question's last token is spelled.
        assert_eq!(spelled(3, &[&[1, 2, 3, 4], &[1, 2, 9, 5]]).shared(), 2);
        assert_eq!(spelled(3, &[&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 6]]).shared(), 3);
    }
}
