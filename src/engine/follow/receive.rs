//! Messages of other instances, and what this one reports to them.

use super::Following;
use crate::engine::apply::Entry;
use crate::engine::node::Node;
use crate::engine::proposal::{WireAnswers, WireQuestion, WireStatus, WireVote};
use crate::log::Incoming;
use crate::types::{Epoch, LogIndex};
use bytes::Bytes;
use prost::Message as _;
use std::time::Duration;
use tokio::time::Instant;

/// How often this instance sends its status to the others.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that are kept for the time when this instance writes. More are lost, and sent again.
const EARLY_CALLS: usize = 1024;

impl Node {
    pub(super) async fn receive(&mut self, following: &mut Following, incoming: Incoming) {
        match incoming {
            Incoming::Heartbeat(payload) => {
                let Ok(status) = WireStatus::decode(payload) else { return };
                if status.nonce == self.chain.nonce() && self.is_of_this_instance() {
                    // This instance has sent it before it stopped writing.
                    return;
                }
                self.note_peer(&status);
                following.pace.writer_is_heard();
                if status.nonce == self.chain.nonce() {
                    following.heard = Instant::now();
                    following.is_writer_gone = false;
                    following.writer_index = LogIndex(status.index);
                    if self.is_loaded {
                        let digest = crate::record::Digest(status.digest);
                        self.entry(Entry::Compare(LogIndex(status.index), digest)).await;
                    }
                }
            }
            Incoming::Alive(payload) => {
                if let Ok(status) = WireStatus::decode(payload) {
                    self.note_peer(&status);
                }
            }
            Incoming::Calls { nonce, .. } if self.is_own(nonce) && self.early_calls.len() < EARLY_CALLS => {
                self.early_calls.push(incoming);
            }
            // These are for the writer of an epoch that is over. It answers nothing any more.
            Incoming::Calls { .. } | Incoming::Vote(_) => {}
            Incoming::Answers(payload) => {
                if let Ok(WireAnswers { answers }) = WireAnswers::decode(payload) {
                    for answer in answers {
                        self.answer(answer).await;
                    }
                    self.send_calls(following).await;
                }
            }
            Incoming::NobodyServes(nonce) => {
                if nonce == self.chain.nonce()
                    && following.heard.elapsed() > 3 * self.settings.heartbeat_interval
                {
                    following.is_writer_gone = true;
                }
                self.mark_unsent(nonce);
                if nonce == self.chain.nonce() {
                    following.ready_sent = None;
                }
            }
            Incoming::TakeOver(payload) => {
                let nonce = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                if nonce == Some(self.chain.nonce()) && self.is_ready {
                    following.must_take_over = true;
                    following.next_attempt = Instant::now();
                }
            }
            Incoming::Ask { question, reply } => self.answer_candidate(question, reply).await,
            Incoming::Poll { question, reply } => self.answer_poll(question, reply).await,
        }
    }

    /// Gives a candidate the promise that it needs, and reports the position of this instance.
    pub(in crate::engine) async fn answer_candidate(&mut self, question: Bytes, reply: String) {
        let Ok(question) = WireQuestion::decode(question) else { return };
        if question.instance == self.start {
            return;
        }
        self.promise(Epoch(question.epoch));
        let needs_promise = question.epoch > 0;
        if let Some(messenger) = self.messenger.as_ref().filter(|_| self.is_ready || needs_promise) {
            let index = self.reader.snapshot().log_index;
            messenger.answer(reply, self.wire_status(index, crate::record::Digest(0)).encode_to_vec()).await;
        }
    }

    /// Votes, if the writer of another instance asks for it.
    pub(in crate::engine) async fn answer_poll(&self, question: Bytes, reply: String) {
        if let Ok(question) = WireQuestion::decode(question)
            && question.instance != self.start
            && let Some(messenger) = &self.messenger
        {
            let epoch = self.vote().map(|epoch| epoch.0);
            let vote = WireVote { member: self.settings.member.id, epoch, poll: question.poll };
            messenger.answer(reply, vote.encode_to_vec()).await;
        }
    }

    pub(in crate::engine) async fn send_status(&mut self) {
        if self.last_alive.is_none_or(|last| last.elapsed() >= ALIVE_INTERVAL)
            && !self.is_leaving
            && let Some(messenger) = &self.messenger
        {
            let status = self.wire_status(self.reader.snapshot().log_index, crate::record::Digest(0));
            messenger.alive(status.encode_to_vec()).await;
            self.last_alive = Some(Instant::now());
        }
    }
}
