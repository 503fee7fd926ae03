//! What makes a sentence encoder of a model: the files of sentence-transformers, which say how hidden states are pooled.

use crate::config::Pooling;
use crate::mapped::read_text;
use crate::{Error, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const MODULES: &str = "modules.json";
const FOLDER: &str = "1_Pooling";

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

/// How the directory's model is pooled; to the mean where it does not say.
///
/// # Errors
/// If a file is malformed, or the pooling is one that GGUF does not have.
pub fn read(dir: &Path) -> Result<Pooling> {
    let path = dir.join(pooling_folder(dir)?).join("config.json");
    if !path.exists() {
        return Ok(Pooling::Mean);
    }
    let json: Value = serde_json::from_str(&read_text(&path)?).map_err(|e| Error::malformed(&path, e.to_string()))?;
    let is = |mode: &str, flag: &str| json[flag] == true || json["pooling_mode"] == mode;
    let known = [
        (Pooling::Mean, is("mean", "pooling_mode_mean_tokens")),
        (Pooling::First, is("cls", "pooling_mode_cls_token")),
        (Pooling::Last, is("lasttoken", "pooling_mode_lasttoken")),
    ];
    match known.iter().filter(|(_, is)| *is).collect::<Vec<_>>()[..] {
        [(pooling, _)] => Ok(*pooling),
        _ => Err(Error::unsupported(&path, "its pooling is not one of mean, cls and lasttoken, alone.")),
    }
}

/// The folder that `modules.json` names for pooling.
fn pooling_folder(dir: &Path) -> Result<String> {
    let path = dir.join(MODULES);
    if !path.exists() {
        return Ok(FOLDER.to_owned());
    }
    let modules: Vec<Module> =
        serde_json::from_str(&read_text(&path)?).map_err(|e| Error::malformed(&path, e.to_string()))?;
    let folder = modules.into_iter().find(|m| m.kind.ends_with("Pooling")).map_or(FOLDER.to_owned(), |m| m.path);
    match Path::new(&folder).file_name() == Some(folder.as_ref()) {
        true => Ok(folder),
        false => Err(Error::malformed(&path, format!("it names the folder {folder:?}; modules must lie in this one."))),
    }
}

/// Writes the files by which sentence-transformers loads the directory as an encoder of unit vectors.
///
/// # Errors
/// If a file cannot be written.
pub fn write(dir: &Path, pooling: Pooling, width: usize, context: usize) -> Result<()> {
    let write = |name: &str, json: Value| {
        let path = dir.join(name);
        fs::write(&path, format!("{json:#}\n")).map_err(Error::io(&path, "write"))
    };
    let module = |idx: usize, path: &str, kind: &str| json!({"idx": idx, "name": idx.to_string(), "path": path, "type": format!("sentence_transformers.models.{kind}")});
    let folder = dir.join(FOLDER);
    fs::create_dir(&folder).map_err(Error::io(&folder, "write"))?;
    let modules = [module(0, "", "Transformer"), module(1, FOLDER, "Pooling"), module(2, "2_Normalize", "Normalize")];
    write(MODULES, json!(modules))?;
    write("sentence_bert_config.json", json!({"max_seq_length": context, "do_lower_case": false}))?;
    write(
        &format!("{FOLDER}/config.json"),
        json!({
            "word_embedding_dimension": width,
            "pooling_mode_cls_token": pooling == Pooling::First,
            "pooling_mode_mean_tokens": pooling == Pooling::Mean,
            "pooling_mode_max_tokens": false,
            "pooling_mode_mean_sqrt_len_tokens": false,
            "pooling_mode_lasttoken": pooling == Pooling::Last,
        }),
    )
}
