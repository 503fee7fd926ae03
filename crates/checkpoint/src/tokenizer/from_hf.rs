//! A Hugging Face tokenizer as GGUF's metadata, as llama.cpp's `convert_hf_to_gguf.py` writes it.

use super::TokenType;
use super::pre_tokenizer::{PRE_TOKENIZERS, PreTokenizer};
use super::spm::SPACE;
use crate::mapped::read_text;
use crate::metadata::Array;
use crate::{Error, Metadata, Result, Value};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// `tokenizer.json`, what of it matters here. Steps stay JSON: there are many kinds, and most are refused.
#[derive(Deserialize)]
struct TokenizerJson {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
    normalizer: Option<Json>,
    pre_tokenizer: Option<Json>,
    post_processor: Option<Json>,
    model: ModelJson,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

#[derive(Deserialize)]
struct ModelJson {
    /// Files before 2020 lack it where it is `BPE`.
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    vocab: Json,
    #[serde(default)]
    merges: Vec<Merge>,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

/// The tokens in order of their ids.
struct Tokens {
    texts: Vec<String>,
    types: Vec<TokenType>,
}

/// The `tokenizer.*` metadata of a Hugging Face directory: of `tokenizer.json`, `tokenizer_config.json`,
/// `special_tokens_map.json`, `generation_config.json`, `config.json` and `chat_template.jinja`, as far as they exist.
/// The vocabulary is padded to `vocab_size`, the rows of the embedding.
///
/// SentencePiece scores, which `tokenizer.json` lacks, are made from the order of the merges: other numbers than in
/// `tokenizer.model`, the same tokens.
///
/// # Errors
/// If a file is malformed, has tokens beyond `vocab_size`, or the tokenizer is of a kind that GGUF or bantam does not have.
pub fn gguf_metadata_from_hf(dir: &Path, vocab_size: usize) -> Result<Metadata> {
    let path = dir.join("tokenizer.json");
    let json: TokenizerJson =
        serde_json::from_str(&read_text(&path)?).map_err(|e| Error::malformed(&path, e.to_string()))?;
    match json.model.kind.as_deref() {
        None | Some("BPE") => {}
        Some("WordPiece") => return from_wordpiece(dir, &json, vocab_size, &path),
        Some(kind) => {
            return Err(Error::unsupported(&path, format!("a tokenizer of type {kind}; bantam has BPE and WordPiece")));
        }
    }
    let tokens = tokens(&json, vocab_size, &path)?;
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value: Value| metadata.set(&format!("tokenizer.ggml.{key}"), value);
    if json.model.byte_fallback {
        set("model", Value::String("llama".into()));
        set("pre", Value::String("default".into()));
        set("add_space_prefix", Value::Bool(adds_space_prefix(&json, &path)?));
        set("scores", Value::Array(Array::F32(scores(&json, &tokens))));
    } else {
        let pre = pre_tokenizer(&json, &path)?;
        set("model", Value::String("gpt2".into()));
        set("pre", Value::String(pre.names[0].into()));
        set("merges", Value::Array(Array::String(json.model.merges.iter().map(merge_line).collect())));
    }
    set("token_type", Value::Array(Array::I32(tokens.types.iter().map(|kind| kind.code()).collect())));
    set("tokens", Value::Array(Array::String(tokens.texts.clone())));
    set_roles(&mut metadata, dir, &json, &tokens)?;
    Ok(metadata)
}

/// The metadata of a WordPiece tokenizer.
fn from_wordpiece(dir: &Path, json: &TokenizerJson, vocab_size: usize, path: &Path) -> Result<Metadata> {
    let normalizer = json.normalizer.as_ref().unwrap_or(&Json::Null);
    let cleans = ["clean_text", "handle_chinese_chars"].iter().all(|&step| normalizer[step] != false);
    if normalizer["type"] != "BertNormalizer" || !cleans {
        return Err(Error::unsupported(path, format!("a normalizer that GGUF does not have: {normalizer}")));
    }
    let pre_tokenizer = json.pre_tokenizer.as_ref().unwrap_or(&Json::Null);
    let prefix = json.model.continuing_subword_prefix.as_deref().unwrap_or("##");
    if pre_tokenizer["type"] != "BertPreTokenizer" || prefix != "##" {
        let message = format!("WordPiece with {pre_tokenizer} and the prefix {prefix:?}; GGUF has BERT's own, with ##");
        return Err(Error::unsupported(path, message));
    }
    let tokens = tokens(json, vocab_size, path)?;
    let config = optional_json(&dir.join("tokenizer_config.json"))?;
    let map = optional_json(&dir.join("special_tokens_map.json"))?;
    let role = |name: &str, usual: &str| {
        let text = |json: &Json| {
            let token = &json[format!("{name}_token")];
            token.as_str().or_else(|| token["content"].as_str()).map(str::to_owned)
        };
        let text = text(&config).or_else(|| text(&map)).unwrap_or_else(|| usual.to_owned());
        tokens.texts.iter().position(|known| *known == text).map(|id| Value::U32(id as u32))
    };
    let mut metadata = Metadata::default();
    let mut set = |key: &str, value: Value| metadata.set(&format!("tokenizer.ggml.{key}"), value);
    set("model", Value::String("bert".into()));
    set("pre", Value::String("default".into()));
    let spelled = tokens.texts.iter().zip(&tokens.types).map(|(text, &kind)| match (kind, text.strip_prefix("##")) {
        (TokenType::Control, _) => text.clone(),
        (_, Some(going_on)) => going_on.to_owned(),
        (_, None) => format!("{SPACE}{text}"),
    });
    set("tokens", Value::Array(Array::String(spelled.collect())));
    set("token_type", Value::Array(Array::I32(tokens.types.iter().map(|kind| kind.code()).collect())));
    let (first, last, unknown) = (role("cls", "[CLS]"), role("sep", "[SEP]"), role("unk", "[UNK]"));
    for (key, id) in [
        ("bos", first),
        ("eos", last.clone()),
        ("unknown", unknown),
        ("seperator", last), // GGUF's spelling.
        ("padding", role("pad", "[PAD]")),
        ("mask", role("mask", "[MASK]")),
    ] {
        id.into_iter().for_each(|id| set(&format!("{key}_token_id"), id));
    }
    set("add_bos_token", Value::Bool(true));
    set("add_eos_token", Value::Bool(true));
    set("add_sep_token", Value::Bool(false));
    for step in ["lowercase", "strip_accents"] {
        if let Some(does) = normalizer[step].as_bool() {
            set(&format!("normalizer.{step}"), Value::Bool(does));
        }
    }
    Ok(metadata)
}

/// Every token's text and type, with `[PADn]` where no token has an id.
fn tokens(json: &TokenizerJson, vocab_size: usize, path: &Path) -> Result<Tokens> {
    let vocab = json.model.vocab.as_object();
    let vocab = vocab.ok_or_else(|| Error::malformed(path, "model.vocab must be an object from tokens to ids"))?;
    let mut tokens: BTreeMap<u64, (String, TokenType)> = BTreeMap::new();
    for (text, id) in vocab {
        let id =
            id.as_u64().ok_or_else(|| Error::malformed(path, format!("model.vocab: the id of `{text}` is {id}")))?;
        let kind = match json.model.byte_fallback {
            true if json.model.unk_token.as_ref() == Some(text) => TokenType::Unknown,
            true if text.len() == 6 && text.starts_with("<0x") && text.ends_with('>') => TokenType::Byte,
            _ => TokenType::Normal,
        };
        if let Some((other, _)) = tokens.insert(id, (text.clone(), kind)) {
            return Err(Error::malformed(path, format!("model.vocab: `{other}` and `{text}` both have the id {id}")));
        }
    }
    // Gemma 3's text models come with a token for images that they have no embedding for; llama.cpp drops it, too.
    for token in json.added_tokens.iter().filter(|token| (token.id as usize) < vocab_size) {
        let special = token.special || looks_special(&token.content);
        let kind = if special { TokenType::Control } else { TokenType::UserDefined };
        // llama.cpp looks for these in the text as it is written.
        let text = if special { token.content.clone() } else { token.content.replace(SPACE, " ") };
        tokens.insert(token.id.into(), (text, kind));
    }
    if let Some((last, (text, _))) = tokens.last_key_value()
        && *last >= vocab_size as u64
    {
        return Err(Error::malformed(
            path,
            format!("`{text}` has the id {last}, but the model has {vocab_size} tokens"),
        ));
    }
    let (texts, types) = (0..vocab_size as u64)
        .map(|id| tokens.remove(&id).unwrap_or_else(|| (format!("[PAD{id}]"), TokenType::Unused)))
        .unzip();
    Ok(Tokens { texts, types })
}

/// Tokens that some models add as text and that are none.
fn looks_special(text: &str) -> bool {
    let between = |start, end| text.starts_with(start) && text.ends_with(end);
    ["<pad>", "<mask>", "<2mass>", "[@BOS@]"].contains(&text)
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}

/// A merge as GGUF spells it. A space in a part would be taken for the one between.
fn merge_line(merge: &Merge) -> String {
    match merge {
        Merge::Line(line) => line.clone(),
        Merge::Pair(left, right) => format!("{} {}", left.replace(' ', "Ġ"), right.replace(' ', "Ġ")),
    }
}

/// A score for each token: minus the place of the first merge that makes it. Tokens that no merge makes come last.
fn scores(json: &TokenizerJson, tokens: &Tokens) -> Vec<f32> {
    let mut ranks = HashMap::new();
    for merge in &json.model.merges {
        let made = match merge {
            Merge::Line(line) => line.replacen(' ', "", 1),
            Merge::Pair(left, right) => format!("{left}{right}"),
        };
        let place = ranks.len();
        ranks.entry(made).or_insert(place);
    }
    // Counting tokens, not merges, keeps the numbers small enough for f32 to tell them apart.
    let last = -(ranks.len() as f32);
    tokens.texts.iter().map(|text| ranks.get(text).map_or(last, |&place| -(place as f32))).collect()
}

/// Whether SentencePiece text begins with a space that is not written; refuses what else may be done to the text.
fn adds_space_prefix(json: &TokenizerJson, path: &Path) -> Result<bool> {
    let mut prefix = false;
    for step in steps(&json.normalizer, "normalizers").into_iter().chain(steps(&json.pre_tokenizer, "pretokenizers")) {
        match step["type"].as_str() {
            Some("Prepend") if step["prepend"] == SPACE => prefix = true,
            Some("Replace") if step["pattern"]["String"] == " " && step["content"] == SPACE => {}
            // Gemma's: a split at spaces, of which the normalizer left none.
            Some("Split") if step["pattern"]["String"] == " " => {}
            Some("Metaspace") => prefix |= step["prepend_scheme"] != "never" && step["add_prefix_space"] != false,
            _ => return Err(Error::unsupported(path, format!("a step that GGUF does not have: {step}"))),
        }
    }
    Ok(prefix)
}

/// The row whose patterns are those of the file.
fn pre_tokenizer(json: &TokenizerJson, path: &Path) -> Result<&'static PreTokenizer> {
    for step in steps(&json.normalizer, "normalizers") {
        // llama.cpp does not normalize; converters accept NFC, which most text is in already.
        if step["type"] != "NFC" {
            return Err(Error::unsupported(path, format!("a normalizer that GGUF does not have: {step}")));
        }
    }
    let mut patterns = Vec::new();
    for step in steps(&json.pre_tokenizer, "pretokenizers") {
        match (step["type"].as_str(), &step["pattern"]["Regex"]) {
            (Some("Split"), Json::String(regex)) => patterns.push(as_in_table(regex)),
            (Some("Digits"), _) if step["individual_digits"] == true => patterns.push(r"\p{N}".to_owned()),
            (Some("ByteLevel"), _) if step["add_prefix_space"] != true => {
                if step["use_regex"] != false {
                    patterns.push(super::pre_tokenizer::GPT2.to_owned());
                }
            }
            _ => return Err(Error::unsupported(path, format!("a pre-tokenizer that GGUF does not have: {step}"))),
        }
    }
    let same = |row: &&PreTokenizer| row.patterns == patterns;
    let exact = |row: &&PreTokenizer| same(row) && row.ignore_merges == json.model.ignore_merges;
    PRE_TOKENIZERS.iter().find(exact).or_else(|| PRE_TOKENIZERS.iter().find(same)).ok_or_else(|| {
        Error::unsupported(path, format!("a pre-tokenizer that no known model has, with the patterns {patterns:?}"))
    })
}

/// The steps of a normalizer or pre-tokenizer, which is one step or a sequence.
fn steps<'j>(step: &'j Option<Json>, key: &str) -> Vec<&'j Json> {
    match step {
        None | Some(Json::Null) => vec![],
        Some(step) => step[key].as_array().map_or_else(|| vec![step], |steps| steps.iter().collect()),
    }
}

