//! etcd's messages and services, generated from `proto/`.

mod codec;
mod txn;

pub use codec::{MessageCodec, MessageEncoder};

use prost_reflect::DescriptorPool;
use std::sync::LazyLock;

macro_rules! package {
    ($name:ident, $package:literal $(, $own:path)?) => {
        #[allow(
            clippy::all,
            clippy::pedantic,
            clippy::let_underscore_must_use,
            missing_debug_implementations,
            unreachable_pub,
            reason = "generated"
        )]
        pub mod $name {
            $(pub use $own;)?
            tonic::include_proto!($package);
        }
    };
}

/// All of `proto/`, as an encoded `FileDescriptorSet`, for code that works on messages of any type.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The types and services of all of `proto/`.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        DescriptorPool::decode(DESCRIPTORS).expect("the build compiled the same descriptors")
    });
    &POOL
}

package!(authpb, "authpb");
package!(etcdserverpb, "etcdserverpb", super::txn::TxnRequest);
package!(health, "grpc.health.v1");
package!(mvccpb, "mvccpb");
package!(v3electionpb, "v3electionpb");
package!(v3lockpb, "v3lockpb");

#[cfg(test)]
mod tests {
    use super::etcdserverpb::{Compare, RangeRequest, WatchResponse};
    use super::mvccpb::Event;
    use prost::Message;
    use prost::bytes::Bytes;

    #[test]
    fn numbers_and_types_are_those_of_the_wire_table() {
        let range = RangeRequest {
            key: Bytes::from_static(b"a"),
            range_end: Bytes::from_static(b"b"),
            limit: 3,
            revision: 4,
            sort_order: 1,
            sort_target: 4,
            serializable: true,
            keys_only: true,
            count_only: true,
            min_mod_revision: 10,
            max_mod_revision: 11,
            min_create_revision: 12,
            max_create_revision: 13,
        };
        let expect = [
            0x0a, 1, b'a', 0x12, 1, b'b', 0x18, 3, 0x20, 4, 0x28, 1, 0x30, 4, 0x38, 1, 0x40, 1, 0x48, 1,
            0x50, 10, 0x58, 11, 0x60, 12, 0x68, 13,
        ];
        assert_eq!(range.encode_to_vec(), expect);
    }

    #[test]
    fn numbers_above_fifteen_and_gaps_are_kept() {
        let compare = Compare { range_end: Bytes::from_static(b"z"), ..Compare::default() };
        assert_eq!(compare.encode_to_vec(), [0x82, 0x04, 1, b'z']);
        let watch = WatchResponse { events: vec![Event::default()], ..WatchResponse::default() };
        assert_eq!(watch.encode_to_vec(), [0x5a, 0]);
    }
}
