//! What a stream message says, and the `Jetway` header that says it.
//!
//! The header is five words: `create_revision version lease place/count writer.operation`, all decimal but the last
//! two, which are hex. A `create_revision` of 0 means "the revision of this very message", which its writer cannot
//! know. A version of 0 is a delete. `place/count` is 1/1 for a transaction of one message. The operation id lets a
//! writer that never got its acknowledgement find out whether the write is there.

use super::subjects::{self, KeyTooLong};
use crate::core::ChangeKind;
use crate::types::{LeaseId, Revision, Sequence};
use async_nats::{HeaderMap, HeaderValue};
use bytes::Bytes;
use std::borrow::Cow;
use std::fmt;

/// Name of the metadata header.
pub const HEADER: &str = "Jetway";
/// Marks deletes for KV tools.
pub const KV_OPERATION: &str = "KV-Operation";

/// Who wrote a message and for which request; unique over all instances and restarts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OperationId {
    /// Drawn at random by each instance at its start.
    pub writer: u64,
    /// Counts the instance's writes.
    pub operation: u64,
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.writer, self.operation)
    }
}

/// A message of the key stream, decoded.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its position.
    pub sequence: Sequence,
    /// When the server stored it, nanoseconds of its clock since 1970. With the sequence a cheap fingerprint.
    pub time: i64,
    /// What it is.
    pub body: Body,
}

impl Record {
    /// Who wrote it, if jetway did.
    pub fn operation(&self) -> Option<OperationId> {
        match &self.body {
            Body::Change { operation, .. } => Some(*operation),
            Body::Barrier | Body::Foreign => None,
        }
    }

    /// About how many bytes it holds.
    pub fn size(&self) -> usize {
        match &self.body {
            Body::Change { key, kind: ChangeKind::Put { value, .. }, .. } => key.len() + value.len(),
            Body::Change { key, .. } => key.len(),
            Body::Barrier | Body::Foreign => 0,
        }
    }
}

/// The kinds of message in the key stream.
#[derive(Clone, Debug)]
pub enum Body {
    /// A change of a key, alone or as one of several of a transaction.
    Change {
        /// The key.
        key: Bytes,
        /// What happens to it.
        kind: ChangeKind,
        /// Counted from 1.
        place: u32,
        /// Messages of the transaction.
        count: u32,
        /// Its writer.
        operation: OperationId,
    },
    /// A read barrier: no key, no event, no revision.
    Barrier,
    /// Something that jetway did not write; it spends a revision and changes nothing.
    Foreign,
}

/// The `Jetway` header of a change.
pub fn header(kind: &ChangeKind, place: usize, count: usize, operation: OperationId) -> String {
    match kind {
        ChangeKind::Put { create_revision, version, lease, .. } => {
            let create = create_revision.unwrap_or_default();
            format!("{create} {version} {} {place}/{count} {operation}", lease.0)
        }
        ChangeKind::Delete => format!("0 0 0 {place}/{count} {operation}"),
    }
}

/// Decodes a message of the key stream. `subject` has the bucket's prefix taken off.
pub fn decode(subject: &str, headers: Option<&HeaderMap>, payload: &Bytes) -> Body {
    if subject == BARRIER {
        return Body::Barrier;
    }
    let header = headers.and_then(|headers| headers.get(HEADER)).map(HeaderValue::as_str);
    decode_change(subject, header, || payload.clone()).unwrap_or(Body::Foreign)
}

/// The same, with headers as they are stored.
pub(super) fn decode_stored(subject: &str, headers: &str, payload: &[u8]) -> Body {
    if subject == BARRIER {
        return Body::Barrier;
    }
    decode_change(subject, header_value(headers, HEADER).as_deref(), || Bytes::copy_from_slice(payload))
        .unwrap_or(Body::Foreign)
}

/// The first value of a name in headers as they are stored, read as the client library does: every instance has to take
/// a message for the same, whichever way it came.
pub(super) fn header_value<'a>(headers: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let mut lines = headers.lines().peekable();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut value = Cow::Borrowed(value.trim_start());
    while let Some(rest) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
        value.to_mut().push_str(rest);
    }
    Some(match value {
        Cow::Borrowed(value) => Cow::Borrowed(value.trim_end()),
        Cow::Owned(value) => Cow::Owned(value.trim_end().to_owned()),
    })
}

/// Subject of read barriers, below the bucket's prefix.
pub const BARRIER: &str = "=_.barrier";

