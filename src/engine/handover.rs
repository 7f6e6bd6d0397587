//! Rolling restarts of a cluster's members: the stream always has a leader, or finds one at once.
//!
//! nats-server hands a stream over by itself when it stops, to any server that it has heard of. One that has
//! just started does not take it, and the stream then has no leader for NATS' election timeout of 4 to 9 s.
//! Hence two rules:
//!
//! - A member that stops chooses the successor: the writer's server, else another one, and only one whose
//!   copy is complete.
//! - A member that starts is not ready before its own copy is complete. The leader calls a copy current as
//!   soon as its server has the newest entries, even if the server still waits for the messages before them.
//!   So the server itself is asked, too: only applied entries count. A member that should have a copy and has
//!   no place for one yet waits too.

use super::Engine;
use crate::engine::missing_copies::missing;
use crate::log::{Auth, Cluster, Log, MetadataGroup, StreamInfo};
use std::time::{Duration, Instant};

/// Longest wait for another leader of the stream.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause before the stream is looked at again.
const POLL: Duration = Duration::from_millis(20);
/// The same while the stream has no place for the copy, which may take minutes.
const PLACE_POLL: Duration = Duration::from_millis(200);
/// Longest wait of a start for the server's own copy; a copy of a lost disk may take longer.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);

impl Engine {
    /// Waits until this member's server holds all that the stream's leader has, if it has a place for a copy
    /// or should have one. `started` is the time of its start.
    pub(crate) async fn copied(&self, started: Instant) {
        let mut has_place = true;
        if !self.mode.is_in_cluster()
            || tokio::time::timeout(COPY_TIMEOUT, self.find_copy(started, &mut has_place)).await.is_ok()
        {
            return;
        }
        if has_place {
            tracing::warn!(
                "this server's copy of the stream is not complete yet; another one may not stop now. If it stays so, and most \
                 of the other members serve, stop this member, remove its --data-dir, and start it again"
            );
        } else {
            tracing::warn!(
                "this member serves without a copy of the stream on its own server, which NATS has not taken in yet; another \
                 member may not stop now. If this member's name was removed before, NATS takes it back about five minutes after the \
                 removal; a new name avoids that"
            );
        }
    }

    /// `has_place` becomes whether the stream has a place for the copy.
    async fn find_copy(&self, started: Instant, has_place: &mut bool) {
        let own = self.own_name();
        let mut copy = OwnCopy::default();
        loop {
            let info = self.log.info().await.ok();
            let lacks_place = info.as_ref().is_some_and(|info| self.lacks_place(info, own.as_deref()));
            if let Some(cluster) = info.and_then(|info| info.cluster).filter(|of| of.leader().is_some()) {
                *has_place = !lacks_place;
                match cluster.replicas.iter().find(|replica| Some(&replica.name) == own.as_ref()) {
                    Some(replica) => {
                        // The leader may have heard last of the process before this one.
                        let is_current = replica.is_up_to_date() && replica.last_heard() < started.elapsed();
                        if is_current
                            && copy.has_applied(&self.log, self.system.as_ref(), cluster.raft_group).await
                        {
                            return;
                        }
                    }
                    None if lacks_place => {}
                    None => return,
                }
            }
            tokio::time::sleep(if *has_place { POLL } else { PLACE_POLL }).await;
        }
    }

    /// Whether this member's server should have a copy, and has no place for one.
    fn lacks_place(&self, info: &StreamInfo, own: Option<&str>) -> bool {
        let missing = missing(&self.tables.members.all(), info, |_| false);
        missing.is_some_and(|missing| own.is_some_and(|own| missing.contains(own)))
    }

    fn own_name(&self) -> Option<String> {
        self.tables.members.all().get(&self.member).map(|member| member.name.clone())
    }

    /// Hands the stream to another member of the cluster, if this member's server leads it.
    pub(crate) async fn hand_over_stream(&self) {
        if self.mode.is_in_cluster()
            && tokio::time::timeout(HANDOVER_TIMEOUT, self.find_leader()).await.is_err()
        {
            tracing::warn!("no other member could take the stream; clients may wait for an election");
        }
    }

    async fn find_leader(&self) {
        let own = self.own_name();
        let mut asked = None;
        loop {
            let info = self.log.info().await.ok();
            let cluster = info.as_ref().and_then(|info| info.cluster.as_ref());
            if cluster.is_some_and(|cluster| cluster.leader().is_some() && cluster.leader() != own.as_deref())
            {
                return;
            }
            if let Some(cluster) = cluster.filter(|cluster| cluster.leader().is_some()) {
                if cluster.replicas.is_empty() {
                    return;
                }
                if asked.is_none() {
                    asked = self.successor(cluster);
                    if let Some(server) = &asked
                        && let Err(error) = self.log.step_down(server).await
                    {
                        tracing::debug!(%error, server, "the stream is not handed over yet");
                        asked = None;
                    }
                }
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The server that leads best: that of the writer, whose records then take one way less.
    fn successor(&self, cluster: &Cluster) -> Option<String> {
        let writer = self.leader().ok();
        let members = self.tables.members.all();
        let writer = writer.and_then(|id| members.get(&id)).map(|member| member.name.as_str());
        let able = cluster.replicas.iter().filter(|replica| replica.is_up_to_date());
        let best = able.max_by_key(|replica| Some(replica.name.as_str()) == writer)?;
        Some(best.name.clone())
    }
}

/// The copy on this member's server.
#[derive(Default)]
struct OwnCopy {
    group: Option<MetadataGroup>,
    /// The Raft group of the stream, and the entry that must be applied.
    awaited: Option<(String, u64)>,
}

impl OwnCopy {
    /// Whether the server has applied everything that it knew to be committed at the first call for a Raft
    /// group. `system` is the login of its system account, and the account of the stream.
    async fn has_applied(
        &mut self,
        log: &Log,
        system: Option<&(Auth, &'static str)>,
        raft_group: Option<String>,
    ) -> bool {
        let (Some((login, account)), Some(raft_group)) = (system, raft_group) else { return true };
        if self.group.is_none() {
            self.group = log.metadata_group(login).await.ok();
        }
        let Some(group) = &self.group else { return false };
        let state = group.raft_state(&log.server_name(), account, &raft_group).await;
        let Ok(Some(state)) = state else { return false };
        if self.awaited.as_ref().is_none_or(|(known, _)| *known != raft_group) {
            self.awaited = Some((raft_group, state.committed()));
        }
        self.awaited.as_ref().is_some_and(|(_, index)| state.applied() >= *index)
    }
}
