//! The Watch RPC.

use super::choices::Choices;
use crate::api::watch::encoded_responses;
use crate::core::{Change, ChangeKind, Writer};
use crate::primitive::Notify;
use crate::proto::etcdserverpb::{WatchRequest, WatchResponse};
use crate::types::{LeaseId, LogIndex, Revision, Sequence};
use crate::watch::WatchHub;
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use prost::Message;
use std::sync::Arc;
use tonic::Status;

/// Messages of a call among writes to a store: each response must be one, whatever the messages are.
pub fn watch(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let mut choices = Choices::new(data);
        let (mut writer, reader) = Writer::new();
        let published = Arc::new(Notify::new());
        let hub = WatchHub::spawn(reader.clone(), Arc::clone(&published));
        let (requests, incoming) = tokio::sync::mpsc::unbounded_channel();
        let incoming = tokio_stream::wrappers::UnboundedReceiverStream::new(incoming);
        let mut responses = Box::pin(encoded_responses(hub, reader, incoming));
        while !choices.is_empty() {
            match choices.byte() % 8 {
                0..=2 => {
                    let request = WatchRequest::decode(choices.bytes());
                    let request = request.map_err(|error| Status::internal(error.to_string()));
                    // The call may be over already.
                    drop(requests.send(request));
                }
                3 => {
                    let request =
                        [b"\x0a\x00".as_slice(), b"\x0a\x05\x0a\x01a\x18\x01", b"\x12\x00", b"\x1a\x00"];
                    let request = WatchRequest::decode(request[usize::from(choices.byte() % 4)]);
                    drop(requests.send(Ok(request.expect("a request"))));
                }
                4 => {
                    let floor = Revision(choices.number());
                    if floor.0 >= 0 && floor <= writer.state().revision {
                        writer.compact(floor);
                        writer.publish();
                    }
                }
                _ => {
                    let revision = writer.state().revision.next();
                    let sequence = Sequence(revision.0 as u64);
                    let changes = (1..=u32::from(choices.byte() % 3) + 1).map(|place| {
                        let key = Bytes::copy_from_slice(&[b'a' + choices.byte() % 3]);
                        let value = Bytes::copy_from_slice(choices.bytes());
                        let (create_revision, lease) = (None, LeaseId::NONE);
                        let put = ChangeKind::Put { value, create_revision, version: 1, lease };
                        let kind = if choices.byte().is_multiple_of(4) { ChangeKind::Delete } else { put };
                        Change { key, sequence, place, kind }.version(revision)
                    });
                    let versions: Vec<_> = changes.collect();
                    writer.apply(revision, LogIndex(sequence.0), versions, |_, _| ());
                    writer.publish();
                    published.notify_one();
                }
            }
            tokio::task::yield_now().await;
            while let Some(Some(Ok((wire, events)))) = responses.next().now_or_never() {
                let response = WatchResponse::decode(wire.as_slice()).expect("it is a WatchResponse");
                assert_eq!(response.events.len(), events);
            }
        }
    });
}
