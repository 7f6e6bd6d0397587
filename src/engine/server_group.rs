//! Keeps the group of NATS' servers like the members of the cluster.
//!
//! The member records of the log say who belongs to the cluster. NATS has a list of its own, and places the
//! copies of the stream on it. The writer compares the two every second, and changes NATS' list: so a change
//! that a crash cut short is carried on by the next writer.
//!
//! - The server of a removed member is removed. NATS would count it for majorities and keep a place for it
//!   for ever. So is one that never was a member, once it cannot be reached.
//! - A server that never was a member and runs is reported. Its jetway ends by itself.
//! - Once there are enough members, the stream gets more copies. It never gets fewer: NATS gives the place of
//!   a removed server to the next one that joins.

use crate::applier::Members;
use crate::engine::status::Status;
use crate::log::{Auth, Log, MetadataGroup, copies};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const INTERVAL: Duration = Duration::from_secs(1);
/// How long the server of a removed member stays, so that its jetway learns of the removal and ends in order.
const GRACE: Duration = Duration::from_secs(2);
/// How long a server that this writer has never known as a member's must be out of reach. Longer, since NATS
/// bars the name of a removed server for minutes: a member that was started before it was added can soon be
/// started again.
const GRACE_OF_STRANGERS: Duration = Duration::from_mins(1);

/// The task.
pub(super) struct Keeper {
    pub(super) log: Arc<Log>,
    pub(super) members: Arc<Members>,
    pub(super) status: Arc<Status>,
    pub(super) login: Auth,
    pub(super) stop: CancellationToken,
}

impl Keeper {
    pub(super) async fn run(self) {
        let mut group = None;
        let mut unknown = BTreeMap::new();
        let mut known = BTreeSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            if !self.status.is_writer() {
                unknown.clear();
                known.clear();
                continue;
            }
            if group.is_none() {
                match self.log.metadata_group(&self.login).await {
                    Ok(opened) => group = Some(opened),
                    Err(error) => tracing::warn!(%error, "NATS' servers cannot be kept like the members"),
                }
            }
            if let Some(group) = &group {
                self.compare(group, &mut known, &mut unknown).await;
            }
        }
    }

    /// `known` are the names that members have had. `unknown` are other servers, and since when.
    async fn compare(
        &self,
        group: &MetadataGroup,
        known: &mut BTreeSet<String>,
        unknown: &mut BTreeMap<String, Instant>,
    ) {
        let members = self.members.all();
        let names: BTreeSet<&str> = members.values().map(|member| member.name.as_str()).collect();
        known.extend(names.iter().map(|name| (*name).to_owned()));
        let peers = match group.peers().await {
            Ok(peers) => peers,
            Err(error) => {
                tracing::debug!(%error, "the servers of the cluster are not known now");
                return;
            }
        };
        unknown
            .retain(|name, _| peers.iter().any(|peer| peer.name == *name) && !names.contains(name.as_str()));
        for peer in peers.iter().filter(|peer| !names.contains(peer.name.as_str())) {
            let since = *unknown.entry(peer.name.clone()).or_insert_with(|| {
                tracing::warn!(server = peer.name, "a server of the cluster is none of its members");
                Instant::now()
            });
            let is_due = if known.contains(&peer.name) {
                since.elapsed() >= GRACE
            } else {
                peer.is_offline && since.elapsed() >= GRACE_OF_STRANGERS
            };
            if !is_due {
                continue;
            }
            match group.remove(&peer.name).await {
                Ok(()) => tracing::info!(server = peer.name, "the server is removed from the cluster"),
                Err(error) => tracing::warn!(%error, "a server cannot be removed from the cluster"),
            }
        }
        let is_here = |name: &str| peers.iter().any(|peer| peer.name == name && !peer.is_offline);
        let voters = members.values().filter(|member| !member.is_learner && is_here(&member.name)).count();
        match self.log.raise_copies(copies(voters)).await {
            Ok(Some(copies)) => tracing::info!(copies, members = voters, "the stream gets more copies"),
            Ok(None) => {}
            // NATS may look for a place for a moment after a server has joined.
            Err(error) => tracing::debug!(%error, "the number of the stream's copies cannot be changed now"),
        }
    }
}
