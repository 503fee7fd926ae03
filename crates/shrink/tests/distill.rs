//! A student of one layer learns from a tiny teacher of two.

use bantam_checkpoint::{Checkpoint, GgufWriter, TensorInfo, Value, provenance};
use bantam_formats::Format;
use bantam_nn::generate::{Request, generate};
use bantam_nn::random::SplitMix64;
use bantam_nn::train::{AdamW, Parameters, softmax};
use bantam_nn::{Model, Sampler, Sampling};
use bantam_shrink::distill::{
    Cache, Divergence, HiddenMatching, Kept, Matching, ModelTeacher, OnPolicy, Said, States, Teacher, TextTask,
};
use bantam_shrink::quantize::{Method, Plan};
use bantam_shrink::text::{Sequence, Source, SourceSpec};
use bantam_shrink::train::{Decay, Schedule, Settings, Task, Trainer};
use bantam_shrink::{Error, Mix, students};
use std::path::{Path, PathBuf};
use std::time::Duration;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures").join(name)
}

fn random_source(vocab: usize, sequences: usize) -> Source {
    let mut random = SplitMix64::new(1);
    let mut sequence = |_| Sequence {
        tokens: (0..24).map(|_| random.below(vocab) as u32).collect(),
        learned: (0..24).map(|i| i > 0).collect(),
        told: Vec::new(),
    };
    let sequences = (0..sequences).map(&mut sequence).collect();
    Source {
        spec: SourceSpec { category: "random".into(), path: "random".into(), weight: None },
        sequences,
        unanswered: (0, 0),
        cut: 0,
    }
}

fn settings(steps: u64, save: Option<PathBuf>) -> Settings {
    Settings {
        schedule: Schedule { peak: 3e-3, floor: 0.1, warmup: 5, steps, decay: Decay::Cosine },
        method: AdamW::default().into(),
        clip: Some(1.0),
        save: save.map(|path| (path, Duration::ZERO)),
    }
}

const MATCHING: Matching = Matching { divergence: Divergence::Forward, temperature: 1.0, soft: 1.0 };

#[test]
fn a_student_comes_nearer_to_its_teacher_and_a_killed_run_goes_on_exactly() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["llama", "qwen3", "gemma3"] {
        let teacher = Checkpoint::open(fixture(name)).unwrap();
        let teacher_model = Model::load(&teacher).unwrap();
        let student_path = folder.path().join(format!("{name}.gguf"));
        students::take_layers(&teacher, "0", &student_path).unwrap();
        let student = Checkpoint::open(&student_path).unwrap();
        let model = Model::load(&student).unwrap();
        let sources = [random_source(model.config().vocab_size, 40)];
        let run = |steps_at_once: u64, save: Option<PathBuf>| {
            let mut task = TextTask::new(&model, &sources, 4, 7);
            let live = ModelTeacher::new(&teacher_model, name, 24, 64, 1.0);
            let cache = Cache::open(&folder.path().join(format!("{name}.cache")), name, 64, 0).unwrap();
            task.teacher = Some((Box::new(Kept { teacher: live, cache }), MATCHING));
            let mut parameters = Parameters::of(&student).unwrap();
            parameters.freeze(|path| path == "rope_freqs.weight");
            let mut trainer = Trainer::new(settings(60, save), &task, &mut parameters).unwrap();
            let until = trainer.steps() + steps_at_once;
            trainer.run(&mut task, &mut parameters, &mut |steps, _| steps < until).unwrap();
            (trainer.losses().to_vec(), parameters)
        };
        let (losses, parameters) = run(60, None);
        let mean = |losses: &[f32]| losses.iter().sum::<f32>() / losses.len() as f32;
        let (before, after) = (mean(&losses[..5]), mean(&losses[55..]));
        assert!(after < 0.5 * before, "{name}: {before} to {after}");

        let state = folder.path().join(format!("{name}.state"));
        for steps in [13, 1, 30] {
            run(steps, Some(state.clone()));
        }
        let (resumed, resumed_parameters) = run(60, Some(state));
        assert_eq!(losses, resumed, "{name}");
        let pairs = parameters.variables().iter().zip(resumed_parameters.variables());
        assert!(pairs.into_iter().all(|(a, b)| a.values == b.values), "{name}: the weights are the same");

        let output = folder.path().join(format!("{name}-trained.gguf"));
        let step = provenance::Step::new("distill", name, None);
        students::write(&student, &parameters, Format::by_name("F32").unwrap(), step, &output).unwrap();
        let written = Checkpoint::open(&output).unwrap();
        Model::load(&written).unwrap();
        assert_eq!(provenance::of(written.metadata()).last().unwrap().step, "distill");
        let norm = written.data("output_norm.weight").unwrap();
        let norm: Vec<f32> = norm.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert_eq!(norm, parameters.get("output_norm.weight").unwrap().values);
    }
}

