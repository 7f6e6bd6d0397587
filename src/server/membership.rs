//! This member and the others: their ids, and the record of them in the data directory.

use crate::cli::{Cluster, ServerSettings};
use crate::engine::Engine;
use crate::nats_server::{self, Members, NatsServer};
use crate::record::Member;
use std::path::{Path, PathBuf};
use tokio_util::sync::CancellationToken;

/// This instance in the member list. A member of a cluster has an id already, and its peer URLs are those of
/// the list.
pub(super) fn own(settings: &ServerSettings, nats: Option<&NatsServer>) -> Member {
    let listed = nats.and_then(|nats| nats.members().get(&settings.name));
    Member {
        id: nats.and_then(NatsServer::member_id).unwrap_or_else(|| id_of_instance(settings)),
        name: settings.name.clone(),
        client_urls: settings.advertise.clone(),
        peer_urls: listed.unwrap_or(&settings.peer_urls).clone(),
        is_learner: false,
    }
}

/// The id of a member that is alone in its data directory and has always been: the first start's, whatever
/// the name and the URLs are now.
pub(super) fn kept_id(data_dir: &Path, first: u64) -> u64 {
    nats_server::keep_member_id(data_dir, first).unwrap_or_else(|error| {
        tracing::warn!(%error, "member-id in the data directory cannot be used; this member's id comes from its name and its client URLs");
        first
    })
}

/// The members that found a cluster, as they are listed before they have started.
pub(super) fn founders(members: &Members, cluster: &Cluster) -> Vec<Member> {
    members
        .iter()
        .map(|(name, urls)| Member {
            id: nats_server::member_id(urls, &cluster.server.token),
            // A member reports its name when it starts.
            name: if cluster.is_discovered { String::new() } else { name.clone() },
            client_urls: Vec::new(),
            peer_urls: urls.clone(),
            is_learner: false,
        })
        .collect()
}

/// Writes the members of the cluster into the data directory at each change, so that the next start finds
/// members that came later than its flags. It writes no list without this member: `remember_removal` does.
pub(super) async fn keep_record(engine: Engine, own: u64, data_dir: PathBuf, stop: CancellationToken) {
    let mut changes = engine.member_changes();
    let mut written = Members::new();
    loop {
        let known = changes.borrow_and_update().clone();
        if known.contains_key(&own) {
            // A member that has not started has no name. It connects to the others when it starts.
            let named = known.values().filter(|member| !member.name.is_empty());
            let members: Members =
                named.map(|member| (member.name.clone(), member.peer_urls.clone())).collect();
            if members != written {
                let (dir, now) = (data_dir.clone(), members.clone());
                match tokio::task::spawn_blocking(move || nats_server::remember_members(&dir, now)).await {
                    Ok(Ok(())) => written = members,
                    Ok(Err(error)) => {
                        tracing::warn!(%error, "cluster.json in the data directory cannot be written; the next start may miss members");
                    }
                    Err(_) => return,
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// The id of an instance on a bucket, the same for every start: made of its name and the URLs of its clients.
fn id_of_instance(settings: &ServerSettings) -> u64 {
    // A hash that no build changes, because the log holds the id.
    let parts =
        std::iter::once(settings.name.clone()).chain(settings.advertise.iter().map(ToString::to_string));
    xxhash_rust::xxh3::xxh3_64(parts.collect::<Vec<_>>().join("\n").as_bytes()) | 1
}
