//! A core, and in front of it the records that are planned and not shown yet.

use super::super::plan::Planned;
use super::super::{Base, LeaseTable, Overlay, PlanError, Request, Response, Write, plan, range};
use crate::core::{Change, KeyVersion, Reader, State, Writer};
use crate::error::EtcdError;
use crate::proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use crate::types::{LeaseId, LogIndex, Revision, Sequence};
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
    overlay: Overlay,
    revision: Revision,
    index: LogIndex,
    compacted: Option<Revision>,
    /// Whether planned records are not shown before [`Store::show`].
    pub(super) holds_back: bool,
    /// The versions of planned revisions that are not applied.
    held: Vec<(Revision, LogIndex, Vec<KeyVersion>)>,
}

impl Store {
    pub(super) fn new() -> Store {
        let (writer, reader) = Writer::new();
        Store {
            writer,
            reader,
            overlay: Overlay::default(),
            revision: Revision::EMPTY_STORE,
            index: LogIndex::NONE,
            compacted: None,
            holds_back: false,
            held: Vec::new(),
        }
    }

    pub(super) fn snapshot(&self) -> Arc<State> {
        self.reader.snapshot()
    }

    pub(super) fn revision(&self) -> i64 {
        self.revision.0
    }

    pub(super) fn plan(&self, request: impl Into<Request>) -> Result<Planned, PlanError> {
        let state = self.snapshot();
        let base = Base {
            state: &state,
            overlay: &self.overlay,
            revision: self.revision,
            compacted: self.compacted,
        };
        plan(base, &Leases, &request.into())
    }

    fn append(&mut self, writes: Vec<Write>) {
        self.revision = self.revision.next();
        let last = LogIndex(self.index.0 + writes.len() as u64);
        let mut versions = Vec::new();
        for (Write { key, kind }, place) in writes.into_iter().zip(1..) {
            self.index = self.index.next();
            let change = Change { key, sequence: Sequence(self.index.0), place, kind };
            let version = change.version(self.revision);
            self.overlay.insert(change.key, last, version.clone());
            versions.push(version);
        }
        self.held.push((self.revision, last, versions));
        if !self.holds_back {
            self.show();
        }
    }

    /// Shows the oldest of what is held back.
    pub(super) fn show_one(&mut self) {
        if !self.held.is_empty() {
            let (revision, index, versions) = self.held.remove(0);
            let garbage = self.writer.apply(revision, index, versions, |_, _| ());
            assert!(garbage.is_empty(), "nothing is superseded above the floor");
            self.writer.publish();
            self.overlay.forget_to(index);
        }
    }

    /// Shows everything that is held back.
    pub(super) fn show(&mut self) {
        while !self.held.is_empty() {
            self.show_one();
        }
    }

    pub(super) fn compact(&mut self, floor: i64) {
        self.show();
        self.compacted = Some(Revision(floor));
        self.writer.compact(Revision(floor));
        self.writer.sweep(usize::MAX);
        self.writer.publish();
    }

    pub(super) fn run(&mut self, request: impl Into<Request>) -> Result<Response, EtcdError> {
        let request = request.into();
        let planned = match self.plan(request.clone()) {
            Err(PlanError::NotYet) => {
                self.show();
                self.plan(request)
            }
            planned => planned,
        };
        match planned {
            Ok(Planned { writes, response }) => {
                if !writes.is_empty() {
                    self.append(writes);
                }
                Ok(response)
            }
            Err(PlanError::Refused(error)) => Err(error),
            Err(PlanError::NotYet) => unreachable!("everything is shown"),
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
