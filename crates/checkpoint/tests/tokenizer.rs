//! Real tokenizers: to Hugging Face's files and back without a change. Needs the models of `$BANTAM_CACHE/models`, and says
//! so where they are missing.

use bantam_checkpoint::tokenizer::{Special, Tokenizer, gguf_metadata_from_hf, write_hf_tokenizer};
use bantam_checkpoint::{Checkpoint, Metadata};
use std::path::{Path, PathBuf};

const TEXT: &str =
    "It's 1234.5 o'clock,  CamelCase\n\n \tΣ日本語 e\u{301} 🎉!\r\n   fn main() {}\u{3000}नमस्ते<|im_end|><eos> x";

fn model(name: &str) -> Option<Checkpoint> {
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/bantam");
    let cache = std::env::var_os("BANTAM_CACHE").map_or_else(home, PathBuf::from);
    let path = cache.join("models").join(name).with_extension("gguf");
    if !path.exists() {
        eprintln!("skipped: {} is not there", path.display());
        return None;
    }
    Some(Checkpoint::open(path).unwrap())
}

/// Tokens of [`TEXT`] by llama.cpp: `llama-tokenize -m MODEL -f TEXT --ids --no-escape`, without and with
/// `--no-parse-special`.
fn check(name: &str, parsed: &[u32], plain: &[u32]) {
    let Some(checkpoint) = model(name) else { return };
    let tokenizer = Tokenizer::of(&checkpoint).unwrap();
    assert_eq!(tokenizer.encode(TEXT, Special::PROMPT).unwrap(), parsed);
    assert_eq!(tokenizer.encode(TEXT, Special::DOCUMENT).unwrap(), plain);
    assert_eq!(tokenizer.decode(plain), TEXT);

    let dir = tempfile::tempdir().unwrap();
    let dir = std::env::var_os("BANTAM_HF_OUT").map_or(dir.path().to_owned(), |out| Path::new(&out).join(name));
    std::fs::create_dir_all(&dir).unwrap();
    write_hf_tokenizer(&checkpoint, &dir).unwrap();
    let back = gguf_metadata_from_hf(&dir, tokenizer.vocab_size()).unwrap();
    let same = |key: &str, a: &Metadata, b: &Metadata| assert_eq!(a.get(key), b.get(key), "{key}");
    for key in ["tokens", "pre", "model", "merges", "bos_token_id", "eos_token_id", "padding_token_id"] {
        same(&format!("tokenizer.ggml.{key}"), checkpoint.metadata(), &back);
    }
    same("tokenizer.chat_template", checkpoint.metadata(), &back);
    let again = Tokenizer::from_metadata(&back, &dir).unwrap();
    for special in [Special::PROMPT, Special::DOCUMENT, Special::TEXT] {
        assert_eq!(again.encode(TEXT, special).unwrap(), tokenizer.encode(TEXT, special).unwrap());
    }
}

#[test]
fn smollm2_135m() {
    check(
        "smollm2-135m.gguf",
        &[
            1589, 506, 216, 33, 34, 35, 36, 30, 37, 263, 23, 17466, 28, 216, 5784, 299, 10802, 8866, 197, 153, 113,
            23274, 115, 40993, 179, 120, 248, 297, 151, 219, 15107, 232, 227, 17, 2738, 256, 24526, 1085, 1000, 4548,
            12109, 218, 30658, 35090, 38770, 16525, 26293, 30581, 2, 44, 85, 395, 46, 1792,
        ],
        &[
            1589, 506, 216, 33, 34, 35, 36, 30, 37, 263, 23, 17466, 28, 216, 5784, 299, 10802, 8866, 197, 153, 113,
            23274, 115, 40993, 179, 120, 248, 297, 151, 219, 15107, 232, 227, 17, 2738, 256, 24526, 1085, 1000, 4548,
            12109, 218, 30658, 35090, 38770, 16525, 26293, 30581, 44, 108, 306, 79, 486, 108, 21198, 85, 395, 46, 1792,
        ],
    );
}

#[test]
fn qwen2_5_coder_0_5b() {
    check(
        "qwen2.5-coder-0.5b.gguf",
        &[
            2132, 594, 220, 16, 17, 18, 19, 13, 20, 297, 62410, 11, 220, 68154, 4207, 271, 220, 197, 144624, 101059,
            102819, 384, 53839, 11162, 236, 231, 45626, 256, 5168, 1887, 368, 4687, 22441, 60096, 87244, 78368, 30484,
            97, 34370, 151645, 27, 84399, 29, 856,
        ],
        &[
            2132, 594, 220, 16, 17, 18, 19, 13, 20, 297, 62410, 11, 220, 68154, 4207, 271, 220, 197, 144624, 101059,
            102819, 384, 53839, 11162, 236, 231, 45626, 256, 5168, 1887, 368, 4687, 22441, 60096, 87244, 78368, 30484,
            97, 34370, 27, 91, 318, 6213, 91, 1784, 84399, 29, 856,
        ],
    );
}

#[test]
fn gemma3_270m() {
    check(
        "gemma3-270m.gguf",
        &[
            2, 1509, 236789, 236751, 236743, 236770, 236778, 236800, 236812, 236761, 236810, 512, 236789, 15868,
            236764, 138, 114919, 9818, 108, 236743, 255968, 238509, 94951, 545, 238288, 204906, 236888, 251, 107, 139,
            15059, 1689, 825, 8637, 465, 366, 366, 226767, 236820, 236909, 548, 236779, 643, 111038, 1, 1123,
        ],
        &[
            2, 1509, 236789, 236751, 236743, 236770, 236778, 236800, 236812, 236761, 236810, 512, 236789, 15868,
            236764, 138, 114919, 9818, 108, 236743, 255968, 238509, 94951, 545, 238288, 204906, 236888, 251, 107, 139,
            15059, 1689, 825, 8637, 465, 366, 366, 226767, 236820, 236909, 548, 236779, 643, 236909, 1798, 211827,
            236813, 1123,
        ],
    );
}
