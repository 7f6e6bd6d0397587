//! Copies of the stream that lack messages, on servers of a cluster of embedded ones.
//!
//! All instances read the copy of the stream's leader. If a message is missing there, another copy may have
//! it: a file of one server was damaged, or its disk has lost something. Then another server is made the
//! leader. Only what no copy has is lost.

use crate::log::Log;
use crate::types::Sequence;
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The longest wait for a leader whose copy is not known to be damaged.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before the stream is looked at again.
const POLL: Duration = Duration::from_millis(100);

/// The servers that have such copies, as far as this instance has found out.
#[derive(Debug, Default)]
pub(super) struct DamagedCopies(Mutex<BTreeSet<String>>);

impl DamagedCopies {
    /// Whether a server has such a copy.
    pub(super) fn is_on(&self, server: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(server)
    }

    /// Lets another server lead the stream, because its leader lacks a message behind `position`. Returns
    /// whether there is one, whose copy this instance has not found to be damaged.
    pub(super) async fn leave(&self, log: &Log, position: Sequence) -> bool {
        let left = tokio::time::timeout(TIMEOUT, self.find_leader(log, position)).await;
        left.unwrap_or(false)
    }

    async fn find_leader(&self, log: &Log, position: Sequence) -> bool {
        let mut damaged = None;
        loop {
            let cluster = log.info().await.ok().and_then(|info| info.cluster);
            if let Some(cluster) = cluster
                && let Some(leader) = cluster.leader()
            {
                let damaged = damaged.get_or_insert_with(|| leader.to_owned());
                if leader != damaged && !self.is_on(leader) {
                    return true;
                }
                if self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(damaged.clone()) {
                    tracing::error!(
                        server = damaged, %position,
                        "the copy of the stream on this server lacks messages; another server is to lead the stream. Stop that \
                         member, remove its --data-dir, and start it again: it takes a copy from the others"
                    );
                }
                let others = cluster.replicas.iter().filter(|replica| !self.is_on(&replica.name));
                let mut whole = others.filter(|replica| replica.is_up_to_date());
                let Some(next) = whole.next() else { return false };
                if let Err(error) = log.step_down(&next.name).await {
                    tracing::debug!(%error, server = next.name, "the stream has the same leader yet");
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }
}
