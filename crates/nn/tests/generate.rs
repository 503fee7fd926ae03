//! Continuing texts together gives what continuing each alone gives.

use bantam_checkpoint::Checkpoint;
use bantam_nn::generate::{Continuation, Request, generate};
use bantam_nn::train::Parameters;
use bantam_nn::{Batch, Model, Sampler, Sampling};
use std::path::Path;

const FAMILIES: [&str; 5] = ["llama", "llama-biases", "qwen2", "qwen3", "gemma3"];

fn checkpoint(name: &str) -> Checkpoint {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).unwrap()
}

/// Prompts of 1 to 6 tokens, each with its own limit.
fn requests(temperature: f32) -> Vec<Request> {
    let request = |i: u32| Request {
        prompt: (0..=i).map(|t| (t * 37 + i * 11) % 250).collect(),
        sampler: Sampler::new(Sampling { temperature, seed: i.into(), ..Sampling::default() }).unwrap(),
        limit: 5 + i as usize * 3,
    };
    (0..6).map(request).collect()
}

fn continued(mut batch: Batch<'_>, mut requests: Vec<Request>) -> Vec<Continuation> {
    generate(&mut batch, &mut requests, &|token| token % 41 == 0, &mut |_, _, _| true).unwrap()
}

#[test]
fn together_as_alone() {
    for name in FAMILIES {
        let model = Model::load(&checkpoint(name)).unwrap();
        let together = continued(model.batch(6, 64), requests(0.0));
        let alone = requests(0.0).into_iter().flat_map(|request| continued(model.batch(1, 64), vec![request]));
        assert_eq!(together, alone.collect::<Vec<_>>(), "{name}");
        for (i, continuation) in together.iter().enumerate() {
            let (len, limit) = (continuation.tokens.len(), 5 + i * 3);
            assert!(if continuation.end.is_some() { len < limit } else { len == limit }, "{name}: {continuation:?}");
        }
    }
}

#[test]
fn the_context_ends_a_text() {
    let model = Model::load(&checkpoint("llama")).unwrap();
    let mut requests = requests(0.0);
    requests.iter_mut().for_each(|r| r.limit = usize::MAX);
    let mut batch = model.batch(6, 12);
    let continuations = generate(&mut batch, &mut requests, &|_| false, &mut |_, _, _| true).unwrap();
    for (i, continuation) in continuations.iter().enumerate() {
        assert_eq!(
            continuation.tokens.len(),
            12 - (i + 1),
            "what is in the context, which the last token need not be in"
        );
    }
}

#[test]
fn a_batch_can_be_used_again_and_stopped() {
    let model = Model::load(&checkpoint("qwen3")).unwrap();
    let mut batch = model.batch(6, 64);
    let mut all = |go_on: bool| {
        generate(&mut batch, &mut requests(1.0), &|_| false, &mut |_, _, logits| {
            assert_eq!(logits.len(), model.config().vocab_size);
            go_on
        })
        .unwrap()
    };
    let (first, stopped, again) = (all(true), all(false), all(true));
    assert_eq!(first, again);
    assert!(stopped.iter().zip(&first).all(|(s, f)| s.tokens == f.tokens[..1]));
}

#[test]
fn trained_values_are_run_as_they_are_by_now() {
    for name in FAMILIES {
        let checkpoint = checkpoint(name);
        let model = Model::load(&checkpoint).unwrap();
        let mut parameters = Parameters::of(&checkpoint).unwrap();
        let loaded = continued(model.batch(6, 64), requests(0.0));
        assert_eq!(continued(model.batch_of(&parameters, 6, 64), requests(0.0)), loaded, "{name}");
        // Every layer's values count, biases and norms too.
        for at in 0..parameters.variables().len() {
            let hidden = |parameters: &Parameters| {
                model.batch_of(parameters, 1, 64).forward(&[(0, &[5, 6, 7])]).unwrap().to_vec()
            };
            let logits = |parameters: &Parameters| {
                let hidden = hidden(parameters);
                let mut logits = vec![0.0; 3 * model.config().vocab_size];
                model.batch_of(parameters, 1, 64).logits(&hidden, &mut logits);
                logits
            };
            let before = logits(&parameters);
            let variable = &mut parameters.variables_mut()[at];
            let (path, kept) = (variable.path.clone(), variable.values.clone());
            // Not all alike: adding the same to all keys changes no attention.
            variable.values.iter_mut().enumerate().for_each(|(i, v)| *v += 0.5 + (i % 7) as f32 / 4.0);
            let after = logits(&parameters);
            assert!(path == "rope_freqs.weight" || before != after, "{name}: {path}");
            parameters.variables_mut()[at].values = kept;
        }
    }
}

/// A question's answer of one token has nothing to be appended after it.
#[test]
fn appending_nothing_changes_nothing() {
    let model = Model::load(&checkpoint("llama")).unwrap();
    let mut session = model.session(64);
    assert!(session.forward(&[]).unwrap().is_empty());
    let whole = session.forward(&[5, 6, 7]).unwrap().to_vec();
    let mut batch = model.batch(3, 64);
    let width = whole.len() / 3;
    assert_eq!(batch.forward(&[(0, &[]), (1, &[5, 6, 7]), (2, &[])]).unwrap().len(), 3 * width);
    assert_eq!((batch.position(0), batch.position(1), batch.position(2)), (0, 3, 0));
    assert!(session.forward(&[]).unwrap().is_empty() && session.position() == 3);
}
