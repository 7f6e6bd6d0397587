//! Plans calls on everything that is in flight, and appends their records.

use super::Writing;
use super::quiesce::{NextStep, Quiesce};
use crate::core::{Change, State};
use crate::engine::apply::Entry;
use crate::engine::membership::{MemberChange, Members};
use crate::engine::node::{Node, PEER_CONTACT, Peer};
use crate::engine::planner::{Plan, Planner};
use crate::engine::proposal::{Call, Origin, Outcome, Proposal, Waiter};
use crate::engine::{LinearizableReads, REQUEST_TIMEOUT};
use crate::error::EtcdError;
use crate::record::{Body, Member, OperationId, Record};
use crate::txn::Response;
use crate::types::{LeaseId, LogIndex, Revision};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The most leases that one turn ends. The bound leaves room for other calls when many leases expire
/// together.
const ENDED_AT_ONCE: usize = 500;
/// Silence after which a member is removed.
const MEMBER_SILENCE: Duration = Duration::from_mins(10);

impl Node {
    /// Plans a call, or carries it out where it needs no plan.
    pub(super) async fn admit(&mut self, writing: &mut Writing, mut call: Call) {
        if call.is_abandoned() {
            return;
        }
        if writing.is_settling() {
            writing.deferred.push(call);
            return;
        }
        match &call.proposal {
            // It was removed since the call was made, and does not list itself again.
            Proposal::Member { id, member: Some(_) }
                if matches!(call.origin, Origin::Internal) && !self.may_be_listed(*id) => {}
            // It leaves, and does not come back by what was heard of it before.
            Proposal::Member { id, member: None } => {
                let id = *id;
                self.peers.retain(|_, peer| peer.member.id != id);
                self.plan(writing, call).await;
            }
            Proposal::ReadIndex => {
                let waiter = Waiter::new(call, Ok(Outcome::Done));
                if self.settings.reads == LinearizableReads::Leader {
                    self.entry(Entry::Complete(waiter)).await;
                } else {
                    self.answer_when_proved(writing, waiter).await;
                }
            }
            Proposal::Barrier => {
                let operation = call.operation;
                self.barrier(writing, operation, Some(Waiter::new(call, Ok(Outcome::Done))));
            }
            Proposal::FinishRemovals => {
                self.entry(Entry::AfterRemovals(Waiter::new(call, Ok(Outcome::Done)))).await;
            }
            Proposal::Trim { to, floor } => {
                let (to, floor) = (*to, *floor);
                let waiter = Waiter::new(call, Ok(Outcome::Done));
                writing.quiesce = Some(Quiesce { next: NextStep::Trim(to, floor, waiter), fence: None });
            }
            Proposal::MoveLeader { target } => {
                let target = *target;
                if target == self.settings.member.id {
                    self.entry(Entry::Complete(Waiter::new(call, Ok(Outcome::Done)))).await;
                    return;
                }
                let peer = self.peers.iter().find(|(_, peer)| peer.member.id == target && peer.is_ready);
                match peer.map(|(instance, _)| *instance) {
                    Some(instance) => {
                        let waiter = Waiter::new(call, Ok(Outcome::Done));
                        let next = NextStep::HandOver(instance, Some(waiter));
                        writing.quiesce = Some(Quiesce { next, fence: None });
                    }
                    // Its first sign of life may be lost, and the next one comes within a second.
                    None if self.tables.members.all().contains_key(&target)
                        && call.deadline + PEER_CONTACT > Instant::now() + REQUEST_TIMEOUT =>
                    {
                        writing.deferred.push(call);
                    }
                    None => call.refuse(EtcdError::BadLeaderTransferee),
                }
            }
            Proposal::ChangeMembers(change) => match self.decide(change) {
                // The member that stays alone has the only copy before the other one may go.
                Ok((id, None))
                    if self
                        .stays_alone(id)
                        .is_some_and(|server| !self.one_copy.request_or_check(&server)) =>
                {
                    writing.deferred.push(call);
                }
                Ok((id, member)) => {
                    call.proposal = Proposal::Member { id, member };
                    self.plan(writing, call).await;
                }
                Err(error) => call.refuse(error),
            },
            _ => self.plan(writing, call).await,
        }
    }

