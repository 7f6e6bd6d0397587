//! Keys as subjects, bijective over all byte strings.
//!
//! A key is split at its slashes, and each piece becomes a token. Letters, digits, `-` and `_` stay, any
//! other byte is `=XX` in upper-case hex, and an empty piece is a lone `=`. So names are readable in `nats
//! kv` tools, prefix filters work, and no token is empty, `*` or `>`. No key has a token in which `=` is
//! followed by anything but two such digits or the token's end. jetway's own subjects begin with such a
//! token, `=_`.

use bytes::Bytes;
use thiserror::Error;

/// Longest subject that fits into a protocol line of nats-server's default 4096 bytes beside a reply subject
/// and sizes.
pub const MAX_SUBJECT_BYTES: usize = 3900;

/// A key whose subject would not fit into a NATS protocol line.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("jetway: the key is too long: its NATS subject would take {0} bytes of at most {MAX_SUBJECT_BYTES}")]
pub struct KeyTooLong(pub usize);

const HEX: &[u8; 16] = b"0123456789ABCDEF";

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Writes the subject of a key below `prefix`, which ends in a dot.
pub(super) fn write_subject(prefix: &str, key: &[u8], subject: &mut String) -> Result<(), KeyTooLong> {
    subject.clear();
    subject.reserve(prefix.len() + key.len() + 8);
    subject.push_str(prefix);
    for (at, segment) in key.split(|byte| *byte == b'/').enumerate() {
        if at > 0 {
            subject.push('.');
        }
        if segment.is_empty() {
            subject.push('=');
        }
        for byte in segment {
            if is_plain(*byte) {
                subject.push(char::from(*byte));
            } else {
                subject.push('=');
                subject.push(char::from(HEX[usize::from(byte >> 4)]));
                subject.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    if subject.len() > MAX_SUBJECT_BYTES { Err(KeyTooLong(subject.len())) } else { Ok(()) }
}

/// Checks the length of a key's subject below a prefix of `prefix` bytes.
///
/// # Errors
/// [`KeyTooLong`].
pub(super) fn check_length(prefix: usize, key: &[u8]) -> Result<(), KeyTooLong> {
    let long = |byte: &u8| !is_plain(*byte) && *byte != b'/';
    // Every byte of a key takes one or three, and every empty piece one more.
    if prefix + key.len() * 3 < MAX_SUBJECT_BYTES {
        return Ok(());
    }
    let empty = key.split(|byte| *byte == b'/').filter(|segment| segment.is_empty()).count();
    let bytes = prefix + key.len() + 2 * key.iter().filter(|byte| long(byte)).count() + empty;
    if bytes > MAX_SUBJECT_BYTES { Err(KeyTooLong(bytes)) } else { Ok(()) }
}

/// The key of a subject without its prefix; `None` for a subject that no key has.
pub(super) fn key_of(subject: &str) -> Option<Bytes> {
    let mut key = Vec::with_capacity(subject.len());
    for (at, token) in subject.split('.').enumerate() {
        if at > 0 {
            key.push(b'/');
        }
        if token == "=" {
            continue;
        }
        if token.is_empty() {
            return None;
        }
        let mut bytes = token.bytes();
        while let Some(byte) = bytes.next() {
            key.push(match byte {
                b'=' => {
                    let byte = hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?;
                    if is_plain(byte) || byte == b'/' {
                        return None;
                    }
                    byte
                }
                byte if is_plain(byte) => byte,
                _ => return None,
            });
        }
    }
    // The boxed slice has no spare capacity, which would live as long as the key.
    Some(key.into_boxed_slice().into())
}

fn hex_digit(byte: u8) -> Option<u8> {
    HEX.iter().position(|digit| *digit == byte).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(key: &[u8]) -> String {
        let mut subject = String::new();
        write_subject("", key, &mut subject).expect("short key");
        subject
    }

    #[test]
    fn kubernetes_keys_stay_readable() {
        assert_eq!(encode(b"/registry/pods/default/web.1"), "=.registry.pods.default.web=2E1");
        assert_eq!(encode(b"compact_rev_key"), "compact_rev_key");
    }

    #[test]
    fn awkward_keys_make_legal_subjects() {
        for (key, subject) in [
            (&b"/"[..], "=.="),
            (b"a//b/", "a.=.b.="),
            (b"*", "=2A"),
            (b">", "=3E"),
            (b"\0", "=00"),
            (b"=", "=3D"),
            (b"a b", "a=20b"),
            (b".", "=2E"),
        ] {
            assert_eq!(encode(key), subject);
            assert_eq!(key_of(subject).as_deref(), Some(key));
        }
    }

    #[test]
    fn subjects_of_no_key_are_refused() {
        for subject in ["", "a..b", "=_.barrier", "=4", "=2a", "=41", "=2F", "a b", "*"] {
            assert_eq!(key_of(subject), None, "{subject}");
        }
    }

    #[test]
    fn a_key_that_does_not_fit_is_refused() {
        let prefix = "$KV.jetway.";
        for (key, fits) in [
            (vec![b'a'; 3 * 1024], true),
            (vec![0; 3 * 1024], false),
            (vec![b'/'; 1944], true),
            (vec![b'/'; 1945], false),
        ] {
            let written = write_subject(prefix, &key, &mut String::new());
            assert_eq!((written.is_ok(), check_length(prefix.len(), &key)), (fits, written));
        }
    }

    proptest! {
        #![proptest_config(crate::core::tests::config(256))]

        #[test]
        fn every_key_comes_back(key in prop::collection::vec(any::<u8>(), 1..200)) {
            let subject = encode(&key);
            prop_assert!(subject.split('.').all(|token| !token.is_empty()));
            prop_assert_eq!(key_of(&subject), Some(Bytes::from(key)));
        }

        #[test]
        fn every_subject_has_one_key(subject in "[=.A-F0-9a-c_]{1,12}") {
            if let Some(key) = key_of(&subject) {
                prop_assert_eq!(encode(&key), subject);
            }
        }
    }
}
