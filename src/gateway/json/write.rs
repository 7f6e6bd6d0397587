//! A message of any type to JSON, as Go's `protojson` writes it with the names of the proto files.
//!
//! Go puts a space after each comma in half of its builds, so that nobody relies on the bytes; here there is never one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_reflect::{DynamicMessage, Kind, ReflectMessage, Value};
use std::fmt::Write;

/// Appends a message. `html` escapes what a page could take for markup, as Go does in streams.
pub(super) fn message(message: &DynamicMessage, html: bool, out: &mut String) {
    out.push('{');
    let mut is_first = true;
    for field in message.descriptor().fields() {
        if !message.has_field(&field) {
            continue;
        }
        if !std::mem::take(&mut is_first) {
            out.push(',');
        }
        out.push('"');
        out.push_str(field.name());
        out.push_str("\":");
        value(&message.get_field(&field), &field.kind(), html, out);
    }
    out.push('}');
}

fn value(value: &Value, kind: &Kind, html: bool, out: &mut String) {
    let written = match value {
        Value::Bool(value) => write!(out, "{value}"),
        Value::I32(value) => write!(out, "{value}"),
        Value::U32(value) => write!(out, "{value}"),
        Value::I64(value) => write!(out, "\"{value}\""),
        Value::U64(value) => write!(out, "\"{value}\""),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(values) if let Some(value) = values.get_value(*number) => {
                write!(out, "\"{}\"", value.name())
            }
            _ => write!(out, "{number}"),
        },
        Value::String(text) => {
            string(text, html, out);
            Ok(())
        }
        Value::Bytes(bytes) => {
            out.push('"');
            STANDARD.encode_string(bytes, out);
            out.push('"');
            Ok(())
        }
        Value::Message(nested) => {
            message(nested, html, out);
            Ok(())
        }
        Value::List(list) => {
            out.push('[');
            for (at, element) in list.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                self::value(element, kind, html, out);
            }
            out.push(']');
            Ok(())
        }
        Value::F32(_) | Value::F64(_) | Value::Map(_) => unreachable!("etcd has no such fields"),
    };
    written.expect("a string takes all that is written to it");
}

/// Appends a quoted text.
pub(super) fn string(text: &str, html: bool, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' => write!(out, "\\u{:04x}", u32::from(character)).expect("as above"),
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' if html => {
                write!(out, "\\u{:04x}", u32::from(character)).expect("as above");
            }
            _ => out.push(character),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::super::pool;
    use super::*;
    use crate::proto::etcdserverpb::{AlarmMember, AlarmResponse, AuthUserListResponse, ResponseHeader};
    use prost::Message;

    fn write<M: Message>(name: &str, source: &M, html: bool) -> String {
        let descriptor = pool().get_message_by_name(name).expect("there is such a message");
        let dynamic =
            DynamicMessage::decode(descriptor, source.encode_to_vec().as_slice()).expect("of this type");
        let mut out = String::new();
        message(&dynamic, html, &mut out);
        out
    }

    #[test]
    fn zeros_are_left_out_and_enums_are_names() {
        let header = ResponseHeader { cluster_id: u64::MAX, revision: -1, ..ResponseHeader::default() };
        let alarms = [(1, 1), (0, 7)];
        let response = AlarmResponse {
            header: Some(header),
            alarms: alarms.map(|(member_id, alarm)| AlarmMember { member_id, alarm }).to_vec(),
        };
        let expected = concat!(
            r#"{"header":{"cluster_id":"18446744073709551615","revision":"-1"},"#,
            r#""alarms":[{"memberID":"1","alarm":"NOSPACE"},{"alarm":7}]}"#
        );
        assert_eq!(write("etcdserverpb.AlarmResponse", &response, false), expected);
    }

    #[test]
    fn only_streams_escape_markup() {
        let users = AuthUserListResponse { header: None, users: vec!["<a&b>\u{1}\"\\é".to_owned()] };
        let name = "etcdserverpb.AuthUserListResponse";
        assert_eq!(write(name, &users, false), r#"{"users":["<a&b>\u0001\"\\é"]}"#);
        assert_eq!(write(name, &users, true), r#"{"users":["\u003ca\u0026b\u003e\u0001\"\\é"]}"#);
    }
}
