//! Keeps the group of NATS' servers like the members of the cluster.
//!
//! The member records of the log list the members of the cluster. NATS has a list of its own, and places the
//! copies of the stream on it. The writer compares the two every second, and changes NATS' list: so a change
//! that a crash cut short is carried on by the next writer.
//!
//! - The server of a removed member is removed. NATS would count it for majorities and keep a copy's place
//!   for it for ever. So is any other server, once it cannot be reached and no member can be expected under
//!   its name.
//! - A server that never was a member and runs is reported: in the log, and by a metric. Its jetway ends by
//!   itself; a nats-server without one has to be stopped.
//! - Once there are enough members, the stream gets more copies. It gets fewer only for a member that stays
//!   alone, or is about to: NATS gives the place of a removed server to the next one that joins.
//!
//! The writer reports members whose servers should have a copy of the stream and have none, and each instance
//! reports that of its own.
//!
//! Each instance also decides whether it must sync the files of the stream by itself: as long as there is one
//! copy, on its own server.

use crate::applier::Members;
use crate::engine::measured::Measured;
use crate::engine::missing_copies::{MissingCopies, missing};
use crate::engine::mode::Mode;
use crate::engine::node::{Command, Held};
use crate::engine::one_copy::OneCopy;
use crate::engine::status::Status;
use crate::log::{Auth, Log, MetadataGroup, Peer, StreamInfo, copies, server_id};
use crate::record::Member;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);
/// The pause between two steps towards one copy, for which a call waits.
const ONE_COPY_INTERVAL: Duration = Duration::from_millis(50);
/// The longest time for which nothing is appended while the stream gets its second copy.
const HOLD_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server of a removed member may run, so that its jetway learns of the removal and ends in
/// order.
const REMOVED_GRACE: Duration = Duration::from_secs(2);
/// How long an unknown server must be out of reach while a member is expected under a name that is not known
/// yet. Longer, since NATS bars the name of a removed server for minutes.
const UNNAMED_GRACE: Duration = Duration::from_mins(1);

/// A server that is none of the members'.
struct UnknownServer {
    /// Its name if that is known, else its id.
    name: String,
    since: Instant,
    is_refusal_reported: bool,
}

/// The task.
pub(super) struct Reconciler {
    pub(super) log: Arc<Log>,
    pub(super) members: Arc<Members>,
    pub(super) status: Arc<Status>,
    pub(super) mode: Arc<Mode>,
    pub(super) one_copy: Arc<OneCopy>,
    pub(super) measured: watch::Receiver<Measured>,
    pub(super) commands: mpsc::Sender<Command>,
    /// The name of this member, and of its server.
    pub(super) own: String,
    pub(super) login: Auth,
    pub(super) stop: CancellationToken,
}

