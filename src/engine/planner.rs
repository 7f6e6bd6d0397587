//! Plans calls on the newest planned state: the visible one, and on top of it everything that is in flight.
//!
//! Belongs to the writer. One plan follows the other, so that each is made on the store exactly as it is just
//! before its own records. Users, alarms and members change rarely: after such a change nothing is planned
//! until the change is visible, so that permissions need no planned copy of their own.

use super::proposal::{Call, Outcome, Proposal};
use crate::applier::Tables;
use crate::auth::{self, Caller, SimpleToken};
use crate::core::{ChangeKind, State};
use crate::error::EtcdError;
use crate::lease::{Lessor, MAX_TTL, MIN_TTL};
use crate::log::Log;
use crate::primitive::Uptime;
use crate::record::{AlarmKind, Body, Member};
use crate::txn::{self, Base, Overlay, PlanError, Response, Write};
use crate::types::{Epoch, Grant, LeaseId, LogIndex, Revision};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The plan of a call.
#[derive(Debug)]
pub(super) enum Plan {
    /// Keys change, and a lease may end with them, all at the next revision.
    Keys { writes: Vec<Write>, end: Option<LeaseId>, outcome: Outcome, response: Option<Response> },
    /// Reserved records.
    Reserved { bodies: Vec<Body>, outcome: Outcome },
    /// Nothing is written: the answer rests on the planned state.
    Answer(Result<Outcome, EtcdError>, Option<Response>),
    /// The planned state does not show yet what the call asks for.
    Wait,
}

/// The planned state.
#[derive(Debug)]
pub(super) struct Planner {
    log: Arc<Log>,
    tables: Tables,
    pub(super) overlay: Overlay,
    pub(super) lessor: Lessor,
    /// The newest planned record.
    pub(super) index: LogIndex,
    pub(super) revision: Revision,
    compacted: Option<Revision>,
    max_record_bytes: usize,
}

impl Planner {
    /// Plans on a state that holds every record of the log. Each lease gets its full TTL and `grace` more, or
    /// the time that it had left, if this is the first writer of a store that was copied.
    pub(super) fn new(
        log: Arc<Log>,
        tables: Tables,
        state: &State,
        grace: Duration,
        epoch: Epoch,
        max_record_bytes: usize,
    ) -> Planner {
        // The first epoch of a copy is that of the restore.
        let lessor = Lessor::new(tables.leases.grants(), Uptime::now(), grace, epoch == Epoch(2));
        Planner {
            log,
            tables,
            overlay: Overlay::default(),
            lessor,
            index: state.log_index,
            revision: state.revision,
            compacted: state.compacted,
            max_record_bytes,
        }
    }

    /// Whether a plan changes something of which there is no planned copy.
    pub(super) fn is_exclusive(plan: &Plan) -> bool {
        let is_rare = |body: &Body| matches!(body, Body::Users(_) | Body::Alarm(..) | Body::Member(..));
        matches!(plan, Plan::Reserved { bodies, .. } if bodies.iter().any(is_rare))
    }

    /// Plans a call. `state` is the visible one; no record above its index is missing from the overlay.
    pub(super) fn plan(&mut self, call: &Call, state: &State) -> Plan {
        let planned = match &call.proposal {
            // The alarm may have been raised after the call was admitted. Nothing is written behind it.
            Proposal::Write(_) | Proposal::Grant { .. } | Proposal::Revoke(_) | Proposal::Compact { .. }
                if self.is_corrupt() =>
            {
                Err(EtcdError::Corrupt)
            }
            Proposal::Write(request) => self.write(request, &call.caller, state),
            Proposal::Grant { id, ttl } => self.grant(*id, *ttl),
            Proposal::Revoke(id) => self.revoke(*id, &call.caller, state),
            Proposal::KeepAlive(id) => Ok(self.keep_alive(*id, state)),
            Proposal::TimeToLive(id) => {
                let left = self.lessor.time_left(*id, Uptime::now());
                Ok(Plan::Answer(Ok(Outcome::TimeLeft(left)), None))
            }
            Proposal::Leases => {
                Ok(Plan::Answer(Ok(Outcome::Leases(self.lessor.by_deadline().collect())), None))
            }
            Proposal::Compact { revision, .. } => self.compact(*revision),
            Proposal::Alarm { alarm, raised } => Ok(if self.tables.alarms.all().contains(alarm) == *raised {
                Plan::Answer(Ok(Outcome::Done), None)
            } else {
                Plan::Reserved { bodies: vec![Body::Alarm(*alarm, *raised)], outcome: Outcome::Done }
            }),
            Proposal::Users(change) => self.users(change, &call.caller),
            Proposal::IssueToken { hash, user, revision } => self.issue_token(hash, user, *revision),
            Proposal::TokenUsed { hash } => {
                self.tables.auth.tokens().touch(hash);
                Ok(Plan::Answer(Ok(Outcome::Done), None))
            }
            Proposal::Member { id, member } => Ok(self.member(*id, member.clone())),
            Proposal::Found(members) => {
                let bodies =
                    members.iter().map(|member| Body::Member(member.id, Some(Box::new(member.clone()))));
                Ok(Plan::Reserved { bodies: bodies.collect(), outcome: Outcome::Done })
            }
            Proposal::ReadIndex
            | Proposal::Barrier
            | Proposal::FinishRemovals
            | Proposal::Trim { .. }
            | Proposal::MoveLeader { .. }
            | Proposal::ChangeMembers(_) => Ok(Plan::Answer(Ok(Outcome::Done), None)),
        };
        planned.unwrap_or_else(|error| Plan::Answer(Err(error), None))
    }

