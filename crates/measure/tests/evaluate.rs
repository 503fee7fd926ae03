//! Whole evaluations of tiny random models, against plain f64 arithmetic and against broken surroundings.

use bantam_checkpoint::metadata::Array;
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_checkpoint::{Checkpoint, GgufWriter, Metadata, TensorInfo, Value};
use bantam_formats::Format;
use bantam_measure::cache::Store;
use bantam_measure::results::{Category, Evaluation};
use bantam_measure::{Base, Error, Options, Progress, Question, Suite, Task, Text, choice, evaluate};
use bantam_nn::Model;
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const CONTEXT: usize = 32;
const WIDTH: usize = 32;

/// A random llama with a byte-level vocabulary.
#[derive(Clone)]
struct Spec {
    /// Noise added to all matrices.
    noise: f32,
    /// Merges beside the bytes: more tokens.
    merges: &'static [&'static str],
    bos: bool,
    /// A value put into the first matrix.
    broken: Option<f32>,
}

const PLAIN: Spec = Spec { noise: 0.0, merges: &["Ġ t", "h e", "Ġt he"], bos: true, broken: None };

impl Spec {
    fn write(&self, path: &Path) -> Checkpoint {
        let tokens = self.tokens();
        let mut m = Metadata::default();
        m.set("general.architecture", Value::String("llama".into()));
        for (key, value) in [
            ("block_count", 2),
            ("embedding_length", WIDTH as u32),
            ("feed_forward_length", 64),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("context_length", 256),
        ] {
            m.set(&format!("llama.{key}"), Value::U32(value));
        }
        m.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        m.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        m.set("tokenizer.ggml.merges", Value::Array(Array::String(self.merges.iter().map(|&s| s.into()).collect())));
        m.set("tokenizer.ggml.bos_token_id", Value::U32(tokens.len() as u32 - 1));
        m.set("tokenizer.ggml.add_bos_token", Value::Bool(self.bos));

        let format = Format::by_name("F32").unwrap();
        let mut tensors = vec![("token_embd.weight".to_owned(), vec![tokens.len(), WIDTH])];
        for layer in 0..2 {
            let mut add =
                |name: &str, shape: &[usize]| tensors.push((format!("blk.{layer}.{name}.weight"), shape.to_vec()));
            add("attn_norm", &[WIDTH]);
            add("attn_q", &[WIDTH, WIDTH]);
            add("attn_k", &[WIDTH / 2, WIDTH]);
            add("attn_v", &[WIDTH / 2, WIDTH]);
            add("attn_output", &[WIDTH, WIDTH]);
            add("ffn_norm", &[WIDTH]);
            add("ffn_gate", &[64, WIDTH]);
            add("ffn_up", &[64, WIDTH]);
            add("ffn_down", &[WIDTH, 64]);
        }
        tensors.push(("output_norm.weight".to_owned(), vec![WIDTH]));
        m.set("tokenizer.ggml.tokens", Value::Array(Array::String(tokens)));

        let infos: Vec<TensorInfo> =
            tensors.into_iter().map(|(name, shape)| TensorInfo { name, shape, format }).collect();
        let mut writer = GgufWriter::create(path, &m, &infos).unwrap();
        let (mut weights, mut noise) = (uniform(1), uniform(2));
        for (i, info) in infos.iter().enumerate() {
            let mut values: Vec<f32> = (0..info.len())
                .map(|_| if info.shape.len() == 1 { 1.0 } else { 0.6 * weights() + self.noise * noise() })
                .collect();
            if let (0, Some(broken)) = (i, self.broken) {
                values[0] = broken;
            }
            writer.write(bytemuck::cast_slice(&values)).unwrap();
        }
        writer.finish().unwrap();
        Checkpoint::open(path).unwrap()
    }

    fn tokens(&self) -> Vec<String> {
        // GPT-2's byte alphabet: printable bytes stand for themselves, the others follow from U+0100.
        let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
        let mut next = 256;
        let mut tokens: Vec<String> = (0..256)
            .map(|byte| {
                if printable(byte) {
                    byte
                } else {
                    next += 1;
                    next - 1
                }
            })
            .map(|code| char::from_u32(code).unwrap().to_string())
            .collect();
        tokens.extend(self.merges.iter().map(|merge| merge.replace(' ', "")));
        tokens.push("<bos>".to_owned());
        tokens
    }
}