impl Reconciler {
    pub(super) async fn run(mut self) {
        let mut group = None;
        let mut unknown = BTreeMap::new();
        let mut missing_copies = MissingCopies::default();
        // Every instance knows the names that members have had: the writer may be the one that is removed.
        let mut known = BTreeSet::new();
        let mut published = self.members.published();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let members = published.borrow_and_update().clone();
            known.extend(members.values().map(|member| member.name.clone()));
            tokio::select! {
                () = self.stop.cancelled() => return,
                changed = published.changed() => match changed {
                    // A member may be named and removed between two ticks.
                    Ok(()) => continue,
                    Err(_) => return,
                },
                _ = ticks.tick() => {}
                () = tokio::time::sleep(ONE_COPY_INTERVAL), if self.lone_server().is_some() => {}
                () = self.one_copy.requested() => {}
            }
            self.choose_who_syncs().await;
            if self.mode.is_alone() || self.mode.is_moving() {
                (group, known) = (None, BTreeSet::new());
                self.forget(&mut unknown);
                missing_copies.clear();
                continue;
            }
            if !self.status.is_writer() || members.is_empty() {
                self.forget(&mut unknown);
                self.report_missing(&members, None, &mut missing_copies);
                continue;
            }
            if group.is_none() {
                match self.log.metadata_group(&self.login).await {
                    Ok(opened) => group = Some(opened),
                    Err(error) => tracing::warn!(%error, "NATS' servers cannot be kept like the members"),
                }
            }
            if let Some(server) = self.lone_server() {
                self.leave_one_copy(&server).await;
            } else if let Some(group) = &group
                && let Some(peers) = self.compare(group, &members, &known, &mut unknown).await
            {
                self.report_missing(&members, Some(&peers), &mut missing_copies);
                self.raise_copies(&members, &peers).await;
            }
        }
    }

    /// The writer alone compares.
    fn forget(&self, unknown: &mut BTreeMap<String, UnknownServer>) {
        unknown.clear();
        self.status.set_unlisted_servers(Vec::new());
    }

    /// The server that is to have the only copy: that of the last member, or of the one that will be.
    fn lone_server(&self) -> Option<String> {
        let members = self.members.published().borrow().clone();
        let is_last = !self.mode.is_alone() && members.len() == 1;
        let last = members.values().next().filter(|member| is_last && member.name == self.own);
        self.one_copy
            .requested_server()
            .or(last.filter(|_| self.log.copies() > 1).map(|member| member.name.clone()))
    }

    async fn leave_one_copy(&self, server: &str) {
        if server == self.own {
            // Before there is one copy. The other members find it out by themselves.
            self.mode.set_only_copy(true);
        }
        match self.log.leave_one_copy(server).await {
            Ok(true) => self.one_copy.confirm(server),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, server, "the stream has more than one copy yet"),
        }
    }

    /// Syncs the files here while there is one copy, on this server. With more copies each server syncs its
    /// own.
    async fn choose_who_syncs(&mut self) {
        if self.lone_server().is_some() {
            return;
        }
        let is_alone = self.mode.is_alone();
        let choose = |copies, stream: Option<&StreamInfo>| syncs_here(copies, stream, &self.own, is_alone);
        // The figures of the last measurement may be older.
        let chosen = choose(self.log.copies(), self.measured.borrow().stream.as_ref());
        match chosen {
            // The copy may have come here since the measurement.
            Some(false) if self.mode.syncs_here() && self.log.copies() == 1 => {
                let moves = self.mode.moves();
                let stream = self.log.info().await.ok();
                // An exchange of the server decides by itself.
                let is_unmoved = self.mode.moves() == moves && !self.mode.is_moving();
                if choose(self.log.copies(), stream.as_ref()) == Some(false)
                    && self.lone_server().is_none()
                    && is_unmoved
                {
                    self.mode.set_only_copy(false);
                }
            }
            Some(is_only) => self.mode.set_only_copy(is_only),
            None => {}
        }
    }

    /// The writer, which knows NATS' list of servers, reports all members, and another one itself.
    fn report_missing(
        &self,
        members: &BTreeMap<u64, Member>,
        peers: Option<&[Peer]>,
        reported: &mut MissingCopies,
    ) {
        let measured = self.measured.borrow();
        let Some(stream) = &measured.stream else { return };
        let is_absent = |name: &str| {
            let id = server_id(name);
            peers.is_some_and(|peers| peers.iter().all(|peer| peer.id != id))
        };
        let Some(mut missing) = missing(members, stream, is_absent) else { return };
        if peers.is_none() {
            missing.retain(|name| *name == self.own);
        }
        reported.note(&missing, stream);
    }

    /// Removes servers that are none of the members'. `known` are the names that members have had. Returns
    /// NATS' list, if it is known now.
    async fn compare(
        &self,
        group: &MetadataGroup,
        members: &BTreeMap<u64, Member>,
        known: &BTreeSet<String>,
        unknown: &mut BTreeMap<String, UnknownServer>,
    ) -> Option<Vec<Peer>> {
        let ids: BTreeSet<String> = members.values().map(|member| server_id(&member.name)).collect();
        let is_expected = members.values().any(|member| member.name.is_empty());
        let peers = match group.peers().await {
            Ok(peers) => peers,
            Err(error) => {
                tracing::debug!(%error, "the servers of the cluster are not known now");
                return None;
            }
        };
        unknown.retain(|id, _| peers.iter().any(|peer| peer.id == *id) && !ids.contains(id));
        for peer in peers.iter().filter(|peer| !ids.contains(&peer.id)) {
            let Peer { id, name, is_offline } = peer;
            let name = name.as_ref().or_else(|| known.iter().find(|name| server_id(name) == *id));
            let server = unknown.entry(id.clone()).or_insert_with(|| {
                tracing::warn!(
                    server = name, id, is_offline,
                    "a server of the cluster is none of its members, and counts for its majority. Stop it if it runs: \
                     jetway removes it then"
                );
                let name = name.unwrap_or(id).clone();
                UnknownServer { name, since: Instant::now(), is_refusal_reported: false }
            });
            let is_known = name.is_some_and(|name| known.contains(name));
            // The name of a member that was added is known once it has started.
            let grace = match (is_offline, is_known, is_expected) {
                (true, true, _) => Duration::ZERO,
                (true, false, true) => UNNAMED_GRACE,
                (true, false, false) | (false, true, _) => REMOVED_GRACE,
                (false, false, _) => continue,
            };
            if server.since.elapsed() < grace {
                continue;
            }
            // Tried again until it is gone.
            match group.remove(id).await {
                Ok(()) => tracing::info!(server = name, id, "the server is removed from the cluster"),
                Err(error) if server.is_refusal_reported => {
                    tracing::debug!(%error, "a server cannot be removed from the cluster yet");
                }
                Err(error) => {
                    server.is_refusal_reported = true;
                    tracing::warn!(%error, "a server cannot be removed from the cluster yet; jetway goes on trying");
                }
            }
        }
        self.status.set_unlisted_servers(unknown.values().map(|server| server.name.clone()).collect());
        Some(peers)
    }

    /// Gives the stream more copies, once there are enough members.
    async fn raise_copies(&self, members: &BTreeMap<u64, Member>, peers: &[Peer]) {
        let is_here = |name: &str| peers.iter().any(|peer| peer.id == server_id(name) && !peer.is_offline);
        let voters = members.values().filter(|member| !member.is_learner && is_here(&member.name)).count();
        let wanted = copies(voters);
        if wanted <= self.log.copies() {
            return;
        }
        let Some(_no_move) = self.mode.block_moves().await else { return };
        // The server loses messages that come while the only copy becomes a group's.
        let held = if self.log.copies() == 1 { Held::request(&self.commands).await } else { None };
        match self.log.raise_copies(wanted).await {
            Ok(Some(copies)) => {
                tracing::info!(copies, members = voters, "the stream gets more copies");
                if let Some(held) = held {
                    drop(tokio::time::timeout(HOLD_TIMEOUT, self.log.await_group()).await);
                    held.release();
                }
            }
            Ok(None) => {}
            // NATS may look for a place for a moment after a server has joined.
            Err(error) => tracing::debug!(%error, "the number of the stream's copies cannot be changed now"),
        }
    }
}

