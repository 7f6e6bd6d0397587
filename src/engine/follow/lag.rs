//! An instance that gets no further: it makes another consumer, reads from another server, or leaves it.

use super::source::Source;
use super::{DELIVERY_SILENCE, Following, OPENING_PAUSES, RETRY_MIN};
use crate::engine::node::Node;
use std::time::Duration;
use tokio::time::Instant;

/// Silence of the consumer after which the end of the log is looked for.
const END_SILENCE: Duration = Duration::from_secs(1);

impl Node {
    /// Finds the end of a log whose store is damaged: it counts messages that it cannot deliver, so the count
    /// proves nothing.
    pub(super) async fn find_end(&self, following: &mut Following) {
        if !self.mode.is_alone()
            || following.is_caught_up
            || !matches!(following.source, Source::Reading(_))
            || following.delivered.elapsed() < END_SILENCE
        {
            return;
        }
        following.delivered = Instant::now();
        let position = self.chain.position();
        if matches!(self.log.has_message_behind(position).await, Ok(false)) {
            tracing::warn!(%position, "nats-server counts messages that it does not deliver");
            following.is_caught_up = true;
        }
    }

    /// An instance that stays behind the writer reads from another server. If nothing at all is delivered, it
    /// first makes another consumer: a direct one does not outlive the stream leader that made it, and its
    /// heartbeats would be missed much later.
    pub(super) fn watch_lag(&mut self, following: &mut Following) {
        let index = self.chain.index();
        let is_behind = index < following.writer_index || following.elected.is_some();
        if is_behind
            && matches!(following.source, Source::Reading(_))
            && following.delivered.elapsed() > following.silence
            && following.renewed.elapsed() > following.silence
        {
            tracing::debug!(%index, writer = %following.writer_index, "nothing is delivered; another consumer is made");
            following.renewed = Instant::now();
            following.silence = (following.silence * 2).min(2 * self.settings.election_timeout);
            self.renew_consumer(following);
        }
        if index > following.progress.0 || index >= following.writer_index {
            following.progress = (index, Instant::now());
            following.silence = DELIVERY_SILENCE;
        } else if following.progress.1.elapsed() > 2 * self.settings.election_timeout
            && matches!(following.source, Source::Reading(_))
        {
            tracing::warn!(%index, writer = %following.writer_index, "this instance lags; it reads from another server");
            self.log.try_another_server();
            following.progress.1 = Instant::now();
            self.renew_consumer(following);
        }
    }

    /// Leaves a server whose stream stores nothing: the cluster may have lost it, and have another leader.
    pub(super) fn leave_if_stuck(&mut self, following: &mut Following) {
        let stuck = following.stuck.get_or_insert_with(Instant::now);
        if self.log.facts().replicas > 1 && stuck.elapsed() > 2 * self.settings.election_timeout {
            following.stuck = None;
            self.leave_server(following);
        }
    }

    /// Leaves the server, and makes a consumer on the next one.
    pub(super) fn leave_server(&mut self, following: &mut Following) {
        self.log.connection().leave_server();
        following.is_caught_up = false;
        following.source = Source::Pausing(Instant::now() + RETRY_MIN);
    }

    /// Makes another consumer, and forgets the attempts to become the writer that were made under the last
    /// one: their epoch records prove nothing about the end of another server's copy.
    pub(super) fn renew_consumer(&mut self, following: &mut Following) {
        if let Some(attempt) = following.attempt.take() {
            attempt.task.abort();
        }
        following.elected = None;
        self.nonces.clear();
        (following.ready_counter, following.ready_sent) = (None, None);
        let timeout = following.pause * OPENING_PAUSES;
        following.source = Source::open(&self.log, &self.chain, timeout, following.pace.bytes());
    }
}