/// Reproducible numbers in [-1, 1).
fn uniform(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

fn suite() -> Suite {
    let text = |category, name: &str, text: String| Text { category, name: name.into(), source: String::new(), text };
    let question = |prompt: &str, answer| Question {
        prompt: prompt.into(),
        options: [" the cat", " then", " no", " it is the tallest of them"].map(String::from).to_vec(),
        answer,
    };
    Suite {
        texts: vec![
            text(Category::Prose, "fox", "the quick brown fox jumps over the lazy dog, and then? ".repeat(4)),
            text(Category::Code, "loop", "for i in 0..10 {\n    println!(\"{i}\");\n}\n".repeat(3)),
        ],
        tasks: vec![Task {
            name: "animals".into(),
            category: Category::Chat,
            source: String::new(),
            questions: vec![question("Who sat on the mat?", 0), question("And", 1), question("Is it so?", 3)],
        }],
    }
}

struct Fixture {
    dir: TempDir,
    options: Options,
    base: Checkpoint,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::at(dir.path().join("cache"));
        let base = PLAIN.write(&dir.path().join("base.gguf"));
        Fixture { options: Options { context: CONTEXT, store, ..Options::default() }, base, dir }
    }

    fn candidate(&self, spec: Spec) -> Checkpoint {
        spec.write(&self.dir.path().join("candidate.gguf"))
    }

    fn evaluate(&self, candidate: &Checkpoint, heard: &Heard) -> bantam_measure::Result<Evaluation> {
        self.evaluate_on(&suite(), candidate, heard)
    }

    fn evaluate_on(&self, suite: &Suite, candidate: &Checkpoint, heard: &Heard) -> bantam_measure::Result<Evaluation> {
        evaluate(candidate, &mut Base::prepare(&self.base, suite, &self.options, heard)?, heard)
    }

    fn cached(&self, suffix: &str) -> PathBuf {
        let folder = std::fs::read_dir(self.dir.path().join("cache")).unwrap().next().unwrap().unwrap().path();
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.to_string_lossy().ends_with(suffix)).min().unwrap()
    }
}

/// What progress told.
#[derive(Default)]
struct Heard {
    notes: RefCell<Vec<String>>,
    /// Chunks that the base read, and the candidate.
    base_chunks: Cell<usize>,
    chunks: Cell<usize>,
}

impl Progress for Heard {
    fn update(&self, activity: &str, done: usize, total: usize, _unit: &str) {
        match activity {
            "base" if done < total => self.base_chunks.set(self.base_chunks.get() + 1),
            "text" if done < total => self.chunks.set(self.chunks.get() + 1),
            _ => {}
        }
    }

    fn note(&self, note: &str) {
        self.notes.borrow_mut().push(note.to_owned());
    }
}

/// Log-probabilities after each token, `[tokens][vocabulary]`, in f64.
fn log_probabilities(model: &Model, tokens: &[u32]) -> Vec<Vec<f64>> {
    let vocab = model.config().vocab_size;
    let mut session = model.session(tokens.len());
    let hidden = session.forward(tokens).unwrap().to_vec();
    let mut logits = vec![0.0; tokens.len() * vocab];
    session.logits(&hidden, &mut logits);
    let normalized = |row: &[f32]| {
        let sum: f64 = row.iter().map(|&v| f64::from(v).exp()).sum();
        row.iter().map(|&v| f64::from(v) - sum.ln()).collect()
    };
    logits.chunks(vocab).map(normalized).collect()
}

#[test]
fn a_base_loses_nothing_against_itself() {
    let fixture = Fixture::new();
    let evaluation = fixture.evaluate(&fixture.base, &Heard::default()).unwrap();
    let overall = &evaluation.overall;
    assert_eq!((overall.kl_divergence.mean, overall.top1_agreement.mean), (0.0, 1.0));
    assert_eq!(overall.perplexity, overall.base_perplexity);
    assert_eq!((evaluation.choices[0].lost, evaluation.choices[0].gained), (0, 0));
    assert!(evaluation.samples.iter().all(|s| s.base == s.candidate) && evaluation.samples.len() == 3);
    assert_eq!(evaluation.categories.iter().map(|(c, _)| *c).collect::<Vec<_>>(), [Category::Prose, Category::Code]);
}

