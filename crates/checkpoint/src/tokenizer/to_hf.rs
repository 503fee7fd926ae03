//! GGUF's vocabulary as the files that transformers' `AutoTokenizer` loads.

use super::wordpiece::{LONGEST_WORD, WordPiece};
use super::{Model, TokenType, Tokenizer, spm};
use crate::{Checkpoint, Error, Result};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into `dir`.
///
/// The tokenizer gives llama.cpp's tokens (with control tokens parsed), which are not always those of the original Hugging
/// Face tokenizer: llama.cpp does not normalize text to NFC.
///
/// # Errors
/// If the checkpoint's tokenizer is unusable, as [`Tokenizer::of`] says, or a file cannot be written.
pub fn write_hf_tokenizer(checkpoint: &Checkpoint, dir: &Path) -> Result<()> {
    let tokenizer = Tokenizer::of(checkpoint)?;
    let metadata = checkpoint.metadata();
    let merges = match &tokenizer.model {
        Model::WordPiece(_) => Vec::new(),
        Model::Bpe(_) => {
            let lines = metadata.strings("tokenizer.ggml.merges").unwrap_or_default();
            lines.iter().filter_map(|line| super::bpe::split_merge(line)).map(|(l, r)| json!([l, r])).collect()
        }
        Model::Spm(spm) => merges_of_scores(&tokenizer, spm),
    };
    let roles = special_tokens(&tokenizer);
    let mut config = Map::new();
    let is_wordpiece = matches!(tokenizer.model, Model::WordPiece(_));
    let class = if is_wordpiece { "BertTokenizer" } else { "PreTrainedTokenizerFast" };
    config.insert("tokenizer_class".into(), json!(class));
    config.insert("add_bos_token".into(), json!(tokenizer.add_bos));
    config.insert("add_eos_token".into(), json!(tokenizer.add_eos));
    config.insert("clean_up_tokenization_spaces".into(), json!(false));
    config.extend(roles.clone());
    if let Some(template) = metadata.str("tokenizer.chat_template") {
        config.insert("chat_template".into(), json!(template));
    }
    let write = |name: &str, value: Value| {
        let path = dir.join(name);
        fs::write(&path, format!("{value:#}\n")).map_err(Error::io(&path, "write"))
    };
    write("tokenizer.json", tokenizer_json(&tokenizer, merges))?;
    write("tokenizer_config.json", Value::Object(config))?;
    write("special_tokens_map.json", Value::Object(roles))
}

fn special_tokens(tokenizer: &Tokenizer) -> Map<String, Value> {
    let vocab = &tokenizer.vocab;
    let (first, last) = match &tokenizer.model {
        Model::WordPiece(_) => ("cls_token", "sep_token"),
        _ => ("bos_token", "eos_token"),
    };
    [(first, vocab.bos), (last, vocab.eos), ("unk_token", vocab.unk), ("pad_token", vocab.pad)]
        .into_iter()
        .filter_map(|(role, id)| Some((role.to_owned(), json!(vocab.text(id?)?))))
        .collect()
}

fn tokenizer_json(tokenizer: &Tokenizer, merges: Vec<Value>) -> Value {
    let whole = |kind| matches!(kind, TokenType::Control | TokenType::Unknown | TokenType::UserDefined);
    let added: Vec<Value> = tokenizer
        .vocab
        .iter()
        .filter(|&(.., kind)| whole(kind))
        .map(|(id, content, kind)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": kind != TokenType::UserDefined})
        })
        .collect();
    // All tokens: one that is added but not in the vocabulary would get the next free id.
    if let Model::WordPiece(wordpiece) = &tokenizer.model {
        return wordpiece_json(tokenizer, wordpiece, added);
    }
    let vocab: Map<String, Value> = tokenizer.vocab.iter().map(|(id, text, _)| (text.to_owned(), json!(id))).collect();
    let (normalizer, pre_tokenizer, decoder) = match &tokenizer.model {
        Model::Bpe(bpe) => byte_level_steps(bpe.pre_tokenizer.patterns),
        Model::Spm(spm) => sentencepiece_steps(spm.add_space_prefix),
        Model::WordPiece(_) => unreachable!("written above"),
    };
    let (is_spm, ignore_merges) = match &tokenizer.model {
        Model::Bpe(bpe) => (false, bpe.pre_tokenizer.ignore_merges),
        Model::Spm(_) => (true, false),
        Model::WordPiece(_) => unreachable!("written above"),
    };
    let unknown = tokenizer.vocab.unk.filter(|_| is_spm).and_then(|id| tokenizer.vocab.text(id));
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": template_processing(tokenizer),
        "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": is_spm, "byte_fallback": is_spm, "ignore_merges": ignore_merges,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// BERT's own steps, and its vocabulary with `##` before what goes on.
