//! Becoming the writer: an epoch record behind everything that was read.

use super::source::Source;
use super::{Following, LOSS_CONFIRMATIONS, RETRY_MIN};
use crate::engine::apply::Entry;
use crate::engine::failure::Loss;
use crate::engine::leader_watch::Look;
use crate::engine::node::{Node, NodeError};
use crate::engine::proposal::{Waiter, WireQuestion, WireStatus};
use crate::engine::votes::Voters;
use crate::log::{AppendError, Messenger, Pipeline, Serving, StandbyError, WireError};
use crate::record::{Body, EpochStart, FORMAT, Member, Record};
use crate::types::{Epoch, LogIndex, Sequence};
use futures_util::StreamExt as _;
use prost::Message as _;
use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// How long a candidate waits for the other instances' answers.
const ASK_TIMEOUT: Duration = Duration::from_millis(150);
/// How long a candidate waits for the promises that it needs.
const PROMISE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the leader of a stream may count messages that it cannot store, because most replicas are away.
/// nats-server looks every 10 s whether they were silent for 10 s.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(25);
/// The pause between attempts that find the stream too short.
const SHORT_PAUSE: Duration = Duration::from_millis(300);

/// The pause between questions to a standby that does not let this instance write.
const STANDBY_PAUSE: Duration = Duration::from_millis(250);

/// The questions of a candidate to the other instances.
struct Candidacy {
    instance: u64,
    member: u64,
    epoch: Epoch,
    asks_for_promises: bool,
    needs_promises: bool,
    /// The number of instances that the candidate waits for, up to [`ASK_TIMEOUT`].
    others: usize,
}

impl Candidacy {
    /// Asks for promises and positions; returns the furthest position of a ready instance.
    async fn ask(&self, messenger: &Messenger, voters: &Voters) -> Result<LogIndex, AttemptError> {
        let epoch = if self.asks_for_promises { self.epoch.0 } else { 0 };
        let question = WireQuestion { instance: self.instance, epoch, poll: 0 };
        let answers = messenger.ask(question.encode_to_vec()).await;
        let mut answers = answers.map_err(|error| AttemptError::Other(error.to_string()))?;
        let asked = Instant::now();
        let (mut promised, mut furthest, mut count) = (BTreeSet::from([self.member]), LogIndex::NONE, 0);
        loop {
            let is_promised = !self.needs_promises || voters.permit(promised.iter().copied());
            if is_promised && count >= self.others {
                return Ok(furthest);
            }
            let timeout = if is_promised { ASK_TIMEOUT } else { PROMISE_TIMEOUT };
            match tokio::time::timeout_at(asked + timeout, answers.next()).await {
                Ok(Some(answer)) => {
                    let Ok(status) = WireStatus::decode(answer) else { continue };
                    count += 1;
                    if status.is_ready {
                        furthest = furthest.max(LogIndex(status.index));
                    }
                    if status.promised >= self.epoch.0
                        && let Ok(member) = serde_json::from_slice::<Member>(&status.member)
                    {
                        promised.insert(member.id);
                    }
                }
                _ if is_promised => return Ok(furthest),
                _ => {
                    return Err(AttemptError::Other(
                        "a new leader needs the votes of most members, and too few answer".into(),
                    ));
                }
            }
        }
    }
}

/// An attempt to become the writer.
pub(super) struct Attempt {
    pub(super) task: JoinHandle<Result<Elected, AttemptError>>,
}

/// A connection on which an epoch record was acknowledged.
pub(in crate::engine) struct Elected {
    pub(in crate::engine) pipeline: Pipeline<Waiter>,
    pub(in crate::engine) serving: Option<Serving>,
    /// Why this instance wanted to write, for the log.
    pub(in crate::engine) reason: &'static str,
    /// The leader of the stream before the epoch record was sent.
    pub(in crate::engine) look: Option<Look>,
}

pub(super) enum AttemptError {
    /// Another instance has applied more than this one has read.
    Behind(LogIndex),
    /// The log ends later than the guard. The first message behind the guard exists or not.
    Refused {
        end: Sequence,
        has_next: bool,
    },
    /// The stream ends before what this instance has read.
    Short(Sequence),
    Append(AppendError),
    Wire(WireError),
    /// The standby does not let this instance write.
    Standby(StandbyError),
    Other(String),
}

impl Node {
    pub(super) fn wants_to_lead(&self, following: &Following) -> bool {
        let is_whole = self.chain.is_whole() && following.is_caught_up;
        let is_free = self.mode.is_alone()
            || self.chain.epoch() == Epoch(0)
            || following.is_writer_gone
            || following.must_take_over
            || following.heard.elapsed() > following.takeover_timeout;
        let may_write = self.is_member() && self.read_only().is_none();
        is_whole && is_free && following.elected.is_none() && !self.is_leaving && may_write
    }

