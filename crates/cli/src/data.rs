//! Files of text for a model: what is learned from, and what is calibrated on.

use crate::args::Global;
use crate::output;
use bantam_checkpoint::Checkpoint;
use bantam_checkpoint::chat_template::ChatTemplate;
use bantam_checkpoint::tokenizer::Tokenizer;
use bantam_shrink::calibrate::Overlap;
use bantam_shrink::text::{Logprobs, Source, SourceSpec};

/// What the files are called in a record: without their folders, since that must not depend on where a user keeps them.
pub fn names(files: &[SourceSpec]) -> Vec<String> {
    let name = |spec: &SourceSpec| {
        let name = spec.path.file_name().unwrap_or_default().to_string_lossy();
        let weight = spec.weight.map_or_else(String::new, |w| format!(":{w}"));
        format!("{}={name}{weight}", spec.category)
    };
    files.iter().map(name).collect()
}

/// Reads all files into sequences of up to `length` of a model's tokens, and says what of them nothing is learned from.
pub fn read(
    files: &[SourceSpec],
    model: &Checkpoint,
    length: usize,
    logprobs: Logprobs,
    global: &Global,
) -> anyhow::Result<Vec<Source>> {
    let tokenizer = Tokenizer::of(model)?;
    let template = ChatTemplate::of(model)?.map(ChatTemplate::on_a_fixed_day);
    let read = |spec: &SourceSpec| Source::read(spec.clone(), &tokenizer, template.as_ref(), length, logprobs);
    let sources: Vec<Source> = files.iter().map(read).collect::<Result<_, _>>()?;
    for Source { spec, unanswered: (without, all), .. } in &sources {
        if *without > 0 && !global.quiet {
            output::say(format_args!(
                "note: {without} of the {all} conversations and prompts in {} have no answer within {length} tokens and are left out",
                spec.path.display()
            ));
        }
    }
    Ok(sources)
}

/// Says of how many answers only the beginning is learned: a student learns of them neither the rest nor where they end.
pub fn say_what_is_cut(sources: &[Source], length: usize, global: &Global) {
    if global.quiet {
        return;
    }
    for Source { spec, cut, unanswered: (without, all), .. } in sources.iter().filter(|source| source.cut > 0) {
        let answered = all - without;
        output::say(format_args!(
            "note: {cut} of the {answered} conversations and answers in {} are cut off at {length} tokens: how they go on and end is not learned; \
             --length takes more",
            spec.path.display()
        ));
    }
}

/// A share of what is measured on above which the result would flatter.
const TELLING: f64 = 0.01;

/// Says so where these sequences, which are `used` so, hold text or questions that bantam measures on.
pub fn warn_of_overlap<'a>(sequences: impl Iterator<Item = &'a [u32]>, tokenizer: &Tokenizer, used: &str) {
    let suite = bantam_measure::data::suite(bantam_measure::data::SUITES[0]).expect("the default suite");
    let texts = suite.texts.iter().map(|text| (format!("{} evaluation text", text.category.name()), &text.text));
    let questions = suite.tasks.iter().flat_map(|task| task.questions.iter().map(move |question| (task, question)));
    let questions = questions.map(|(task, question)| (format!("{} questions", task.category.name()), &question.prompt));
    let mut overlap = Overlap::with(texts.chain(questions));
    sequences.for_each(|tokens| overlap.see(&tokenizer.decode(tokens)));
    for (measured_on, share) in overlap.shares().filter(|(_, share)| *share > TELLING) {
        let percent = 100.0 * share;
        output::say(format_args!(
            "warning: {percent:.0} % of bantam's {measured_on} is in the text that is {used}; what `bantam eval` measures \
             of it will look better than it is"
        ));
    }
}