#[test]
fn weights_that_the_format_cannot_hold_are_refused_before_a_file_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let student = Checkpoint::open(fixture("llama")).unwrap();
    let mut parameters = Parameters::of(&student).unwrap();
    let query = parameters.get("blk.0.attn_q.weight").unwrap();
    let (shape, mut values) = (query.shape.clone(), query.values.clone());
    values[shape[1] + 2] = 7e4;
    parameters.insert("blk.0.attn_q.weight", &shape, values);
    let written = |format: &str| {
        let step = provenance::Step::new("train", "llama", None);
        let output = folder.path().join(format!("{format}.gguf"));
        (students::write(&student, &parameters, Format::by_name(format).unwrap(), step, &output), output.exists())
    };
    let (refused, begun) = written("F16");
    let error = refused.unwrap_err().to_string();
    assert!(error.contains("attn_q.weight`, row 1, column 2 is 70000") && error.contains("F32"), "{error}");
    assert!(!begun);
    for format in ["BF16", "F32"] {
        let (result, there) = written(format);
        result.unwrap();
        assert!(there, "{format}");
    }
    let types = ["BF16", "F32"].map(|format| {
        let written = Checkpoint::open(folder.path().join(format!("{format}.gguf"))).unwrap();
        written.metadata().get("general.file_type").cloned()
    });
    assert_eq!(types, [Some(Value::U32(32)), Some(Value::U32(0))]);
}

/// A teacher that says nothing of the first sequences but their beginnings.
struct Silent<'m>(ModelTeacher<'m>);

impl Teacher for Silent<'_> {
    fn says(&mut self, sequence: u64, tokens: &[u32]) -> Result<Said, Error> {
        let mut said = self.0.says(sequence, tokens)?;
        let from = if sequence < 2 { 3 * said.k } else { said.tokens.len() };
        said.tokens[from..].fill(u32::MAX);
        Ok(said)
    }

    fn description(&self) -> String {
        self.0.description()
    }
}