/// Whether the server `own` has the only one of so many copies, so that its jetway syncs the files; `None` to
/// leave that as it is. One copy that may be here is taken to be here: a sync too many does no harm.
fn syncs_here(copies: usize, stream: Option<&StreamInfo>, own: &str, is_alone: bool) -> Option<bool> {
    let stream = stream.filter(|stream| stream.copies() == copies && stream.is_settled());
    let holder = stream.and_then(StreamInfo::leader);
    match copies {
        _ if is_alone => (copies == 1).then_some(true),
        1 => Some(holder.is_none_or(|holder| holder == own)),
        _ => stream.map(|_| false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stream(copies: usize, leader: &str, replicas: &[&str]) -> StreamInfo {
        let replicas: Vec<_> =
            replicas.iter().map(|name| json!({ "name": name, "current": true, "active": 1 })).collect();
        serde_json::from_value(json!({
            "created": "",
            "config": { "num_replicas": copies },
            "state": { "messages": 1, "bytes": 1, "first_seq": 1, "last_seq": 1 },
            "cluster": { "leader": leader, "replicas": replicas },
        }))
        .unwrap()
    }

    #[test]
    fn only_the_holder_of_the_only_copy_syncs_it() {
        let chosen = |copies, stream: &StreamInfo, own| syncs_here(copies, Some(stream), own, false);
        let one = stream(1, "n1", &[]);
        assert_eq!(chosen(1, &one, "n1"), Some(true));
        assert_eq!(chosen(1, &one, "n2"), Some(false), "a member that has just joined");
        assert_eq!(syncs_here(1, Some(&one), "other", true), Some(true), "no other server can have it");
        let two = stream(2, "n1", &["n2"]);
        assert_eq!(chosen(2, &two, "n1"), Some(false));
        // Figures that are older than the number of copies.
        assert_eq!(chosen(1, &two, "n2"), Some(true), "it may be here");
        assert_eq!(chosen(2, &one, "n1"), None);
        assert_eq!(chosen(2, &stream(2, "n1", &[]), "n1"), None, "the second copy is not there yet");
        assert_eq!(syncs_here(1, None, "n2", false), Some(true));
        assert_eq!(chosen(1, &stream(1, "", &[]), "n2"), Some(true), "no leader is known");
    }
}
