//! Requests from the wire, checked, planned, published as records and answered, on a store that keeps what they wrote.

use super::Choices;
use crate::applier::Applier;
use crate::core::Writer;
use crate::jetstream::record::{self, OperationId, Record};
use crate::lease::Attachments;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use crate::txn::{self, LeaseTable, Planned, RangeStream, Request, Response};
use crate::types::{LeaseId, Sequence};
use async_nats::HeaderMap;
use prost::Message;

/// The leases with small ids.
struct Leases;

impl LeaseTable for Leases {
    fn exists(&self, id: LeaseId) -> bool {
        (1..5).contains(&id.0)
    }
}

/// Messages of the KV service, one after the other.
pub fn requests(data: &[u8]) {
    let mut choices = Choices::new(data);
    let (writer, reader) = Writer::new();
    let mut applier = Applier::new(writer, Attachments::default(), None);
    let mut operation = 0;
    while !choices.is_empty() {
        let kind = choices.byte() % 4;
        let bytes = choices.bytes();
        let state = reader.snapshot();
        let request = match kind {
            0 => {
                let Ok(request) = RangeRequest::decode(bytes) else { continue };
                if txn::check_range(&request).is_ok()
                    && let Ok(answer) = txn::range(&state, &request)
                {
                    assert!(answer.kvs.len() as i64 <= answer.count.max(0));
                    comes_back(&answer);
                }
                if txn::check_range_stream(&request).is_ok()
                    && let Ok(stream) = RangeStream::new(state, request)
                {
                    stream.for_each(|chunk| comes_back(&chunk));
                }
                continue;
            }
            1 => match PutRequest::decode(bytes) {
                Ok(put) if txn::check_put(&put).is_ok() => Request::Put(put),
                _ => continue,
            },
            2 => match DeleteRangeRequest::decode(bytes) {
                Ok(delete) if txn::check_delete_range(&delete).is_ok() => Request::DeleteRange(delete),
                _ => continue,
            },
            _ => {
                let Ok(request) = TxnRequest::decode(bytes) else { continue };
                comes_back(&request);
                let _flags = (txn::is_read_only(&request), txn::is_serializable(&request));
                if txn::check_txn(&request, 16).is_err() {
                    continue;
                }
                Request::Txn(request)
            }
        };
        match txn::plan(&state, &Leases, request) {
            Err(_) => {}
            Ok(Planned::Answer(answer)) => encode(&answer),
            Ok(Planned::Write(plan)) => {
                operation += 1;
                let count = plan.writes.len();
                let mut sequence = state.position.max(Sequence(1));
                for (write, place) in plan.writes.iter().zip(1..) {
                    sequence = sequence.next();
                    let Ok(subject) = record::subject("", &write.key) else { return };
                    let operation = OperationId { writer: 1, operation };
                    let mut headers = HeaderMap::new();
                    headers.insert(
                        record::HEADER,
                        record::header(&write.kind, place, count, operation).as_str(),
                    );
                    let value = match &write.kind {
                        crate::core::ChangeKind::Put { value, .. } => value.clone(),
                        crate::core::ChangeKind::Delete => bytes::Bytes::new(),
                    };
                    let body = record::decode(&subject, Some(&headers), &value);
                    assert!(matches!(body, record::Body::Change { .. }), "jetway wrote it");
                    applier.take(Record { sequence, time: 0, body });
                }
                applier.publish();
                let done = applier.take_done();
                let [done] = &done[..] else { panic!("{} writes are done, not one", done.len()) };
                assert_eq!(done.revision, state.revision.next());
                encode(&plan.answer(done.revision, &reader.snapshot()).expect("nothing is compacted"));
            }
        }
    }
}

fn encode(response: &Response) {
    match response {
        Response::Put(response) => comes_back(response),
        Response::DeleteRange(response) => comes_back(response),
        Response::Txn(response) => drop(response.encode_to_vec()),
    }
}

/// Whether a message is what its bytes say.
fn comes_back<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M) {
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    assert!(M::decode(bytes.as_slice()).is_ok_and(|decoded| decoded == *message), "{message:?}");
}
