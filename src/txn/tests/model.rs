//! The semantics once more, as simply as possible: one whole map of the store for every revision.

use crate::error::EtcdError;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request as Op;
use crate::proto::etcdserverpb::response_op::Response as OpResponse;
use crate::proto::etcdserverpb::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    ResponseHeader, ResponseOp, TxnRequest, TxnResponse,
};
use crate::proto::mvccpb::KeyValue;
use bytes::Bytes;
use std::cmp::Ordering;
use std::collections::BTreeMap;

type Map = BTreeMap<Bytes, KeyValue>;

pub(super) struct Model {
    /// The store at each revision from 1 on.
    maps: Vec<Map>,
    pub(super) floor: i64,
}

fn header(revision: i64) -> ResponseHeader {
    ResponseHeader { revision, ..ResponseHeader::default() }
}

fn in_range(candidate: &Bytes, key: &Bytes, end: &Bytes) -> bool {
    match end.as_ref() {
        b"" => candidate == key,
        b"\0" => candidate >= key,
        _ => candidate >= key && candidate < end,
    }
}

fn select(map: &Map, key: &Bytes, end: &Bytes) -> Vec<KeyValue> {
    map.values().filter(|pair| in_range(&pair.key, key, end)).cloned().collect()
}

fn number(union: Option<&TargetUnion>, target: i32) -> i64 {
    match (union, target) {
        (Some(TargetUnion::Version(given)), 0)
        | (Some(TargetUnion::CreateRevision(given)), 1)
        | (Some(TargetUnion::ModRevision(given)), 2)
        | (Some(TargetUnion::Lease(given)), 4) => *given,
        _ => 0,
    }
}

fn holds_for(compare: &Compare, pair: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let given = number(union, compare.target);
    let ordering = match compare.target {
        0 => pair.version.cmp(&given),
        1 => pair.create_revision.cmp(&given),
        2 => pair.mod_revision.cmp(&given),
        3 => {
            let given =
                if let Some(TargetUnion::Value(value)) = union { value.clone() } else { Bytes::new() };
            pair.value.cmp(&given)
        }
        4 => pair.lease.cmp(&given),
        _ => Ordering::Equal,
    };
    match compare.result {
        0 => ordering == Ordering::Equal,
        1 => ordering == Ordering::Greater,
        2 => ordering == Ordering::Less,
        3 => ordering != Ordering::Equal,
        _ => true,
    }
}

fn holds(map: &Map, compare: &Compare) -> bool {
    let found = select(map, &compare.key, &compare.range_end);
    if found.is_empty() {
        return compare.target != 3 && holds_for(compare, &KeyValue::default());
    }
    found.iter().all(|pair| holds_for(compare, pair))
}

/// A transaction while it runs.
struct Run<'a> {
    model: &'a Model,
    map: Map,
    has_changed: bool,
}

impl Model {
    pub(super) fn new() -> Model {
        Model { maps: vec![Map::new()], floor: -1 }
    }

    pub(super) fn revision(&self) -> i64 {
        self.maps.len() as i64
    }

    fn at(&self, revision: i64) -> &Map {
        &self.maps[revision as usize - 1]
    }

    pub(super) fn now(&self) -> &Map {
        self.at(self.revision())
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
        if request.revision > self.revision() {
            return Err(EtcdError::FutureRevision);
        }
        let revision = if request.revision > 0 { request.revision } else { self.revision() };
        if revision < self.floor {
            return Err(EtcdError::Compacted);
        }
        Ok(answer(self.at(revision), request, self.revision()))
    }

    pub(super) fn put(&mut self, request: &PutRequest) -> Result<PutResponse, EtcdError> {
        self.precheck_put(request)?;
        let mut run = self.start();
        let response = run.put(request)?;
        let map = run.map;
        self.maps.push(map);
        Ok(response)
    }

