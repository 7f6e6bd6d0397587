//! Records to messages and back.
//!
//! Every message of jetway's has the header `Jetway`, words divided by single spaces:
//!
//! ```text
//! epoch nonce index revision place/count instance.counter kind [create_revision version lease]
//! ```
//!
//! All numbers are decimal but `nonce`, `instance` and `counter`, which are hexadecimal. The kinds are `p` (a
//! put), `d` (a delete), `b` (barrier), `s` (a reserved record, whose payload is JSON) and `x` (the end of a
//! reserved record). Only `p` has the last three words. The subject of a reserved record decides on its
//! meaning. It begins with `=_.`, which no key's does. A message without the header, or with one of another
//! form, is foreign.

use super::subjects::{self, KeyTooLong};
use crate::auth::{AuthStore, SimpleToken};
use crate::core::{KeyVersion, VersionParts};
use crate::record::{Alarm, AlarmKind, Body, Digest, EpochStart, Member, OperationId, Record, Trim};
use crate::types::{Epoch, Grant, LeaseId, LogIndex, Revision, Sequence};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::io::Write as _;

/// Name of the header.
pub(super) const HEADER: &str = "Jetway";
const RESERVED: &str = "=_.";
const BARRIER: &str = "barrier";
const EPOCH: &str = "epoch";
const TRIM: &str = "trim";
const FLOOR: &str = "floor";
const STOP: &str = "stop";
const USERS: &str = "users";
const LEASE: &str = "lease";
const ALARM: &str = "alarm";
const TOKEN: &str = "token";
const MEMBER: &str = "member";
/// The greatest number in a header. No log is so long, and a sum with one more does not overflow.
const MOST: i64 = i64::MAX / 2;

#[derive(Serialize, Deserialize)]
struct LeasePayload {
    ttl: i64,
    /// Instances that do not know it give the full TTL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<i64>,
}

#[derive(Serialize, Deserialize)]
struct FloorPayload {
    revision: i64,
}

#[derive(Serialize, Deserialize)]
struct StopPayload {
    digest: Digest,
}

/// The subject of epoch records below a bucket's prefix.
pub(super) fn epoch_subject() -> String {
    format!("{RESERVED}{EPOCH}")
}

/// The subject of trim records below a bucket's prefix.
pub(super) fn trim_subject() -> String {
    format!("{RESERVED}{TRIM}")
}

fn kind_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "nospace",
        AlarmKind::Corrupt => "corrupt",
    }
}

/// Writes the subject of a record.
///
/// # Errors
/// [`KeyTooLong`].
pub(super) fn write_subject(prefix: &str, body: &Body, into: &mut String) -> Result<(), KeyTooLong> {
    use std::fmt::Write as _;
    into.clear();
    if let Body::Key(version) = body {
        return subjects::write_subject(prefix, version.key(), into);
    }
    into.push_str(prefix);
    into.push_str(RESERVED);
    let written = match body {
        Body::Key(_) => unreachable!("handled above"),
        Body::Barrier => into.write_str(BARRIER),
        Body::Epoch(_) => into.write_str(EPOCH),
        Body::Lease(id, _) => write!(into, "{LEASE}.{:016x}", id.0),
        Body::Floor(_) => into.write_str(FLOOR),
        Body::Trim(_) => into.write_str(TRIM),
        Body::Stop(_) => into.write_str(STOP),
        Body::Users(_) => into.write_str(USERS),
        Body::Alarm(alarm, _) => write!(into, "{ALARM}.{:016x}.{}", alarm.member, kind_name(alarm.kind)),
        Body::Token(hash, _) => write!(into, "{TOKEN}.{hash}"),
        Body::Member(id, _) => write!(into, "{MEMBER}.{id:016x}"),
    };
    written.expect("a string takes all that is written to it");
    Ok(())
}

