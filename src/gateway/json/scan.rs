//! Finds the end of a JSON value in a body that arrives in pieces, and its first syntax error.
//!
//! serde_json cannot do this. It reads a value from its beginning each time, so that a long value in many
//! pieces would cost quadratic time, and its errors are not those of Go's decoder, which etcd's gateway
//! returns to clients. Memory is bounded by [`MAX_DEPTH`], and nothing recurses.

/// Containers within each other, as many as Go's decoder takes.
const MAX_DEPTH: usize = 10_000;

/// The part of a value that is expected next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    ValueOrArrayEnd,
    Key,
    KeyOrObjectEnd,
    AfterValue,
    InString,
    Escape,
    /// Hexadecimal digits still to come.
    Unicode(u8),
    Minus,
    Zero,
    Integer,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    /// A literal, and how many of its letters have come.
    Literal(&'static str, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Container {
    ObjectKey,
    ObjectValue,
    Array,
}

/// The state of a value after a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    More,
    /// The byte was the last of the value.
    End,
    /// The value, a bare number or literal, ended before the byte.
    EndedBefore,
}

/// A syntax error, in the words of Go's `encoding/json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum SyntaxError {
    #[error("invalid character '{}' {context}", quoted(*.byte))]
    InvalidCharacter { byte: u8, context: &'static str },
    #[error("invalid character '{}' in literal {literal} (expecting '{expected}')", quoted(*.byte))]
    InvalidLiteral { byte: u8, literal: &'static str, expected: char },
    #[error("unexpected EOF")]
    UnexpectedEof,
}

/// Takes the bytes of one value.
#[derive(Debug)]
pub(super) struct Scanner {
    state: State,
    containers: Vec<Container>,
    has_begun: bool,
}

impl Scanner {
    pub(super) fn new() -> Scanner {
        Scanner { state: State::Value, containers: Vec::new(), has_begun: false }
    }

    /// Whether anything but space has come.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the value is whole if nothing more comes.
    pub(super) fn can_end(&self) -> bool {
        self.containers.is_empty()
            && matches!(
                self.state,
                State::AfterValue | State::Zero | State::Integer | State::Fraction | State::ExponentDigits
            )
    }

    /// Takes the next byte.
    ///
    /// # Errors
    ///
    /// The byte cannot follow those before it.
    pub(super) fn push(&mut self, byte: u8) -> Result<Step, SyntaxError> {
        let is_space = matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        self.has_begun |= !is_space;
        let next = match (self.state, byte) {
            (State::Value | State::ValueOrArrayEnd | State::Key | State::KeyOrObjectEnd, _) if is_space => {
                self.state
            }
            (State::ValueOrArrayEnd, b']') | (State::KeyOrObjectEnd, b'}') => return Ok(self.close()),
            (State::Value | State::ValueOrArrayEnd, _) => self.begin(byte)?,
            (State::Key | State::KeyOrObjectEnd, b'"') | (State::InString, 0x20..) if byte != b'\\' => {
                if self.state == State::InString && byte == b'"' {
                    return Ok(self.ended());
                }
                State::InString
            }
            (State::Key | State::KeyOrObjectEnd, _) => {
                return Err(invalid(byte, "looking for beginning of object key string"));
            }
            (State::InString, b'\\') => State::Escape,
            (State::InString, _) => return Err(invalid(byte, "in string literal")),
            (State::Escape, b'u') => State::Unicode(4),
            (State::Escape, b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => State::InString,
            (State::Escape, _) => return Err(invalid(byte, "in string escape code")),
            (State::Unicode(left), _) if byte.is_ascii_hexdigit() => {
                if left == 1 {
                    State::InString
                } else {
                    State::Unicode(left - 1)
                }
            }
            (State::Unicode(_), _) => return Err(invalid(byte, "in \\u hexadecimal character escape")),
            (State::Minus, b'0') => State::Zero,
            (State::Minus, b'1'..=b'9') | (State::Integer, b'0'..=b'9') => State::Integer,
            (State::Minus, _) => return Err(invalid(byte, "in numeric literal")),
            (State::Zero | State::Integer, b'.') => State::Point,
            (State::Zero | State::Integer | State::Fraction, b'e' | b'E') => State::Exponent,
            (State::Point | State::Fraction, b'0'..=b'9') => State::Fraction,
            (State::Point, _) => return Err(invalid(byte, "after decimal point in numeric literal")),
            (State::Exponent, b'+' | b'-') => State::ExponentSign,
            (State::Exponent | State::ExponentSign | State::ExponentDigits, b'0'..=b'9') => {
                State::ExponentDigits
            }
            (State::Exponent | State::ExponentSign, _) => {
                return Err(invalid(byte, "in exponent of numeric literal"));
            }
            (State::Literal(literal, at), _) if literal.as_bytes()[at] == byte => {
                if at + 1 == literal.len() {
                    return Ok(self.ended());
                }
                State::Literal(literal, at + 1)
            }
            (State::Literal(literal, at), _) => {
                let expected = char::from(literal.as_bytes()[at]);
                return Err(SyntaxError::InvalidLiteral { byte, literal, expected });
            }
            (
                State::AfterValue | State::Zero | State::Integer | State::Fraction | State::ExponentDigits,
                _,
            ) => {
                return self.after_value(byte, is_space);
            }
        };
        self.state = next;
        Ok(Step::More)
    }

    fn begin(&mut self, byte: u8) -> Result<State, SyntaxError> {
        Ok(match byte {
            b'{' => {
                self.open(byte, Container::ObjectKey)?;
                State::KeyOrObjectEnd
            }
            b'[' => {
                self.open(byte, Container::Array)?;
                State::ValueOrArrayEnd
            }
            b'"' => State::InString,
            b'-' => State::Minus,
            b'0' => State::Zero,
            b'1'..=b'9' => State::Integer,
            b't' => State::Literal("true", 1),
            b'f' => State::Literal("false", 1),
            b'n' => State::Literal("null", 1),
            _ => return Err(invalid(byte, "looking for beginning of value")),
        })
    }

    fn open(&mut self, byte: u8, container: Container) -> Result<(), SyntaxError> {
        if self.containers.len() == MAX_DEPTH {
            return Err(invalid(byte, "exceeded max depth"));
        }
        self.containers.push(container);
        Ok(())
    }

    fn close(&mut self) -> Step {
        self.containers.pop();
        self.ended()
    }

    /// A value whose end shows in itself has ended.
    fn ended(&mut self) -> Step {
        self.state = State::AfterValue;
        if self.containers.is_empty() { Step::End } else { Step::More }
    }

    fn after_value(&mut self, byte: u8, is_space: bool) -> Result<Step, SyntaxError> {
        let Some(container) = self.containers.last_mut() else { return Ok(Step::EndedBefore) };
        self.state = match (*container, byte) {
            _ if is_space => State::AfterValue,
            (Container::ObjectKey, b':') => {
                *container = Container::ObjectValue;
                State::Value
            }
            (Container::ObjectKey, _) => return Err(invalid(byte, "after object key")),
            (Container::ObjectValue, b',') => {
                *container = Container::ObjectKey;
                State::Key
            }
            (Container::Array, b',') => State::Value,
            (Container::ObjectValue, b'}') | (Container::Array, b']') => return Ok(self.close()),
            (Container::ObjectValue, _) => return Err(invalid(byte, "after object key:value pair")),
            (Container::Array, _) => return Err(invalid(byte, "after array element")),
        };
        Ok(Step::More)
    }
}

fn invalid(byte: u8, context: &'static str) -> SyntaxError {
    SyntaxError::InvalidCharacter { byte, context }
}

/// Go quotes the byte as if it were a character of its own.
fn quoted(byte: u8) -> String {
    match byte {
        b'\'' => "\\'".to_owned(),
        b'"' => "\"".to_owned(),
        b'\\' => "\\\\".to_owned(),
        0x07 => "\\a".to_owned(),
        0x08 => "\\b".to_owned(),
        0x0b => "\\v".to_owned(),
        0x0c => "\\f".to_owned(),
        b'\n' => "\\n".to_owned(),
        b'\r' => "\\r".to_owned(),
        b'\t' => "\\t".to_owned(),
        0x20..=0x7e | 0xa1..=0xac | 0xae..=0xff => char::from(byte).to_string(),
        0x00..=0x1f | 0x7f => format!("\\x{byte:02x}"),
        0x80..=0xa0 | 0xad => format!("\\u00{byte:02x}"),
    }
}

/// The bytes of the first JSON value in `text`, of which no more will come.
///
/// # Errors
///
/// As for [`Scanner::push`], or the value does not end.
pub(super) fn first_value(text: &[u8]) -> Result<&[u8], SyntaxError> {
    let mut scanner = Scanner::new();
    for (at, &byte) in text.iter().enumerate() {
        match scanner.push(byte)? {
            Step::More => {}
            Step::End => return Ok(&text[..=at]),
            Step::EndedBefore => return Ok(&text[..at]),
        }
    }
    if scanner.can_end() { Ok(text) } else { Err(SyntaxError::UnexpectedEof) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_end_as_in_go() {
        for (text, value) in [
            (r#"{"a":[1,{"b":"]}"}],"c":null} rest"#, r#"{"a":[1,{"b":"]}"}],"c":null}"#),
            ("{}{}", "{}"),
            ("[ ]x", "[ ]"),
            (r#""a\"b\u00e9" "#, r#""a\"b\u00e9""#),
            ("12.50e-3,", "12.50e-3"),
            ("0", "0"),
            ("true", "true"),
            ("null null", "null"),
            (" -1 ", " -1"),
        ] {
            assert_eq!(first_value(text.as_bytes()), Ok(value.as_bytes()), "{text}");
        }
    }

    #[test]
    fn errors_have_gos_words() {
        for (text, error) in [
            ("x", "invalid character 'x' looking for beginning of value"),
            ("{x", "invalid character 'x' looking for beginning of object key string"),
            ("{\"a\" 1", "invalid character '1' after object key"),
            ("{\"a\":1 2", "invalid character '2' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("{'", "invalid character '\\'' looking for beginning of object key string"),
            ("[\"\n", "invalid character '\\n' in string literal"),
            ("\"\\x", "invalid character 'x' in string escape code"),
            ("\"\\u12g", "invalid character 'g' in \\u hexadecimal character escape"),
            ("-x", "invalid character 'x' in numeric literal"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("1ex", "invalid character 'x' in exponent of numeric literal"),
            ("[01]", "invalid character '1' after array element"),
            ("trux", "invalid character 'x' in literal true (expecting 'e')"),
            ("nul\u{7f}", "invalid character '\\x7f' in literal null (expecting 'l')"),
            ("é", "invalid character 'Ã' looking for beginning of value"),
            ("{", "unexpected EOF"),
            ("\"abc", "unexpected EOF"),
            ("1.", "unexpected EOF"),
        ] {
            let found = first_value(text.as_bytes()).expect_err(text);
            assert_eq!(found.to_string(), error, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = "[".repeat(MAX_DEPTH + 1);
        let error = first_value(deep.as_bytes()).expect_err("too deep");
        assert_eq!(error.to_string(), "invalid character '[' exceeded max depth");
    }
}
