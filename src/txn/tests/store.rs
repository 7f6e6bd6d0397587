//! A core with a stream in front of it, reduced to what the planner's guards are about.

use super::super::{LeaseTable, Plan, Planned, Request, Response, plan, range};
use crate::core::{Change, Garbage, Reader, State, Writer};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use crate::types::{LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The leases with ids below 10.
pub(super) struct Leases;

impl LeaseTable for Leases {
    fn exists(&self, id: LeaseId) -> bool {
        id.0 < 10
    }
}

pub(super) struct Store {
    pub(super) writer: Writer,
    pub(super) reader: Reader,
    /// The stream: every message that is still there.
    messages: BTreeMap<Sequence, Bytes>,
}

impl Store {
    pub(super) fn new() -> Store {
        let (writer, reader) = Writer::new();
        Store { writer, reader, messages: BTreeMap::new() }
    }

    pub(super) fn snapshot(&self) -> Arc<State> {
        self.reader.snapshot()
    }

    pub(super) fn revision(&self) -> i64 {
        self.reader.revision().0
    }

    fn last_of(&self, key: &Bytes) -> Sequence {
        let last = self.messages.iter().rfind(|(_, holder)| *holder == key);
        last.map_or(Sequence::NONE, |(sequence, _)| *sequence)
    }

    /// Whether the stream would take the writes of a plan.
    pub(super) fn admits(&self, plan: &Plan) -> bool {
        let writes = plan.writes.iter().filter_map(|write| Some((&write.key, write.guard?)));
        let guards = plan.guards.iter().map(|(key, guard)| (key, *guard));
        plan.whole_stream.is_none_or(|last| last == self.writer.state().position)
            && writes.chain(guards).all(|(key, guard)| self.last_of(key) == guard)
    }

    /// Publishes and applies the writes of a plan; answers the revision they got.
    pub(super) fn commit(&mut self, plan: &Plan) -> Revision {
        let mut position = self.writer.state().position;
        let mut changes = Vec::new();
        for (write, place) in plan.writes.iter().zip(1..) {
            position = position.next();
            self.messages.insert(position, write.key.clone());
            changes.push(Change {
                key: write.key.clone(),
                sequence: position,
                place,
                kind: write.kind.clone(),
            });
        }
        let revision = self.writer.state().revision.next();
        let garbage = self.writer.apply(revision, position, changes, |_, _| ());
        assert!(garbage.is_empty(), "nothing is superseded above the floor");
        self.writer.publish();
        revision
    }

    /// Something else happens in the stream: the position moves, the revision does not.
    pub(super) fn barrier(&mut self) {
        let state = self.writer.state();
        let (revision, position) = (state.revision, state.position.next());
        self.writer.advance(revision, position);
        self.writer.publish();
    }

    pub(super) fn compact(&mut self, floor: i64) -> Vec<Garbage> {
        self.writer.compact(Revision(floor));
        let garbage = self.writer.sweep(usize::MAX);
        for message in &garbage {
            assert!(self.messages.remove(&message.sequence).is_some());
        }
        self.writer.publish();
        garbage
    }

    pub(super) fn plan(&self, request: impl Into<Request>) -> Result<Planned, EtcdError> {
        plan(&self.snapshot(), &Leases, request.into())
    }

    /// The plan of a request that is known to write.
    pub(super) fn write_plan(&self, request: impl Into<Request>) -> Plan {
        match self.plan(request).unwrap() {
            Planned::Write(plan) => plan,
            Planned::Answer(answer) => panic!("{answer:?}"),
        }
    }

    pub(super) fn run(&mut self, request: impl Into<Request>) -> Result<Response, EtcdError> {
        match self.plan(request)? {
            Planned::Answer(response) => Ok(response),
            Planned::Write(plan) => {
                assert!(self.admits(&plan));
                let committed = self.commit(&plan);
                plan.answer(committed, &self.snapshot())
            }
        }
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, EtcdError> {
        range(&self.snapshot(), request)
    }

    pub(super) fn put(&mut self, request: PutRequest) -> Result<PutResponse, EtcdError> {
        match self.run(request)? {
            Response::Put(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn delete_range(&mut self, request: DeleteRangeRequest) -> DeleteRangeResponse {
        match self.run(request).unwrap() {
            Response::DeleteRange(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn txn(&mut self, request: TxnRequest) -> Result<TxnResponse, EtcdError> {
        match self.run(request)? {
            Response::Txn(response) => Ok(response),
            other => panic!("{other:?}"),
        }
    }
}

impl From<PutRequest> for Request {
    fn from(request: PutRequest) -> Request {
        Request::Put(request)
    }
}

impl From<DeleteRangeRequest> for Request {
    fn from(request: DeleteRangeRequest) -> Request {
        Request::DeleteRange(request)
    }
}

impl From<TxnRequest> for Request {
    fn from(request: TxnRequest) -> Request {
        Request::Txn(request)
    }
}