/// Sequences of other lengths, of which other parts are learned, gone through in parts.
#[test]
fn a_step_in_parts_is_the_same_step() {
    let checkpoint = Checkpoint::open(fixture("llama")).unwrap();
    let model = Model::load(&checkpoint).unwrap();
    let mut source = random_source(model.config().vocab_size, 5);
    source.sequences[1].tokens.truncate(9);
    source.sequences[1].learned.truncate(9);
    source.sequences[3].learned[..20].fill(false);
    let sources = [source];
    let other = Checkpoint::open(fixture("llama-biases")).unwrap();
    let teacher = Model::load(&other).unwrap();
    // Labels alone; beside a teacher's word; beside that of one who is silent here and there; that alone.
    for taught in [None, Some((0.7, false)), Some((0.7, true)), Some((1.0, true))] {
        let gradients = |at_once: usize| {
            let mut task = TextTask::new(&model, &sources, 5, 7);
            task.at_once = at_once;
            let word = ModelTeacher::new(&teacher, "other", 24, 16, 1.0);
            task.teacher = taught.map(|(soft, silent)| {
                let word: Box<dyn Teacher> = if silent { Box::new(Silent(word)) } else { Box::new(word) };
                (word, Matching { soft, ..MATCHING })
            });
            let mut parameters = Parameters::of(&checkpoint).unwrap();
            let pass = task.pass(0, &mut parameters).unwrap();
            (pass, parameters)
        };
        let (whole, wholly) = gradients(5);
        let (parts, partly) = gradients(2);
        let same = (whole.loss - parts.loss).abs() < 1e-5 * whole.loss.max(1.0) && whole.items == parts.items;
        assert!(same, "{taught:?}: {whole:?} {parts:?}");
        for (a, b) in wholly.variables().iter().zip(partly.variables()) {
            let norm = a.gradient.iter().map(|g| g * g).sum::<f32>().sqrt();
            let difference = a.gradient.iter().zip(&b.gradient).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
            assert!(difference <= 1e-4 * norm, "{taught:?}: {}: {difference} of {norm}", a.path);
        }
    }
}

/// What changes gradients, though not what a teacher says, makes it another run.
#[test]
fn a_run_is_known_by_what_is_learned() {
    let model = Model::load(&Checkpoint::open(fixture("llama")).unwrap()).unwrap();
    let whole = random_source(model.config().vocab_size, 6);
    let description = |sources: &[Source], at_once: usize, dropout: f32| {
        let mut task = TextTask::new(&model, sources, 4, 7);
        (task.at_once, task.dropout) = (at_once, (dropout, dropout));
        task.description()
    };
    let same = description(std::slice::from_ref(&whole), 4, 0.0);
    assert_eq!(same, description(std::slice::from_ref(&whole), 2, 0.0));
    assert_ne!(description(std::slice::from_ref(&whole), 4, 0.1), description(std::slice::from_ref(&whole), 2, 0.1));
    let mut masked = whole.clone();
    masked.sequences[3].learned[..20].fill(false);
    assert_ne!(same, description(&[masked], 4, 0.0));
    let parted = |at: usize| {
        let (first, second) = whole.sequences.split_at(at);
        [first, second].map(|part| Source { sequences: part.to_vec(), ..whole.clone() })
    };
    assert_ne!(description(&parted(2), 4, 0.0), description(&parted(3), 4, 0.0));
}

/// Dropout in transformers: the draws are those of the step, so the loss has a slope.
#[test]
fn gradients_with_dropout_agree_with_finite_differences() {
    for name in ["llama", "gemma3"] {
        let checkpoint = Checkpoint::open(fixture(name)).unwrap();
        let model = Model::load(&checkpoint).unwrap();
        let sources = [random_source(model.config().vocab_size, 4)];
        let mut task = TextTask::new(&model, &sources, 4, 7);
        let mut parameters = Parameters::of(&checkpoint).unwrap();
        parameters.freeze(|path| path == "rope_freqs.weight");
        let without = task.pass(1, &mut parameters).unwrap().loss;
        task.dropout = (0.1, 0.3);
        parameters.clear_gradients();
        let with = task.pass(1, &mut parameters).unwrap().loss;
        assert!((with - without).abs() > 1e-4 && with == task.pass(1, &mut parameters).unwrap().loss);
        parameters.clear_gradients();
        task.pass(1, &mut parameters).unwrap();
        let gradients: Vec<Vec<f32>> = parameters.variables().iter().map(|v| v.gradient.clone()).collect();
        let norm = gradients.iter().flatten().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
        let values: Vec<Vec<f32>> = parameters.variables().iter().map(|v| v.values.clone()).collect();
        let mut at = |by: f32| {
            for ((variable, values), gradient) in parameters.variables_mut().iter_mut().zip(&values).zip(&gradients) {
                if variable.trained() {
                    variable.values = values.iter().zip(gradient).map(|(v, g)| v + by * g / norm).collect();
                }
            }
            task.pass(1, &mut parameters).unwrap().loss
        };
        let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
        assert!((slope / f64::from(norm) - 1.0).abs() < 0.02, "{name}: {norm}, by differences {slope}");
    }
}

