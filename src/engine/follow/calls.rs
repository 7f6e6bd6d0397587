//! Calls of this instance while another one writes. They are sent to the writer, sent again if their message
//! may be lost, and answered from the state here.

use super::Following;
use crate::engine::apply::Entry;
use crate::engine::node::{Node, Open};
use crate::engine::proposal::{Call, Outcome, Proposal, Waiter, WireCall, WireCalls};
use crate::engine::{NewCall, REQUEST_TIMEOUT};
use crate::error::EtcdError;
use crate::types::{Epoch, LogIndex};
use prost::Message as _;
use std::time::Duration;
use tokio::time::Instant;

/// Read indexes that may be in flight at once. Each one serves all reads that came before it was sent.
const READS_SENT: usize = 2;
/// How often other tasks run before calls are sent.
const YIELDS: usize = 2;
/// Time after which calls are sent again to the same writer: their message may be lost.
const RESEND: Duration = Duration::from_secs(1);
/// Room in a message for all but the contents of its calls.
const MESSAGE_OVERHEAD: usize = 4096;

impl Node {
    /// Opens a new call, and all that come together with it.
    pub(super) async fn open_calls(&mut self, call: NewCall) {
        self.open_call(call);
        // All other tasks that are ready run first: calls of theirs go along in the same message.
        for _ in 0..YIELDS {
            tokio::task::yield_now().await;
        }
        while let Ok(call) = self.new_calls.try_recv() {
            self.open_call(call);
        }
    }

    /// Opens the calls that have come, and refuses those whose time is over. For waits in which this instance
    /// does nothing else.
    pub(in crate::engine) fn keep_deadlines(&mut self) {
        while let Ok(call) = self.new_calls.try_recv() {
            self.open_call(call);
        }
        self.expire();
    }

    fn open_call(&mut self, new: NewCall) {
        let call = self.call_of(new);
        match &call.proposal {
            // Only the writer itself makes trim records, and only the leader moves the leader, as on etcd.
            Proposal::Trim { .. } | Proposal::MoveLeader { .. } => call.refuse(EtcdError::NotLeader),
            Proposal::ReadIndex => self.reads.push(call),
            _ => {
                let counter = call.operation.counter;
                self.open.insert(counter, Open { call, sent: None, unanswered: None, has_no_room: false });
            }
        }
    }

    /// Sends the calls that are not on their way yet to the writer, if there is one.
    pub(super) async fn send_calls(&mut self, following: &mut Following) {
        let nonce = self.chain.nonce();
        let Some(messenger) = self.messenger.clone() else { return };
        if self.read_only().is_some()
            || self.chain.epoch() == Epoch(0)
            || self.is_of_this_instance()
            || !following.is_caught_up && !self.is_ready
        {
            return;
        }
        let now = Instant::now();
        let mut calls = Vec::new();
        if !self.is_ready && following.ready_sent.is_none_or(|sent| sent.elapsed() > RESEND) {
            let counter = self.next_operation().counter;
            (following.ready_counter, following.ready_sent) = (Some(counter), Some(now));
            calls.extend(wire_call(counter, None, 0, REQUEST_TIMEOUT, &Proposal::Barrier));
        }
        if self.is_ready && !self.reads.is_empty() && self.reads_sent.len() < READS_SENT {
            let counter = self.next_operation().counter;
            let reads = std::mem::take(&mut self.reads);
            self.reads_sent.insert(counter, (reads, nonce, now));
            calls.extend(wire_call(counter, None, 0, REQUEST_TIMEOUT, &Proposal::ReadIndex));
        }
        if self.is_ready {
            for open in self.open.values_mut().filter(|open| open.sent.is_none()) {
                open.sent = Some((nonce, now));
                calls.extend(wire_of(&open.call));
            }
        }
        if calls.is_empty() {
            return;
        }
        let lowest_open = self.lowest_open(following);
        let most = messenger.max_payload().saturating_sub(MESSAGE_OVERHEAD).max(1024);
        for calls in messages_of(calls, most) {
            let (member, vote) = (self.settings.member.id, self.vote().map(|epoch| epoch.0));
            let message = WireCalls { instance: self.start, lowest_open, calls, member, vote };
            messenger.call(nonce, message.encode_to_vec()).await;
        }
    }

    pub(super) fn lowest_open(&self, following: &Following) -> u64 {
        let open = self.open.keys().next().copied();
        let reads = self.reads_sent.keys().next().copied();
        [open, reads, following.ready_counter].into_iter().flatten().min().unwrap_or(self.counter)
    }

