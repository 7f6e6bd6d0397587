//! A JSON object to a message of any type, by the rules of Go's `protojson` with unknown fields ignored.
//!
//! prost-reflect's own deserializer does not follow these rules, so the walk over a message's fields is here.
//! It accepts a field that comes twice and bytes with half of their padding. It refuses integers such as
//! `"1.0"`, enums such as `2.0`, and line ends in bytes. Its errors name neither the position nor the token,
//! both of which etcd's gateway returns to clients. serde_json keeps neither for a deserializer of ours, so
//! the tokens are [our own](super::token) too.

use super::scalar::scalar;
use super::token::{Content, Token, Tokens};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use std::fmt::{self, Display, Formatter};

/// Messages within each other; the decoder of gRPC requests takes no more.
const MAX_DEPTH: usize = 100;

/// The reason why a JSON value is not a message of a type, in the words of Go's `protojson`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    #[error("proto: exceeded max recursion depth")]
    TooDeep,
    #[error("proto: unexpected EOF")]
    UnexpectedEof,
    #[error("proto: syntax error {position}: unexpected token {token}")]
    UnexpectedToken { position: Position, token: String },
    #[error("proto: syntax error {position}: invalid UTF-8 in string")]
    InvalidUtf8 { position: Position },
    #[error("proto: syntax error {position}: invalid escape code {code:?} in string")]
    InvalidEscape { position: Position, code: String },
    #[error("proto: {position}: duplicate field {name}")]
    DuplicateField { position: Position, name: String },
    #[error("proto: {position}: error parsing {name}, oneof {oneof} is already set")]
    OneofAlreadySet { position: Position, name: String, oneof: String },
    #[error("proto: {position}: invalid value for {kind} field {field}: {value}")]
    InvalidValue { position: Position, kind: String, field: String, value: String },
}

/// Line and column, both from one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

impl Display for Position {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "(line {}:{})", self.line, self.column)
    }
}

/// Reads one message from `text`.
///
/// # Errors
///
/// The text is no message of this type.
pub(super) fn message(descriptor: &MessageDescriptor, text: &[u8]) -> Result<DynamicMessage, MessageError> {
    Reader { tokens: Tokens::new(text) }.message(descriptor, 1)
}

struct Reader<'a> {
    tokens: Tokens<'a>,
}

impl Reader<'_> {
    fn message(
        &mut self,
        descriptor: &MessageDescriptor,
        depth: usize,
    ) -> Result<DynamicMessage, MessageError> {
        if depth > MAX_DEPTH {
            return Err(MessageError::TooDeep);
        }
        self.open(&Content::ObjectOpen)?;
        let mut message = DynamicMessage::new(descriptor.clone());
        let mut seen = Vec::new();
        let mut seen_oneofs = Vec::new();
        loop {
            let name = self.tokens.next()?;
            let Content::String(key) = &name.content else { return Ok(message) };
            let field = descriptor.get_field_by_json_name(key).or_else(|| descriptor.get_field_by_name(key));
            let Some(field) = field else {
                self.tokens.skip_value()?;
                continue;
            };
            if seen.contains(&field.number()) {
                let position = self.tokens.position(name.at);
                return Err(MessageError::DuplicateField { position, name: name.raw().into_owned() });
            }
            seen.push(field.number());
            if self.tokens.take_if(&Content::Null)? {
                continue;
            }
            if let Some(oneof) = field.containing_oneof() {
                if seen_oneofs.contains(&oneof) {
                    return Err(MessageError::OneofAlreadySet {
                        position: self.tokens.position(name.at),
                        name: name.raw().into_owned(),
                        oneof: oneof.full_name().to_owned(),
                    });
                }
                seen_oneofs.push(oneof);
            }
            if let Some(value) = self.field(&field, depth)? {
                message.set_field(&field, value);
            }
        }
    }

    fn field(&mut self, field: &FieldDescriptor, depth: usize) -> Result<Option<Value>, MessageError> {
        if !field.is_list() {
            return self.singular(field, depth);
        }
        self.open(&Content::ArrayOpen)?;
        let mut list = Vec::new();
        while !self.tokens.take_if(&Content::ArrayClose)? {
            list.extend(self.singular(field, depth)?);
        }
        Ok(Some(Value::List(list)))
    }

    /// One value, or none if it is an enum's name that the descriptor does not have.
    fn singular(&mut self, field: &FieldDescriptor, depth: usize) -> Result<Option<Value>, MessageError> {
        if let Kind::Message(descriptor) = field.kind() {
            return self.message(&descriptor, depth + 1).map(|message| Some(Value::Message(message)));
        }
        let token = self.tokens.next()?;
        if let (Kind::Enum(values), Content::String(name)) = (field.kind(), &token.content) {
            return Ok(values.get_value_by_name(name).map(|value| Value::EnumNumber(value.number())));
        }
        scalar(&field.kind(), &token).map(Some).ok_or_else(|| self.invalid_value(field, &token))
    }

    /// Takes the bracket that a container begins with.
    fn open(&mut self, bracket: &Content) -> Result<(), MessageError> {
        let token = self.tokens.next()?;
        if token.content == *bracket {
            return Ok(());
        }
        let position = self.tokens.position(token.at);
        Err(MessageError::UnexpectedToken { position, token: token.raw().into_owned() })
    }

    fn invalid_value(&self, field: &FieldDescriptor, token: &Token) -> MessageError {
        // Such as `TYPE_INT64`.
        let kind = field.field_descriptor_proto().r#type().as_str_name();
        MessageError::InvalidValue {
            position: self.tokens.position(token.at),
            kind: kind.trim_start_matches("TYPE_").to_lowercase(),
            field: field.json_name().to_owned(),
            value: token.raw().into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{LeaseGrantRequest, PutRequest, RangeRequest, TxnRequest};
    use crate::proto::pool;
    use prost::Message;

    fn read<M: Message + Default>(name: &str, text: &str) -> Result<M, String> {
        let descriptor = pool().get_message_by_name(name).expect("there is such a message");
        let message = message(&descriptor, text.as_bytes()).map_err(|error| error.to_string())?;
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