/// Appends the headers of a record, without the version line before them and the empty line after them.
pub(super) fn write_headers(record: &Record, into: &mut Vec<u8>) {
    let Record { epoch, nonce, index, revision, place, count, operation, body } = record;
    let kind = match body {
        Body::Key(version) if version.is_tombstone() => "d",
        Body::Key(_) => "p",
        Body::Barrier => "b",
        Body::Lease(_, None) | Body::Alarm(_, false) | Body::Token(_, None) | Body::Member(_, None) => "x",
        _ => "s",
    };
    write!(into, "{HEADER}: {epoch} {nonce:x} {index} {revision} {place}/{count} {operation} {kind}")
        .expect("a vector takes all that is written to it");
    if let ("p", Body::Key(version)) = (kind, body) {
        write!(into, " {} {} {}", version.create_revision(), version.version(), version.lease().0)
            .expect("a vector takes all that is written to it");
    }
    into.extend_from_slice(b"\r\n");
    if matches!(kind, "d" | "x") {
        into.extend_from_slice(b"KV-Operation: DEL\r\n");
    }
}

/// The payload of a record.
pub(super) fn payload(body: &Body) -> Cow<'_, [u8]> {
    fn json(content: &impl Serialize) -> Cow<'static, [u8]> {
        Cow::Owned(serde_json::to_vec(content).expect("payloads are plain data"))
    }
    match body {
        Body::Key(version) => Cow::Borrowed(version.value()),
        Body::Epoch(start) => json(start),
        Body::Lease(_, Some(grant)) => json(&LeasePayload { ttl: grant.ttl, remaining: grant.remaining }),
        Body::Floor(revision) => json(&FloorPayload { revision: revision.0 }),
        Body::Trim(trim) => json(trim),
        Body::Stop(digest) => json(&StopPayload { digest: *digest }),
        Body::Users(store) => json(store),
        Body::Alarm(_, true) => Cow::Borrowed(b"{}"),
        Body::Token(_, Some(token)) => json(token),
        Body::Member(_, Some(member)) => json(member),
        Body::Barrier
        | Body::Lease(_, None)
        | Body::Alarm(_, false)
        | Body::Token(_, None)
        | Body::Member(_, None) => Cow::Borrowed(&[]),
    }
}

/// The record of a message; `None` for a foreign one. `subject` is without the bucket's prefix.
pub(super) fn decode(subject: &str, headers: &str, payload: &[u8], sequence: Sequence) -> Option<Record> {
    let header = header_value(headers, HEADER)?;
    let mut words = header.split(' ');
    let mut word = || words.next();
    let epoch = Epoch(word()?.parse().ok()?);
    let nonce = u64::from_str_radix(word()?, 16).ok()?;
    let index = LogIndex(word()?.parse().ok()?);
    let revision = Revision(word()?.parse().ok()?);
    let (place, count) = word()?.split_once('/')?;
    let (place, count): (u32, u32) = (place.parse().ok()?, count.parse().ok()?);
    let operation = operation_id(word()?)?;
    let kind = word()?;
    let is_possible = i64::try_from(index.0).is_ok_and(|index| index <= MOST)
        && (0..=MOST).contains(&revision.0)
        && i64::try_from(epoch.0).is_ok_and(|epoch| epoch <= MOST);
    if place == 0 || place > count || !is_possible {
        return None;
    }
    let body = match (kind, subject.strip_prefix(RESERVED)) {
        ("p" | "d", None) => {
            let key = subjects::key_of(subject)?;
            let (create_revision, version, lease) = if kind == "p" {
                let numbers =
                    (Revision(word()?.parse().ok()?), word()?.parse().ok()?, LeaseId(word()?.parse().ok()?));
                if !(1..=MOST).contains(&numbers.1) || !(1..=revision.0).contains(&numbers.0.0) {
                    return None;
                }
                numbers
            } else {
                (Revision(0), 0, LeaseId::NONE)
            };
            let value = if kind == "p" { payload } else { &[] };
            let mod_revision = revision;
            let parts = VersionParts {
                key: &key,
                value,
                create_revision,
                mod_revision,
                version,
                lease,
                sequence,
                place,
            };
            Body::Key(KeyVersion::new(&parts))
        }
        ("b" | "s" | "x", Some(reserved)) => decode_reserved(kind, reserved, payload)?,
        _ => return None,
    };
    if words.next().is_some() {
        return None;
    }
    Some(Record { epoch, nonce, index, revision, place, count, operation, body })
}

