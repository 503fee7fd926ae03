//! Continuing several texts together.

use crate::{Batch, Result, Sampler};
use rayon::prelude::*;

/// A text to be continued.
pub struct Request {
    /// Its tokens; at least one.
    pub prompt: Vec<u32>,
    /// Chooses the tokens.
    pub sampler: Sampler,
    /// Tokens to add at most.
    pub limit: usize,
}

/// What was added to a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Continuation {
    /// The tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// The token that ended it; `None` if the limit or the context did.
    pub end: Option<u32>,
}

/// Continues each request by a sequence of `batch`, whose sequences are begun anew. `is_end` says which tokens end a text;
/// `chosen` is told of each token as it is chosen (the request, the token, the logits that it was chosen from), and answers
/// whether to go on. If not, what there is by then is returned.
///
/// The result does not depend on threads. What a text becomes may depend on which others it is continued beside: products
/// with few and with many columns round differently.
///
/// # Errors
/// If a prompt is longer than the context or has tokens that are not in the vocabulary, or a logit is not a number.
///
/// # Panics
/// If there are more requests than sequences, or a prompt is empty.
pub fn generate(
    batch: &mut Batch<'_>,
    requests: &mut [Request],
    is_end: &dyn Fn(u32) -> bool,
    chosen: &mut dyn FnMut(usize, u32, &[f32]) -> bool,
) -> Result<Vec<Continuation>> {
    let config = batch.model().config();
    let (width, vocab) = (config.embedding_length, config.vocab_size);
    let mut continuations = vec![Continuation::default(); requests.len()];
    let mut hidden = Vec::new();
    for (i, request) in requests.iter().enumerate() {
        assert!(!request.prompt.is_empty(), "a prompt has tokens");
        batch.truncate(i, 0);
        let states = batch.forward(&[(i, &request.prompt)])?;
        hidden.extend_from_slice(&states[states.len() - width..]);
    }
    let mut active: Vec<usize> = (0..requests.len()).collect();
    let mut logits = Vec::new();
    loop {
        // Row by row of `hidden` with `active`: which of them go on?
        let goes_on = |i: usize| {
            let added = continuations[i].tokens.len();
            continuations[i].end.is_none() && added < requests[i].limit && batch.position(i) < batch.context()
        };
        let rows: Vec<usize> = (0..active.len()).filter(|&row| goes_on(active[row])).collect();
        hidden = rows.iter().flat_map(|&row| hidden[row * width..][..width].iter().copied()).collect();
        active = rows.into_iter().map(|row| active[row]).collect();
        if active.is_empty() {
            return Ok(continuations);
        }
        logits.resize(active.len() * vocab, 0.0);
        batch.logits(&hidden, &mut logits);
        let tokens = sample(requests, &active, &logits, (vocab, batch.model().tokens()))?;
        let mut go_on = true;
        for ((&i, &token), logits) in active.iter().zip(&tokens).zip(logits.chunks_exact(vocab)) {
            go_on &= chosen(i, token, logits);
            match is_end(token) {
                true => continuations[i].end = Some(token),
                false => continuations[i].tokens.push(token),
            }
        }
        if !go_on {
            return Ok(continuations);
        }
        let ended = |i: usize| continuations[i].end.is_some();
        let parts: Vec<(usize, &[u32])> = active
            .iter()
            .zip(&tokens)
            .filter(|(i, _)| !ended(**i))
            .map(|(&i, t)| (i, std::slice::from_ref(t)))
            .collect();
        hidden = batch.forward(&parts)?.to_vec();
        active.retain(|&i| !ended(i));
    }
}

/// One token for each active request, among the first `tokens` of `rows` logits: beyond them there is none. Sorting a vocabulary takes about as
/// long as a small model, so all threads help.
fn sample(
    requests: &mut [Request],
    active: &[usize],
    logits: &[f32],
    (rows, tokens): (usize, usize),
) -> Result<Vec<u32>> {
    let samplers: Vec<&mut Sampler> = requests
        .iter_mut()
        .enumerate()
        .filter_map(|(i, request)| active.contains(&i).then_some(&mut request.sampler))
        .collect();
    let rows = samplers.into_par_iter().zip(logits.par_chunks_exact(rows));
    rows.map(|(sampler, logits)| sampler.sample(&logits[..tokens], &[])).collect()
}