/// Hidden states of a narrower student go through a projection that trains beside it; its gradient is a slope like the others.
#[test]
fn hidden_states_come_nearer_and_their_gradients_agree_with_finite_differences() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = Checkpoint::open(fixture("llama")).unwrap();
    let teacher_model = Model::load(&teacher).unwrap();
    let width = teacher_model.config().embedding_length;
    let layers = folder.path().join("layers.gguf");
    students::take_layers(&teacher, "1", &layers).unwrap();
    let config = std::fs::read_to_string(fixture("llama").join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["hidden_size"] = (width / 2).into();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let narrow = folder.path().join("narrow.gguf");
    // Random weights are not quantized, whatever the teacher was.
    let packed = folder.path().join("packed.gguf");
    let plan = Plan::new(&teacher, Mix::by_name("Q4_0").unwrap()).unwrap();
    plan.write(&packed, Method::Nearest, &mut |_| ()).unwrap();
    let packed = Checkpoint::open(&packed).unwrap();
    students::initial(&folder.path().join("config.json"), &packed, 1, u64::MAX, &narrow).unwrap();
    assert!(packed.quantized_as().is_some() && Checkpoint::open(&narrow).unwrap().quantized_as().is_none());
    for (path, of) in [(&layers, vec![1]), (&narrow, vec![0, 1])] {
        let student = Checkpoint::open(path).unwrap();
        let model = Model::load(&student).unwrap();
        let sources = [random_source(model.config().vocab_size, 8)];
        let mut task = TextTask::new(&model, &sources, 4, 7);
        let word = ModelTeacher::new(&teacher_model, "llama", 24, 64, 1.0).with_hidden(&of);
        let cache = folder.path().join(format!("{of:?}.cache"));
        let cache = Cache::open(&cache, "llama", 64, word.hidden_numbers()).unwrap();
        task.teacher = Some((Box::new(Kept { teacher: word, cache }), MATCHING));
        task.hidden = Some(HiddenMatching { weights: States { squares: 3.0, cosine: 0.5 }, layers: of.clone(), width });
        let mut parameters = Parameters::of(&student).unwrap();
        parameters.freeze(|path| path == "rope_freqs.weight");
        task.extend(&mut parameters);
        let projections = parameters.variables().iter().filter(|v| v.path.contains("projection")).count();
        assert_eq!(projections, if of.len() == 2 { 2 } else { 0 });
        task.pass(0, &mut parameters).unwrap();
        let norm = |values: &[f32]| values.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt() as f32;
        let gradients: Vec<Vec<f32>> = parameters.variables().iter().map(|v| v.gradient.clone()).collect();
        for (i, gradient) in gradients.into_iter().enumerate() {
            if gradient.is_empty() || norm(&gradient) < 1e-4 {
                continue;
            }
            let values = parameters.variables()[i].values.clone();
            let length = norm(&gradient);
            let mut at = |by: f32| {
                let moved = values.iter().zip(&gradient).map(|(v, g)| v + by * g / length).collect();
                parameters.variables_mut()[i].values = moved;
                task.pass(0, &mut parameters).unwrap().loss
            };
            let slope = (at(5e-3) - at(-5e-3)) / 1e-2;
            parameters.variables_mut()[i].values = values;
            let path = &parameters.variables()[i].path;
            assert!((slope / f64::from(length) - 1.0).abs() < 0.05, "{path}: {length}, by differences {slope}");
        }
        parameters.clear_gradients();
        let mut trainer = Trainer::new(settings(60, None), &task, &mut parameters).unwrap();
        trainer.run(&mut task, &mut parameters, &mut |_, _| true).unwrap();
        assert!(trainer.losses()[59] < 0.85 * trainer.losses()[0], "{:?}", trainer.losses());
    }
}