    fn write(&mut self, request: &txn::Request, caller: &Caller, state: &State) -> Result<Plan, EtcdError> {
        let access = self.tables.auth.access(caller);
        auth::check_request(&access, request, &|lease| self.check_lease_write(caller, lease))?;
        let base = Base { state, overlay: &self.overlay, revision: self.revision, compacted: self.compacted };
        let planned = match txn::plan(base, &self.lessor, request) {
            Ok(planned) => planned,
            Err(PlanError::Refused(error)) => return Err(error),
            Err(PlanError::NotYet) => return Ok(Plan::Wait),
        };
        for write in &planned.writes {
            self.log.check_key(&write.key)?;
            if let ChangeKind::Put { value, .. } = &write.kind
                && write.key.len() * 3 + value.len() > self.max_record_bytes
            {
                return Err(EtcdError::RequestTooLarge);
            }
        }
        let (writes, response) = (planned.writes, Some(planned.response));
        Ok(if writes.is_empty() {
            Plan::Answer(Ok(Outcome::Unwritten(self.revision)), response)
        } else {
            let outcome = Outcome::Written(self.revision.next());
            Plan::Keys { writes, end: None, outcome, response }
        })
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<Plan, EtcdError> {
        if ttl > MAX_TTL {
            return Err(EtcdError::LeaseTtlTooLarge);
        }
        let ttl = ttl.max(MIN_TTL);
        let exists = |id| txn::LeaseTable::exists(&self.lessor, LeaseId(id));
        let id = match id {
            0 => std::iter::repeat_with(|| rand::random_range(1..i64::MAX))
                .find(|id| !exists(*id))
                .unwrap_or(1),
            id if exists(id) => return Err(EtcdError::LeaseExists),
            id => id,
        };
        let id = LeaseId(id);
        self.lessor.grant(id, ttl, Uptime::now(), self.index.next());
        Ok(Plan::Reserved {
            bodies: vec![Body::Lease(id, Some(Grant::full(ttl)))],
            outcome: Outcome::Lease { id, ttl },
        })
    }

    /// The keys on a lease in the planned state, ascending.
    fn keys_of(&self, id: LeaseId) -> BTreeSet<Bytes> {
        let visible = self.tables.attachments.keys(id).into_iter();
        let mut keys: BTreeSet<Bytes> = visible.filter(|key| self.overlay.get(key).is_none()).collect();
        for version in self.overlay.iter().filter(|version| version.lease() == id) {
            keys.insert(Bytes::copy_from_slice(version.key()));
        }
        keys
    }

    /// Whether a caller may end a lease or attach keys to it: it must be allowed to write every key on it.
    fn check_lease_write(&self, caller: &Caller, lease: LeaseId) -> Result<(), EtcdError> {
        if self.tables.auth.check_admin(caller).is_ok() {
            return Ok(());
        }
        let access = self.tables.auth.access(caller);
        self.keys_of(lease).iter().try_for_each(|key| access.write(key, &[]))
    }

    fn revoke(&mut self, id: LeaseId, caller: &Caller, state: &State) -> Result<Plan, EtcdError> {
        self.check_lease_write(caller, id)?;
        Ok(match self.end(id, state).ok_or(EtcdError::LeaseNotFound)? {
            Plan::Keys { writes, end, response, .. } => {
                Plan::Keys { writes, end, outcome: Outcome::Written(self.revision.next()), response }
            }
            Plan::Reserved { bodies, .. } => {
                Plan::Reserved { bodies, outcome: Outcome::Written(self.revision) }
            }
            plan => plan,
        })
    }

    /// Plans the end of a lease: one batch with the deletes of its keys. `None` where there is no such lease.
    pub(super) fn end(&mut self, id: LeaseId, state: &State) -> Option<Plan> {
        if !self.lessor.revoke(id) {
            return None;
        }
        let is_live = |key: &Bytes| {
            self.overlay.get(key).map_or_else(
                || state.get(key).is_some_and(|version| version.lease() == id),
                |planned| planned.lease() == id,
            )
        };
        let writes: Vec<Write> = self
            .keys_of(id)
            .into_iter()
            .filter(is_live)
            .map(|key| Write { key, kind: ChangeKind::Delete })
            .collect();
        let outcome = Outcome::Lease { id, ttl: 0 };
        Some(if writes.is_empty() {
            Plan::Reserved { bodies: vec![Body::Lease(id, None)], outcome }
        } else {
            Plan::Keys { writes, end: Some(id), outcome, response: None }
        })
    }

    fn keep_alive(&mut self, id: LeaseId, state: &State) -> Plan {
        if let Some(ttl) = self.lessor.renew(id, Uptime::now()) {
            return Plan::Answer(Ok(Outcome::Lease { id, ttl }), None);
        }
        // Over, but not ended yet: it cannot be revived.
        let ended = if self.is_corrupt() { None } else { self.end(id, state) };
        ended.unwrap_or(Plan::Answer(Ok(Outcome::Lease { id, ttl: 0 }), None))
    }

    /// Whether the store takes no writes. Nothing else is planned while a record of an alarm is in flight.
    fn is_corrupt(&self) -> bool {
        self.tables.alarms.is_raised(AlarmKind::Corrupt)
    }

    fn compact(&mut self, revision: Revision) -> Result<Plan, EtcdError> {
        // A store that was never compacted behaves as if compacted at -1.
        if revision <= self.compacted.unwrap_or(Revision(-1)) {
            return Err(EtcdError::Compacted);
        }
        if revision > self.revision {
            return Err(EtcdError::FutureRevision);
        }
        self.compacted = Some(revision);
        Ok(Plan::Reserved { bodies: vec![Body::Floor(revision)], outcome: Outcome::Done })
    }

    fn users(&self, change: &super::AuthChange, caller: &Caller) -> Result<Plan, EtcdError> {
        let store = self.tables.auth.store();
        store.check_admin(caller.user())?;
        let mut changed = auth::AuthStore::clone(&store);
        change.apply(&mut changed)?;
        if changed == *store {
            return Ok(Plan::Answer(Ok(Outcome::Done), None));
        }
        Ok(Plan::Reserved { bodies: vec![Body::Users(Box::new(changed))], outcome: Outcome::Done })
    }

    fn issue_token(&self, hash: &str, user: &str, revision: u64) -> Result<Plan, EtcdError> {
        if self.tables.auth.store().revision() != revision {
            // The password may be another one by now.
            return Err(EtcdError::AuthOldRevision);
        }
        let token = SimpleToken { user: user.to_owned(), revision };
        Ok(Plan::Reserved { bodies: vec![Body::Token(hash.to_owned(), Some(token))], outcome: Outcome::Done })
    }

    fn member(&self, id: u64, member: Option<Member>) -> Plan {
        if self.tables.members.all().get(&id) == member.as_ref() {
            return Plan::Answer(Ok(Outcome::Done), None);
        }
        Plan::Reserved { bodies: vec![Body::Member(id, member.map(Box::new))], outcome: Outcome::Done }
    }

    /// Plans the ends of up to `most` leases whose time is over. None while the store is corrupt: it takes no
    /// writes then.
    pub(super) fn expire(&mut self, state: &State, most: usize) -> Vec<Plan> {
        if self.is_corrupt() {
            return Vec::new();
        }
        let expired = self.lessor.expired(Uptime::now(), most);
        expired.into_iter().filter_map(|id| self.end(id, state)).collect()
    }

    /// The records that end tokens whose time is over.
    pub(super) fn expire_tokens(&self) -> Vec<Body> {
        self.tables.auth.tokens().expired().into_iter().map(|hash| Body::Token(hash, None)).collect()
    }
}