    pub(super) fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let mut run = self.start();
        let response = run.delete_range(request);
        let (map, has_changed) = (run.map, run.has_changed);
        if has_changed {
            self.maps.push(map);
        }
        response
    }

    pub(super) fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, EtcdError> {
        self.precheck(request)?;
        let mut run = self.start();
        let mut response = run.txn(request)?;
        let (map, has_changed) = (run.map, run.has_changed);
        if has_changed {
            self.maps.push(map);
        }
        response.header = Some(header(self.revision()));
        Ok(response)
    }

    fn start(&self) -> Run<'_> {
        Run { model: self, map: self.now().clone(), has_changed: false }
    }

    fn succeeds(&self, request: &TxnRequest) -> bool {
        request.compare.iter().all(|compare| holds(self.now(), compare))
    }

    fn precheck(&self, request: &TxnRequest) -> Result<(), EtcdError> {
        for op in if self.succeeds(request) { &request.success } else { &request.failure } {
            match op.request.as_ref().unwrap() {
                Op::RequestRange(range) if range.revision > self.revision() => {
                    return Err(EtcdError::FutureRevision);
                }
                Op::RequestRange(range) if range.revision != 0 && range.revision < self.floor => {
                    return Err(EtcdError::Compacted);
                }
                Op::RequestPut(put) => self.precheck_put(put)?,
                Op::RequestTxn(nested) => self.precheck(nested)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn precheck_put(&self, put: &PutRequest) -> Result<(), EtcdError> {
        if put.lease >= 10 {
            return Err(EtcdError::LeaseNotFound);
        }
        if (put.ignore_lease || put.ignore_value) && !self.now().contains_key(&put.key) {
            return Err(EtcdError::KeyNotFound);
        }
        Ok(())
    }
}

impl Run<'_> {
    fn revision(&self) -> i64 {
        self.model.revision() + i64::from(self.has_changed)
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, EtcdError> {
        let succeeded = self.model.succeeds(request);
        let mut responses = Vec::new();
        for op in if succeeded { &request.success } else { &request.failure } {
            let response = match op.request.as_ref().unwrap() {
                Op::RequestRange(range) => {
                    let map = if range.revision > 0 { self.model.at(range.revision) } else { &self.map };
                    OpResponse::ResponseRange(answer(map, range, self.revision()))
                }
                Op::RequestPut(put) => OpResponse::ResponsePut(self.put(put)?),
                Op::RequestDeleteRange(delete) => OpResponse::ResponseDeleteRange(self.delete_range(delete)),
                Op::RequestTxn(nested) => OpResponse::ResponseTxn(self.txn(nested)?),
            };
            responses.push(ResponseOp { response: Some(response) });
        }
        Ok(TxnResponse { header: Some(ResponseHeader::default()), succeeded, responses })
    }

    fn put(&mut self, request: &PutRequest) -> Result<PutResponse, EtcdError> {
        let previous = self.map.get(&request.key).cloned();
        let revision = self.model.revision() + 1;
        let mut pair = KeyValue {
            key: request.key.clone(),
            value: request.value.clone(),
            lease: request.lease,
            create_revision: revision,
            mod_revision: revision,
            version: 1,
        };
        if request.ignore_value {
            pair.value = previous.clone().ok_or(EtcdError::KeyNotFound)?.value;
        }
        if request.ignore_lease {
            pair.lease = previous.clone().ok_or(EtcdError::KeyNotFound)?.lease;
        }
        if let Some(previous) = &previous {
            pair.create_revision = previous.create_revision;
            pair.version = previous.version + 1;
        }
        self.map.insert(pair.key.clone(), pair);
        self.has_changed = true;
        let prev_kv = if request.prev_kv { previous } else { None };
        Ok(PutResponse { header: Some(header(revision)), prev_kv })
    }

    fn delete_range(&mut self, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let found = select(&self.map, &request.key, &request.range_end);
        for pair in &found {
            self.map.remove(&pair.key);
            self.has_changed = true;
        }
        let deleted = found.len() as i64;
        let prev_kvs = if request.prev_kv { found } else { Vec::new() };
        DeleteRangeResponse { header: Some(header(self.revision())), deleted, prev_kvs }
    }
}

fn answer(map: &Map, request: &RangeRequest, current: i64) -> RangeResponse {
    let mut pairs = select(map, &request.key, &request.range_end);
    let mut response = RangeResponse {
        header: Some(header(current)),
        count: pairs.len() as i64,
        ..RangeResponse::default()
    };
    if request.count_only {
        return response;
    }
    let bounds = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    let limit = if request.limit > 0 { request.limit as usize } else { usize::MAX };
    if request.sort_order == 0 && bounds == [0; 4] {
        pairs.truncate(limit.saturating_add(1));
    }
    pairs.retain(|pair| bounds[0] == 0 || pair.mod_revision >= bounds[0]);
    pairs.retain(|pair| bounds[1] == 0 || pair.mod_revision <= bounds[1]);
    pairs.retain(|pair| bounds[2] == 0 || pair.create_revision >= bounds[2]);
    pairs.retain(|pair| bounds[3] == 0 || pair.create_revision <= bounds[3]);
    pairs.sort_by(|a, b| {
        let order = match request.sort_target {
            0 => a.key.cmp(&b.key),
            1 => a.version.cmp(&b.version),
            2 => a.create_revision.cmp(&b.create_revision),
            3 => a.mod_revision.cmp(&b.mod_revision),
            _ => a.value.cmp(&b.value),
        };
        let order = if request.sort_order == 2 { order.reverse() } else { order };
        order.then_with(|| a.key.cmp(&b.key))
    });
    response.more = pairs.len() > limit;
    pairs.truncate(limit);
    if request.keys_only {
        for pair in &mut pairs {
            pair.value = Bytes::new();
            if request.sort_target != 4 {
                pair.lease = 0;
            }
        }
    }
    response.kvs = pairs;
    response
}
