//! Small vocabularies made by hand; real ones are in `tests/tokenizer.rs`.

use super::*;
use crate::Value;
use crate::metadata::Array;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn strings(items: &[&str]) -> Value {
    Value::Array(Array::String(items.iter().map(|&item| item.to_owned()).collect()))
}

fn metadata(model: &str, tokens: &[&str], types: &[i32]) -> Metadata {
    let mut metadata = Metadata::default();
    metadata.set("tokenizer.ggml.model", Value::String(model.into()));
    metadata.set("tokenizer.ggml.tokens", strings(tokens));
    metadata.set("tokenizer.ggml.token_type", Value::Array(Array::I32(types.to_vec())));
    metadata
}

fn bpe_metadata() -> Metadata {
    let tokens = ["a", "b", "Ġ", "ab", "Ġa", "Ġab", "<|im_end|>", "<<>>", "Ã", "©"];
    let mut metadata = metadata("gpt2", &tokens, &[1, 1, 1, 1, 1, 1, 3, 4, 1, 1]);
    metadata.set("tokenizer.ggml.pre", Value::String("gpt-2".into()));
    metadata.set("tokenizer.ggml.merges", strings(&["a b", "Ġ a", "Ġ ab"]));
    metadata.set("tokenizer.ggml.bos_token_id", Value::U32(6));
    metadata.set("tokenizer.ggml.eos_token_id", Value::U32(6));
    metadata
}

fn spm_metadata() -> Metadata {
    let tokens = ["<unk>", "<s>", "</s>", "<0xC3>", "<0xA9>", "▁", "a", "b", "ab", "▁a", "ba"];
    let mut metadata = metadata("llama", &tokens, &[2, 3, 3, 6, 6, 1, 1, 1, 1, 1, 1]);
    let scores = vec![0., 0., 0., 0., 0., -9., -9., -9., -2., -1., -2.];
    metadata.set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)));
    metadata
}

fn tokenizer(metadata: &Metadata) -> Result<Tokenizer> {
    Tokenizer::from_metadata(metadata, Path::new("m.gguf"))
}

#[test]
fn bpe_merges_in_order_and_finds_tokens_whole() {
    let tokenizer = tokenizer(&bpe_metadata()).unwrap();
    let encode = |text, special| tokenizer.encode(text, special).unwrap();
    assert_eq!(encode("ab ab", Special::TEXT), [3, 5]);
    assert_eq!(encode("a<<>>b", Special::TEXT), [0, 7, 1], "user-defined tokens are always found");
    assert_eq!(encode("ab<|im_end|>", Special::PROMPT), [3, 6]);
    assert_eq!(encode("<|im_end|>", Special::TEXT), [] as [u32; 0], "no token spells these characters");
    assert_eq!(encode("é", Special::TEXT), [8, 9]);
    assert_eq!(encode("", Special::DOCUMENT), [] as [u32; 0]);
    assert_eq!(tokenizer.decode(&[3, 5, 6, 8, 9]), "ab abé", "control tokens are no text");
    assert_eq!(tokenizer.token_bytes(9), [0xa9]);
    assert!(tokenizer.is_end(6) && !tokenizer.is_end(3) && !tokenizer.is_end(u32::MAX));
}

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = tokenizer(&spm_metadata()).unwrap();
    let encode = |text, special| tokenizer.encode(text, special).unwrap();
    assert_eq!(encode("ab", Special::DOCUMENT), [1, 9, 7], "▁a has the best score");
    assert_eq!(encode("bab", Special::TEXT), [5, 10, 7], "of equals the leftmost is merged");
    assert_eq!(encode("é", Special::TEXT), [5, 3, 4]);
    assert_eq!(encode("z", Special::TEXT), [5, 0], "no byte token: unknown");
    assert_eq!(encode("", Special::DOCUMENT), [1]);
    assert_eq!(encode("<s>ab", Special::PROMPT), [1, 9, 7], "BOS once");
    assert_eq!(tokenizer.decode(&[1, 9, 7, 3, 4]), "abé", "the prefix is taken off");
    // Going on gives what encoding at once gives.
    assert_eq!(encode("<s>ab</s>bab", Special::PROMPT), [1, 9, 7, 2, 5, 10, 7]);
    assert_eq!(tokenizer.encode_continuation(Some(1), "ab</s>bab", true), [9, 7, 2, 5, 10, 7]);
    assert_eq!(tokenizer.encode_continuation(Some(2), "bab", true), [5, 10, 7]);
    assert_eq!(tokenizer.encode_continuation(Some(7), "ab", true), [8], "no space within a text");
    let mut stream = tokenizer.decode_stream();
    assert_eq!([9, 3, 4, 3].map(|id| stream.push(id)), [" a", "", "é", ""]);
    assert_eq!(stream.finish(), "\u{fffd}");
}

