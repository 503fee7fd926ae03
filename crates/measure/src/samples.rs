//! Greedy continuations of a few prompts, for looking at side by side.

use crate::Result;
use bantam_checkpoint::tokenizer::{Special, Tokenizer};
use bantam_nn::Model;
use bantam_nn::softmax::argmax;

/// A prompt of prose, one of code, one of math.
pub const PROMPTS: [&str; 3] = [
    "The old lighthouse keeper climbed the stairs every evening, and",
    "def is_prime(n: int) -> bool:\n    \"\"\"Return whether n is a prime number.\"\"\"\n",
    "Question: A baker sells 12 loaves in the morning and three times as many in the afternoon. How many loaves does she \
     sell in all?\nAnswer:",
];

/// Tokens of a continuation.
pub const LENGTH: usize = 48;

/// The most likely continuation of `prompt`, token by token, up to [`LENGTH`] tokens or the end that the model sets.
///
/// # Errors
/// If the model cannot be run.
pub fn continuation(model: &Model, tokenizer: &Tokenizer, prompt: &str) -> Result<String> {
    let config = model.config();
    let mut tokens = tokenizer.encode(prompt, Special::OPENING)?;
    let mut session = model.session(tokens.len() + LENGTH);
    let mut logits = vec![0.0; config.vocab_size];
    let mut stream = tokenizer.decode_stream();
    let mut text = String::new();
    for _ in 0..LENGTH {
        let hidden = session.forward(&tokens)?;
        let last = hidden[hidden.len() - config.embedding_length..].to_vec();
        session.logits(&last, &mut logits);
        let token = argmax(&logits) as u32;
        if tokenizer.is_end(token) {
            break;
        }
        text += &stream.push(token);
        tokens = vec![token];
    }
    Ok(text + &stream.finish())
}
