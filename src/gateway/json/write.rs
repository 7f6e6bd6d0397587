//! A message of any type to JSON, as Go's `protojson` writes it with the names of the proto files.
//!
//! Go puts a space after each comma in half of its builds, so that nobody relies on the bytes. There is never
//! one here.

use prost_reflect::{DynamicMessage, SerializeOptions};
use serde::Serialize;
use serde_json::Serializer;
use serde_json::ser::{CompactFormatter, Formatter};
use std::io;

/// A message, to be serialized.
pub(super) struct Message<'a>(pub(super) &'a DynamicMessage);

impl Serialize for Message<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize_with_options(serializer, &SerializeOptions::new().use_proto_field_name(true))
    }
}

/// The JSON of a value.
pub(super) fn plain(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect(NEVER_FAILS)
}

/// The JSON of a value as a line of a stream. Go escapes characters there that a web page could take for
/// markup.
pub(super) fn line(value: &impl Serialize) -> String {
    let mut json = Vec::new();
    value.serialize(&mut Serializer::with_formatter(&mut json, EscapedMarkup)).expect(NEVER_FAILS);
    json.push(b'\n');
    String::from_utf8(json).expect("JSON is UTF-8")
}

const NEVER_FAILS: &str = "memory takes all bytes, and the names of all fields are strings";

struct EscapedMarkup;

impl Formatter for EscapedMarkup {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, out: &mut W, text: &str) -> io::Result<()> {
        for piece in text.split_inclusive(is_markup) {
            let markup = piece.chars().next_back().filter(|last| is_markup(*last));
            let plain = &piece[..piece.len() - markup.map_or(0, char::len_utf8)];
            CompactFormatter.write_string_fragment(out, plain)?;
            if let Some(markup) = markup {
                write!(out, "\\u{:04x}", u32::from(markup))?;
            }
        }
        Ok(())
    }
}

fn is_markup(character: char) -> bool {
    matches!(character, '<' | '>' | '&' | '\u{2028}' | '\u{2029}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::{AlarmMember, AlarmResponse, AuthUserListResponse, ResponseHeader};
    use crate::proto::pool;

    fn dynamic(name: &str, source: &impl prost::Message) -> DynamicMessage {
        let descriptor = pool().get_message_by_name(name).expect("there is such a message");
        DynamicMessage::decode(descriptor, source.encode_to_vec().as_slice()).expect("of this type")
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
        assert_eq!(plain(&Message(&dynamic("etcdserverpb.AlarmResponse", &response))), expected);
    }

    #[test]
    fn only_streams_escape_markup() {
        let users =
            AuthUserListResponse { header: None, users: vec!["<a&b>\u{1}\"\\é\u{2028}\u{7f}".to_owned()] };
        let users = dynamic("etcdserverpb.AuthUserListResponse", &users);
        let unescaped = "{\"users\":[\"<a&b>\\u0001\\\"\\\\é\u{2028}\u{7f}\"]}";
        assert_eq!(plain(&Message(&users)), unescaped);
        let expected = "{\"users\":[\"\\u003ca\\u0026b\\u003e\\u0001\\\"\\\\é\\u2028\u{7f}\"]}\n";
        assert_eq!(line(&Message(&users)), expected);
    }
}