/// The reverse divergence of a student on text that it wrote itself, over `length` tokens a sequence.
fn on_own_text(teacher: &Model, student: &Model, parameters: &Parameters, beginnings: &Source) -> f64 {
    let vocab = student.config().vocab_size;
    let mut total = 0.0;
    for (i, sequence) in beginnings.sequences.iter().enumerate() {
        let sampling = Sampling { temperature: 1.0, seed: 1000 + i as u64, ..Sampling::default() };
        let request =
            Request { prompt: sequence.tokens[..12].to_vec(), sampler: Sampler::new(sampling).unwrap(), limit: 12 };
        let mut batch = student.batch_of(parameters, 1, 24);
        let mut log_student = Vec::new();
        let written = generate(&mut batch, &mut [request], &|_| false, &mut |_, _, logits| {
            let mut p = logits.to_vec();
            softmax(&mut p, 1.0);
            log_student.push(p);
            true
        });
        let tokens = [&sequence.tokens[..12], &written.unwrap()[0].tokens].concat();
        let mut session = teacher.session(24);
        let hidden = session.forward(&tokens).unwrap().to_vec();
        let mut logits = vec![0.0; tokens.len() * vocab];
        session.logits(&hidden, &mut logits);
        for (p, q) in logits.chunks_exact_mut(vocab).skip(11).zip(&log_student) {
            softmax(p, 1.0);
            total += p.iter().zip(q).map(|(&p, &q)| f64::from(Divergence::Reverse.of(p, q).0)).sum::<f64>();
        }
    }
    total / (12 * beginnings.sequences.len()) as f64
}

#[test]
fn learning_from_its_own_text_brings_a_student_nearer_where_it_goes_itself() {
    let folder = tempfile::tempdir().unwrap();
    let teacher = Checkpoint::open(fixture("llama")).unwrap();
    let teacher_model = Model::load(&teacher).unwrap();
    let student_path = folder.path().join("student.gguf");
    students::take_layers(&teacher, "0", &student_path).unwrap();
    let student = Checkpoint::open(&student_path).unwrap();
    let model = Model::load(&student).unwrap();
    let sources = [random_source(model.config().vocab_size, 40)];
    let mut task = TextTask::new(&model, &sources, 4, 7);
    let vocab = model.config().vocab_size;
    let live = || Box::new(ModelTeacher::new(&teacher_model, "llama", 24, vocab, 1.0));
    task.teacher = Some((live(), Matching { divergence: Divergence::Reverse, ..MATCHING }));
    task.on_policy = Some(OnPolicy::new(1.0, 24, Vec::new(), live()));
    let mut parameters = Parameters::of(&student).unwrap();
    parameters.freeze(|path| path == "rope_freqs.weight");
    let before = on_own_text(&teacher_model, &model, &parameters, &sources[0]);
    let mut trainer = Trainer::new(settings(60, None), &task, &mut parameters).unwrap();
    trainer.run(&mut task, &mut parameters, &mut |_, _| true).unwrap();
    let after = on_own_text(&teacher_model, &model, &parameters, &sources[0]);
    assert!(after < 0.9 * before, "{before} to {after}");
}