    /// The server of the only member that stays when another one is removed.
    fn stays_alone(&self, removed: u64) -> Option<String> {
        let known = self.tables.members.all();
        let mut staying = known.values().filter(|member| member.id != removed);
        let server = staying.next().map(|member| member.name.clone());
        server.filter(|_| staying.next().is_none() && !self.mode.is_alone())
    }

    fn decide(&self, change: &MemberChange) -> Result<(u64, Option<Member>), EtcdError> {
        let own = self.settings.member.id;
        let (mut live, mut ready) = (BTreeSet::from([own]), BTreeSet::from([own]));
        for peer in self.peers.values().filter(|peer| peer.is_live()) {
            live.insert(peer.member.id);
            if peer.is_ready {
                ready.insert(peer.member.id);
            }
        }
        let (known, rules) = (self.tables.members.all(), self.settings.change_rules);
        Members { known: &known, live: &live, ready: &ready, rules }.decide(change)
    }

    pub(super) async fn plan(&mut self, writing: &mut Writing, call: Call) {
        let state = self.reader.snapshot();
        writing.planner.overlay.forget_to(state.log_index);
        let plan = writing.planner.plan(&call, &state);
        let is_exclusive = Planner::is_exclusive(&plan);
        match plan {
            Plan::Wait => writing.deferred.push(call),
            Plan::Answer(outcome, response) => {
                let is_physical = call.is_physical() && outcome == Err(EtcdError::Compacted);
                let is_renewal_on_state = match (&call.proposal, &outcome) {
                    (Proposal::KeepAlive(id), Ok(Outcome::Lease { ttl: 1.., .. })) => {
                        self.is_proved_of_late(writing) && is_granted(writing, *id, &state)
                    }
                    _ => false,
                };
                let waiter = Waiter { call, outcome, response };
                if is_physical {
                    self.entry(Entry::AfterRemovals(waiter)).await;
                } else if is_renewal_on_state {
                    // A renewal is never written. The applier would answer it behind the sync of writes that
                    // it does not rest on.
                    waiter.complete(&state);
                } else {
                    self.answer_when_proved(writing, waiter).await;
                }
            }
            Plan::Keys { writes, end, outcome, response } => {
                self.append_keys(writing, Some((call, outcome, response)), writes, end);
            }
            Plan::Reserved { bodies, outcome } => {
                self.append_reserved(writing, Some((call, outcome)), bodies);
            }
        }
        if is_exclusive {
            writing.quiesce = Some(Quiesce { next: NextStep::Resume, fence: None });
        }
    }

    /// Whether a record that was sent within an election timeout has proved valid: nobody else can write yet.
    pub(super) fn is_proved_of_late(&self, writing: &Writing) -> bool {
        self.mode.is_alone()
            || writing.proved.is_some_and(|sent| sent.elapsed() < self.settings.election_timeout)
    }

    pub(super) fn append_keys(
        &mut self,
        writing: &mut Writing,
        answer: Option<(Call, Outcome, Option<Response>)>,
        writes: Vec<crate::txn::Write>,
        end: Option<LeaseId>,
    ) {
        let operation = answer.as_ref().map_or_else(|| self.next_operation(), |(call, ..)| call.operation);
        let count = (writes.len() + usize::from(end.is_some())) as u32;
        let revision = writing.planner.revision.next();
        let last = LogIndex(writing.planner.index.0 + u64::from(count));
        let mut waiter =
            answer.map(|(call, outcome, response)| Waiter { call, outcome: Ok(outcome), response });
        for (crate::txn::Write { key, kind }, place) in writes.into_iter().zip(1..) {
            let sequence = writing.pipeline.next_sequence();
            let change = Change { key, sequence, place, kind };
            let version = change.version(revision);
            writing.planner.overlay.insert(change.key, last, version.clone());
            let record = self.record(writing, (place, count), operation, revision, Body::Key(version));
            let waiter = if place == count { waiter.take() } else { None };
            writing.pipeline.append(record, waiter);
        }
        if let Some(lease) = end {
            let record = self.record(writing, (count, count), operation, revision, Body::Lease(lease, None));
            writing.pipeline.append(record, waiter.take());
        }
        writing.planner.revision = revision;
        writing.has_appended = true;
    }