/// A pattern in the spelling of the table: line ends escaped, contractions and letter case as llama.cpp has them.
fn as_in_table(regex: &str) -> String {
    regex
        .replace('\r', r"\r")
        .replace('\n', r"\n")
        .replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", super::pre_tokenizer::CONTRACTIONS)
        .replace(r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{L}&&[^a-z]]")
        .replace(r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", r"[\p{L}&&[^A-Z]]")
}

/// The tokens with a role, whether BOS and EOS are added, and the chat template.
fn set_roles(metadata: &mut Metadata, dir: &Path, json: &TokenizerJson, tokens: &Tokens) -> Result<()> {
    let config = optional_json(&dir.join("tokenizer_config.json"))?;
    let map = optional_json(&dir.join("special_tokens_map.json"))?;
    let generation = optional_json(&dir.join("generation_config.json"))?;
    let model = optional_json(&dir.join("config.json"))?;
    for (role, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let text = |json: &Json| {
            let token = &json[format!("{role}_token")];
            let text = token.as_str().or_else(|| token["content"].as_str())?;
            tokens.texts.iter().position(|known| known == text)
        };
        let id = |json: &Json| {
            let id = &json[format!("{role}_token_id")];
            let id = usize::try_from(id.as_u64().or_else(|| id[0].as_u64())?).ok()?;
            (id < tokens.texts.len()).then_some(id)
        };
        let found = text(&config).or_else(|| id(&model)).or_else(|| id(&generation)).or_else(|| text(&map));
        if let Some(id) = found {
            metadata.set(&format!("tokenizer.ggml.{key}_token_id"), Value::U32(id as u32));
        }
    }
    let (first, last) = added_around(json);
    for (role, around) in [("bos", first), ("eos", last)] {
        let add = config[format!("add_{role}_token")].as_bool().unwrap_or(around);
        metadata.set(&format!("tokenizer.ggml.add_{role}_token"), Value::Bool(add));
    }
    if let Some(template) = chat_template(dir, &config)? {
        metadata.set("tokenizer.chat_template", Value::String(template));
    }
    Ok(())
}

/// Whether the post-processor puts a token before a text, and after it.
fn added_around(json: &TokenizerJson) -> (bool, bool) {
    let mut around = (false, false);
    for step in steps(&json.post_processor, "processors") {
        if let ("TemplateProcessing", Some(single)) = (step["type"].as_str().unwrap_or(""), step["single"].as_array()) {
            let special = |piece: Option<&Json>| piece.is_some_and(|piece| piece["SpecialToken"].is_object());
            around = (special(single.first()), single.len() > 1 && special(single.last()));
        }
    }
    around
}

/// The chat template: its own file, or in the configuration, alone or as the `default` of several.
fn chat_template(dir: &Path, config: &Json) -> Result<Option<String>> {
    let path = dir.join("chat_template.jinja");
    if path.exists() {
        return read_text(&path).map(Some);
    }
    let template = match &config["chat_template"] {
        Json::Array(named) => named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()),
        other => other.as_str(),
    };
    Ok(template.map(str::to_owned))
}

/// A JSON file, null if there is none.
fn optional_json(path: &Path) -> Result<Json> {
    if !path.exists() {
        return Ok(Json::Null);
    }
    serde_json::from_str(&read_text(path)?).map_err(|e| Error::malformed(path, e.to_string()))
}
