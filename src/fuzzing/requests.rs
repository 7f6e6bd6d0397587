//! Requests from the wire: checked, planned, turned into records and back, applied, and answered once more
//! from the history.

use super::choices::Choices;
use crate::applier::{Applier, Strictness, Tables};
use crate::core::{Change, Writer};
use crate::log;
use crate::proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};
use crate::record::{Body, Chain, OperationId, Record};
use crate::txn::{self, Base, LeaseTable, Overlay, Planned, RangeStream, Request, Response, Write};
use crate::types::{LeaseId, LogIndex};
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
    let mut applier = Applier::new(writer, Tables::new(crate::auth::AuthSettings::default()));
    let mut chain = Chain::new(None);
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
        let overlay = Overlay::default();
        let base =
            Base { state: &state, overlay: &overlay, revision: state.revision, compacted: state.compacted };
        let Ok(Planned { writes, response }) = txn::plan(base, &Leases, &request) else { continue };
        encode(&response);
        if writes.is_empty() {
            continue;
        }
        let revision = state.revision.next();
        let count = writes.len() as u32;
        let mut valid = Vec::new();
        for (Write { key, kind }, place) in writes.into_iter().zip(1..) {
            let sequence = chain.position().next();
            let change = Change { key, sequence, place, kind };
            let record = Record {
                epoch: chain.epoch(),
                nonce: chain.nonce(),
                index: LogIndex(chain.index().0 + u64::from(place)),
                revision,
                place,
                count,
                operation: OperationId { instance: 1, counter: revision.0 as u64 },
                body: Body::Key(change.version(revision)),
            };
            let Ok((subject, headers, payload)) = log::encode_message(&record) else { return };
            let decoded = log::decode_message(&subject, &headers, &payload, sequence);
            assert!(decoded.is_some(), "jetway wrote it");
            chain.take(sequence, decoded, &mut valid, &mut Vec::new());
        }
        assert_eq!(valid.len(), count as usize, "all of it is valid with the last");
        let strictness = Strictness { trim_to: LogIndex::NONE, is_whole: true, checkpoint: None };
        applier.apply(valid, strictness).expect("one follows the other");
        applier.publish();
        assert_eq!(reader.revision(), revision);
        let again =
            txn::evaluate(&reader.snapshot(), state.revision, &request).expect("nothing is compacted");
        assert_eq!(again, response, "another instance answers the same");
    }
}

fn encode(response: &Response) {
    match response {
        Response::Put(response) => comes_back(response),
        Response::DeleteRange(response) => comes_back(response),
        Response::Txn(response) => drop(response.encode_to_vec()),
    }
}

/// Whether a message and its encoding are the same.
fn comes_back<M: Message + Default + PartialEq + std::fmt::Debug>(message: &M) {
    let bytes = message.encode_to_vec();
    assert_eq!(bytes.len(), message.encoded_len());
    assert!(M::decode(bytes.as_slice()).is_ok_and(|decoded| decoded == *message), "{message:?}");
}
