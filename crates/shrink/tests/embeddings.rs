//! Students of a tiny random sentence encoder learn its embeddings.

use bantam_checkpoint::{Checkpoint, provenance};
use bantam_formats::Format;
use bantam_nn::Encoder;
use bantam_nn::random::SplitMix64;
use bantam_nn::train::{AdamW, Parameters};
use bantam_shrink::distill::{EmbeddingMatching, EmbeddingTask, EncoderTeacher};
use bantam_shrink::text::{Sentences, SourceSpec};
use bantam_shrink::train::{Decay, Schedule, Settings, Trainer};
use bantam_shrink::{Error, students};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn teacher() -> Checkpoint {
    Checkpoint::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/bert")).unwrap()
}

fn sentences() -> [Sentences; 1] {
    let words = ["man", "flute", "plays", "a", "space", "tokens", "naïve", "istanbul", "soft", "zero", "wide", "stop"];
    let mut random = SplitMix64::new(3);
    let mut sentence = |_| {
        let words: Vec<&str> = (0..3 + random.below(6)).map(|_| words[random.below(words.len())]).collect();
        words.join(" ")
    };
    let texts = (0..60).map(&mut sentence).collect();
    [Sentences { spec: SourceSpec { category: "text".into(), path: "random".into(), weight: None }, texts, blank: 0 }]
}

fn settings(save: Option<PathBuf>) -> Settings {
    Settings {
        schedule: Schedule { peak: 3e-3, floor: 0.1, warmup: 5, steps: 80, decay: Decay::Cosine },
        method: AdamW::default().into(),
        clip: Some(1.0),
        save: save.map(|path| (path, Duration::ZERO)),
    }
}

/// Trains for some steps; returns all losses so far and the parameters.
fn run(
    student: &Checkpoint,
    matching: &EmbeddingMatching,
    cache: &Path,
    steps: u64,
    save: Option<PathBuf>,
) -> (Vec<f32>, Parameters) {
    let (teacher, sentences) = (Encoder::load(&teacher()).unwrap(), sentences());
    let encoder = Encoder::load(student).unwrap();
    let word = EncoderTeacher::new(&teacher, &self::teacher(), 16).unwrap();
    let word = word.with_cache(cache).unwrap();
    let layers = (1..=encoder.definition().layers()).collect();
    let mut task = EmbeddingTask::new(&encoder, word, &sentences, matching.clone(), layers, (8, 16, 7));
    let mut parameters = Parameters::of(student).unwrap();
    let mut trainer = Trainer::new(settings(save), &task, &mut parameters).unwrap();
    let until = trainer.steps() + steps;
    trainer.run(&mut task, &mut parameters, &mut |steps, _| steps < until).unwrap();
    (trainer.losses().to_vec(), parameters)
}

fn mean(losses: &[f32]) -> f32 {
    losses.iter().sum::<f32>() / losses.len() as f32
}

#[test]
fn a_student_of_some_layers_comes_nearer_and_a_killed_run_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("student.gguf");
    assert_eq!(students::take_layers(&teacher(), "0,2", &path).unwrap(), [0, 2]);
    let student = Checkpoint::open(&path).unwrap();
    for matching in [
        "cosine",
        "mse",
        "relation:10",
        "token-relation",
        "hidden-cosine",
        "cosine,mse:0.5,relation:5,hidden:0.5,token-relation:2",
    ] {
        let cache = folder.path().join("cache");
        let matched = matching.parse().unwrap();
        let (losses, parameters) = run(&student, &matched, &cache, 80, None);
        assert!(mean(&losses[75..]) < 0.5 * mean(&losses[..5]), "{matching}: {losses:?}");

        let state = folder.path().join(format!("{matching}.state"));
        for steps in [13, 1, 30] {
            run(&student, &matched, &cache, steps, Some(state.clone()));
        }
        let (resumed, resumed_parameters) = run(&student, &matched, &cache, 80, Some(state));
        assert_eq!(losses, resumed, "{matching}");
        let pairs = parameters.variables().iter().zip(resumed_parameters.variables());
        assert!(pairs.into_iter().all(|(a, b)| a.values == b.values), "{matching}: the weights are the same");
    }
}

