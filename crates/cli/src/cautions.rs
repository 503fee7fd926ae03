//! What is said of a plan before it is carried out: what may be lost, and what does not fit.

use crate::output;
use bantam_checkpoint::{Checkpoint, TensorInfo};
use bantam_formats::Format;
use bantam_shrink::quantize::{FallBack, Importance, Method, Plan};
use std::collections::BTreeSet;
use std::path::Path;

/// Warns of what this method will lose with these formats.
pub fn of_plan(plan: &Plan<'_>, method: Method<'_>) {
    match method {
        Method::Nearest => of_code_books(plan, |_| true),
        Method::Importance(importance) => of_gaps(plan, importance),
        _ => {}
    }
    of_ternary(plan);
}

/// Says so where a directory's tokenizer cannot come along.
pub fn of_no_tokenizer(checkpoint: &Checkpoint, output: &Path) {
    if checkpoint.path().is_dir() && checkpoint.metadata().strings("tokenizer.ggml.tokens").is_none() {
        output::say(format_args!(
            "warning: {} has no tokenizer.json, so {} has no tokenizer and cannot be run on text",
            checkpoint.path().display(),
            output.display()
        ));
    }
}

/// Tensors that llama.cpp's matrices leave out: no product sees the embedding but as the head, and the head is left out unless it is asked for.
const LEFT_OUT: [&str; 2] = ["token_embd.weight", "output.weight"];

/// Says so where an importance matrix has nothing about matrices that are rounded.
fn of_gaps(plan: &Plan<'_>, importance: &Importance) {
    let rounded: Vec<TensorInfo> = plan.rounded().collect();
    let missing: Vec<&str> = rounded
        .iter()
        .filter(|t| t.shape.len() > 1 && !LEFT_OUT.contains(&&t.name[..]) && !importance.contains_key(&t.name))
        .map(|t| &t.name[..])
        .collect();
    if let Some(first) = missing.first() {
        output::say(format_args!(
            "warning: the importance matrix has nothing about {} of {} tensors ({first} and so on): they are rounded to the nearest. Is it of this model?",
            missing.len(),
            rounded.len()
        ));
        of_code_books(plan, |name| missing.contains(&name));
    }
}

/// Says so where nothing tells which errors matter, and neighbouring weights have to choose a point together: some of them lose much then.
fn of_code_books(plan: &Plan<'_>, of: impl Fn(&str) -> bool) {
    let rounded = plan.rounded().filter(|t| of(&t.name));
    let of_books = rounded.map(|t| t.format).filter(|f| f.grid.as_ref().is_some_and(|grid| grid.vector > 1));
    let names: BTreeSet<&str> = of_books.map(|format| format.name).collect();
    if !names.is_empty() {
        output::say(format_args!(
            "warning: formats with code books ({}) lose a lot without calibration; `bantam quantize --calibrate` loses less",
            names.into_iter().collect::<Vec<_>>().join(", ")
        ));
    }
}

/// Says so where weights get three values: only models that were trained with such weights survive it.
fn of_ternary(plan: &Plan<'_>) {
    let ternary = |format: &Format| format.grid.as_ref().is_some_and(|grid| grid.levels.len() == 3);
    let all: Vec<TensorInfo> = plan.rounded().collect();
    let rounded: Vec<&TensorInfo> = all.iter().filter(|tensor| ternary(tensor.format)).collect();
    // One that was chosen for a tensor that does not mind is another matter.
    if let Some(first) = rounded.first().filter(|_| 2 * rounded.len() > all.len()) {
        output::say(format_args!(
            "warning: {} tensors get weights of three values ({}): unless the model was trained with such weights it becomes unusable",
            rounded.len(),
            first.format.name
        ));
    }
}

/// One line for each kind of fall-back: `Q4_K → Q5_0 in 120 tensors: their rows of 576 are no multiple of 256`.
pub fn fall_backs(plan: &Plan<'_>) -> Vec<String> {
    let fall_backs = plan.fall_backs();
    let mut kinds: Vec<(&FallBack, usize)> = Vec::new();
    for fall_back in &fall_backs {
        let same = |kind: &&mut (&FallBack, usize)| {
            (kind.0.wanted, kind.0.got, kind.0.cols) == (fall_back.wanted, fall_back.got, fall_back.cols)
        };
        match kinds.iter_mut().find(same) {
            Some(kind) => kind.1 += 1,
            None => kinds.push((fall_back, 1)),
        }
    }
    let line = |(f, count): &(&FallBack, usize)| {
        let tensors = if *count == 1 { format!("in {}", f.tensor) } else { format!("in {count} tensors") };
        let (wanted, got) = (f.wanted.name, f.got.name);
        match f.wanted.divides(f.cols) {
            true => format!("{wanted} → {got} {tensors}: such files have one group size for all"),
            false => format!("{wanted} → {got} {tensors}: rows of {} are no multiple of {}", f.cols, f.wanted.block),
        }
    };
    kinds.iter().map(line).collect()
}
