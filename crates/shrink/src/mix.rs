//! Mixes: which number format each tensor of a model gets. The usual ones are data, in `mixes.toml`; a user's own is a file of
//! the same form.

use crate::Error;
use bantam_checkpoint::hf::integers::Packing;
use bantam_checkpoint::{Config, TensorInfo};
use bantam_formats::{Activation, FORMATS, Format, INTEGERS};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

/// The head of a mix that names none: what llama.cpp gives the output matrix.
const DEFAULT_HEAD: &str = "Q6_K";

/// What llama.cpp gives an output matrix whose rows are no whole number of blocks.
const HEAD_FALL_BACK: &str = "Q8_0";

/// A rule for every tensor's number format.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mix {
    /// The mix's name, for example `Q4_K_M`.
    #[serde(skip)]
    pub name: String,
    /// The user's file that it was read from; ours have none.
    #[serde(skip)]
    file: Option<PathBuf>,
    /// What it is for, in a few words.
    #[serde(default)]
    pub about: String,
    /// The number GGUF carries in `general.file_type`, which means nothing in a directory; where a user's file has none, that of the level whose
    /// format is the default.
    #[serde(default)]
    file_type: Option<u32>,
    /// How a Hugging Face directory holds its integers; without one it makes a GGUF file.
    #[serde(default, deserialize_with = "packing")]
    pub directory: Option<&'static Packing>,
    /// Whether the model is [widened](crate::widen) first.
    #[serde(default)]
    pub widen: bool,
    #[serde(deserialize_with = "format")]
    default: &'static Format,
    #[serde(default = "default_head", deserialize_with = "format")]
    head: &'static Format,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    /// A role, or the name of one tensor; without `.weight`.
    tensor: String,
    #[serde(default)]
    layers: Layers,
    #[serde(default)]
    min_gqa: usize,
    #[serde(deserialize_with = "format")]
    format: &'static Format,
}

/// Formats that are no integers and no blocks.
const PLAIN: [&str; 3] = ["F32", "F16", "BF16"];

/// Which layers a rule is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(try_from = "String")]
enum Layers {
    #[default]
    All,
    First(usize),
    FirstShare(usize),
    Outer,
}

impl Rule {
    /// Whether it names a tensor of this role and name (without `.weight`), whatever the layers that it is for.
    fn names(&self, role: &str, name: &str) -> bool {
        self.tensor == role || self.tensor == name
    }
}

impl TryFrom<String> for Layers {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("layers = \"{text}\": write `all`, `first N`, `first 1/N` or `outer`");
        match text.as_str() {
            "all" => Ok(Layers::All),
            "outer" => Ok(Layers::Outer),
            _ => {
                let count = text.strip_prefix("first ").ok_or_else(wrong)?;
                match count.strip_prefix("1/") {
                    Some(share) => share.parse().ok().filter(|&n| n > 0).map(Layers::FirstShare).ok_or_else(wrong),
                    None => count.parse().map(Layers::First).map_err(|_| wrong()),
                }
            }
        }
    }
}

impl Layers {
    fn contains(self, layer: usize, count: usize) -> bool {
        match self {
            Layers::All => true,
            Layers::First(n) => layer < n,
            Layers::FirstShare(n) => layer < count / n,
            Layers::Outer => {
                let eighth = count / 8;
                layer < eighth || layer >= 7 * count / 8 || (layer - eighth) % 3 == 2
            }
        }
    }
}

#[derive(Deserialize)]
struct File {
    fallback: BTreeMap<String, String>,
    mix: toml::Table,
}

/// The mixes and the fall-backs of `mixes.toml`; the file is part of the program and checked by a test.
static MIXES: LazyLock<(Vec<Mix>, BTreeMap<String, String>)> = LazyLock::new(|| {
    let file: File = toml::from_str(include_str!("mixes.toml")).expect("mixes.toml is sound");
    let mixes = file.mix.into_iter().map(|(name, mix)| Mix { name, ..mix.try_into().expect("mixes.toml is sound") });
    (mixes.collect(), file.fallback)
});

