//! Reading the log: the events of the consumer, up to the state in which this instance serves.

use super::source::{FromSource, Source};
use super::{Following, LOSS_CONFIRMATIONS, RETRY_MAX, RETRY_MIN};
use crate::engine::apply::Entry;
use crate::engine::failure::{DataError, Mismatch};
use crate::engine::node::{Node, NodeError};
use crate::engine::status::Phase;
use crate::log::{ConsumeError, Delivered, ReadOnly, WireError};
use std::time::Duration;
use tokio::time::Instant;

impl Node {
    /// Handles an event of the consumer.
    pub(super) async fn read(
        &mut self,
        following: &mut Following,
        event: FromSource,
    ) -> Result<(), NodeError> {
        match event {
            FromSource::Opened { pending } => self.opened(following, pending),
            FromSource::Delivered(delivered) => self.delivered(following, delivered).await?,
            FromSource::Lost { mismatch, is_certain } => self.lost(following, mismatch, is_certain)?,
            FromSource::Failed(error) => self.failed(following, &error),
            FromSource::Paused => {
                self.entry(Entry::ServerChanged).await;
                self.renew_consumer(following);
            }
        }
        Ok(())
    }

    /// A consumer was made. `pending` messages stand behind what was read.
    fn opened(&mut self, following: &mut Following, pending: u64) {
        following.is_caught_up = pending == 0;
        following.pace.opened(pending);
        following.losses = 0;
        following.failing = None;
        if !self.is_loaded {
            let of = self.loaded_messages + pending;
            if of > 0 {
                tracing::info!(messages = of, "loading the log");
            }
            self.status.set_phase(Phase::Loading { messages: self.loaded_messages, of: Some(of) });
        }
    }

    async fn delivered(&mut self, following: &mut Following, delivered: Delivered) -> Result<(), NodeError> {
        let Delivered { messages, is_last } = delivered;
        if following.is_caught_up || self.is_ready {
            following.heard = Instant::now();
        }
        following.pause = RETRY_MIN;
        following.delivered = Instant::now();
        following.trouble = None;
        following.is_caught_up = is_last;
        if !self.is_loaded {
            self.loaded_messages += messages.len() as u64;
            self.report_progress(following);
        }
        if !messages.is_empty() {
            following.shorter_logs = 0;
            following.uncommitted = None;
            following.stuck = None;
        }
        following.pace.delivered(messages.len() as u64, is_last);
        let before = self.chain.epoch();
        let barriers = self.take(messages).await?;
        if self.chain.epoch() != before {
            // There is another writer than the one that was given up.
            following.is_writer_gone = self.is_of_this_instance();
            following.must_take_over = false;
            following.heard =
                if following.is_caught_up || self.is_ready { Instant::now() } else { following.heard };
            following.ready_sent = None;
        }
        let is_ready = |operation: &crate::record::OperationId| {
            operation.instance == self.start && Some(operation.counter) == following.ready_counter
        };
        if barriers.iter().any(is_ready) {
            following.ready_counter = None;
            self.ready().await?;
        }
        self.send_calls(following).await;
        Ok(())
    }

    /// The server's log does not fit what was read.
    fn lost(
        &mut self,
        following: &mut Following,
        mismatch: Mismatch,
        is_certain: bool,
    ) -> Result<(), NodeError> {
        following.losses += 1;
        // While the number of copies of embedded servers changes, the single one may be behind.
        let has_one_copy = self.log.copies() == 1 && !self.mode.is_in_cluster();
        // A mirror gets lost messages again from its origin, at the same sequences.
        let is_mirror = matches!(self.read_only(), Some(ReadOnly::Mirror { .. }));
        let is_lasting = has_one_copy || following.losses >= LOSS_CONFIRMATIONS;
        let is_certain = is_certain || is_lasting && !is_mirror;
        if is_certain && !self.mode.is_moving() {
            return Err(NodeError::Fatal(DataError::Replaced(mismatch)));
        }
        tracing::warn!(what = mismatch.to_string(), "the log seems to have lost records");
        following.source = Source::Pausing(Instant::now() + following.pause);
        following.pause = (following.pause * 2).min(RETRY_MAX);
        Ok(())
    }

    fn failed(&mut self, following: &mut Following, error: &ConsumeError) {
        if let ConsumeError::Wire(WireError::Server(text)) = error {
            self.report_refusal(text);
        }
        tracing::debug!(%error, position = %self.chain.position(), "the log cannot be read now");
        if self.mode.is_alone() || !self.is_ready {
            self.status.set_no_leader(error.to_string());
        }
        following.trouble = Some(error.to_string());
        self.log.try_another_server();
        let failing = following.failing.get_or_insert_with(Instant::now);
        if failing.elapsed() > 2 * self.settings.election_timeout {
            // The requests for consumers may go to a server that has lost its cluster.
            self.log.connection().leave_server();
        }
        following.is_caught_up = false;
        following.source = Source::Pausing(Instant::now() + following.pause);
        following.pause = (following.pause * 2).min(RETRY_MAX);
    }

    /// Logs a refusal of NATS once, such as a right that is missing.
    pub(super) fn report_refusal(&mut self, text: &str) {
        if self.reported_refusal.as_deref() != Some(text) {
            tracing::warn!(refusal = text, "NATS refuses what this instance does");
            self.reported_refusal = Some(text.to_owned());
        }
    }

    fn report_progress(&self, following: &mut Following) {
        let known = self.status.phase().borrow().clone();
        if let Phase::Loading { of, .. } = known {
            self.status.set_phase(Phase::Loading { messages: self.loaded_messages, of });
            if following.reported.elapsed() >= Duration::from_secs(2) {
                following.reported = Instant::now();
                tracing::info!(messages = self.loaded_messages, of, "still loading the log");
            }
        }
    }

    /// The barrier of this instance has come, so it has read everything that the log held when it asked.
    pub(super) async fn ready(&mut self) -> Result<(), NodeError> {
        if self.chain.is_accepting() {
            tracing::warn!(
                "another instance writes this log, so that no loss is accepted here; it is read once more"
            );
            self.settings.accepts_loss = false;
            return Err(NodeError::Differs);
        }
        self.is_ready = true;
        // The writer may hand over to this instance from now on.
        self.last_alive = None;
        self.send_status().await;
        self.loaded().await?;
        self.begin_serving();
        Ok(())
    }

    pub(in crate::engine) async fn loaded(&mut self) -> Result<(), NodeError> {
        if !self.is_loaded {
            self.is_loaded = true;
            let first = self.log.facts().before_first.next().max(self.chain.trim_sequence());
            let holes = self.chain.holes();
            self.entry(Entry::Loaded { first, holes }).await;
            // The applier publishes everything before it answers. It gives no answer where something is lost
            // or damaged.
            if self.digest().await.is_none() {
                return Err(self.end_of_applier().await);
            }
            self.settings.mark = None;
            // A later loss needs another start with the flag.
            self.settings.accepts_loss = false;
            let state = self.reader.snapshot();
            tracing::info!(revision = %state.revision, index = %state.log_index, keys = state.index.live(), "everything is loaded");
        }
        Ok(())
    }

    /// Client requests are served from now on.
    pub(in crate::engine) fn begin_serving(&self) {
        self.status.set_phase(Phase::Serving);
    }
}
