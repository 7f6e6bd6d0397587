//! Ids of members.

use crate::cli::{Cluster, ServerSettings, Storage};
use crate::nats_server::Members;
use crate::record::Member;

/// This instance in the member list.
pub(super) fn own(settings: &ServerSettings) -> Member {
    let cluster = match &settings.storage {
        Storage::Embedded { cluster: Some(cluster), .. } => Some(cluster),
        _ => None,
    };
    let id =
        cluster.map_or_else(|| id_of_instance(settings), |cluster| id_of_peer(&settings.peer_urls, cluster));
    Member {
        id,
        name: settings.name.clone(),
        client_urls: settings.advertise.clone(),
        peer_urls: settings.peer_urls.clone(),
    }
}

/// The members that found a cluster, as they are listed before they have started.
pub(super) fn founders(members: &Members, cluster: &Cluster) -> Vec<Member> {
    members
        .iter()
        .map(|(name, urls)| Member {
            id: id_of_peer(urls, cluster),
            name: name.clone(),
            client_urls: Vec::new(),
            peer_urls: urls.clone(),
        })
        .collect()
}

/// The id of a member of a cluster, made of its peer URLs and the token as in etcd: all members know the ids
/// of all.
fn id_of_peer(peer_urls: &[String], cluster: &Cluster) -> u64 {
    let mut urls = peer_urls.to_vec();
    urls.sort();
    let text = urls.concat() + &cluster.server.token;
    let digest = ring::digest::digest(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    u64::from_be_bytes(*digest.as_ref().first_chunk().expect("a digest has twenty bytes"))
}

/// The id of an instance on a bucket, the same for every start: made of its name and the URLs of its clients.
fn id_of_instance(settings: &ServerSettings) -> u64 {
    // A hash that no build changes, because the log holds the id.
    let parts =
        std::iter::once(settings.name.clone()).chain(settings.advertise.iter().map(ToString::to_string));
    xxhash_rust::xxh3::xxh3_64(parts.collect::<Vec<_>>().join("\n").as_bytes()) | 1
}
