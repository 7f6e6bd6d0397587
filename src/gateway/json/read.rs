//! A JSON object to a message of any type, by the rules of Go's `protojson` with unknown fields ignored.
//!
//! The text has been through the [scanner](super::scan): its brackets, commas and literals are in order. What is left to
//! find is what does not fit the message.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use std::borrow::Cow;
use std::fmt::{self, Display};

/// Messages within each other; the decoder of gRPC requests takes no more.
const MAX_DEPTH: usize = 100;

/// Digits that an integer of 64 bits has at most.
const MAX_DIGITS: usize = 20;

/// Reads one message from `text`.
pub(super) fn message(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, String> {
    Reader { text, at: 0 }.message(descriptor, 1)
}

#[derive(Debug, PartialEq, Eq)]
enum Content<'a> {
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
struct Token<'a> {
    at: usize,
    raw: &'a [u8],
    content: Content<'a>,
}

impl Token<'_> {
    fn raw(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.raw)
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn message(&mut self, descriptor: &MessageDescriptor, depth: usize) -> Result<DynamicMessage, String> {
        if depth > MAX_DEPTH {
            return Err("proto: exceeded max recursion depth".to_owned());
        }
        let open = self.token()?;
        if open.content != Content::ObjectOpen {
            return Err(self.unexpected(&open));
        }
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut seen = Vec::new();
        let mut seen_oneofs = Vec::new();
        loop {
            let name = self.token()?;
            let Content::String(key) = &name.content else { return Ok(message) };
            let field = descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key));
            let Some(field) = field else {
                self.skip()?;
                continue;
            };
            if seen.contains(&field.number()) {
                return Err(self.error(name.at, format_args!("duplicate field {}", name.raw())));
            }
            seen.push(field.number());
            if self.skip_null()? {
                continue;
            }
            if let Some(oneof) = field.containing_oneof() {
                if seen_oneofs.contains(&oneof) {
                    let (raw, oneof) = (name.raw(), oneof.full_name());
                    let text = format_args!("error parsing {raw}, oneof {oneof} is already set");
                    return Err(self.error(name.at, text));
                }
                seen_oneofs.push(oneof);
            }
            if let Some(value) = self.field(&field, depth)? {
                message.set_field(&field, value);
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Result<Option<Value>, String> {
        if !field.is_list() {
            return self.singular(field, depth);
        }
        let open = self.token()?;
        if open.content != Content::ArrayOpen {
            return Err(self.unexpected(&open));
        }
        let mut list = Vec::new();
        while !self.skip_array_end()? {
            list.extend(self.singular(field, depth)?);
        }
        Ok(Some(Value::List(list)))
    }

    /// One value, or none if it is an enum's name that nobody knows.
    fn singular(&mut self, field: &FieldDescriptor, depth: usize) -> Result<Option<Value>, String> {
        if let Kind::Message(descriptor) = field.kind() {
            return self.message(&descriptor, depth + 1).map(|message| Some(Value::Message(message)));
        }
        let token = self.token()?;
        if let (Kind::Enum(values), Content::String(name)) = (field.kind(), &token.content) {
            return Ok(values.get_value_by_name(name).map(|value| Value::EnumNumber(value.number())));
        }
        let value = scalar(&field.kind(), &token);
        value.map(Some).ok_or_else(|| {
            let (kind, name, raw) = (kind_name(&field.kind()), field.json_name(), token.raw());
            self.error(token.at, format_args!("invalid value for {kind} field {name}: {raw}"))
        })
    }

    /// Passes over a value of any form, without recursion: its depth is the client's to choose.
    fn skip(&mut self) -> Result<(), String> {
        let mut depth = 0usize;
        loop {
            match self.token()?.content {
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

    fn skip_null(&mut self) -> Result<bool, String> {
        self.skip_if(|content| *content == Content::Null)
    }

    fn skip_array_end(&mut self) -> Result<bool, String> {
        self.skip_if(|content| *content == Content::ArrayClose)
    }

    fn skip_if(&mut self, is_it: fn(&Content) -> bool) -> Result<bool, String> {
        let before = self.at;
        let is_it = is_it(&self.token()?.content);
        if !is_it {
            self.at = before;
        }
        Ok(is_it)
    }

    fn token(&mut self) -> Result<Token<'a>, String> {
        let is_between = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':');
        let rest = &self.text[self.at..];
        let rest = &rest[rest.iter().take_while(|byte| is_between(byte)).count()..];
        let at = self.text.len() - rest.len();
        let (content, length) = match rest.first() {
            None => return Err("proto: unexpected EOF".to_owned()),
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

    /// The string that begins with the quote at `at`, and its length with both quotes.
    fn string(&self, at: usize) -> Result<(Content<'a>, usize), String> {
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
            return Err(self.syntax_error(at, "invalid UTF-8 in string"));
        };
        let text = if has_escapes {
            Cow::Owned(unescape(text).map_err(|left| {
                // What is looked at for the second half may reach beyond the string.
                let from = &self.text[at + 1 + length - left..];
                match from.get(..6) {
                    None => "proto: unexpected EOF".to_owned(),
                    Some(code) => {
                        let code = String::from_utf8_lossy(code);
                        self.syntax_error(at, format_args!("invalid escape code {code:?} in string"))
                    }
                }
            })?)
        } else {
            Cow::Borrowed(text)
        };
        Ok((Content::String(text), length + 2))
    }

    fn unexpected(&self, token: &Token) -> String {
        self.syntax_error(token.at, format_args!("unexpected token {}", token.raw()))
    }

    fn syntax_error(&self, at: usize, text: impl Display) -> String {
        format!("proto: syntax error {}: {text}", self.position(at))
    }

    fn error(&self, at: usize, text: fmt::Arguments) -> String {
        format!("proto: {}: {text}", self.position(at))
    }

    fn position(&self, at: usize) -> String {
        let before = &self.text[..at];
        let mut lines = before.split(|byte| *byte == b'\n').rev();
        let last = lines.next().unwrap_or_default();
        format!("(line {}:{})", lines.count() + 1, String::from_utf8_lossy(last).chars().count() + 1)
    }
}

/// The text that escapes stand for. In error, as half of a surrogate pair stands alone, what is left of the text after it,
/// in bytes.
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

fn scalar(kind: &Kind, token: &Token) -> Option<Value> {
    Some(match kind {
        Kind::Bool => match token.content {
            Content::Bool(value) => Value::Bool(value),
            _ => return None,
        },
        Kind::String => match &token.content {
            Content::String(value) => Value::String(value.clone().into_owned()),
            _ => return None,
        },
        Kind::Bytes => match &token.content {
            Content::String(value) => Value::Bytes(bytes(value)?.into()),
            _ => return None,
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(token)?.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(token)?.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(token)?.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(token)?.parse().ok()?),
        Kind::Enum(_) => match token.content {
            Content::Number => Value::EnumNumber(integer(token)?.parse().ok()?),
            _ => return None,
        },
        // etcd has no field of these kinds, which a test makes sure of.
        Kind::Float | Kind::Double | Kind::Message(_) => return None,
    })
}

/// A whole number as its plain digits: `10` for `1e1`, `"10"` and `10.0`.
fn integer(token: &Token) -> Option<String> {
    let text = match &token.content {
        Content::Number => std::str::from_utf8(token.raw).ok()?,
        Content::String(text) if is_number(text) => text,
        _ => return None,
    };
    let (sign, text) = text.strip_prefix('-').map_or(("", text), |text| ("-", text));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let exponent: i64 = exponent.parse::<i32>().ok()?.into();
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let whole = if whole == "0" { "" } else { whole };
    let fraction = fraction.trim_end_matches('0');
    let mut digits = format!("{whole}{fraction}");
    if digits.is_empty() {
        return Some("0".to_owned());
    }
    let point = whole.len() as i64 + exponent;
    if !(0..=MAX_DIGITS as i64).contains(&point) {
        return None;
    }
    let point = point as usize;
    while digits.len() < point {
        digits.push('0');
    }
    let fraction = digits.split_off(point);
    if fraction.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let digits = if digits.is_empty() { "0" } else { &digits };
    // Unsigned fields refuse a minus even before a zero, and so does their parser.
    Some(format!("{sign}{digits}"))
}

/// Whether a text is a JSON number and nothing else.
fn is_number(text: &str) -> bool {
    let mut scanner = super::scan::Scanner::new();
    text.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        && text.bytes().all(|byte| scanner.push(byte) == Ok(super::scan::Step::More))
        && scanner.can_end()
}

const STANDARD: [GeneralPurpose; 2] = engines(&alphabet::STANDARD);
const URL_SAFE: [GeneralPurpose; 2] = engines(&alphabet::URL_SAFE);

/// Without and with padding. Go lets bits pass that no byte needs.
const fn engines(alphabet: &alphabet::Alphabet) -> [GeneralPurpose; 2] {
    let config = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
    [
        GeneralPurpose::new(alphabet, config.with_decode_padding_mode(DecodePaddingMode::RequireNone)),
        GeneralPurpose::new(alphabet, config.with_decode_padding_mode(DecodePaddingMode::RequireCanonical)),
    ]
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    let engines = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let engine = &engines[usize::from(text.len().is_multiple_of(4))];
    // Go's decoder passes over line ends.
    let text: Cow<str> =
        if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], "").into() } else { text.into() };
    engine.decode(text.as_bytes()).ok()
}

