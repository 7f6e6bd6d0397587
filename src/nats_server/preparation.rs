//! JetStream's metadata for a server that is about to be the first one of a cluster.

use super::{
    ClusterSettings, Error, Members, NatsServer, NatsServerSettings, PREPARATION, SYSTEM_USER, USER,
    server_tag,
};
use crate::log::{Api, Auth, Endpoint, RunToken, SeedError, SeedServers, seed_metadata};
use std::path::PathBuf;
use thiserror::Error;
use tokio::net::TcpListener;

/// The metadata cannot be prepared.
#[derive(Debug, Error)]
pub(crate) enum PreparationError {
    /// The directory of the two servers.
    #[error("the directory {} cannot be removed: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The ports of the two servers.
    #[error("no port of the loopback interface is free: {0}")]
    Port(std::io::Error),
    /// One of the two servers.
    #[error(transparent)]
    Server(#[from] Error),
    /// The metadata.
    #[error(transparent)]
    Seed(#[from] SeedError),
}

/// Makes the metadata of a cluster of the member `name` alone, with the streams of the server that `live`
/// reaches. Returns the data directory that holds it.
///
/// # Errors
/// [`PreparationError`].
pub(crate) async fn prepare(
    server: &NatsServerSettings,
    name: &str,
    live: &Api,
) -> Result<PathBuf, PreparationError> {
    let dir = server.data_dir.join(PREPARATION);
    match std::fs::remove_dir_all(&dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            return Err(PreparationError::Directory { path: dir, source });
        }
        _ => {}
    }
    let helper = format!("preparation-{:08x}", rand::random::<u32>());
    let mut members = Members::new();
    let mut addresses = Vec::new();
    for name in [name, &helper] {
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(PreparationError::Port)?;
        let address = listener.local_addr().map_err(PreparationError::Port)?;
        members.insert(name.to_owned(), vec![format!("http://{address}")]);
        addresses.push(address.to_string());
    }
    let token = format!("{:032x}", rand::random::<u128>());
    let settings = |folder: &str, name: &str, address: &String| NatsServerSettings {
        data_dir: dir.join(folder),
        cluster: Some(ClusterSettings {
            name: name.to_owned(),
            peer_urls: members[name].clone(),
            token: token.clone(),
            listen: address.clone(),
            advertise: address.clone(),
            members: members.clone(),
            tls: None,
        }),
        // Its ports are those of the real server.
        extra_config: None,
        is_quiet: true,
        ..server.clone()
    };
    // One after the other: the second one then finds the first one, and neither asks in vain for a vote.
    let own = NatsServer::start(settings("own", name, &addresses[0])).await?;
    let other = NatsServer::start(settings("helper", &helper, &addresses[1])).await?;
    let endpoint = Endpoint {
        servers: own.client_url().into_iter().collect(),
        auth: Auth::Embedded(USER, RunToken(own.token())),
        ..Endpoint::default()
    };
    let servers = SeedServers {
        endpoint,
        system: Auth::Embedded(SYSTEM_USER, RunToken(own.token())),
        own: name.to_owned(),
        own_tag: server_tag(name),
        helper,
    };
    let seeded = seed_metadata(live, &servers).await;
    // The metadata is whole once its server has stopped.
    own.stop().await?;
    other.stop().await?;
    let streams = seeded?;
    tracing::debug!(streams, "the metadata of a cluster is prepared");
    Ok(dir.join("own"))
}