#[test]
fn divergence_is_that_of_the_protocol_in_f64() {
    let fixture = Fixture::new();
    let candidate = fixture.candidate(Spec { noise: 0.05, ..PLAIN });
    let evaluation = fixture.evaluate(&candidate, &Heard::default()).unwrap();

    let tokenizer = Tokenizer::of(&candidate).unwrap();
    let (model, base) = (Model::load(&candidate).unwrap(), Model::load(&fixture.base).unwrap());
    let (mut kl, mut nll, mut base_nll, mut agree, mut count) = (0.0, 0.0, 0.0, 0, 0);
    for text in suite().texts {
        let tokens = tokenizer.encode(&text.text, Special::DOCUMENT).unwrap();
        for chunk in tokens.chunks_exact(CONTEXT) {
            let mut chunk = chunk.to_vec();
            chunk[0] = tokenizer.bos().unwrap();
            let (q, p) = (log_probabilities(&model, &chunk), log_probabilities(&base, &chunk));
            for i in CONTEXT / 2..CONTEXT - 1 {
                kl += p[i].iter().zip(&q[i]).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
                nll -= q[i][chunk[i + 1] as usize];
                base_nll -= p[i][chunk[i + 1] as usize];
                let top = |row: &[f64]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
                agree += usize::from(top(&p[i]) == top(&q[i]));
                count += 1;
            }
        }
    }
    let overall = evaluation.overall;
    let close = |a: f64, b: f64| (a / b - 1.0).abs() < 1e-5;
    assert_eq!(overall.tokens, count);
    assert!(close(overall.kl_divergence.mean, kl / count as f64), "{overall:?}");
    assert!(close(overall.perplexity.mean, (nll / count as f64).exp()), "{overall:?}");
    assert!(close(overall.base_perplexity.mean, (base_nll / count as f64).exp()), "{overall:?}");
    assert!(close(overall.top1_agreement.mean, agree as f64 / count as f64), "{overall:?}");
    assert!(overall.kl_divergence.mean > 1e-3 && overall.kl_divergence.se > 0.0, "the noise is seen");
}

#[test]
fn options_are_scored_by_their_likelihood_per_byte() {
    let fixture = Fixture::new();
    let (model, tokenizer) = (Model::load(&fixture.base).unwrap(), Tokenizer::of(&fixture.base).unwrap());
    let task = &suite().tasks[0];
    let answers = choice::answers(&model, fixture.base.path(), &tokenizer, task, &()).unwrap();
    for (question, answer) in task.questions.iter().zip(answers) {
        let alone = tokenizer.encode(&question.prompt, Special::DOCUMENT).unwrap().len();
        let score = |option: &String| {
            let tokens = tokenizer.encode(&format!("{}{option}", question.prompt), Special::DOCUMENT).unwrap();
            let p = log_probabilities(&model, &tokens);
            (alone..tokens.len()).map(|i| p[i - 1][tokens[i] as usize]).sum::<f64>() / option.len() as f64
        };
        let scores: Vec<f64> = question.options.iter().map(score).collect();
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap();
        assert_eq!(answer as usize, best, "{scores:?}");
    }
}

#[test]
fn the_base_is_read_once_and_a_damaged_cache_is_replaced() {
    let fixture = Fixture::new();
    let candidate = fixture.candidate(Spec { noise: 0.05, ..PLAIN });
    let (first, again, damaged) = (Heard::default(), Heard::default(), Heard::default());
    let expected = fixture.evaluate(&candidate, &first).unwrap();
    assert!(first.base_chunks.get() > 2);
    assert_eq!(fixture.evaluate(&candidate, &again).unwrap(), expected);
    assert_eq!(again.base_chunks.get(), 0, "the second evaluation pays nothing for the base");

    std::fs::remove_file(fixture.cached(".evaluation")).unwrap();
    for suffix in [".hidden", ".answers", ".json"] {
        let path = fixture.cached(suffix);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    assert_eq!(fixture.evaluate(&candidate, &damaged).unwrap(), expected);
    assert_eq!(damaged.notes.borrow().len(), 3, "{:?}", damaged.notes);
    assert!(damaged.notes.borrow()[0].contains("checksum"), "{:?}", damaged.notes);
}

#[test]
fn a_candidate_is_measured_once_whatever_it_is_called() {
    let fixture = Fixture::new();
    let candidate = fixture.candidate(Spec { noise: 0.05, ..PLAIN });
    let chunks = |suite: &Suite, candidate: &Checkpoint| {
        let heard = Heard::default();
        let evaluation = fixture.evaluate_on(suite, candidate, &heard).unwrap();
        (evaluation, heard.chunks.get(), heard.notes.borrow().join(" "))
    };
    let (first, read, _) = chunks(&suite(), &candidate);
    assert!(read > 2);
    let other = fixture.dir.path().join("other.gguf");
    std::fs::copy(candidate.path(), &other).unwrap();
    let (mut again, read, said) = chunks(&suite(), &Checkpoint::open(&other).unwrap());
    assert!(read == 0 && said.contains("other.gguf: as measured before"), "{read} {said}");
    assert_eq!((&again.candidate.label[..], &again.candidate.path[..]), ("other", other.to_str().unwrap()));
    again.candidate = first.candidate.clone();
    assert_eq!(again, first);
    // Not where anything has changed: what is asked, what is right, the text, the candidate.
    let mut changed = suite();
    changed.tasks[0].questions[0].answer = 2;
    assert!(chunks(&changed, &candidate).1 > 2);
    changed.texts.pop();
    assert!(chunks(&changed, &candidate).1 > 1);
    let mut bytes = std::fs::read(&other).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(&other, bytes).unwrap();
    assert!(chunks(&suite(), &Checkpoint::open(&other).unwrap()).1 > 2);
    // What is damaged is measured again.
    let path = fixture.cached(".evaluation");
    std::fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path()).for_each(|path| {
        if path.extension().is_some_and(|e| e == "evaluation") {
            std::fs::write(path, "damaged").unwrap();
        }
    });
    assert!(chunks(&suite(), &candidate).1 > 2);
}