    /// Marks the calls that were sent to the writer of an epoch as not sent: nobody received them.
    pub(super) fn mark_unsent(&mut self, nonce: u64) {
        for open in self.open.values_mut() {
            if open.sent.is_some_and(|(to, _)| to == nonce) {
                open.sent = None;
            }
        }
        let reads = std::mem::take(&mut self.reads_sent);
        self.reads.extend(reads.into_values().flat_map(|(calls, ..)| calls));
    }

    /// Marks calls that the writer has not answered for long as not sent: their message may be lost.
    pub(super) fn resend_unanswered(&mut self) {
        let now = Instant::now();
        for open in self.open.values_mut() {
            if let Some((to, _)) = open.sent.take_if(|(_, sent)| now.duration_since(*sent) > RESEND) {
                open.unanswered = Some(to);
            }
        }
        let lost = self.reads_sent.extract_if(.., |_, (_, _, sent)| now.duration_since(*sent) > RESEND);
        self.reads.extend(lost.flat_map(|(_, (calls, ..))| calls));
    }

    /// Takes the writer's answer to a call.
    pub(super) async fn answer(&mut self, answer: crate::engine::proposal::WireAnswer) {
        let Some(outcome) = answer.outcome() else { return };
        let index = LogIndex(answer.index);
        let mut waiters = Vec::new();
        // A deposed writer's refusal may come when the call is on its way to the next one, which carries it
        // out.
        let is_asked = |nonce: u64| nonce == answer.nonce;
        let is_read = self.reads_sent.get(&answer.counter).is_some_and(|(_, nonce, _)| is_asked(*nonce));
        let is_open = self
            .open
            .get(&answer.counter)
            .is_some_and(|open| open.sent.is_some_and(|(nonce, _)| is_asked(nonce)));
        if !is_read && !is_open {
            return;
        }
        if let Some((calls, ..)) = self.reads_sent.remove(&answer.counter) {
            waiters.extend(calls.into_iter().map(|call| Waiter::new(call, outcome.clone())));
        } else if let Some(open) = self.open.remove(&answer.counter) {
            // The record shows the outcome when the consumer brings it.
            if matches!(outcome, Ok(Outcome::Written(_))) {
                self.open.insert(answer.counter, open);
                return;
            }
            waiters.push(Waiter::new(open.call, outcome));
        }
        if index <= self.chain.index() {
            let (physical, others): (Vec<_>, Vec<_>) =
                waiters.into_iter().partition(|waiter| waiter.call.is_physical());
            self.complete(others, index).await;
            for waiter in physical {
                self.entry(Entry::AfterRemovals(waiter)).await;
            }
        } else if !waiters.is_empty() {
            self.by_index.entry(index).or_default().append(&mut waiters);
        }
    }
}

fn wire_of(call: &Call) -> Vec<WireCall> {
    let time_left = call.deadline.saturating_duration_since(Instant::now());
    let (user, revision) = call.caller.to_parts();
    wire_call(call.operation.counter, user, revision, time_left, &call.proposal)
}

fn wire_call(
    counter: u64,
    user: Option<String>,
    auth_revision: u64,
    time_left: Duration,
    proposal: &Proposal,
) -> Vec<WireCall> {
    let Some((kind, content)) = proposal.encode() else { return Vec::new() };
    let timeout_ms = time_left.as_millis() as u64;
    vec![WireCall { counter, user, auth_revision, timeout_ms, kind, content, part: 0, parts: 1 }]
}

/// Packs calls into as few messages as can hold them. A call that is larger than a message goes in parts.
fn messages_of(calls: Vec<WireCall>, most: usize) -> Vec<Vec<WireCall>> {
    let mut messages = vec![Vec::new()];
    let mut bytes = 0;
    for call in calls {
        let mut parts = Vec::new();
        if call.content.len() > most / 2 {
            let count = call.content.len().div_ceil(most / 2) as u32;
            for (part, at) in (0..count).zip((0..).step_by(most / 2)) {
                let content = call.content.slice(at..call.content.len().min(at + most / 2));
                parts.push(WireCall { content, part, parts: count, ..call.clone() });
            }
        } else {
            parts.push(call);
        }
        for part in parts {
            let size = part.encoded_len() + 8;
            if bytes > 0 && bytes + size > most {
                messages.push(Vec::new());
                bytes = 0;
            }
            bytes += size;
            messages.last_mut().expect("there is always one").push(part);
        }
    }
    messages
}