#[test]
fn what_is_wrong_with_a_vocabulary_is_said() {
    let broken = |mut metadata: Metadata, key: &str, value: Option<Value>| {
        let key = format!("tokenizer.ggml.{key}");
        metadata.remove(&key);
        value.into_iter().for_each(|value| metadata.set(&key, value));
        tokenizer(&metadata).err().expect("an error").to_string()
    };
    for (error, expected) in [
        (broken(bpe_metadata(), "merges", None), "merges"),
        (broken(bpe_metadata(), "merges", Some(strings(&["a b", "a x"]))), "line 1: `x`"),
        (broken(bpe_metadata(), "tokens", None), "tokens"),
        (broken(bpe_metadata(), "tokens", Some(strings(&["a", "a"]))), "0 and 1 are both `a`"),
        (broken(bpe_metadata(), "pre", Some(Value::String("odd".into()))), "`odd`"),
        (broken(bpe_metadata(), "model", Some(Value::String("odd".into()))), "`odd`"),
        (broken(bpe_metadata(), "bos_token_id", Some(Value::U32(10))), "bos_token_id` is 10"),
        (broken(spm_metadata(), "scores", Some(Value::Array(Array::F32(vec![0.])))), "1 entries for 11 tokens"),
        (broken(spm_metadata(), "scores", Some(Value::Array(Array::F32(vec![f32::NAN; 11])))), "token 0"),
        (broken(spm_metadata(), "token_type", Some(Value::Array(Array::I32(vec![1])))), "1 entries for 11 tokens"),
    ] {
        assert!(error.starts_with("m.gguf") && error.contains(expected), "{error}");
    }
}

#[test]
fn long_runs_take_linear_time() {
    let (bpe, spm) = (tokenizer(&bpe_metadata()).unwrap(), tokenizer(&spm_metadata()).unwrap());
    for run in ["a", "ab", " ", "\n", "<<>>", "é"] {
        let text = run.repeat(500_000 / run.len());
        for tokenizer in [&bpe, &spm] {
            let start = Instant::now();
            tokenizer.encode(&text, Special::PROMPT).unwrap();
            assert!(start.elapsed() < Duration::from_secs(20), "{run:?} took {:?}", start.elapsed());
        }
    }
}

fn any_value() -> impl Strategy<Value = Value> {
    let text =
        prop::sample::select(vec!["a", "b", "a b", " ", "", "▁", "Ġ", "<0x0A>", "<s>", "gpt-2", "é", "gpt2", "llama"]);
    let text = text.prop_map(str::to_owned);
    prop_oneof![
        any::<u32>().prop_map(Value::U32),
        (-2i32..9).prop_map(Value::I32),
        any::<bool>().prop_map(Value::Bool),
        text.clone().prop_map(Value::String),
        prop::collection::vec(text, 0..6).prop_map(|v| Value::Array(Array::String(v))),
        prop::collection::vec(any::<f32>(), 0..12).prop_map(|v| Value::Array(Array::F32(v))),
        prop::collection::vec(-1i32..8, 0..12).prop_map(|v| Value::Array(Array::I32(v))),
    ]
}

proptest! {
    #[test]
    fn no_metadata_panics(spm in any::<bool>(), changes in prop::collection::vec((0usize..8, any_value()), 0..4), text in ".{0,40}") {
        let keys = ["model", "tokens", "token_type", "scores", "merges", "bos_token_id", "pre", "add_bos_token"];
        let mut metadata = if spm { spm_metadata() } else { bpe_metadata() };
        for (key, value) in changes {
            metadata.set(&format!("tokenizer.ggml.{}", keys[key]), value);
        }
        if let Ok(tokenizer) = tokenizer(&metadata) {
            for special in [Special::TEXT, Special::PROMPT] {
                tokenizer.decode(&tokenizer.encode(&text, special).unwrap());
            }
        }
    }
}
