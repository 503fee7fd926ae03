//! Tuning the scales of tiny quantized models.

use bantam_checkpoint::{Checkpoint, provenance};
use bantam_nn::Model;
use bantam_nn::random::SplitMix64;
use bantam_nn::train::{AdamW, Parameters};
use bantam_shrink::Mix;
use bantam_shrink::distill::{Divergence, Matching, ModelTeacher, TextTask};
use bantam_shrink::quantize::{Method, Plan};
use bantam_shrink::text::{Sequence, Source, SourceSpec};
use bantam_shrink::train::{Decay, Schedule, Settings, Task, Trainer};
use bantam_shrink::tune::{LOOKED_AT, Tuning, divergence};
use std::path::{Path, PathBuf};

const MATCHING: Matching = Matching { divergence: Divergence::Forward, temperature: 1.0, soft: 1.0 };
const K: usize = 64;

struct Case {
    base: Checkpoint,
    student: Checkpoint,
    source: Source,
    folder: tempfile::TempDir,
}

/// A tiny random model, rounded to 4 bits, and random text.
fn case(name: &str, level: &str) -> Case {
    case_by(name, level, |_| Method::Nearest)
}

/// The same by a method, which gets the text.
fn case_by(name: &str, level: &str, method: impl for<'a> Fn(&'a [Vec<u32>]) -> Method<'a>) -> Case {
    let folder = tempfile::tempdir().unwrap();
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures").join(name);
    let base = Checkpoint::open(fixture).unwrap();
    let path = folder.path().join("student.gguf");
    let vocab = Model::load(&base).unwrap().config().vocab_size;
    let mut random = SplitMix64::new(5);
    let mut sequence = |_| Sequence {
        tokens: (0..24).map(|_| random.below(vocab) as u32).collect(),
        learned: (0..24).map(|i| i > 0).collect(),
        told: Vec::new(),
    };
    let spec = SourceSpec { category: "random".into(), path: PathBuf::new(), weight: None };
    let source = Source { spec, sequences: (0..24).map(&mut sequence).collect(), unanswered: (0, 0), cut: 0 };
    let text: Vec<Vec<u32>> = source.sequences.iter().map(|s| s.tokens.clone()).collect();
    let plan = Plan::new(&base, Mix::by_name(level).unwrap()).unwrap();
    plan.write(&path, method(&text), &mut |_| ()).unwrap();
    Case { base, student: Checkpoint::open(&path).unwrap(), source, folder }
}

fn task<'a>(student: &'a Model, teacher: &'a Model, sources: &'a [Source]) -> TextTask<'a> {
    let mut task = TextTask::new(student, sources, 4, 1);
    task.teacher = Some((Box::new(ModelTeacher::new(teacher, "base", 24, K, 1.0)), MATCHING));
    task
}

#[test]
fn gradients_of_scales_agree_with_finite_differences() {
    for (name, level) in [("llama", "Q4_0"), ("gemma3", "Q4_1"), ("qwen3", "Q8_0")] {
        let case = case(name, level);
        let (student, teacher) = (Model::load(&case.student).unwrap(), Model::load(&case.base).unwrap());
        let sources = [case.source];
        let mut tuning = Tuning::new(&case.student, task(&student, &teacher, &sources)).unwrap();
        let mut shares = tuning.parameters();
        // Somewhere else than at the beginning.
        let mut random = SplitMix64::new(9);
        shares.variables_mut().iter_mut().flat_map(|v| &mut v.values).for_each(|v| *v = random.normal() as f32 * 0.02);
        let mut loss = |shares: &mut Parameters| {
            shares.clear_gradients();
            tuning.pass(0, shares).unwrap().loss
        };
        loss(&mut shares);
        let gradients: Vec<Vec<f32>> = shares.variables().iter().map(|v| v.gradient.clone()).collect();
        for (at, gradient) in gradients.iter().enumerate() {
            // Along the gradient itself, so that the change is large enough to be seen in f32.
            let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let path = shares.variables()[at].path.clone();
            assert!(norm > 0.0, "{name} {level}: {path} has no gradient");
            let step = 1e-3;
            let mut at_distance = |distance: f64, shares: &mut Parameters| {
                let before = shares.variables()[at].values.clone();
                let moved = before.iter().zip(gradient).map(|(v, g)| v + (f64::from(*g) / norm * distance) as f32);
                shares.variables_mut()[at].values = moved.collect();
                let found = loss(shares);
                shares.variables_mut()[at].values = before;
                found
            };
            let slope = (at_distance(step, &mut shares) - at_distance(-step, &mut shares)) / (2.0 * step);
            // What f32 shows of the loss, which is about 1.
            let tolerance = 0.02 * norm + 3e-4;
            assert!(
                (slope - norm).abs() <= tolerance,
                "{name} {level}: {path}: {slope} by differences, {norm} by hand"
            );
        }
    }
}

