//! Messages of other instances, and what this one reports to them.

use super::Following;
use crate::engine::apply::Entry;
use crate::engine::node::Node;
use crate::engine::proposal::{WireAnswers, WireLife};
use crate::log::Incoming;
use crate::types::LogIndex;
use prost::Message as _;
use std::time::Duration;
use tokio::time::Instant;

/// How often this instance tells the writer that it lives.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

impl Node {
    pub(super) async fn hear(&mut self, following: &mut Following, incoming: Incoming) {
        match incoming {
            Incoming::Heartbeat(payload) => {
                let Ok(life) = WireLife::decode(payload) else { return };
                self.hear_of(&life);
                if life.nonce == self.chain.nonce() {
                    following.heard = Instant::now();
                    following.is_writer_gone = false;
                    following.writer_index = LogIndex(life.index);
                    if self.is_loaded {
                        let digest = crate::record::Digest(life.digest);
                        self.entry(Entry::Compare(LogIndex(life.index), digest)).await;
                    }
                }
            }
            Incoming::Alive(payload) => {
                if let Ok(life) = WireLife::decode(payload) {
                    self.hear_of(&life);
                }
            }
            // Calls to an epoch that is over: its writer here answers nothing any more.
            Incoming::Calls { .. } => {}
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
                self.unsend(nonce);
                if nonce == self.chain.nonce() {
                    following.ready_sent = None;
                }
            }
            Incoming::TakeOver(payload) => {
                let nonce = payload.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                if nonce == Some(self.chain.nonce()) && self.is_ready {
                    following.is_told_to_lead = true;
                    following.next_attempt = Instant::now();
                }
            }
            Incoming::Ask { reply } => self.tell_index(reply).await,
        }
    }

    pub(in crate::engine) async fn tell_index(&self, reply: String) {
        if let (true, Some(courier)) = (self.is_ready, &self.courier) {
            let index = self.reader.snapshot().log_index;
            courier.answer(reply, self.life(index, crate::record::Digest(0)).encode_to_vec()).await;
        }
    }

    pub(in crate::engine) async fn tell_that_alive(&mut self) {
        if self.last_alive.is_none_or(|last| last.elapsed() >= ALIVE_INTERVAL)
            && !self.is_leaving
            && let Some(courier) = &self.courier
        {
            let life = self.life(self.reader.snapshot().log_index, crate::record::Digest(0));
            courier.alive(life.encode_to_vec()).await;
            self.last_alive = Some(Instant::now());
        }
    }
}