#[test]
fn another_base_at_the_same_path_is_computed_anew() {
    let mut fixture = Fixture::new();
    let before = fixture.evaluate(&fixture.base, &Heard::default()).unwrap();
    fixture.base = Spec { noise: 0.2, ..PLAIN }.write(&fixture.dir.path().join("base.gguf"));
    let heard = Heard::default();
    let after = fixture.evaluate(&fixture.base, &heard).unwrap();
    assert!(heard.notes.borrow()[0].contains("another model"), "{:?}", heard.notes);
    assert_eq!(after.overall.kl_divergence.mean, 0.0);
    assert_ne!(after.overall.base_perplexity, before.overall.base_perplexity);
}

#[test]
fn what_lies_beside_a_model_in_its_directory_changes_nothing() {
    let mut fixture = Fixture::new();
    let folder = fixture.dir.path().join("hf");
    std::fs::create_dir(&folder).unwrap();
    let llama = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nn/tests/fixtures/llama");
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(llama.join(name), folder.join(name)).unwrap();
    }
    fixture.base = Checkpoint::open(&folder).unwrap();
    let read = || {
        let heard = Heard::default();
        fixture.evaluate(&fixture.base, &heard).unwrap();
        (heard.base_chunks.get(), heard.chunks.get())
    };
    let (base, candidate) = read();
    assert!(base > 2 && candidate > 2);
    for name in ["q4.gguf", "README.md", "pytorch_model.bin"] {
        std::fs::write(folder.join(name), "not the model's").unwrap();
    }
    assert_eq!(read(), (0, 0), "all that was measured is kept");
    std::fs::write(folder.join("generation_config.json"), "{}").unwrap();
    assert_eq!(read(), (base, candidate), "a file of the model's is looked at");
}

#[test]
fn tokenizers_must_agree() {
    let fixture = Fixture::new();
    let message = |spec: Spec| fixture.evaluate(&fixture.candidate(spec), &Heard::default()).unwrap_err().to_string();
    let fewer = message(Spec { merges: &["Ġ t", "h e"], ..PLAIN });
    assert!(fewer.contains("259 tokens and 260") && fewer.contains("perplexity per byte"), "{fewer}");
    let other = message(Spec { merges: &["Ġ t", "h e", "i n"], ..PLAIN });
    assert!(other.contains("token 258 is \"in\" and \"Ġthe\""), "{other}");
    let start = message(Spec { bos: false, ..PLAIN });
    assert!(start.contains("begin a text with different tokens"), "{start}");
}

#[test]
fn unusable_input_is_named() {
    let fixture = Fixture::new();
    let prepare = |suite: Suite, context| {
        let options = Options { context, ..fixture.options.clone() };
        Base::prepare(&fixture.base, &suite, &options, &()).err().unwrap().to_string()
    };
    let mut short = suite();
    short.texts[1].text = "too short".into();
    let message = prepare(short, CONTEXT);
    assert!(message.contains("loop: the text has 10 tokens") && message.contains("needs 32"), "{message}");
    let mut empty = suite();
    empty.texts[0].text = "\n".into();
    assert!(prepare(empty, CONTEXT).contains("empty"));
    assert!(prepare(suite(), 512).contains("trained for 256"));
    let mut wrong = suite();
    wrong.tasks[0].questions[2].answer = 4;
    assert!(prepare(wrong, CONTEXT).contains("question 2"));
}

#[test]
fn a_broken_candidate_is_an_error_and_no_number() {
    let fixture = Fixture::new();
    for value in [f32::NAN, f32::INFINITY] {
        let error = fixture.evaluate(&fixture.candidate(Spec { broken: Some(value), ..PLAIN }), &Heard::default());
        let message = error.unwrap_err().to_string();
        assert!(message.contains("candidate.gguf"), "{message}");
    }
    // Finite weights whose logits overflow.
    let huge = fixture.evaluate(&fixture.candidate(Spec { broken: Some(3e38), ..PLAIN }), &Heard::default());
    assert!(matches!(&huge, Err(Error::NotFinite { model, .. }) if model.ends_with("candidate.gguf")), "{huge:?}");
}
