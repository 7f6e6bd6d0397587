//! The encoding of events.

use crate::core::{Event, KeyVersion};
use crate::proto::mvccpb;
use crate::txn::key_value;
use bytes::Bytes;
use prost::Message;

/// An event as `mvccpb.Event`.
pub(super) fn encode(event: &Event, previous: Option<&KeyVersion>) -> Bytes {
    let version = &event.version;
    let kind =
        if version.is_tombstone() { mvccpb::event::EventType::Delete } else { mvccpb::event::EventType::Put };
    // A tombstone has only its key and revision (WAT-21).
    let event =
        mvccpb::Event { r#type: kind.into(), kv: Some(key_value(version)), prev_kv: previous.map(key_value) };
    event.encode_to_vec().into()
}