fn decode_change(subject: &str, header: Option<&str>, value: impl FnOnce() -> Bytes) -> Option<Body> {
    let mut words = header?.split(' ');
    let key = subjects::key_of(subject)?;
    let create: i64 = words.next()?.parse().ok()?;
    let version: i64 = words.next()?.parse().ok()?;
    let lease: i64 = words.next()?.parse().ok()?;
    let (place, count) = words.next()?.split_once('/')?;
    let (place, count): (u32, u32) = (place.parse().ok()?, count.parse().ok()?);
    let operation = operation_id(words.next()?)?;
    // No stream is long enough for more; the next version must still be a number.
    let possible = 0..=i64::MAX / 2;
    let is_possible = possible.contains(&version) && possible.contains(&create);
    if words.next().is_some() || place == 0 || place > count || !is_possible {
        return None;
    }
    let kind = if version == 0 {
        ChangeKind::Delete
    } else {
        ChangeKind::Put {
            value: value(),
            create_revision: (create > 0).then_some(Revision(create)),
            version,
            lease: LeaseId(lease),
        }
    };
    Some(Body::Change { key, kind, place, count, operation })
}

fn operation_id(text: &str) -> Option<OperationId> {
    let (writer, operation) = text.split_once('.')?;
    Some(OperationId {
        writer: u64::from_str_radix(writer, 16).ok()?,
        operation: u64::from_str_radix(operation, 16).ok()?,
    })
}

/// Who wrote a message, by its headers as they are stored.
pub(super) fn writer_of(headers: &[u8]) -> Option<OperationId> {
    let mut lines = std::str::from_utf8(headers).ok()?.lines();
    let ours = lines.find_map(|line| line.strip_prefix(HEADER)?.strip_prefix(':'))?;
    operation_id(ours.trim().rsplit(' ').next()?)
}

/// The subject of a key in the bucket with this prefix.
pub fn subject(prefix: &str, key: &[u8]) -> Result<String, KeyTooLong> {
    subjects::subject_of(prefix, key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPERATION: OperationId = OperationId { writer: 0xfeed, operation: 42 };

    fn round_trip(kind: &ChangeKind) -> Option<(ChangeKind, u32, u32, OperationId)> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, header(kind, 2, 3, OPERATION).as_str());
        match decode("=.a", Some(&headers), &Bytes::from_static(b"v")) {
            Body::Change { kind, place, count, operation, .. } => Some((kind, place, count, operation)),
            _ => None,
        }
    }

    #[test]
    fn a_put_comes_back() {
        let put = ChangeKind::Put {
            value: Bytes::from_static(b"v"),
            create_revision: Some(Revision(7)),
            version: 3,
            lease: LeaseId(-5),
        };
        let (kind, place, count, operation) = round_trip(&put).expect("a change");
        assert!(matches!(
            kind,
            ChangeKind::Put { create_revision: Some(Revision(7)), version: 3, lease: LeaseId(-5), .. }
        ));
        assert_eq!((place, count, operation), (2, 3, OPERATION));
    }

    #[test]
    fn a_creation_names_itself_and_a_delete_nothing() {
        let put =
            ChangeKind::Put { value: Bytes::new(), create_revision: None, version: 1, lease: LeaseId::NONE };
        assert!(matches!(
            round_trip(&put),
            Some((ChangeKind::Put { create_revision: None, version: 1, .. }, ..))
        ));
        assert!(matches!(round_trip(&ChangeKind::Delete), Some((ChangeKind::Delete, ..))));
    }

    #[test]
    fn the_writer_is_told_by_headers_as_they_are_stored() {
        let text = header(&ChangeKind::Delete, 1, 1, OPERATION);
        let stored = format!("NATS/1.0\r\nKV-Operation: DEL\r\n{HEADER}: {text}\r\n\r\n");
        assert_eq!(writer_of(stored.as_bytes()), Some(OPERATION));
        assert_eq!(writer_of(b"NATS/1.0\r\nJetwayx: 1.2\r\n\r\n"), None);
        assert_eq!(writer_of(b""), None);
    }

    #[test]
    fn values_of_headers_are_those_that_the_client_library_reads() {
        for (headers, value) in [
            ("NATS/1.0\r\nNats-TTL: 5\r\nJetway: 0 1\r\n\r\n", Some("0 1")),
            ("NATS/1.0\r\nJetway:a\r\nJetway: b\r\n\r\n", Some("a")),
            ("NATS/1.0\r\nJetway:   a  \r\n  b \r\n\r\n", Some("a    b")),
            ("NATS/1.0\r\njetway: a\r\nJetwayed: b\r\n\r\n", None),
            ("NATS/1.0\r\n\r\n", None),
        ] {
            assert_eq!(header_value(headers, HEADER).as_deref(), value, "{headers:?}");
        }
    }

    #[test]
    fn what_somebody_else_wrote_changes_nothing() {
        for text in [
            "",
            "1 1 0 1/1",
            "1 1 0 2/1 a.b",
            "x 1 0 1/1 a.b",
            "1 1 0 1/1 a.b c",
            "1 -1 0 1/1 a.b",
            "1 9223372036854775807 0 1/1 a.b",
            "1 1 0 0/1 a.b",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, text);
            assert!(matches!(decode("a", Some(&headers), &Bytes::new()), Body::Foreign), "{text}");
        }
        assert!(matches!(decode("a", None, &Bytes::new()), Body::Foreign));
        assert!(matches!(decode(BARRIER, None, &Bytes::new()), Body::Barrier));
    }
}