fn default_head() -> &'static Format {
    Format::by_name(DEFAULT_HEAD).expect("a format of ours")
}

/// A format by its name.
pub(crate) fn format<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<&'static Format, D::Error> {
    let name = String::deserialize(deserializer)?;
    Format::by_name(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown number format `{name}`")))
}

fn packing<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'static Packing>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let packing = Packing::by_name(&name);
    packing.map(Some).ok_or_else(|| serde::de::Error::custom(format!("unknown packing `{name}`")))
}

/// The mix whose name resembles `name` most, unless none does.
fn nearest(name: &str) -> Option<&'static str> {
    const ALIKE: f64 = 0.7;
    let likeness = |mix: &Mix| strsim::normalized_damerau_levenshtein(&name.to_ascii_uppercase(), &mix.name);
    let (likeness, mix) = Mix::all().iter().map(|mix| (likeness(mix), mix)).max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness >= ALIKE).then_some(mix.name.as_str())
}

/// What a tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The format it gets.
    pub format: &'static Format,
    /// The format it should have got, if that does not divide its rows.
    pub instead_of: Option<&'static Format>,
}

impl Mix {
    /// All mixes, in the order of `mixes.toml`: recommended ones first.
    pub fn all() -> &'static [Mix] {
        &MIXES.0
    }

    /// The mix of this name, in any case.
    ///
    /// # Errors
    /// If there is none; the message lists those that there are.
    pub fn by_name(name: &str) -> Result<&'static Mix, Error> {
        Mix::all().iter().find(|m| m.name.eq_ignore_ascii_case(name)).ok_or_else(|| Error::UnknownMix {
            name: name.to_owned(),
            nearest: nearest(name),
            known: Mix::all().iter().map(|m| m.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Whether this names a file of formats, and not a level.
    pub fn is_file(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "toml")
    }

    /// The mix that `--to` names: one of ours, or that of a file `*.toml`, which has the form of an entry in `mixes.toml`.
    ///
    /// # Errors
    /// If there is none of this name, or the file cannot be read.
    pub fn named(name: &str) -> Result<Mix, Error> {
        let path = Path::new(name);
        if !Self::is_file(path) {
            return Mix::by_name(name).cloned();
        }
        let error = |problem: String| Error::MixFile { path: path.to_owned(), problem };
        let text = std::fs::read_to_string(path).map_err(|e| error(format!("cannot read: {e}")))?;
        let mix: Mix = toml::from_str(&text).map_err(|e| {
            let number = e.span().map_or(0, |span| text[..span.start.min(text.len())].matches('\n').count());
            let line = text.lines().nth(number).unwrap_or_default().trim();
            error(format!("line {}, `{line}`: {}", number + 1, e.message()))
        })?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Mix { name, file: Some(path.to_owned()), ..mix })
    }

    /// A mix that names the format of each tensor that may be quantized.
    ///
    /// # Panics
    /// If no tensor is named.
    pub fn of_tensors(name: String, about: String, tensors: &[(&str, &'static Format)]) -> Mix {
        let mut counts = BTreeMap::new();
        tensors.iter().for_each(|(_, format)| *counts.entry(format.name).or_insert(0) += 1);
        let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count).expect("there are tensors");
        let default = Format::by_name(most).expect("it is a format");
        let of = |name: &str| tensors.iter().find(|(tensor, _)| *tensor == name).map(|(_, format)| *format);
        let (head, format) = ["output.weight", "token_embd.weight"]
            .into_iter()
            .find_map(|name| Some((name, of(name)?)))
            .unwrap_or_else(|| ("", default_head()));
        let rule = |(tensor, format): &(&str, &'static Format)| Rule {
            tensor: tensor.trim_end_matches(".weight").to_owned(),
            layers: Layers::All,
            min_gqa: 0,
            format,
        };
        // No rule is for the head: what it said would not count.
        let rules = tensors.iter().filter(|(tensor, _)| *tensor != head).map(rule).collect();
        Mix { name, file: None, about, file_type: None, directory: None, widen: false, default, head: format, rules }
    }

    /// The mix as a file that [`named`](Self::named) reads, if its rules name tensors.
    pub fn to_toml(&self) -> String {
        let Mix { about, default, head, .. } = self;
        let widen = if self.widen { "widen = true\n" } else { "" };
        let mut text = format!("about = {about:?}\n{widen}default = \"{default}\"\nhead = \"{head}\"\nrules = [\n");
        for Rule { tensor, format, .. } in &self.rules {
            writeln!(text, "    {{ tensor = {tensor:?}, format = \"{format}\" }},").expect("a string takes all");
        }
        text + "]\n"
    }

    /// The number GGUF carries in `general.file_type`.
    pub fn file_type(&self) -> u32 {
        let of_format = || Mix::all().iter().find(|mix| mix.default == self.default).and_then(|mix| mix.file_type);
        self.file_type.or_else(of_format).unwrap_or_default()
    }

    /// The format of most tensors.
    pub fn format(&self) -> &'static Format {
        self.default
    }

    /// Whether most layers round their activations to 8 bits token by token: smoothing them first pays.
    pub fn rounds_tokens(&self) -> bool {
        self.default.product.activation == Activation::Int8Token
    }

    /// What each of `tensors`, all those of a model, becomes. Vectors, and tensors that must stay exact, keep their format.
    ///
    /// # Errors
    /// If a tensor is to get a format that can only be read (one that has it already keeps it), or that the directory cannot hold.
    pub fn assign(&self, tensors: &[TensorInfo], config: &Config) -> Result<Vec<Target>, Error> {
        let tied = is_tied(tensors);
        let mut targets: Vec<Target> = tensors.iter().map(|tensor| self.target(tensor, config, tied)).collect();
        if self.directory.is_some_and(|packing| packing.uniform) {
            make_uniform(&mut targets);
        }
        if let Some(packing) = self.directory {
            tensors.iter().zip(&targets).try_for_each(|(tensor, target)| self.held(packing, tensor, target, tied))?;
        }
        let mut changed = tensors.iter().zip(&targets).filter(|(tensor, target)| target.format != tensor.format);
        match changed.find(|(_, target)| target.format.encode.is_none()) {
            Some((tensor, target)) => Err(self.only_read(tensor, target.format)),
            None => Ok(targets),
        }
    }

    /// Refuses what a directory so packed cannot hold, or engines would not look for there.
    fn held(&self, packing: &Packing, tensor: &TensorInfo, target: &Target, tied: bool) -> Result<(), Error> {
        let Some(role) = quantizable_role(tensor) else { return Ok(()) };
        let format = target.format;
        let is_layer = !is_head(role, tied) && role != "token_embd";
        if PLAIN.contains(&format.name) || (is_layer && packing.holds(format)) {
            return Ok(());
        }
        let integers: Vec<&str> = INTEGERS.iter().filter(|f| packing.holds(f)).map(|f| f.name).collect();
        Err(self.wrong(format!(
            "{} would become {format}; directories packed as {} hold {} in layers, and F16 in these too, in the embedding and in the head \
             (`head = \"F16\"`, and a rule for `token_embd`)",
            tensor.name,
            packing.name,
            integers.join(", "),
        )))
    }

    fn wrong(&self, problem: String) -> Error {
        Error::MixFile { path: self.file.clone().unwrap_or_else(|| PathBuf::from(&self.name)), problem }
    }

    fn only_read(&self, tensor: &TensorInfo, format: &Format) -> Error {
        let formats = if self.directory.is_some() { INTEGERS } else { FORMATS };
        let written: Vec<&str> = formats.iter().filter(|f| f.encode.is_some()).map(|f| f.name).collect();
        self.wrong(format!(
            "{} would become {format}, which bantam can only read; it can write {}",
            tensor.name,
            written.join(", ")
        ))
    }

    /// The rules of a user's file, by what they name, that nothing comes of in a model of these tensors: it has none of that name that may be
    /// quantized, or that is the head. (Ours are for all models.)
    pub fn idle(&self, tensors: &[TensorInfo]) -> Vec<&str> {
        let tied = is_tied(tensors);
        let named = |tensor: &TensorInfo, rule: &Rule| {
            let role = quantizable_role(tensor).filter(|role| !is_head(role, tied));
            role.is_some_and(|role| rule.names(role, tensor.name.trim_end_matches(".weight")))
        };
        let rules = self.rules.iter().filter(|_| self.file.is_some());
        rules.filter(|rule| !tensors.iter().any(|t| named(t, rule))).map(|rule| &rule.tensor[..]).collect()
    }

    fn target(&self, tensor: &TensorInfo, config: &Config, tied: bool) -> Target {
        let Some(role) = quantizable_role(tensor) else {
            return Target { format: tensor.format, instead_of: None };
        };
        if is_head(role, tied) {
            return fitting(self.head, Format::by_name(HEAD_FALL_BACK), tensor.cols());
        }
        let name = tensor.name.trim_end_matches(".weight");
        let gqa = config.head_count / config.head_count_kv;
        let matches = |rule: &&Rule| {
            rule.names(role, name)
                && gqa >= rule.min_gqa
                && layer_of(name).is_none_or(|layer| rule.layers.contains(layer, config.block_count))
        };
        let wanted = self.rules.iter().find(matches).map_or(self.default, |rule| rule.format);
        fitting(wanted, fall_back_of(wanted), tensor.cols())
    }
}

