//! A target for each part that reads foreign bytes: a function from any bytes to nothing. It must return, and
//! panics if the result makes no sense.
//!
//! libFuzzer drives them (`make fuzz`, `tests/fuzz`), and so do the tests below, for a moment and with bytes
//! that are random or nearly right. Compiled for these two only.

mod choices;
mod records;
mod requests;
mod watch;

pub use records::records;
pub use requests::requests;
pub use watch::watch;

/// A target and its name.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("requests", requests),
    ("watch", watch),
    ("gateway", crate::gateway::fuzz),
    ("records", records),
    ("nats_config", crate::nats_server::fuzz_config),
    ("flags", crate::cli::fuzz),
    ("answers", answers),
];

/// JetStream's answers.
fn answers(data: &[u8]) {
    use crate::log::{StoredMessage, StreamInfo};
    drop(serde_json::from_slice::<StreamInfo>(data));
    if let Ok(message) = serde_json::from_slice::<StoredMessage>(data) {
        drop(message.record("$KV.b."));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Pieces of everything that the targets read, to be strung together: random bytes alone get nowhere.
    const PIECES: &[&[u8]] = &[
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b",",
        b"\"",
        b"\"key\"",
        b"\"request_put\"",
        b"\"success\"",
        b"YQ==",
        b"nats://",
        b"@",
        b"?bucket=",
        b"&replicas=3",
        b"1h",
        b"5m30s",
        b"include",
        b"cluster {",
        b"#",
        b"\n",
        b"=_.floor",
        b"=_.lease.0000000000000007",
        b"{\"ttl\":5}",
        b"=_.token.ab",
        b"=_.users",
        b"=_.trim",
        b"{\"to\":5,\"floor\":2,\"digest\":0}",
        b"{\"revision\":5}",
        b"=_.alarm.0000000000000000.nospace",
        b"listen-client-urls: ",
        b"http://a:1",
        b"unixs://",
        b"- ",
        b"--",
        b"-name\n",
        b"auto-tls=",
        b"listen-address=",
        b"&a [*a]",
        b"  ",
        b": |\n",
        b"1 a 2 2 1/1 b.c p 2 1 0",
        b"=.registry.pods",
        b"=_.barrier",
        b"\x0a\x01k\x12\x01v",
        b"\x0a\x03\x0a\x01k",
        b"\x12\x05\x0a\x03\x0a\x01k",
        b"\x1a\x00",
        b"\x05\x00",
        b"\x01",
        b"\x02",
        b"\x03",
        b"\x00",
        b"\xff",
        b"\xfe\x01",
        b"\x80",
    ];

    fn input() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
            1 => prop::collection::vec(any::<u8>(), 0..20),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn nothing_that_is_read_does_harm(which in 0..TARGETS.len(), data in input()) {
            TARGETS[which].1(&data);
        }
    }
}
