//! Tiny models made on the spot, and the built command run on them in a folder of its own.

#![allow(dead_code, reason = "each test file uses a part")]

use bantam_checkpoint::metadata::Array;
use bantam_checkpoint::{GgufWriter, Metadata, TensorInfo, Value};
use bantam_formats::Format;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Embedding width: one block of the widest formats.
pub const WIDTH: usize = 256;

/// Context that the tiny models were "trained" for.
pub const CONTEXT: usize = 128;

/// A random llama of one layer with a byte-level vocabulary.
#[derive(Clone)]
pub struct Model {
    pub architecture: &'static str,
    pub seed: u64,
    /// Merges beside the 256 bytes; `None` leaves the list out of the file.
    pub merges: Option<Vec<&'static str>>,
    pub tokenizer: bool,
    /// A tensor of which the first weight is replaced.
    pub broken: Option<(&'static str, f32)>,
    pub layers: usize,
    /// Neurons of each feed-forward layer that do nothing: every fourth, up to this many.
    pub silent: usize,
    pub vocab: usize,
    /// Whether the head is a tensor of its own.
    pub untied: bool,
    /// What norms add to the mean square.
    pub epsilon: f32,
    /// Tokens of context that it learned with.
    pub context: usize,
    /// Whether its tokenizer puts the end of text behind a text.
    pub ends: bool,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            architecture: "llama",
            seed: 1,
            merges: Some(vec!["Ġ t", "h e", "Ġt he"]),
            tokenizer: true,
            broken: None,
            layers: 1,
            silent: 0,
            vocab: 260,
            untied: false,
            epsilon: 1e-5,
            context: CONTEXT,
            ends: false,
        }
    }
}

impl Model {
    pub fn write(&self, path: &Path) {
        let infos = self.tensors();
        let mut writer = GgufWriter::create(path, &self.metadata(), &infos).unwrap();
        let mut random = uniform(self.seed);
        for info in &infos {
            let mut weight = || if info.shape.len() == 1 { 1.0 } else { 0.3 * random() };
            let mut values: Vec<f32> = (0..info.len()).map(|_| weight()).collect();
            if info.name.ends_with("ffn_up.weight") {
                values.chunks_mut(WIDTH).step_by(4).take(self.silent).for_each(|row| row.fill(0.0));
            }
            match self.broken {
                Some((name, value)) if name == info.name => values[0] = value,
                _ => {}
            }
            writer.write(bytemuck::cast_slice(&values)).unwrap();
        }
        writer.finish().unwrap();
    }

    fn tensors(&self) -> Vec<TensorInfo> {
        let format = Format::by_name("F32").unwrap();
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| tensors.push(TensorInfo { name, shape: shape.to_vec(), format });
        add("token_embd.weight".into(), &[self.vocab, WIDTH]);
        for layer in 0..self.layers {
            let name = |role| format!("blk.{layer}.{role}.weight");
            add(name("attn_norm"), &[WIDTH]);
            add(name("attn_q"), &[WIDTH, WIDTH]);
            add(name("attn_k"), &[WIDTH / 2, WIDTH]);
            add(name("attn_v"), &[WIDTH / 2, WIDTH]);
            add(name("attn_output"), &[WIDTH, WIDTH]);
            add(name("ffn_norm"), &[WIDTH]);
            add(name("ffn_gate"), &[WIDTH, WIDTH]);
            add(name("ffn_up"), &[WIDTH, WIDTH]);
            add(name("ffn_down"), &[WIDTH, WIDTH]);
        }
        add("output_norm.weight".into(), &[WIDTH]);
        if self.untied {
            add("output.weight".into(), &[self.vocab, WIDTH]);
        }
        tensors
    }