fn kind_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Double => "double",
        Kind::Float => "float",
        Kind::Int32 => "int32",
        Kind::Int64 => "int64",
        Kind::Uint32 => "uint32",
        Kind::Uint64 => "uint64",
        Kind::Sint32 => "sint32",
        Kind::Sint64 => "sint64",
        Kind::Fixed32 => "fixed32",
        Kind::Fixed64 => "fixed64",
        Kind::Sfixed32 => "sfixed32",
        Kind::Sfixed64 => "sfixed64",
        Kind::Bool => "bool",
        Kind::String => "string",
        Kind::Bytes => "bytes",
        Kind::Message(_) => "message",
        Kind::Enum(_) => "enum",
    }
}

#[cfg(test)]
mod tests {
    use super::super::pool;
    use super::*;
    use crate::proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest, TxnRequest};
    use prost::Message;

    fn read<M: Message + Default>(name: &str, text: &str) -> Result<M, String> {
        let descriptor = pool().get_message_by_name(name).expect("there is such a message");
        let message = message(&descriptor, text.as_bytes())?;
        Ok(M::decode(message.encode_to_vec().as_slice()).expect("a message of this type"))
    }

    fn range(text: &str) -> Result<RangeRequest, String> {
        read("etcdserverpb.RangeRequest", text)
    }

    #[test]
    fn fields_have_two_names_and_integers_many_forms() {
        for text in [
            r#"{"key":"Zm9v","range_end":"_-8=","limit":"10","sort_order":"DESCEND","keys_only":true}"#,
            r#"{"key":"Zm9v","rangeEnd":"/+8","limit":10,"sortOrder":2,"keysOnly":true,"x":[{"y":[]},"]"]}"#,
            " { \"key\" : \"Z\\u006d9v\\n\" , \"rangeEnd\":\"/+8=\", \"limit\" : 1e1, \"sortOrder\":2.0, \"keysOnly\":true,\"revision\":null } ",
            r#"{"key":"Zm9v","rangeEnd":"_-8","limit":"100.0e-1","sortOrder":"DESCEND","keysOnly":true,"sortTarget":"NO"}"#,
        ] {
            let expected = RangeRequest {
                key: "foo".into(),
                range_end: vec![0xff, 0xef].into(),
                limit: 10,
                sort_order: 2,
                keys_only: true,
                ..RangeRequest::default()
            };
            assert_eq!(range(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_where_it_stands() {
        for (text, error) in [
            ("{\"key\":5}", "(line 1:8): invalid value for bytes field key: 5"),
            ("{\"key\":\"%%\"}", "(line 1:8): invalid value for bytes field key: \"%%\""),
            ("{\"key\":\"Zg=\"}", "(line 1:8): invalid value for bytes field key: \"Zg=\""),
            ("{\"key\":\"Zg\",\n\"key\":\"Zg\"}", "(line 2:1): duplicate field \"key\""),
            ("{\"rangeEnd\":\"\",\"range_end\":\"\"}", "(line 1:16): duplicate field \"range_end\""),
            ("{\"limit\":2.5}", "(line 1:10): invalid value for int64 field limit: 2.5"),
            ("{\"limit\":\" 2\"}", "(line 1:10): invalid value for int64 field limit: \" 2\""),
            (
                "{\"limit\":9223372036854775808}",
                "(line 1:10): invalid value for int64 field limit: 9223372036854775808",
            ),
            ("{\"limit\":1e99}", "(line 1:10): invalid value for int64 field limit: 1e99"),
            ("{\"sort_order\":true}", "(line 1:15): invalid value for enum field sortOrder: true"),
            ("{\"key\":{}}", "(line 1:8): invalid value for bytes field key: {"),
            ("[]", "syntax error (line 1:1): unexpected token ["),
            ("null", "syntax error (line 1:1): unexpected token null"),
        ] {
            assert_eq!(range(text), Err(format!("proto: {error}")), "{text}");
        }
        let txn = |text| read::<TxnRequest>("etcdserverpb.TxnRequest", text);
        for (text, error) in [
            ("{\"success\":{}}", "syntax error (line 1:12): unexpected token {"),
            ("{\"success\":[null]}", "syntax error (line 1:13): unexpected token null"),
            (
                "{\"success\":[{\"request_put\":{},\"requestRange\":{}}]}",
                "(line 1:31): error parsing \"requestRange\", oneof etcdserverpb.RequestOp.request is already set",
            ),
        ] {
            assert_eq!(txn(text), Err(format!("proto: {error}")), "{text}");
        }
    }

    #[test]
    fn the_bounds_of_an_integer_fit() {
        for (text, ttl) in
            [("\"-9223372036854775808\"", i64::MIN), ("9223372036854775807", i64::MAX), ("-0", 0)]
        {
            let text = format!("{{\"TTL\":{text}}}");
            let request = read::<LeaseGrantRequest>("etcdserverpb.LeaseGrantRequest", &text);
            assert_eq!(request, Ok(LeaseGrantRequest { ttl, ..LeaseGrantRequest::default() }));
        }
    }

    #[test]
    fn strings_are_characters() {
        assert_eq!(unescape("a\\ud83d\\ude00\\/\\\"\\\\b\\b"), Ok("a😀/\"\\b\u{8}".to_owned()));
        assert_eq!(unescape("\\ud83dabcdef"), Err(6));
        assert_eq!(unescape("\\ude00"), Err(0));
    }

    #[test]
    fn depth_is_bounded_for_messages_and_for_what_is_ignored() {
        let nested = |depth: usize| {
            let open = r#"{"success":[{"request_txn":"#.repeat(depth);
            format!("{open}{{}}{}", "}]}".repeat(depth))
        };
        let txn = |text: &str| read::<TxnRequest>("etcdserverpb.TxnRequest", text);
        assert!(txn(&nested(20)).is_ok());
        assert_eq!(txn(&nested(2000)), Err("proto: exceeded max recursion depth".to_owned()));
        let ignored = format!("{{\"x\":{}{},\"key\":\"Zg\"}}", "[".repeat(9000), "]".repeat(9000));
        let put = read::<PutRequest>("etcdserverpb.PutRequest", &ignored).expect("all of it is ignored");
        assert_eq!(put.key, "f");
    }

    #[test]
    fn there_are_no_maps_and_no_fractions() {
        // The health service has no route.
        for message in pool().all_messages().filter(|message| message.package_name() != "grpc.health.v1") {
            for field in message.fields() {
                let kind = field.kind();
                assert!(
                    !field.is_map() && !matches!(kind, Kind::Float | Kind::Double),
                    "{}",
                    field.full_name()
                );
            }
        }
    }
}
