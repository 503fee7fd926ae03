//! What bantam computes, for comparing with other engines (`scripts/peers/compare_llama_cpp.py` does).
//!
//!     logits MODEL TOKENS OUT       the logits after each of the tokens, in chunks of up to 512 fresh contexts
//!     logits MODEL TOKENS OUT --f32-cache   the same with keys and values that are not rounded to halves
//!     logits MODEL TOKENS --greedy N   N tokens that follow, each the likeliest
//!
//! TOKENS is a file of token ids, u32 little endian; OUT receives f32 little endian, `[tokens, vocabulary]`.

use bantam_checkpoint::Checkpoint;
use bantam_formats::Format;
use bantam_nn::{Model, Sampler, Sampling};
use std::io::Write;

const CHUNK: usize = 512;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [model, tokens, "--greedy", n] => greedy(&load(model)?, &read_tokens(tokens)?, n.parse()?),
        [model, tokens, out] => logits(&load(model)?, &read_tokens(tokens)?, out, Format::f16()),
        [model, tokens, out, "--f32-cache"] => logits(&load(model)?, &read_tokens(tokens)?, out, Format::f32()),
        _ => Err("usage: logits MODEL TOKENS (OUT [--f32-cache] | --greedy N)".into()),
    }
}

fn load(path: &str) -> Result<Model> {
    Ok(Model::load(&Checkpoint::open(path)?)?)
}

fn read_tokens(path: &str) -> Result<Vec<u32>> {
    let bytes = std::fs::read(path)?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn logits(model: &Model, tokens: &[u32], out: &str, cache: &'static Format) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(out)?);
    let width = model.config().embedding_length;
    let mut session = model.session_with_cache(CHUNK, cache)?;
    let mut logits = vec![0.0; 64 * model.config().vocab_size];
    for chunk in tokens.chunks(CHUNK) {
        session.truncate(0);
        let hidden = session.forward(chunk)?.to_vec();
        for rows in hidden.chunks(64 * width) {
            let logits = &mut logits[..rows.len() / width * model.config().vocab_size];
            session.logits(rows, logits);
            for logit in logits {
                out.write_all(&logit.to_le_bytes())?;
            }
        }
    }
    Ok(out.flush()?)
}

fn greedy(model: &Model, prompt: &[u32], n: usize) -> Result<()> {
    let mut session = model.session(prompt.len() + n);
    let mut sampler = Sampler::new(Sampling::default())?;
    let mut logits = vec![0.0; model.config().vocab_size];
    let mut next = prompt.to_vec();
    for _ in 0..n {
        let hidden = session.forward(&next)?;
        let last = hidden[hidden.len() - model.config().embedding_length..].to_vec();
        session.logits(&last, &mut logits);
        next = vec![sampler.sample(&logits, &[])?];
        print!("{} ", next[0]);
    }
    println!();
    Ok(())
}
