//! Requests in wrong bytes, and requests that etcd itself does not survive.

use jetway::proto::etcdserverpb as pb;
use prost::Message as _;
use rand::Rng as _;

use super::Generator;
use crate::ops::*;
use crate::requests::Marks;
use support::keys::TO_THE_END;

impl Generator {
    pub(super) fn spared_txn(&mut self) -> Txn {
        let mut txn = self.txn(2);
        spare_etcd(&mut txn);
        txn
    }

    /// A request in wrong bytes: an ordinary one with a few of them changed, cut off, or added.
    pub(super) fn malformed(&mut self) -> Op {
        let marks = Marks { current: 50, floor: 10 };
        let kinds = if self.topics.auth { 6 } else { 5 };
        let (method, mut bytes) = match self.random.random_range(0..kinds) {
            0 => ("KV/Range", self.range().request(marks).encode_to_vec()),
            1 => ("KV/Put", self.put().request().encode_to_vec()),
            2 => ("KV/DeleteRange", self.delete().request().encode_to_vec()),
            3 => ("KV/Txn", self.spared_txn().request(marks).encode_to_vec()),
            4 => {
                let lease = self.lease();
                let request = pb::LeaseTimeToLiveRequest { id: lease.id, keys: lease.keys };
                ("Lease/LeaseTimeToLive", request.encode_to_vec())
            }
            _ => {
                let request = pb::AuthUserGetRequest { name: "u\u{fc}".into() };
                ("Auth/UserGet", request.encode_to_vec())
            }
        };
        for _ in 0..self.random.random_range(1..4) {
            let at = self.random.random_range(0..=bytes.len());
            match self.random.random_range(0..4) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.random.random()),
                2 => {
                    // Unknown fields of each wire type, groups and field 0 among them.
                    let tag = self.random.random_range(0..=255);
                    bytes.splice(at..at, [tag, 1, 1]);
                }
                _ if at < bytes.len() => bytes[at] = self.random.random(),
                _ => {}
            }
        }
        if method == "KV/Txn" && pb::TxnRequest::decode(&bytes[..]).is_ok_and(|txn| kills_etcd(&txn)) {
            bytes.clear();
        }
        if has_inverted_range(method, &bytes) {
            bytes.clear();
        }
        // A known field of a wrong wire type is unknown to Go and an error to prost.
        let error = match method {
            "KV/Range" => pb::RangeRequest::decode(&bytes[..]).err(),
            "KV/Put" => pb::PutRequest::decode(&bytes[..]).err(),
            "KV/DeleteRange" => pb::DeleteRangeRequest::decode(&bytes[..]).err(),
            "KV/Txn" => pb::TxnRequest::decode(&bytes[..]).err(),
            "Lease/LeaseTimeToLive" => pb::LeaseTimeToLiveRequest::decode(&bytes[..]).err(),
            _ => pb::AuthUserGetRequest::decode(&bytes[..]).err(),
        };
        if error.is_some_and(|error| error.to_string().contains("invalid wire type")) {
            bytes.clear();
        }
        Op::Raw(Raw { method: format!("etcdserverpb.{method}"), bytes: Blob(bytes) })
    }
}

/// Takes out of a transaction what kills etcd 3.7.3: a put of a key that the transaction has deleted before.
/// Only a delete to the end of the keyspace gets past the check for duplicate keys. If the put keeps the
/// value or the lease, etcd finds no key and panics, at every restart again; if a compaction hits just this
/// revision, etcd loses the key and dies of the next read. So a transaction has either such deletes or puts.
fn spare_etcd(txn: &mut Txn) {
    let mut puts = false;
    visit(txn, &mut |op| puts |= matches!(op, TxnOp::Put(_)));
    if puts {
        visit(txn, &mut |op| {
            if let TxnOp::Delete(delete) = op
                && delete.end.0 == TO_THE_END
            {
                delete.end = Blob::default();
            }
        });
    }
}

fn visit(txn: &mut Txn, see: &mut impl FnMut(&mut TxnOp)) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        see(op);
        if let TxnOp::Txn(inner) = op {
            visit(inner, see);
        }
    }
}

/// Whether a request, which somebody has tampered with, has a range that ends before it begins: with several
/// permissions etcd's answer hangs on the shape of a tree.
fn has_inverted_range(method: &str, bytes: &[u8]) -> bool {
    use pb::request_op::Request;
    fn is_inverted(key: &[u8], end: &[u8]) -> bool {
        !end.is_empty() && end != TO_THE_END && end < key
    }
    fn in_txn(txn: &pb::TxnRequest) -> bool {
        txn.compare.iter().any(|compare| is_inverted(&compare.key, &compare.range_end))
            || txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
                Some(Request::RequestRange(range)) => is_inverted(&range.key, &range.range_end),
                Some(Request::RequestDeleteRange(delete)) => is_inverted(&delete.key, &delete.range_end),
                Some(Request::RequestTxn(inner)) => in_txn(inner),
                _ => false,
            })
    }
    match method {
        "KV/Range" => {
            pb::RangeRequest::decode(bytes).is_ok_and(|range| is_inverted(&range.key, &range.range_end))
        }
        "KV/DeleteRange" => pb::DeleteRangeRequest::decode(bytes)
            .is_ok_and(|delete| is_inverted(&delete.key, &delete.range_end)),
        "KV/Txn" => pb::TxnRequest::decode(bytes).is_ok_and(|txn| in_txn(&txn)),
        _ => false,
    }
}

/// Whether a transaction, which somebody has tampered with, may do what [`spare_etcd`] prevents.
fn kills_etcd(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    let (mut deletes, mut puts) = (false, false);
    let mut left = vec![txn];
    while let Some(txn) = left.pop() {
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestDeleteRange(_)) => deletes = true,
                Some(Request::RequestPut(_)) => puts = true,
                Some(Request::RequestTxn(inner)) => left.push(inner),
                _ => {}
            }
        }
    }
    deletes && puts
}