/// The model with `rows` rows of its embedding and its head, of which the new ones are likelier than any token: GGUF files may be padded so.
fn padded(model: &Checkpoint, rows: usize, path: &Path) -> Checkpoint {
    let f32 = Format::by_name("F32").unwrap();
    let of_tokens = |name: &str| ["token_embd.weight", "output.weight"].contains(&name);
    let infos: Vec<TensorInfo> = model
        .tensors()
        .iter()
        .map(|t| {
            let rest = t.shape[1..].iter().copied();
            let shape = if of_tokens(&t.name) { [rows].into_iter().chain(rest).collect() } else { t.shape.clone() };
            TensorInfo { shape, format: f32, ..t.clone() }
        })
        .collect();
    let mut metadata = model.metadata().clone();
    metadata.set("llama.vocab_size", Value::U32(rows as u32));
    let mut writer = GgufWriter::create(path, &metadata, &infos).unwrap();
    for (tensor, info) in model.tensors().iter().zip(&infos) {
        let mut values = vec![0.0; tensor.len()];
        (tensor.format.decode)(&model.data(&tensor.name).unwrap(), &mut values);
        let likelier: Vec<f32> = values.iter().map(|v| 20.0 * v).collect();
        let new = likelier.into_iter().cycle().take(info.len().saturating_sub(tensor.len()));
        values.truncate(info.len());
        values.iter().copied().chain(new).for_each(|v| writer.write(&v.to_le_bytes()).unwrap());
    }
    writer.finish().unwrap();
    Checkpoint::open(path).unwrap()
}

#[test]
fn rows_beyond_the_vocabulary_are_neither_said_nor_written() {
    let folder = tempfile::tempdir().unwrap();
    let plain = Checkpoint::open(fixture("llama")).unwrap();
    let tokens = Model::load(&plain).unwrap().config().vocab_size;
    let wide = padded(&plain, tokens + 64, &folder.path().join("wide.gguf"));
    for (teacher, student) in [(&wide, &plain), (&plain, &wide)] {
        let (teacher, model) = (Model::load(teacher).unwrap(), Model::load(student).unwrap());
        assert_eq!((teacher.tokens(), model.tokens()), (tokens, tokens));
        let sources = [random_source(tokens, 4)];
        let mut task = TextTask::new(&model, &sources, 4, 7);
        let live = || Box::new(ModelTeacher::new(&teacher, "llama", 24, tokens + 64, 1.0));
        task.teacher = Some((live(), MATCHING));
        task.on_policy = Some(OnPolicy::new(0.5, 24, Vec::new(), live()));
        task.pass(0, &mut Parameters::of(student).unwrap()).unwrap();
    }
    let narrow = padded(&plain, tokens - 1, &folder.path().join("narrow.gguf"));
    let error = Model::load(&narrow).err().unwrap().to_string();
    assert!(error.contains("narrow.gguf") && error.contains(&format!("{tokens} tokens")), "{error}");
}

/// Gemma 3 scales scores otherwise in models of 62 layers, which fewer of its layers are not.
#[test]
fn layers_compute_what_they_did_though_their_number_says_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let config = r#"{"model_type": "gemma3_text", "hidden_size": 48, "intermediate_size": 32, "num_hidden_layers": 62,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "vocab_size": 288, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-6, "sliding_window": 8}"#;
    std::fs::write(path("config.json"), config).unwrap();
    let tokens_of = Checkpoint::open(fixture("gemma3")).unwrap();
    students::initial(&path("config.json"), &tokens_of, 1, u64::MAX, &path("teacher.gguf")).unwrap();
    let teacher = Checkpoint::open(path("teacher.gguf")).unwrap();
    students::take_layers(&teacher, "0-2", &path("student.gguf")).unwrap();
    let student = Checkpoint::open(path("student.gguf")).unwrap();
    let after_third = |checkpoint: &Checkpoint| {
        let model = Model::load(checkpoint).unwrap();
        let mut states = Vec::new();
        let tokens: Vec<u32> = (5..25).collect();
        let mut layer = |at: usize, x: &[f32]| states.extend_from_slice(if at == 2 { x } else { &[] });
        model.session(20).observe(&tokens, &mut layer).unwrap();
        states
    };
    let (theirs, ours) = (after_third(&teacher), after_third(&student));
    let error = theirs.iter().zip(&ours).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(theirs.len() == 20 * 48 && error < 1e-3, "{error}");
}