    /// Why this instance wants to write, for the log.
    fn reason_to_lead(&self, following: &Following) -> &'static str {
        if self.mode.is_alone() {
            "no other instance can"
        } else if self.chain.epoch() == Epoch(0) {
            "the bucket is new"
        } else if following.must_take_over {
            "the writer has asked for it"
        } else if self.is_of_this_instance() {
            "it was the last one that wrote"
        } else if following.is_writer_gone {
            "nobody receives the calls to the writer"
        } else {
            "the writer was silent for an election timeout"
        }
    }

    /// Tries to store an epoch record behind everything that was read.
    pub(super) fn attempt(&mut self, following: &mut Following) {
        let nonce = rand::random::<u64>();
        self.nonces.push(nonce);
        let reason = self.reason_to_lead(following);
        following.reason = reason;
        let end = following.forced_end.take().unwrap_or(self.chain.position());
        let (digest, entries) = (tokio::sync::oneshot::channel(), self.entries.clone());
        let record = Record {
            epoch: self.chain.next_epoch(),
            nonce,
            index: self.chain.index().next(),
            // Nothing is published while the log is being loaded.
            revision: self.chain.revision().max(self.reader.snapshot().revision),
            place: 1,
            count: 1,
            operation: self.next_operation(),
            body: Body::Barrier,
        };
        let start = EpochStart {
            instance: self.start,
            format: FORMAT,
            member: self.settings.member.clone(),
            election_timeout_ms: self.settings.election_timeout.as_millis() as u64,
            quota_bytes: self.settings.quota_bytes,
            digest: crate::record::Digest(0),
        };
        let (log, messenger) = (Arc::clone(&self.log), self.messenger.clone());
        let is_asking = !following.must_take_over;
        let asks_for_promises = self.mode.is_in_cluster() && !self.is_of_this_instance();
        if asks_for_promises {
            self.promise(record.epoch);
        }
        let candidacy = Candidacy {
            instance: self.start,
            member: self.settings.member.id,
            epoch: record.epoch,
            asks_for_promises,
            // The operator who accepts a loss decides alone.
            needs_promises: asks_for_promises && !self.chain.is_accepting(),
            others: if is_asking { self.peers.len() } else { 0 },
        };
        let (mode, tables) = (Arc::clone(&self.mode), self.tables.clone());
        let index = self.chain.index();
        let timeout = self.settings.election_timeout.max(Duration::from_secs(2));
        tracing::debug!(epoch = %record.epoch, %end, "trying to become the writer");
        let task = tokio::spawn(async move {
            let (sender, receiver) = digest;
            drop(entries.send(Entry::End).await);
            drop(entries.send(Entry::Digest(sender)).await);
            let (applied, digest) =
                receiver.await.map_err(|_| AttemptError::Other("the applier has ended".into()))?;
            if applied != index {
                return Err(AttemptError::Other("something came in between".into()));
            }
            let serving = match &messenger {
                Some(messenger) => {
                    let serving = messenger.serve(nonce).await;
                    Some(serving.map_err(|error| AttemptError::Other(error.to_string()))?)
                }
                None => None,
            };
            if let Some(messenger) = messenger.filter(|_| is_asking || asks_for_promises) {
                // Everything up to the guard is applied.
                let furthest = candidacy.ask(&messenger, &Voters::of(&mode, &tables)).await?;
                if is_asking && furthest > index {
                    return Err(AttemptError::Behind(furthest));
                }
            }
            let look = Look::take(&log).await;
            // Asked last, since a promotion from now on would find the epoch record in the log or not at all.
            log.check_standby().await.map_err(AttemptError::Standby)?;
            let body = Body::Epoch(Box::new(EpochStart { digest, ..start }));
            let mut pipeline: Pipeline<Waiter> = log.append_behind(end).await.map_err(AttemptError::Wire)?;
            pipeline.append(Record { body, ..record }, None);
            let mut emitted = Vec::new();
            let has_other_leader = async {
                match &look {
                    Some(look) => look.changed(&log).await,
                    None => pending().await,
                }
            };
            let stored = tokio::select! {
                stored = tokio::time::timeout(timeout, pipeline.next(&mut emitted)) => stored,
                () = has_other_leader => {
                    return Err(AttemptError::Other("the stream has another leader now".into()));
                }
            };
            match stored {
                Ok(Ok(())) => Ok(Elected { pipeline, serving, reason, look }),
                Ok(Err(AppendError::Refused { end: Some(stored), .. })) if stored > end => {
                    let has_next = log.has_message_behind(end).await.unwrap_or(true);
                    Err(AttemptError::Refused { end: stored, has_next })
                }
                Ok(Err(AppendError::Refused { end: Some(stored), .. })) if stored < end => {
                    Err(AttemptError::Short(stored))
                }
                Ok(Err(error)) => Err(AttemptError::Append(error)),
                Err(_) => Err(AttemptError::Append(AppendError::Late)),
            }
        });
        following.attempt = Some(Attempt { task });
    }

    pub(super) fn attempted(
        &mut self,
        following: &mut Following,
        outcome: Result<Elected, AttemptError>,
    ) -> Result<(), NodeError> {
        following.attempt = None;
        following.next_attempt = Instant::now() + Duration::from_millis(rand::random_range(20..120));
        match outcome {
            // The consumer brings the record.
            Ok(elected) => following.elected = Some(elected),
            Err(AttemptError::Refused { end, has_next: false }) if end > self.chain.position() => {
                // The leader of several replicas counts messages that most of them do not have yet, until it
                // notices that it has lost the others. Only one that stays away longer is lost. In a cluster
                // of embedded servers a single copy may be what a change of their number has begun.
                let may_come = !self.mode.is_alone() && (self.log.copies() > 1 || self.mode.is_in_cluster());
                let since = *following.uncommitted.get_or_insert_with(Instant::now);
                if may_come && since.elapsed() < QUORUM_TIMEOUT {
                    following.next_attempt = Instant::now() + SHORT_PAUSE;
                    self.leave_if_stuck(following);
                } else if self.settings.accepts_loss && !self.is_loaded {
                    following.forced_end = Some(end);
                } else {
                    let position = self.chain.position();
                    return Err(NodeError::Fatal(Loss::NothingBehind { end, position }.into()));
                }
            }
            Err(AttemptError::Behind(index)) => {
                following.shorter_logs += 1;
                tracing::warn!(here = %self.chain.index(), there = %index, "another instance has applied more of the log");
                if following.shorter_logs >= LOSS_CONFIRMATIONS {
                    let loss = Loss::Tail { here: self.chain.index(), there: index };
                    return Err(NodeError::Fatal(loss.into()));
                }
                following.next_attempt = Instant::now() + self.settings.election_timeout;
                if self.log.facts().replicas > 1 {
                    // The consumer may be that of a server that the others have lost.
                    self.log.try_another_server();
                    following.is_caught_up = false;
                    following.source = Source::Pausing(Instant::now());
                }
            }
            Err(AttemptError::Refused { .. }) => {}
            Err(AttemptError::Short(end)) => {
                following.shorter_logs += 1;
                tracing::warn!(%end, here = %self.chain.position(), "the stream ends before what this instance has read");
                if following.shorter_logs >= LOSS_CONFIRMATIONS {
                    let position = self.chain.position();
                    return Err(NodeError::Fatal(Loss::EndsBeforePosition { end, position }.into()));
                }
                following.next_attempt = Instant::now() + self.settings.election_timeout.min(SHORT_PAUSE);
            }
            Err(AttemptError::Append(AppendError::NoSpace(cause))) => {
                self.space.found_full(&cause);
                tracing::warn!(cause, "JetStream has no room for an epoch record");
                following.next_attempt = Instant::now() + Duration::from_millis(500);
            }
            Err(error) => {
                if let AttemptError::Append(AppendError::Late | AppendError::NoLeader) = error {
                    self.leave_if_stuck(following);
                }
                if let AttemptError::Wire(WireError::Server(text))
                | AttemptError::Append(AppendError::Wire(WireError::Server(text))) = &error
                {
                    self.report_refusal(text);
                    self.status.set_no_leader(format!("NATS reports: {text}"));
                }
                let cause = match error {
                    AttemptError::Append(error) => error.to_string(),
                    AttemptError::Wire(error) => error.to_string(),
                    AttemptError::Standby(error) => {
                        let reason = error.to_string();
                        self.status.set_no_leader(reason.clone());
                        self.report_refusal(&reason);
                        following.next_attempt = Instant::now() + STANDBY_PAUSE;
                        reason
                    }
                    AttemptError::Other(cause) => cause,
                    AttemptError::Refused { .. } | AttemptError::Behind(_) | AttemptError::Short(_) => {
                        String::new()
                    }
                };
                tracing::debug!(cause, "this instance does not write yet");
                following.trouble = Some(cause);
            }
        }
        Ok(())
    }

    /// This instance's epoch record is valid, and everything before it was sent to the applier.
    pub(super) async fn become_writer(&mut self, following: &mut Following) -> Result<Elected, NodeError> {
        if let Some(attempt) = following.attempt.take()
            && let Ok(Ok(elected)) = attempt.task.await
        {
            following.elected = Some(elected);
        }
        let end = self.chain.position();
        let elected =
            following.elected.take().filter(|elected| elected.pipeline.next_sequence() == end.next());
        match elected {
            Some(elected) => Ok(elected),
            // The acknowledgement is lost, or something stands behind the record.
            None => loop {
                match self.log.append_behind(end).await {
                    Ok(pipeline) => {
                        let serving = match &self.messenger {
                            Some(messenger) => messenger.serve(self.chain.nonce()).await.ok(),
                            None => None,
                        };
                        return Ok(Elected { pipeline, serving, reason: following.reason, look: None });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no connection to append on yet");
                        self.keep_deadlines();
                        tokio::time::sleep(RETRY_MIN).await;
                    }
                }
            },
        }
    }
}

pub(super) async fn outcome_of(attempt: &mut Option<Attempt>) -> Result<Elected, AttemptError> {
    match attempt {
        Some(attempt) => match (&mut attempt.task).await {
            Ok(outcome) => outcome,
            Err(error) => Err(AttemptError::Other(error.to_string())),
        },
        None => pending().await,
    }
}
