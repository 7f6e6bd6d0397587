//! Keys and ranges for tests that share a server: each test stays under a prefix of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

/// `range_end` of "from the key to the end of the keyspace".
pub const TO_THE_END: &[u8] = b"\0";

/// A prefix that no other test of this process uses.
pub fn unique(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // A counter only: nothing is published through it.
    format!("/t/{name}/{}/", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// The `range_end` that selects all keys starting with `prefix`, as clients compute it.
pub fn prefix_end(prefix: impl AsRef<[u8]>) -> Bytes {
    let mut end = prefix.as_ref().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(TO_THE_END)
}

/// Any bytes-like literal as the `Bytes` that the messages hold.
pub fn b(bytes: impl AsRef<[u8]>) -> Bytes {
    Bytes::copy_from_slice(bytes.as_ref())
}

/// The first key that starts with `prefix`: the whole keyspace starts at one zero byte, since no key is
/// empty.
pub fn prefix_start(prefix: impl AsRef<[u8]>) -> Bytes {
    match prefix.as_ref() {
        [] => Bytes::from_static(b"\0"),
        prefix => b(prefix),
    }
}
