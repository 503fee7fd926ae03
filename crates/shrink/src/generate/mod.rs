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
    /// Where it is found: a file, an address.
    fn place(&self) -> String;

    /// Who it is, and how it writes: answers of others are not mixed with its own.
    fn description(&self) -> String;

    /// Refuses a prompt that it cannot answer.
    ///
    /// # Errors
    /// If it cannot, with the reason.
    fn check(&self, number: u64, prompt: &Prompt) -> Result<(), Error>;

    /// Answers those prompts of a group that have no answer yet, and keeps each answer. `wrote` is told of tokens as they
    /// come, and answers whether to go on. Returns the prompts that are refused for what they are.
    ///
    /// # Errors
    /// If the author fails, or an answer cannot be kept. Answers kept by then stay.
    fn answer(
        &mut self,
        group: &[(u64, &Prompt)],
        answers: &mut Answers,
        wrote: &mut dyn FnMut(usize) -> bool,
    ) -> Result<Vec<Refused>, Error>;
}

/// A prompt without an answer.
pub struct Refused {
    /// Which it is, from 0.
    pub number: u64,
    /// Why.
    pub problem: String,
}

/// What happens while answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// So many tokens were written.
    Tokens(usize),
    /// So many prompts are answered by now.
    Answered(usize),
}

/// Refused prompts that are named.
const SHOWN: usize = 60;

/// Groups refused as a whole, one after the other, after which the server is not asked again: it is not the prompts.
const IN_VAIN: usize = 3;

/// Has all prompts answered, `batch` at a time; `on` is told how it goes and answers whether to go on. Returns whether all
/// are answered. Before any is, all are looked at: none is answered in vain.
///
/// Groups are the same in every run, so that what a model writes is a function of its seed, the prompts and `batch`, however
/// often the run was interrupted.
///
/// # Errors
/// As [`Author::check`] and [`Author::answer`], and if some prompts were refused, once all others are answered.
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
    let (mut refused, mut asked, mut in_vain) = (Vec::new(), 0, 0);
    for group in numbered.chunks(batch.max(1)) {
        let missing = group.iter().filter(|(number, _)| !answers.has(*number)).count();
        if missing == 0 {
            continue;
        }
        let of_group = author.answer(group, answers, &mut |tokens| on(Event::Tokens(tokens)))?;
        asked += missing;
        in_vain = if of_group.len() == missing { in_vain + 1 } else { 0 };
        refused.extend(of_group);
        if !on(Event::Answered(answers.len())) {
            return Ok(answers.len() == prompts.len());
        }
        if in_vain == IN_VAIN {
            break;
        }
    }
    match refused.first() {
        None => Ok(answers.len() == prompts.len()),
        Some(first) => Err(Error::Refused {
            place: author.place(),
            refused: refused.len(),
            asked,
            numbers: numbers(&refused),
            problem: first.problem.clone(),
        }),
    }
}

/// As `prompts 2, 17 and 40`, as many as can be read.
fn numbers(refused: &[Refused]) -> String {
    let shown: Vec<String> = refused.iter().take(SHOWN).map(|refused| (refused.number + 1).to_string()).collect();
    let more = refused.len().saturating_sub(SHOWN);
    let and_more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("prompt{} {}{and_more}", if refused.len() > 1 { "s" } else { "" }, shown.join(", "))
}
