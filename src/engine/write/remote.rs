//! Calls of other instances: each is planned once, however often it comes.

use super::{AT_ONCE, WriteError, Writing};
use crate::auth::Caller;
use crate::engine::node::Node;
use crate::engine::proposal::{
    Addressed, Call, Origin, Proposal, WireAnswer, WireCalls, WireStatus, WireVote,
};
use crate::log::Incoming;
use crate::record::OperationId;
use crate::types::Epoch;
use bytes::Bytes;
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// Calls of one instance whose answers are remembered at most.
const REMEMBERED: usize = 100_000;

/// Calls of another instance.
#[derive(Default)]
pub(super) struct Remote {
    lowest_open: u64,
    /// Calls that were planned, with their answers once they are known.
    known: BTreeMap<u64, Option<WireAnswer>>,
    /// Parts of calls that are not whole.
    parts: HashMap<u64, Vec<Option<Bytes>>>,
}

impl Remote {
    /// The content of a call, once all its parts are there.
    fn whole(&mut self, call: &crate::engine::proposal::WireCall) -> Option<Bytes> {
        if call.parts <= 1 {
            return Some(call.content.clone());
        }
        let parts =
            self.parts.entry(call.counter).or_insert_with(|| vec![None; call.parts.min(1024) as usize]);
        *parts.get_mut(call.part as usize)? = Some(call.content.clone());
        if parts.iter().any(Option::is_none) {
            return None;
        }
        let parts = self.parts.remove(&call.counter)?;
        Some(parts.into_iter().flatten().flatten().collect())
    }
}

pub(super) fn remember(remotes: &mut HashMap<u64, Remote>, answers: &[Addressed]) {
    for Addressed { instance, answer, .. } in answers {
        let known = remotes.get_mut(instance).and_then(|remote| remote.known.get_mut(&answer.counter));
        if let Some(known) = known {
            *known = Some(answer.clone());
        }
    }
}

impl Node {
    pub(super) async fn receive_as_writer(
        &mut self,
        writing: &mut Writing,
        incoming: Incoming,
    ) -> Result<(), WriteError> {
        match incoming {
            Incoming::Calls { nonce, payload, reply } if nonce == self.chain.nonce() => {
                self.take_calls(writing, &payload, &reply).await;
                // Messages that have come meanwhile share the turn.
                let mut more = 0;
                while more < AT_ONCE
                    && writing.quiesce.is_none()
                    && let Ok(incoming) = self.incoming.try_recv()
                {
                    more += 1;
                    match incoming {
                        Incoming::Calls { nonce, payload, reply } if nonce == self.chain.nonce() => {
                            self.take_calls(writing, &payload, &reply).await;
                        }
                        Incoming::Vote(vote) => self.receive_vote(writing, vote).await?,
                        other => self.receive_other(other).await,
                    }
                }
                self.end_turn(writing).await;
            }
            Incoming::Vote(vote) => self.receive_vote(writing, vote).await?,
            other => self.receive_other(other).await,
        }
        Ok(())
    }

    async fn receive_vote(&mut self, writing: &mut Writing, vote: Bytes) -> Result<(), WriteError> {
        match WireVote::decode(vote) {
            Ok(vote) => self.take_vote(writing, &vote).await,
            Err(_) => Ok(()),
        }
    }

    pub(super) async fn receive_other(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Alive(payload) | Incoming::Heartbeat(payload) => {
                if let Ok(status) = WireStatus::decode(payload) {
                    self.note_peer(&status);
                }
            }
            Incoming::Ask { question, reply } => self.answer_candidate(question, reply).await,
            Incoming::Poll { question, reply } => self.answer_poll(question, reply).await,
            Incoming::Calls { .. }
            | Incoming::Vote(_)
            | Incoming::Answers(_)
            | Incoming::NobodyServes(_)
            | Incoming::TakeOver(_) => {}
        }
    }

    pub(super) async fn take_calls(&mut self, writing: &mut Writing, payload: &Bytes, reply: &str) {
        let Ok(message) = WireCalls::decode(payload.clone()) else { return };
        let WireCalls { instance, lowest_open, calls, member, vote } = message;
        let is_confirmed = self.is_confirmed(writing, &[(member, vote.map(Epoch))]);
        let remote = writing.remotes.entry(instance).or_default();
        remote.lowest_open = remote.lowest_open.max(lowest_open);
        remote.known = remote.known.split_off(&remote.lowest_open);
        while remote.known.len() > REMEMBERED {
            remote.known.pop_first();
        }
        let lowest = remote.lowest_open;
        remote.parts.retain(|counter, _| *counter >= lowest);
        let mut fresh = Vec::new();
        let mut again = Vec::new();
        for call in calls {
            // Its client has its answer, or the error that the outcome is unknown.
            if call.counter < lowest {
                continue;
            }
            match remote.known.get(&call.counter) {
                Some(Some(answer)) => {
                    again.push(Addressed { reply: reply.to_owned(), instance, answer: answer.clone() });
                }
                // Its record, or its answer, is on the way.
                Some(None) => {}
                None => {
                    let Some(content) = remote.whole(&call) else { continue };
                    let Some(proposal) = Proposal::decode(call.kind, content) else { continue };
                    remote.known.insert(call.counter, None);
                    fresh.push(Call {
                        operation: OperationId { instance, counter: call.counter },
                        proposal,
                        caller: Caller::from_parts(call.user, call.auth_revision),
                        deadline: Instant::now()
                            + Duration::from_millis(call.timeout_ms).min(crate::engine::REQUEST_TIMEOUT),
                        origin: Origin::Remote {
                            nonce: self.chain.nonce(),
                            reply: reply.to_owned(),
                            answers: self.answers.clone(),
                        },
                        is_confirmed,
                    });
                }
            }
        }
        if !again.is_empty() {
            self.send_answers(again).await;
        }
        for call in fresh {
            self.admit(writing, call).await;
        }
    }
}