fn decode_reserved(kind: &str, subject: &str, payload: &[u8]) -> Option<Body> {
    fn json<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
        serde_json::from_slice(payload).ok()
    }
    let is_set = kind == "s";
    let mut tokens = subject.splitn(2, '.');
    Some(match (tokens.next()?, tokens.next(), kind) {
        (BARRIER, None, "b") => Body::Barrier,
        (EPOCH, None, "s") => Body::Epoch(Box::new(json::<EpochStart>(payload)?)),
        (TRIM, None, "s") => Body::Trim(Box::new(json::<Trim>(payload)?)),
        (FLOOR, None, "s") => Body::Floor(Revision(json::<FloorPayload>(payload)?.revision)),
        (STOP, None, "s") => Body::Stop(json::<StopPayload>(payload)?.digest),
        (USERS, None, "s") => Body::Users(Box::new(json::<AuthStore>(payload)?)),
        (LEASE, Some(id), "s" | "x") => {
            let id = LeaseId(u64::from_str_radix(id, 16).ok()? as i64);
            let grant = if is_set {
                let LeasePayload { ttl, remaining } = json(payload)?;
                Some(Grant { ttl, remaining })
            } else {
                None
            };
            Body::Lease(id, grant)
        }
        (ALARM, Some(alarm), "s" | "x") => {
            let (member, kind) = alarm.split_once('.')?;
            let kind =
                [AlarmKind::NoSpace, AlarmKind::Corrupt].into_iter().find(|of| kind_name(*of) == kind)?;
            Body::Alarm(Alarm { member: u64::from_str_radix(member, 16).ok()?, kind }, is_set)
        }
        (TOKEN, Some(hash), "s" | "x") => {
            Body::Token(hash.to_owned(), if is_set { Some(json::<SimpleToken>(payload)?) } else { None })
        }
        (MEMBER, Some(id), "s" | "x") => {
            let id = u64::from_str_radix(id, 16).ok()?;
            Body::Member(id, if is_set { Some(Box::new(json::<Member>(payload)?)) } else { None })
        }
        _ => return None,
    })
}

/// The first value of a name in headers as they are stored.
pub(super) fn header_value<'a>(headers: &'a str, name: &str) -> Option<&'a str> {
    let value = headers.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim())
}

