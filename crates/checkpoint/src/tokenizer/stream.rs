//! Text from tokens as they come.

use super::Tokenizer;

/// Turns tokens into text one at a time, and yields only whole characters: a character may be spread over several tokens.
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    pending: Vec<u8>,
}

impl<'t> DecodeStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        DecodeStream { tokenizer, pending: Vec::new() }
    }

    /// Takes the next token and returns the text that is now certain, possibly empty. Control tokens have no text. Bytes
    /// that can no longer become UTF-8 come as U+FFFD.
    pub fn push(&mut self, token: u32) -> String {
        if !self.tokenizer.is_control(token) {
            self.pending.extend(self.tokenizer.token_bytes(token));
        }
        let keep = incomplete_suffix(&self.pending);
        let rest = self.pending.split_off(self.pending.len() - keep);
        let text = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending = rest;
        text
    }

    /// What is left when no token follows: U+FFFD for a character that was begun, else nothing.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// The length of the character that is begun but not finished at the end of `bytes`, 0 if there is none.
fn incomplete_suffix(bytes: &[u8]) -> usize {
    for len in 1..=bytes.len().min(3) {
        let suffix = &bytes[bytes.len() - len..];
        if let Err(error) = std::str::from_utf8(suffix)
            && error.valid_up_to() == 0
            && error.error_len().is_none()
        {
            return len;
        }
    }
    0
}

#[cfg(test)]
mod tests {
    use super::incomplete_suffix;

    #[test]
    fn a_begun_character_waits() {
        let flag = "é🎉".as_bytes();
        assert_eq!([1, 2, 3, 4, 5, 6].map(|len| incomplete_suffix(&flag[..len])), [1, 0, 1, 2, 3, 0]);
        assert_eq!(incomplete_suffix(b"a\xff"), 0, "never UTF-8");
        assert_eq!(incomplete_suffix(b"\x80\x80"), 0, "no beginning");
        assert_eq!(incomplete_suffix(b""), 0);
    }
}
