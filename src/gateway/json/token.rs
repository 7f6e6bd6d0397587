//! The tokens of a JSON value that the [scanner](super::scan) has passed: its brackets, commas and literals
//! are in order.

use super::read::{MessageError, Position};
use std::borrow::Cow;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content<'a> {
    ObjectOpen,
    ObjectClose,
    ArrayOpen,
    ArrayClose,
    Null,
    Bool(bool),
    Number,
    String(Cow<'a, str>),
}

#[derive(Debug)]
pub(super) struct Token<'a> {
    /// Offset of the first byte.
    pub(super) at: usize,
    raw: &'a [u8],
    pub(super) content: Content<'a>,
}

impl Token<'_> {
    /// The token as the client wrote it.
    pub(super) fn raw(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.raw)
    }
}

/// Takes the tokens of a text one after the other.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Tokens<'a> {
        Tokens { text, at: 0 }
    }

    /// The next token.
    ///
    /// # Errors
    ///
    /// The text has ended, or the token is a string that is not Unicode.
    pub(super) fn next(&mut self) -> Result<Token<'a>, MessageError> {
        let is_between = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':');
        let rest = &self.text[self.at..];
        let rest = &rest[rest.iter().take_while(|byte| is_between(byte)).count()..];
        let at = self.text.len() - rest.len();
        let (content, length) = match rest.first() {
            None => return Err(MessageError::UnexpectedEof),
            Some(b'{') => (Content::ObjectOpen, 1),
            Some(b'}') => (Content::ObjectClose, 1),
            Some(b'[') => (Content::ArrayOpen, 1),
            Some(b']') => (Content::ArrayClose, 1),
            Some(b'n') => (Content::Null, "null".len()),
            Some(b't') => (Content::Bool(true), "true".len()),
            Some(b'f') => (Content::Bool(false), "false".len()),
            Some(b'"') => self.string(at)?,
            Some(_) => {
                let is_number =
                    |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-');
                (Content::Number, rest.iter().take_while(|byte| is_number(byte)).count())
            }
        };
        self.at = at + length;
        Ok(Token { at, raw: &rest[..length], content })
    }

    /// Takes the next token if it is of this content.
    ///
    /// # Errors
    ///
    /// As for [`Tokens::next`].
    pub(super) fn take_if(&mut self, content: &Content) -> Result<bool, MessageError> {
        let before = self.at;
        let is_taken = self.next()?.content == *content;
        if !is_taken {
            self.at = before;
        }
        Ok(is_taken)
    }

    /// Passes over a value of any form. Nothing recurses, since the depth of the value is the client's to
    /// choose.
    ///
    /// # Errors
    ///
    /// As for [`Tokens::next`].
    pub(super) fn skip_value(&mut self) -> Result<(), MessageError> {
        let mut depth = 0usize;
        loop {
            match self.next()?.content {
                Content::ObjectOpen | Content::ArrayOpen => depth += 1,
                Content::ObjectClose | Content::ArrayClose => depth -= 1,
                // A name is followed by its value, which ends the container or not.
                _ => {}
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    pub(super) fn position(&self, at: usize) -> Position {
        let before = &self.text[..at];
        let mut lines = before.split(|byte| *byte == b'\n').rev();
        let last = lines.next().unwrap_or_default();
        Position { line: lines.count() + 1, column: String::from_utf8_lossy(last).chars().count() + 1 }
    }

    /// The string that begins with the quote at `at`, and its length with both quotes.
    fn string(&self, at: usize) -> Result<(Content<'a>, usize), MessageError> {
        let text = &self.text[at + 1..];
        let mut length = 0;
        let mut has_escapes = false;
        while text[length] != b'"' {
            let escaped = text[length] == b'\\';
            has_escapes |= escaped;
            length += 1 + usize::from(escaped);
        }
        let text = &text[..length];
        let Ok(text) = std::str::from_utf8(text) else {
            return Err(MessageError::InvalidUtf8 { position: self.position(at) });
        };
        let text = if has_escapes {
            Cow::Owned(unescape(text).map_err(|left| {
                // Go takes six bytes for the second half of the pair, even beyond the string.
                let from = &self.text[at + 1 + length - left..];
                match from.get(..6) {
                    None => MessageError::UnexpectedEof,
                    Some(code) => MessageError::InvalidEscape {
                        position: self.position(at),
                        code: String::from_utf8_lossy(code).into_owned(),
                    },
                }
            })?)
        } else {
            Cow::Borrowed(text)
        };
        Ok((Content::String(text), length + 2))
    }
}

/// The text that escapes stand for. In error, as half of a surrogate pair stands alone, the length of the
/// text after it, in bytes.
fn unescape(text: &str) -> Result<String, usize> {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, escape)) = rest.split_once('\\') {
        plain.push_str(before);
        let (letter, after) = escape.split_at(1);
        rest = after;
        plain.push(match letter {
            "b" => '\u{8}',
            "f" => '\u{c}',
            "n" => '\n',
            "r" => '\r',
            "t" => '\t',
            "u" => {
                let (digits, after) = after.split_at(4);
                rest = after;
                let unit = |digits| u32::from_str_radix(digits, 16).unwrap_or_default();
                let high = unit(digits);
                if let Some(character) = char::from_u32(high) {
                    character
                } else {
                    let low = after.strip_prefix("\\u").and_then(|after| after.get(..4)).map(unit);
                    let pair = low.and_then(|low| {
                        char::decode_utf16([high as u16, low as u16]).next().and_then(Result::ok)
                    });
                    let character = pair.ok_or(after.len())?;
                    rest = &after[6..];
                    character
                }
            }
            // The quote, the slash and the backslash stand for themselves.
            _ => letter.chars().next().unwrap_or_default(),
        });
    }
    plain.push_str(rest);
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_characters() {
        assert_eq!(unescape("a\\ud83d\\ude00\\/\\\"\\\\b\\b"), Ok("a😀/\"\\b\u{8}".to_owned()));
        assert_eq!(unescape("\\ud83dabcdef"), Err(6));
        assert_eq!(unescape("\\ude00"), Err(0));
    }

    #[test]
    fn strings_are_utf_8() {
        let error = Tokens::new(b"\n \"\xff\"").next().expect_err("no UTF-8");
        assert_eq!(error.to_string(), "proto: syntax error (line 2:2): invalid UTF-8 in string");
    }
}