fn operation_id(text: &str) -> Option<OperationId> {
    let (instance, counter) = text.split_once('.')?;
    Some(OperationId {
        instance: u64::from_str_radix(instance, 16).ok()?,
        counter: u64::from_str_radix(counter, 16).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::AcceptedLoss;

    fn record(body: Body) -> Record {
        Record {
            epoch: Epoch(3),
            nonce: 0xfeed,
            index: LogIndex(17),
            revision: Revision(9),
            place: 2,
            count: 3,
            operation: OperationId { instance: 0xabc, counter: 42 },
            body,
        }
    }

    fn round_trip(record: &Record) -> Option<Record> {
        let (mut subject, mut headers) =
            (String::new(), b"NATS/1.0\r\nNats-Expected-Last-Sequence: 4\r\n".to_vec());
        write_subject("$KV.b.", &record.body, &mut subject).expect("a short key");
        write_headers(record, &mut headers);
        let headers = String::from_utf8(headers).expect("text");
        decode(
            subject.strip_prefix("$KV.b.").expect("its prefix"),
            &headers,
            &payload(&record.body),
            Sequence(5),
        )
    }

    fn version(parts: &VersionParts<'_>) -> Body {
        Body::Key(KeyVersion::new(parts))
    }

    const PUT: VersionParts<'static> = VersionParts {
        key: b"/a/b.c",
        value: b"v",
        create_revision: Revision(7),
        mod_revision: Revision(9),
        version: 3,
        lease: LeaseId(-5),
        sequence: Sequence(5),
        place: 2,
    };

    #[test]
    fn every_kind_of_record_comes_back() {
        let deleted = VersionParts {
            value: b"",
            create_revision: Revision(0),
            version: 0,
            lease: LeaseId::NONE,
            ..PUT
        };
        let start = EpochStart {
            instance: 1,
            format: 2,
            member: Member { id: 5, name: "n".into(), client_urls: vec!["u".into()], ..Member::default() },
            election_timeout_ms: 1000,
            quota_bytes: -1,
            digest: Digest(u64::MAX),
        };
        let member = start.member.clone();
        let loss = Some(AcceptedLoss { at: 9, void: vec![(3, 4), (7, 7)] });
        let trim = Trim { to: 5, floor: Some(4), digest: Digest(1), is_lossy: true, loss };
        let alarm = Alarm { member: 9, kind: AlarmKind::Corrupt };
        let token = SimpleToken { user: "u".into(), revision: 4 };
        for body in [
            version(&PUT),
            version(&deleted),
            Body::Barrier,
            Body::Epoch(Box::new(start)),
            Body::Lease(LeaseId(-1), Some(Grant::full(60))),
            Body::Lease(LeaseId(8), Some(Grant { ttl: 60, remaining: Some(7) })),
            Body::Lease(LeaseId(7), None),
            Body::Floor(Revision(4)),
            Body::Trim(Box::new(trim)),
            Body::Stop(Digest(8)),
            Body::Users(Box::default()),
            Body::Alarm(alarm, true),
            Body::Alarm(alarm, false),
            Body::Token("abc".into(), Some(token)),
            Body::Token("abc".into(), None),
            Body::Member(5, Some(Box::new(member))),
            Body::Member(5, None),
        ] {
            let record = record(body);
            let again = round_trip(&record).unwrap_or_else(|| panic!("{record:?} is foreign"));
            match (&again.body, &record.body) {
                (Body::Key(again), Body::Key(version)) => assert_eq!(again.parts(), version.parts()),
                (again, body) => assert_eq!(format!("{again:?}"), format!("{body:?}")),
            }
            assert_eq!((again.epoch, again.nonce, again.index), (record.epoch, record.nonce, record.index));
            assert_eq!((again.place, again.count, again.operation), (2, 3, record.operation));
        }
    }

    #[test]
    fn other_messages_are_foreign() {
        let ours = "Jetway: 1 a 2 2 1/1 b.c p 2 1 0";
        let decoded = |subject: &str, header: &str| {
            decode(subject, &format!("NATS/1.0\r\n{header}\r\n\r\n"), b"v", Sequence(1)).is_some()
        };
        assert!(decoded("=.a", ours));
        for header in [
            "",
            "Jetway: ",
            "jetway: 1 a 2 2 1/1 b.c p 2 1 0",
            "Jetway: 1 a 2 2 1/1 b.c p 2 1",
            "Jetway: 1 a 2 2 1/1 b.c p 2 1 0 0",
            "Jetway: 1 a 2 2 2/1 b.c p 2 1 0",
            "Jetway: 1 a 2 2 0/1 b.c p 2 1 0",
            "Jetway: 1 a 2 -2 1/1 b.c p 2 1 0",
            "Jetway: 1 a 2 2 1/1 b.c p 3 1 0",
            "Jetway: 1 a 2 2 1/1 b.c p 2 9223372036854775807 0",
            "Jetway: 1 a 2 2 1/1 b.c b",
            "Jetway: 1 a 2 2 1/1 b p 2 1 0",
            "Jetway: 99999999999999999999 a 2 2 1/1 b.c p 2 1 0",
        ] {
            assert!(!decoded("=.a", header), "{header}");
        }
        for subject in ["", "a..b", "=_.barrier", "=_.lease.7", "=4"] {
            assert!(!decoded(subject, ours), "{subject}");
        }
    }
}
