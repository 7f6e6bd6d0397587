//! Begins and ends to share the log with other instances, while this one serves.

use super::node::{Command, PeerLinks};
use super::{Engine, StartError};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the last member waits at least and at most until those that were removed know that.
const KNOWN_AFTER: Duration = Duration::from_millis(2500);
const KNOWN_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a removed member waits for the last one.
const PART_TIMEOUT: Duration = Duration::from_secs(20);

impl Engine {
    /// Shares the log with other instances, or keeps it alone, from the next epoch on. Calls wait meanwhile.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) async fn set_alone(&self, is_alone: bool) -> Result<(), StartError> {
        let links = if is_alone {
            None
        } else {
            let members = Some(&self.tables.members);
            Some(Box::new(PeerLinks::open(&self.log, &self.own, self.start, members).await?))
        };
        let (done, is_shared) = oneshot::channel();
        if self.commands.send(Command::Share(links, done)).await.is_ok() {
            drop(is_shared.await);
        }
        Ok(())
    }

    /// Waits until the other instances, which are no members any more, have read that in the log. One that is
    /// not heard of is not waited for.
    pub(crate) async fn await_removals_known(&self) {
        const POLL: Duration = Duration::from_millis(100);
        let index = self.reader.snapshot().log_index;
        let known = async {
            // Two of their signs of life.
            tokio::time::sleep(KNOWN_AFTER).await;
            loop {
                let (answer, reached) = oneshot::channel();
                drop(self.commands.send(Command::Reached(index, answer)).await);
                if reached.await.unwrap_or(true) {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        drop(tokio::time::timeout(KNOWN_TIMEOUT, known).await);
    }

    /// Waits until other members can join this one, which was alone.
    pub(crate) async fn await_joinable(&self) {
        const POLL: Duration = Duration::from_millis(20);
        while self.mode.is_alone() || self.mode.is_moving() {
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the last member, which stays without this one, has the stream for itself. Until then its
    /// server needs this one's for a majority.
    pub(crate) async fn await_sole_member(&self) {
        const POLL: Duration = Duration::from_millis(100);
        const ANSWER: Duration = Duration::from_secs(1);
        let is_needed = || self.tables.members.all().len() == 1;
        let is_there = async || matches!(tokio::time::timeout(ANSWER, self.log.info()).await, Ok(Ok(_)));
        let parting = async {
            // One answer may be lost.
            while is_needed() && (is_there().await || is_there().await) {
                tokio::time::sleep(POLL).await;
            }
        };
        drop(tokio::time::timeout(PART_TIMEOUT, parting).await);
    }
}