#[test]
fn a_tuned_file_is_as_large_and_nearer_to_its_base() {
    for (name, level) in [("llama", "Q4_0"), ("gemma3", "Q4_1")] {
        let Case { base, student, source, folder } = case(name, level);
        let (model, teacher) = (Model::load(&student).unwrap(), Model::load(&base).unwrap());
        let sources = [source];
        let mut tuning = Tuning::new(&student, task(&model, &teacher, &sources)).unwrap();
        let mut shares = tuning.parameters();
        let settings = Settings {
            schedule: Schedule { peak: 3e-3, floor: 0.0, warmup: 3, steps: 60, decay: Decay::Cosine },
            method: AdamW { weight_decay: 0.0, ..AdamW::default() }.into(),
            clip: None,
            save: None,
        };
        let mut trainer = Trainer::new(settings, &tuning, &mut shares).unwrap();
        trainer.run(&mut tuning, &mut shares, &mut |_, _| true).unwrap();
        let output = folder.path().join("tuned.gguf");
        tuning.write(&student, &shares, provenance::Step::new("tune", "student", None), &output).unwrap();
        let tuned = Checkpoint::open(&output).unwrap();
        assert_eq!(tuned.tensors(), student.tensors());
        let sequences: Vec<(u64, &Sequence)> =
            sources[0].sequences.iter().enumerate().map(|(i, s)| (i as u64, s)).collect();
        let mut asked = ModelTeacher::new(&teacher, "base", 24, K, 1.0);
        let [before, after] = [&student, &tuned].map(|c| divergence(c, &mut asked, &sequences, &mut |_| ()).unwrap());
        println!("{name} {level}: {before} to {after}");
        assert!(after < 0.8 * before, "{name} {level}: {before} to {after}");
        // What was written is what was trained: the last loss, on a batch of the same text.
        let last = f64::from(*trainer.losses().last().unwrap());
        assert!((after - last).abs() < 0.3 * last, "{name} {level}: {after} written, {last} trained");
    }
}

#[test]
fn a_run_knows_its_student() {
    let description = |level: &str, method: Method<'static>| {
        let case = case_by("llama", level, |_| method);
        let (student, teacher) = (Model::load(&case.student).unwrap(), Model::load(&case.base).unwrap());
        Tuning::new(&case.student, task(&student, &teacher, &[case.source])).unwrap().description()
    };
    let of_nearest = description("Q4_0", Method::Nearest);
    assert_eq!(of_nearest, description("Q4_0", Method::Nearest));
    let text: &[Vec<u32>] = vec![(0..24).collect(), (9..33).collect()].leak();
    // Of the same formats, and what is trained begins at 0 for both.
    assert_ne!(of_nearest, description("Q4_0", Method::Gptq(text)));
}

#[test]
fn what_is_not_learned_is_not_judged() {
    let mut case = case("llama", "Q4_0");
    let teacher = Model::load(&case.base).unwrap();
    let mut asked = ModelTeacher::new(&teacher, "base", 24, K, 1.0);
    let mut of = |sequence: &Sequence| divergence(&case.student, &mut asked, &[(0, sequence)], &mut |_| ()).unwrap();
    let sequence = &mut case.source.sequences[0];
    let all = of(sequence);
    sequence.learned = (0..24).map(|i| i < 12).collect();
    let first = of(sequence);
    sequence.learned = (0..24).map(|i| i >= 12).collect();
    let last = of(sequence);
    // The first token follows nothing: 11 and 12 are predicted.
    assert!(first != last && (all - (11.0 * first + 12.0 * last) / 23.0).abs() < 1e-6 * all, "{all}: {first}, {last}");
}

#[test]
fn text_agrees_less_where_errors_were_made_up_for() {
    let agreement = |case: &Case| {
        let (student, teacher) = (Model::load(&case.student).unwrap(), Model::load(&case.base).unwrap());
        let sources = std::slice::from_ref(&case.source);
        let mut tuning = Tuning::new(&case.student, task(&student, &teacher, sources)).unwrap();
        let (mut shares, mut done) = (tuning.parameters(), 0);
        let agreement = tuning.agreement(&mut shares, &mut || done += 1).unwrap();
        assert_eq!(done, LOOKED_AT);
        assert!(shares.variables().iter().all(|v| v.values.iter().chain(&v.gradient).all(|x| *x == 0.0)));
        agreement
    };
    // Models whose embedding is the head too: another one is rounded by itself, and nothing makes up for its errors.
    for name in ["qwen2", "gemma3"] {
        let nearest = agreement(&case(name, "Q4_0"));
        let made_up_for = agreement(&case_by(name, "Q4_0", |text| Method::Descent(text)));
        println!("{name}: {nearest} and {made_up_for}");
        assert!(made_up_for < nearest && nearest > 0.2 && nearest < 1.0, "{name}: {nearest} and {made_up_for}");
    }
}

#[test]
fn untouched_shares_write_the_same_bytes() {
    for level in ["Q4_0", "Q4_1", "Q5_1", "Q8_0"] {
        let Case { base, student, source, folder } = case("llama", level);
        let (model, teacher) = (Model::load(&student).unwrap(), Model::load(&base).unwrap());
        let sources = [source];
        let mut tuning = Tuning::new(&student, task(&model, &teacher, &sources)).unwrap();
        let shares = tuning.parameters();
        let output = folder.path().join("same.gguf");
        tuning.write(&student, &shares, provenance::Step::new("tune", "student", None), &output).unwrap();
        let same = Checkpoint::open(&output).unwrap();
        for tensor in student.tensors() {
            let [before, after] = [&student, &same].map(|c| c.data(&tensor.name).unwrap().to_vec());
            assert!(before == after, "{level}: {}", tensor.name);
        }
    }
}