#[test]
fn a_narrow_student_learns_through_a_projection_that_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let (config, path) = (folder.path().join("config.json"), folder.path().join("student.gguf"));
    std::fs::write(
        &config,
        r#"{"model_type": "bert", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": 400, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu"}"#,
    )
    .unwrap();
    students::initial(&config, &teacher(), 1, u64::MAX, &path).unwrap();
    let student = Checkpoint::open(&path).unwrap();
    let matching = "cosine,relation,hidden:0.5,token-relation".parse().unwrap();
    let (losses, parameters) = run(&student, &matching, &folder.path().join("cache"), 80, None);
    assert!(mean(&losses[75..]) < 0.7 * mean(&losses[..5]), "{losses:?}");
    let beside: Vec<_> = parameters.variables().iter().filter(|v| v.path.starts_with("distill.")).collect();
    assert_eq!(beside.len(), 3);
    assert!(beside.iter().all(|v| v.shape == [32, 16] && v.gradient.iter().any(|&g| g != 0.0)));
    let out = folder.path().join("trained.gguf");
    let step = provenance::Step::new("distill", "bert", None);
    students::write(&student, &parameters, Format::by_name("F16").unwrap(), step, &out).unwrap();
    let written = Checkpoint::open(&out).unwrap();
    assert_eq!(written.tensors().len(), student.tensors().len());
    let format = |name: &str| written.tensor(name).unwrap().format.name;
    assert_eq!((format("position_embd.weight"), format("token_embd.weight")), ("F32", "F16"));
    assert_eq!(Encoder::load(&written).unwrap().embed_texts(&["a man"]).unwrap().len(), 16);
}

/// A teacher whose layers overflow, though its weights are finite.
#[test]
fn what_a_broken_teacher_says_is_neither_kept_nor_learned() {
    let folder = tempfile::tempdir().unwrap();
    let mut parameters = Parameters::of(&teacher()).unwrap();
    let norm = parameters.get("token_embd_norm.weight").unwrap();
    let (shape, values) = (norm.shape.clone(), norm.values.iter().map(|_| 3e38).collect());
    parameters.insert("token_embd_norm.weight", &shape, values);
    let path = folder.path().join("broken.gguf");
    let step = provenance::Step::new("train", "bert", None);
    students::write(&teacher(), &parameters, Format::f32(), step, &path).unwrap();
    let broken = Checkpoint::open(&path).unwrap();
    let encoder = Encoder::load(&broken).unwrap();
    let word = || EncoderTeacher::new(&encoder, &broken, 16).unwrap();
    let mut keeping = word().with_cache(&folder.path().join("cache")).unwrap();
    assert!(matches!(keeping.capture(&["a man"]), Err(Error::Predictions { .. })));
    assert!(keeping.cache().unwrap().is_empty());

    let (student, sentences) = (Encoder::load(&teacher()).unwrap(), sentences());
    let mut parameters = Parameters::of(&teacher()).unwrap();
    let mut task = EmbeddingTask::new(&student, word(), &sentences, "cosine".parse().unwrap(), Vec::new(), (8, 16, 7));
    let mut trainer = Trainer::new(settings(None), &task, &mut parameters).unwrap();
    let learned = trainer.run(&mut task, &mut parameters, &mut |_, _| true);
    assert!(matches!(learned, Err(Error::Predictions { .. })));
}

#[test]
fn a_cache_of_another_teacher_or_text_is_refused_and_damage_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cache");
    let (encoder, sentences) = (Encoder::load(&teacher()).unwrap(), sentences());
    let all: Vec<&str> = sentences[0].texts.iter().map(|t| &t[..]).collect();
    let other = folder.path().join("bert"); // the same name, another model
    students::take_layers(&teacher(), "0,1", &other).unwrap();
    let (this, other) = (teacher(), Checkpoint::open(&other).unwrap());
    let open = |of: &Checkpoint, length| EncoderTeacher::new(&encoder, of, length).unwrap().with_cache(&path);
    let mut teacher = open(&this, 16).unwrap();
    assert!(teacher.capture(&all[..20]).unwrap() > 60);
    assert_eq!(teacher.capture(&all[..20]).unwrap(), 0, "nothing is captured twice");
    assert!(open(&this, 16).err().unwrap().to_string().contains("another run"));
    drop(teacher);
    assert_eq!(open(&this, 16).unwrap().cache().unwrap().len(), 20);
    let refused = |of: &Checkpoint, length| open(of, length).err().map(|e| e.to_string()).unwrap_or_default();
    assert!(refused(&other, 16).contains("other outputs"));
    assert!(refused(&this, 12).contains("16 tokens a sentence, not of"));
    let mut bytes = std::fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    assert!(refused(&this, 16).contains("is damaged"), "{}", refused(&this, 16));
}