fn wordpiece_json(tokenizer: &Tokenizer, wordpiece: &WordPiece, added: Vec<Value>) -> Value {
    let spelled = |text: &str, kind| match (kind, text.strip_prefix(spm::SPACE)) {
        (TokenType::Control, _) => text.to_owned(),
        (_, Some(begun)) => begun.to_owned(),
        (_, None) => format!("##{text}"),
    };
    let vocab: Map<String, Value> =
        tokenizer.vocab.iter().map(|(id, text, kind)| (spelled(text, kind), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": wordpiece.strip_accents(), "lowercase": wordpiece.lowercase()},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": template_processing(tokenizer),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": tokenizer.vocab.unk.and_then(|id| tokenizer.vocab.text(id)),
                  "continuing_subword_prefix": "##", "max_input_chars_per_word": LONGEST_WORD, "vocab": vocab},
    })
}

/// Normalizer, pre-tokenizer and decoder of byte-level BPE.
fn byte_level_steps(patterns: &[&str]) -> (Value, Value, Value) {
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let steps: Vec<Value> = patterns.iter().map(split).chain([byte_level.clone()]).collect();
    (Value::Null, json!({"type": "Sequence", "pretokenizers": steps}), byte_level)
}

/// Normalizer, pre-tokenizer and decoder of SentencePiece.
fn sentencepiece_steps(add_space_prefix: bool) -> (Value, Value, Value) {
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", spm::SPACE)];
    let mut decoders = vec![replace(spm::SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if add_space_prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": spm::SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let sequence = |key: &str, steps: Vec<Value>| json!({"type": "Sequence", key: steps});
    (sequence("normalizers", normalizers), Value::Null, sequence("decoders", decoders))
}

/// BOS before and EOS after, as the model asks.
fn template_processing(tokenizer: &Tokenizer) -> Value {
    let bos = tokenizer.vocab.bos.filter(|_| tokenizer.add_bos);
    let eos = tokenizer.vocab.eos.filter(|_| tokenizer.add_eos);
    if bos.or(eos).is_none() {
        return Value::Null;
    }
    let text = |id: u32| tokenizer.vocab.text(id).expect("a role's token exists");
    let around = |sequence: &str, type_id: u32| {
        let special = |id: u32| json!({"SpecialToken": {"id": text(id), "type_id": type_id}});
        let middle = json!({"Sequence": {"id": sequence, "type_id": type_id}});
        bos.map(special).into_iter().chain([middle]).chain(eos.map(special)).collect::<Vec<_>>()
    };
    let used: Map<String, Value> = [bos, eos]
        .into_iter()
        .flatten()
        .map(|id| (text(id).to_owned(), json!({"id": text(id), "ids": [id], "tokens": [text(id)]})))
        .collect();
    let pair = [around("A", 0), around("B", 1)].concat();
    json!({"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": used})
}

/// SentencePiece merges any two pieces that make a token, the best score first: all ways to make each token, in that order.
fn merges_of_scores(tokenizer: &Tokenizer, spm: &spm::Spm) -> Vec<Value> {
    let vocab = &tokenizer.vocab;
    let mut made: Vec<(u32, &str)> =
        vocab.iter().filter(|&(.., kind)| kind == TokenType::Normal).map(|(id, text, _)| (id, text)).collect();
    made.sort_by_key(|&(id, _)| std::cmp::Reverse(spm.score(id)));
    let splits = |text: &'_ str| -> Vec<Value> {
        let cuts = text.char_indices().skip(1).map(|(at, _)| text.split_at(at));
        cuts.filter(|(l, r)| vocab.id(l).is_some() && vocab.id(r).is_some()).map(|(l, r)| json!([l, r])).collect()
    };
    made.into_iter().flat_map(|(_, text)| splits(text)).collect()
}
