//! A teacher's behaviour: what it writes when it is given prompts, for a student to be trained on (Kim, Rush 2016,
//! sequence-level distillation). It works whatever tokenizers the two have.
//!
//! Where to start: [`answer_all`] asks an [`Author`] for what is missing in [`Answers`]; [`ModelAuthor`] runs a model, [`Served`]
//! asks an OpenAI-compatible server. What
//! comes out is read by [`Source::read`](crate::text::Source::read), which has the answers learned and not the prompts.

mod answers;
mod endpoint;
mod http;
mod model;
mod prompts;
mod reply;

pub use answers::{Answer, Answers, Finish, Piece, Word};
pub use endpoint::{Endpoint, Served};
pub use model::ModelAuthor;
pub use prompts::{Prompt, read_prompts};

use crate::Error;

/// Writes answers.
pub trait Author {
    /// Who it is, and how it writes: answers of others are not mixed with its own.
    fn description(&self) -> String;

    /// Refuses a prompt that it cannot answer.
    ///
    /// # Errors
    /// If it cannot, with the reason.
    fn check(&self, number: u64, prompt: &Prompt) -> Result<(), Error>;

    /// Answers those prompts of a group that have no answer yet, and keeps each answer. `wrote` is told of tokens as they
    /// come, and answers whether to go on.
    ///
    /// # Errors
    /// If the author fails, or an answer cannot be kept. Answers kept by then stay.
    fn answer(
        &mut self,
        group: &[(u64, &Prompt)],
        answers: &mut Answers,
        wrote: &mut dyn FnMut(usize) -> bool,
    ) -> Result<(), Error>;
}

/// What happens while answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many tokens were written.
    Tokens(usize),
    /// So many prompts are answered by now.
    Answered(usize),
}

/// Has all prompts answered, `batch` at a time; `on` is told how it goes and answers whether to go on. Returns whether all
/// are answered. Before any is, all are looked at: none is answered in vain.
///
/// Groups are the same in every run, so that what a model writes is a function of its seed and the prompts, however often
/// the run was interrupted.
///
/// # Errors
/// As [`Author::check`] and [`Author::answer`].
pub fn answer_all(
    author: &mut dyn Author,
    prompts: &[Prompt],
    batch: usize,
    answers: &mut Answers,
    on: &mut dyn FnMut(Event) -> bool,
) -> Result<bool, Error> {
    let numbered: Vec<(u64, &Prompt)> = (0..).zip(prompts).collect();
    let missing = numbered.iter().filter(|(number, _)| !answers.has(*number));
    missing.into_iter().try_for_each(|(number, prompt)| author.check(*number, prompt))?;
    for group in numbered.chunks(batch.max(1)) {
        if group.iter().all(|(number, _)| answers.has(*number)) {
            continue;
        }
        author.answer(group, answers, &mut |tokens| on(Event::Tokens(tokens)))?;
        if !on(Event::Answered(answers.len())) {
            break;
        }
    }
    Ok(answers.len() == prompts.len())
}
