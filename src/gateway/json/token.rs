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
        let text = &self.text[at..];
        let mut last = 1;
        while text[last] != b'"' {
            last += if text[last] == b'\\' { 2 } else { 1 };
        }
        let raw = &text[..=last];
        let Ok(raw) = std::str::from_utf8(raw) else {
            return Err(MessageError::InvalidUtf8 { position: self.position(at) });
        };
        if raw.contains('\\') {
            let text = serde_json::from_str(raw).map_err(|_| self.invalid_escape(at, raw))?;
            Ok((Content::String(Cow::Owned(text)), raw.len()))
        } else {
            Ok((Content::String(Cow::Borrowed(&raw[1..last])), raw.len()))
        }
    }

    /// The error for a string in which half of a surrogate pair stands alone.
    fn invalid_escape(&self, at: usize, raw: &str) -> MessageError {
        // Go takes six bytes for the second half of the pair, even beyond the string.
        let from = &self.text[at + raw.len() - after_lone_surrogate(raw).len()..];
        match from.get(..6) {
            None => MessageError::UnexpectedEof,
            Some(code) => MessageError::InvalidEscape {
                position: self.position(at),
                code: String::from_utf8_lossy(code).into_owned(),
            },
        }
    }
}

/// The rest of a string after the first half of a surrogate pair that stands alone.
fn after_lone_surrogate(text: &str) -> &str {
    let unit = |escape: &str| u16::from_str_radix(escape.strip_prefix("\\u")?.get(..4)?, 16).ok();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        rest = &rest[at..];
        rest = match unit(rest) {
            None => &rest[2..],
            Some(0xd800..=0xdbff) if matches!(unit(&rest[6..]), Some(0xdc00..=0xdfff)) => &rest[12..],
            Some(0xd800..=0xdfff) => return &rest[6..],
            Some(_) => &rest[6..],
        };
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_characters() {
        let next = |text: &'static str| {
            let token = Tokens::new(text.as_bytes()).next().map_err(|error| error.to_string());
            token.map(|token| token.content)
        };
        let text = "a😀/\"\\b\u{8}".to_owned();
        let escaped = "\"a\\ud83d\\ude00\\/\\\"\\\\b\\b\"";
        assert_eq!(next(escaped), Ok(Content::String(text.into())));
        for (text, code) in [
            ("\"\\\\\\ud83dabcdef\"", "abcdef"),
            ("\"\\ud83d\\ud83d\"", "\\\\ud83d"),
            ("\"\\ud83d\\ude00\\ude00\"     ", "\\\"     "),
        ] {
            let error = format!("proto: syntax error (line 1:1): invalid escape code \"{code}\" in string");
            assert_eq!(next(text), Err(error), "{text}");
        }
        assert_eq!(next("\"\\ude00\""), Err("proto: unexpected EOF".to_owned()));
    }

    #[test]
    fn strings_are_utf_8() {
        let error = Tokens::new(b"\n \"\xff\"").next().expect_err("no UTF-8");
        assert_eq!(error.to_string(), "proto: syntax error (line 2:2): invalid UTF-8 in string");
    }
}
