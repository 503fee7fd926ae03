//! Wider models compute what narrower ones do.

mod common;

use bantam_checkpoint::{Checkpoint, Config};
use bantam_nn::Model;
use bantam_nn::random::SplitMix64;
use bantam_nn::softmax::compare;
use bantam_shrink::Mix;
use bantam_shrink::calibrate::Walk;
use bantam_shrink::quantize::{Importance, Method, Plan};
use bantam_shrink::widen::Widening;
use common::checkpoint;

fn logits(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut session = model.session(tokens.len());
    let hidden = session.forward(tokens).unwrap().to_vec();
    let mut logits = vec![0.0; tokens.len() * model.config().vocab_size];
    session.logits(&hidden, &mut logits);
    logits
}

/// What is chosen for a model that is not written yet holds when it is.
fn is_as_planned(wide: &Checkpoint, planned: &Checkpoint) {
    assert_eq!((wide.tensors(), wide.parameters()), (planned.tensors(), planned.parameters()));
    assert!(planned.data(&planned.tensors()[0].name).err().unwrap().to_string().contains("not written yet"));
    let mix = Mix::by_name("Q3_K_M").unwrap();
    let [wide, planned] = [wide, planned].map(|model| Plan::new(model, mix).unwrap());
    assert_eq!(wide.file_bytes(Method::Nearest), planned.file_bytes(Method::Nearest));
    assert_eq!((wide.outputs(), wide.fall_backs()), (planned.outputs(), planned.fall_backs()));
}

/// What the linear layers of the first layer see of some text.
fn importance(model: &Model) -> Importance {
    Walk::new(model, &[[3, 1, 4, 1, 5, 9, 2, 6]]).unwrap().mean_squares(model).unwrap()
}

#[test]
fn a_wider_model_predicts_the_same() {
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        let narrow = checkpoint(name);
        let widening = Widening::of(&narrow).unwrap().expect("these models have short rows");
        let folder = tempfile::tempdir().unwrap();
        // The name is in the record of what is made of it, and so in its size.
        let path = folder.path().join(name);
        let mut done = 0;
        widening.write(&narrow, &path, &mut |weights| done += weights).unwrap();
        let wide = Checkpoint::open(&path).unwrap();
        is_as_planned(&wide, &widening.planned(&narrow));
        assert_eq!(done, wide.parameters(), "{name}");
        assert_eq!((narrow.weights(), wide.weights()), (narrow.parameters(), narrow.parameters()), "{name}");
        let config = Config::of(&wide).unwrap();
        assert!(
            config.embedding_length.is_multiple_of(256) && config.feed_forward_length.is_multiple_of(256),
            "{name}"
        );
        assert!(Widening::of(&wide).unwrap().is_none(), "{name}: nothing is left to do");
        for tensor in narrow.tensors() {
            assert_eq!(wide.tensor(&tensor.name).unwrap().shape, widening.shape(tensor), "{name}: {}", tensor.name);
        }

        let models = [&narrow, &wide].map(|checkpoint| Model::load(checkpoint).unwrap());
        let [seen, seen_wide] = models.each_ref().map(importance);
        for (tensor, values) in widening.importance(&narrow, &seen) {
            let origin = widening.columns(narrow.tensor(&tensor).unwrap());
            for (i, (value, found)) in values.iter().zip(&seen_wide[&tensor]).enumerate() {
                let is_new = origin.as_ref().is_some_and(|origin| origin[i].is_none());
                let alike = (value - found).abs() <= 1e-4 * found.abs().max(1e-3);
                assert!(if is_new { (*value > 0.0) == (*found > 0.0) } else { alike }, "{name}: {tensor}, channel {i}");
            }
            assert_eq!(values.len(), seen_wide[&tensor].len());
        }
        let vocab = models[0].config().vocab_size;
        let mut random = SplitMix64::new(1);
        let tokens: Vec<u32> = (0..48).map(|_| random.below(vocab) as u32).collect();
        let [narrow, wide] = models.each_ref().map(|model| logits(model, &tokens));
        for (narrow, wide) in narrow.chunks(vocab).zip(wide.chunks(vocab)) {
            let score = compare(narrow, wide, 0).unwrap();
            assert!(score.kl < 1e-6 && score.same_top, "{name}: {}", score.kl);
        }
    }
}

#[test]
fn what_it_does_not_know_is_not_widened() {
    assert!(Widening::of(&checkpoint("bert")).unwrap().is_none());
}