/// The role of a tensor that may be quantized: the part of its name before `.weight`, without the layer.
/// `None` for biases, norms, and other vectors, which are small and sensitive.
pub(crate) fn quantizable_role(tensor: &TensorInfo) -> Option<&str> {
    let role = tensor.name.strip_suffix(".weight")?.rsplit('.').next()?;
    let is_matrix = tensor.shape.len() >= 2 && tensor.rows() > 1;
    (is_matrix && !tensor.stays_f32() && !role.ends_with("_norm") && role != "ffn_gate_inp").then_some(role)
}

/// Whether the model's head is its embedding.
fn is_tied(tensors: &[TensorInfo]) -> bool {
    tensors.iter().all(|t| t.name != "output.weight")
}

fn is_head(role: &str, tied: bool) -> bool {
    role == "output" || (tied && role == "token_embd")
}

fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// What stands in for a format in `mixes.toml`.
fn fall_back_of(format: &Format) -> Option<&'static Format> {
    MIXES.1.get(format.name).and_then(|name| Format::by_name(name))
}

/// Gives all integers the smallest groups that one of them needs.
fn make_uniform(targets: &mut [Target]) {
    let integers = || targets.iter().map(|t| t.format).filter(|f| !f.in_gguf());
    let Some(smallest) = integers().min_by_key(|f| f.block) else { return };
    for target in targets.iter_mut().filter(|t| !t.format.in_gguf() && t.format != smallest) {
        *target = Target { format: smallest, instead_of: Some(target.instead_of.unwrap_or(target.format)) };
    }
}

/// `wanted` if it divides rows of `cols`, else the first that does of `fall_back` and what `mixes.toml` has for that, else F16.
fn fitting(wanted: &'static Format, fall_back: Option<&'static Format>, cols: usize) -> Target {
    if wanted.divides(cols) {
        return Target { format: wanted, instead_of: None };
    }
    let narrower = std::iter::successors(fall_back, |format| fall_back_of(format)).find(|f| f.divides(cols));
    let f16 = || Format::f16();
    Target { format: narrower.unwrap_or_else(f16), instead_of: Some(wanted) }
}