    fn metadata(&self) -> Metadata {
        let mut m = Metadata::default();
        let strings = |list: Vec<String>| Value::Array(Array::String(list));
        m.set("general.architecture", Value::String(self.architecture.into()));
        for (key, value) in [
            ("block_count", self.layers),
            ("embedding_length", WIDTH),
            ("feed_forward_length", WIDTH),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("context_length", self.context),
            ("vocab_size", self.vocab),
        ] {
            m.set(&format!("{}.{key}", self.architecture), Value::U32(value as u32));
        }
        m.set(&format!("{}.attention.layer_norm_rms_epsilon", self.architecture), Value::F32(self.epsilon));
        if !self.tokenizer {
            return m;
        }
        m.set("tokenizer.ggml.model", Value::String("gpt2".into()));
        m.set("tokenizer.ggml.pre", Value::String("gpt-2".into()));
        m.set("tokenizer.ggml.tokens", strings(self.tokens()));
        if let Some(merges) = &self.merges {
            m.set("tokenizer.ggml.merges", strings(merges.iter().map(|&merge| merge.into()).collect()));
        }
        m.set("tokenizer.ggml.eos_token_id", Value::U32(self.vocab as u32 - 1));
        m.set("tokenizer.ggml.add_eos_token", Value::Bool(self.ends));
        m
    }

