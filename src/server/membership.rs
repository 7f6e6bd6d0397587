//! Ids of members.

use crate::cli::{Cluster, ServerSettings};
use crate::nats_server::{self, Members};
use crate::record::Member;

/// This instance in the member list. A member of a cluster has an id already.
pub(super) fn own(settings: &ServerSettings, member_id: Option<u64>) -> Member {
    Member {
        id: member_id.unwrap_or_else(|| id_of_instance(settings)),
        name: settings.name.clone(),
        client_urls: settings.advertise.clone(),
        peer_urls: settings.peer_urls.clone(),
        is_learner: false,
    }
}

/// The members that found a cluster, as they are listed before they have started.
pub(super) fn founders(members: &Members, cluster: &Cluster) -> Vec<Member> {
    members
        .iter()
        .map(|(name, urls)| Member {
            id: nats_server::member_id(urls, &cluster.server.token),
            name: name.clone(),
            client_urls: Vec::new(),
            peer_urls: urls.clone(),
            is_learner: false,
        })
        .collect()
}

/// The id of an instance on a bucket, the same for every start: made of its name and the URLs of its clients.
fn id_of_instance(settings: &ServerSettings) -> u64 {
    // A hash that no build changes, because the log holds the id.
    let parts =
        std::iter::once(settings.name.clone()).chain(settings.advertise.iter().map(ToString::to_string));
    xxhash_rust::xxh3::xxh3_64(parts.collect::<Vec<_>>().join("\n").as_bytes()) | 1
}
