//! GPT-2's spelling of bytes: a printable character for each of the 256, so that any text can be written in a vocabulary file.
//!
//! Printable ASCII and Latin-1 stand for themselves, the other 68 bytes for the characters from U+0100 on, in order.

/// The character that spells each byte.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let (mut byte, mut next) = (0, 0x100);
    while byte < 256 {
        let code = match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => byte as u32,
            _ => {
                next += 1;
                next - 1
            }
        };
        chars[byte] = char::from_u32(code).expect("below the surrogates");
        byte += 1;
    }
    chars
};

/// The spelling of a byte.
pub fn char_of(byte: u8) -> char {
    CHARS[byte as usize]
}

/// The byte that a character spells, if any.
pub fn byte_of(char: char) -> Option<u8> {
    match char as u32 {
        0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => Some(char as u32 as u8),
        0x100..=0x143 => CHARS.iter().position(|&c| c == char).map(|byte| byte as u8),
        _ => None,
    }
}

/// The spelling of a string.
pub fn spell(text: &str) -> String {
    text.bytes().map(char_of).collect()
}

/// The bytes that a token's text spells. Characters outside the alphabet stand for themselves.
pub fn bytes_of(spelled: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(spelled.len());
    for char in spelled.chars() {
        match byte_of(char) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend(char.encode_utf8(&mut [0; 4]).bytes()),
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_own_character() {
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        assert_eq!(spell(" é\n"), "ĠÃ©Ċ");
        assert_eq!(bytes_of("Ġ日"), " 日".as_bytes());
    }
}