    pub(super) fn append_reserved(
        &mut self,
        writing: &mut Writing,
        answer: Option<(Call, Outcome)>,
        bodies: Vec<Body>,
    ) {
        let operation = answer.as_ref().map_or_else(|| self.next_operation(), |(call, _)| call.operation);
        let count = bodies.len() as u32;
        let revision = writing.planner.revision;
        let mut waiter = answer.map(|(call, outcome)| Waiter::new(call, Ok(outcome)));
        for (body, place) in bodies.into_iter().zip(1..) {
            let record = self.record(writing, (place, count), operation, revision, body);
            let waiter = if place == count { waiter.take() } else { None };
            writing.pipeline.append(record, waiter);
        }
        writing.has_appended = true;
    }

    pub(super) fn record(
        &self,
        writing: &mut Writing,
        (place, count): (u32, u32),
        operation: OperationId,
        revision: Revision,
        body: Body,
    ) -> Record {
        writing.planner.index = writing.planner.index.next();
        let index = writing.planner.index;
        writing.polls.appended(index, &body);
        Record {
            epoch: self.chain.epoch(),
            nonce: self.chain.nonce(),
            index,
            revision,
            place,
            count,
            operation,
            body,
        }
    }

    pub(super) async fn end_leases(&mut self, writing: &mut Writing) {
        if writing.is_settling() {
            return;
        }
        let state: Arc<State> = self.reader.snapshot();
        writing.planner.overlay.forget_to(state.log_index);
        for plan in writing.planner.expire(&state, ENDED_AT_ONCE) {
            self.counters.expired();
            match plan {
                Plan::Keys { writes, end, .. } => self.append_keys(writing, None, writes, end),
                Plan::Reserved { bodies, .. } => self.append_reserved(writing, None, bodies),
                Plan::Answer(..) | Plan::Wait => {}
            }
        }
        for body in writing.planner.expire_tokens() {
            self.append_reserved(writing, None, vec![body]);
        }
        self.end_turn(writing).await;
    }

    /// Adds instances that have been heard of to the members, and removes members that have been silent for
    /// long. In a cluster of embedded servers it only updates the members that there are.
    pub(super) async fn keep_members(&mut self, writing: &mut Writing) {
        if self.messenger.is_none() || writing.is_settling() {
            return;
        }
        let known = self.tables.members.all();
        let is_fixed = self.mode.has_fixed_members();
        let mut changes: Vec<(u64, Option<Member>)> = Vec::new();
        for Peer { member, heard, .. } in self.peers.values().filter(|peer| peer.is_live()) {
            writing.members_heard.insert(member.id, *heard);
            let entry = match known.get(&member.id) {
                // Only calls of the API change the rest.
                Some(known) if is_fixed => Member {
                    peer_urls: known.peer_urls.clone(),
                    is_learner: known.is_learner,
                    ..member.clone()
                },
                None if is_fixed => continue,
                _ => member.clone(),
            };
            if known
                .get(&member.id)
                .is_none_or(|known| known.client_urls != entry.client_urls || known.name != entry.name)
            {
                changes.push((member.id, Some(entry)));
            }
        }
        for id in known.keys().filter(|id| !is_fixed && **id != self.settings.member.id) {
            let heard = writing.members_heard.entry(*id).or_insert_with(Instant::now);
            if heard.elapsed() > MEMBER_SILENCE {
                tracing::warn!(member = id, "a member has been silent for ten minutes and is removed");
                changes.push((*id, None));
            }
        }
        for (id, member) in changes {
            let call = self.own_call(Proposal::Member { id, member });
            self.admit(writing, call).await;
        }
        self.end_turn(writing).await;
    }
}

/// Whether a state shows the grant of a lease, so that the grant is valid and durable.
fn is_granted(writing: &Writing, id: LeaseId, state: &State) -> bool {
    writing.planner.lessor.granted(id).is_some_and(|granted| granted <= state.log_index)
}