    fn tokens(&self) -> Vec<String> {
        // GPT-2's byte alphabet: printable bytes stand for themselves, the others follow from U+0100.
        let printable = |b: u32| (33..=126).contains(&b) || (161..=172).contains(&b) || b >= 174;
        let mut others = 256u32..;
        let code = |byte| if printable(byte) { byte } else { others.next().unwrap() };
        let mut tokens: Vec<String> = (0..256).map(code).map(|c| char::from_u32(c).unwrap().to_string()).collect();
        tokens.extend(self.merges.iter().flatten().map(|merge| merge.replace(' ', "")));
        (tokens.len()..self.vocab - 1).for_each(|id| tokens.push(format!("<unused{id}>")));
        tokens.push("<eos>".to_owned());
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

/// A folder in which the command is run; the cache is elsewhere, so that the folder holds only what a user would see.
pub struct Folder {
    dir: TempDir,
    cache: TempDir,
}

impl Folder {
    pub fn new() -> Self {
        Folder { dir: tempfile::tempdir().unwrap(), cache: tempfile::tempdir().unwrap() }
    }

    /// A folder with the default model as `model.gguf`.
    pub fn with_model() -> Self {
        let folder = Self::new();
        Model::default().write(&folder.path("model.gguf"));
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The command, to be run in the folder. Arguments are split at spaces.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bantam"));
        command.args(arguments.split_whitespace());
        self.prepare(&mut command);
        command
    }

    /// A shell command in which `bantam` is the command.
    pub fn shell(&self, script: &str) -> Output {
        let mut command = Command::new("sh");
        // Found by its name, so that nothing in the script, a path with `bantam` in it, is taken for it.
        let folder = Path::new(env!("CARGO_BIN_EXE_bantam")).parent().expect("it lies in a folder");
        let others = std::env::var("PATH").unwrap_or_default();
        command.args(["-c", script]).env("PATH", format!("{}:{others}", folder.display()));
        self.prepare(&mut command);
        finish(&mut command)
    }

    fn prepare(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).env("BANTAM_CACHE", self.cache.path()).env("RUST_BACKTRACE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    }

    pub fn run(&self, arguments: &str) -> Output {
        finish(&mut self.command(arguments))
    }

    /// Begins a command again and again, and kills it after each of these pauses, in milliseconds, or once `saved` is there if that takes
    /// longer. At least once it must have been at work then, or nothing is tested.
    pub fn killed(&self, arguments: &str, saved: &str, pauses: &[u64]) {
        let mut at_work = 0;
        for &pause in pauses {
            let mut child = self.command(arguments).spawn().unwrap();
            std::thread::sleep(Duration::from_millis(pause));
            let start = Instant::now();
            while !self.path(saved).exists() && child.try_wait().unwrap().is_none() {
                assert!(start.elapsed() < Duration::from_secs(60), "bantam {arguments}: {saved} does not come");
                std::thread::sleep(Duration::from_millis(1));
            }
            child.kill().unwrap();
            let killed = child.wait().unwrap().code().is_none();
            at_work += usize::from(killed && self.path(saved).exists());
        }
        assert!(at_work > 0, "bantam {arguments}: it was always done before it was killed");
    }

    /// Begins a command again and again, and kills it each of these pauses, in milliseconds, after it saved anew: always at work.
    pub fn killed_at_work(&self, arguments: &str, saved: &str, pauses: &[u64]) {
        let when_saved = || std::fs::metadata(self.path(saved)).and_then(|file| file.modified()).ok();
        for &pause in pauses {
            let (before, start) = (when_saved(), Instant::now());
            let mut child = self.command(arguments).spawn().unwrap();
            while when_saved() == before {
                assert!(start.elapsed() < Duration::from_secs(60), "bantam {arguments}: {saved} does not come");
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(pause));
            child.kill().unwrap();
            let killed = child.wait().unwrap().code().is_none();
            assert!(killed, "bantam {arguments}: it was done before it was killed");
        }
    }

    /// Begins a command and kills it once this file has so many lines.
    pub fn killed_at(&self, arguments: &str, file: &str, lines: usize) {
        let mut child = self.command(arguments).spawn().unwrap();
        let start = Instant::now();
        let there = || std::fs::read(self.path(file)).map_or(0, |text| text.iter().filter(|&&b| b == b'\n').count());
        while there() < lines {
            assert!(child.try_wait().unwrap().is_none(), "bantam {arguments}: it was done before it was killed");
            assert!(start.elapsed() < Duration::from_secs(60), "bantam {arguments}: {file} does not come");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Runs what must succeed, and gives its standard output.
    pub fn succeeds(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "bantam {arguments}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what must succeed with `--json`, and gives the JSON.
    pub fn json(&self, arguments: &str) -> serde_json::Value {
        serde_json::from_str(&self.succeeds(&format!("{arguments} --json"))).unwrap()
    }

    /// Runs what must be refused: exit code 2, one paragraph with all of `said` on standard error, nothing on standard
    /// output, and a folder as it was before.
    pub fn refuses(&self, arguments: &str, said: &[&str]) {
        let before = self.snapshot();
        let output = self.run(arguments);
        assert_refusal(&output, arguments, said);
        let after = self.snapshot();
        let names: Vec<_> = after.iter().filter(|file| !before.contains(file)).map(|(path, _)| path).collect();
        assert!(after == before, "bantam {arguments}: left something behind: {names:?}");
    }

    /// All files in the folder with their bytes, hidden ones too.
    pub fn snapshot(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut all = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    all.push((path.clone(), None));
                    folders.push(path);
                } else {
                    all.push((path.clone(), std::fs::read(&path).ok()));
                }
            }
        }
        all.sort();
        all
    }
}

/// Checks exit code and message of a refusal.
pub fn assert_refusal(output: &Output, what: &str, said: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(2), "bantam {what}: {:?}: {message}", output.status);
    assert!(output.stdout.is_empty(), "bantam {what}: an error belongs on standard error");
    // A slow machine says first how long it will take.
    let after_forecast = match message.split_once('\n') {
        Some((forecast, rest)) if forecast.starts_with("about ") => rest,
        _ => &message,
    };
    let text = after_forecast.strip_prefix("error: ").unwrap_or_else(|| panic!("bantam {what}: {message}")).trim_end();
    assert!(!text.contains('\n'), "bantam {what}: more than a paragraph: {message}");
    assert!(text.len() > 20 && text.len() < 700, "bantam {what}: {} bytes of message: {message}", text.len());
    for wrong in ["panicked", "RUST_BACKTRACE", "invalid data", "Some(", "Err(", "Error {", "os error 2): No such"] {
        assert!(!text.contains(wrong), "bantam {what}: `{wrong}` in: {message}");
    }
    for part in said {
        assert!(text.contains(part), "bantam {what}: `{part}` is not in: {message}");
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a command to its end, which must come soon.
pub fn finish(command: &mut Command) -> Output {
    const LIMIT: Duration = Duration::from_secs(60);
    let shown = format!("{command:?}");
    let child = command.spawn().unwrap();
    let id = child.id();
    let start = Instant::now();
    let (done, finished) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    finished
        .recv_timeout(LIMIT)
        .unwrap_or_else(|_| panic!("{shown} (process {id}) hangs since {:?}", start.elapsed()))
        .unwrap()
}
