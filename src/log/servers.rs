//! The choice among the servers of an endpoint. All connections begin with the same one, so that they do not
//! stay on two sides of a cluster that has fallen apart.

use super::connect::{Endpoint, Link};
use super::login::Auth;
use async_nats::{Client, ConnectOptions, ReconnectToServer};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

/// The shortest stay on a server. It doubles with each departure, because a cluster without a majority is the
/// same from all its servers.
const STAY: Duration = Duration::from_secs(2);
const LONGEST_STAY: Duration = Duration::from_secs(15);
/// A server that nobody wants to leave for so long after a stay is a good one.
const CALM: Duration = Duration::from_secs(8);

/// The number of the endpoint's server that connections try first, counted on without end. Clones share it.
/// It orders nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct FirstServer(Arc<AtomicUsize>);

impl FirstServer {
    pub(super) fn number(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn advance(&self) -> usize {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Makes each reconnection of a client try the endpoint's next server.
    pub(super) fn rotate_servers(
        &self,
        options: ConnectOptions,
        link: watch::Receiver<Link>,
    ) -> ConnectOptions {
        let first = self.clone();
        options.retain_servers_order().reconnect_to_server_callback(move |servers, _| {
            // The first connection tries all servers by itself.
            let is_reconnection = link.borrow().generation > 0;
            let named: Vec<_> = servers.into_iter().filter(|server| !server.is_discovered).collect();
            let next = is_reconnection.then(|| first.advance() % named.len().max(1));
            let server = next.and_then(|next| named.into_iter().nth(next));
            ready(server.map(|server| ReconnectToServer { addr: server.addr, delay: None }))
        })
    }
}

/// Requests to leave the server of a client.
#[derive(Clone, Debug)]
pub(super) struct ServerChanges(mpsc::Sender<()>);

impl ServerChanges {
    /// The requests, and the task that carries them out.
    pub(super) fn of(
        endpoint: &Endpoint,
        client: Client,
        link: watch::Receiver<Link>,
    ) -> (ServerChanges, impl Future<Output = ()> + use<>) {
        let (requests, mut requested) = mpsc::channel(1);
        let is_embedded = matches!(endpoint.auth, Auth::Embedded(..));
        let is_named = endpoint.servers.len() > 1;
        let changing_servers = async move {
            let mut stay = STAY;
            loop {
                let request = if let Ok(request) = timeout(CALM, requested.recv()).await {
                    request
                } else {
                    stay = STAY;
                    requested.recv().await
                };
                if request.is_none() {
                    return;
                }
                // A cluster sends its client servers that the endpoint does not name.
                let has_others = is_named || client.server_info().cluster.is_some();
                if is_embedded || !has_others || !link.borrow().connected {
                    continue;
                }
                tracing::info!(
                    target: "jetway::log",
                    "the NATS server does not reach the leader of the stream; another server of the endpoint is tried"
                );
                if client.force_reconnect().await.is_err() {
                    return;
                }
                sleep(stay).await;
                stay = (2 * stay).min(LONGEST_STAY);
                // Requests that came meanwhile were about the server before.
                while requested.try_recv().is_ok() {}
            }
        };
        (ServerChanges(requests), changing_servers)
    }

    pub(super) fn ask(&self) {
        // A request that waits already is enough.
        self.0.try_send(()).ok();
    }
}
