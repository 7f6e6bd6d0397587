//! Instances over NATS servers.

use std::collections::HashSet;

use support::client::Client;
use support::eventually;
use support::nats::Nats;
use support::server::Server;

/// NATS servers, instances on them, and a client for each instance.
pub struct Group {
    pub servers: Vec<Server>,
    pub clients: Vec<Client>,
    // Last, so that the instances go before their servers.
    pub nodes: Vec<Nats>,
}

impl Group {
    /// Three instances over one NATS server.
    pub async fn over_one() -> Self {
        let nats = Nats::start().await;
        let endpoint = nats.endpoint();
        Self::over(vec![nats], &endpoint).await
    }

    /// Three instances over three NATS servers, each of which knows all of these.
    pub async fn over_three() -> Self {
        let nodes = Nats::cluster().await;
        let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
        let endpoint = format!("nats://{}?bucket=test&replicas=3", hosts.join(","));
        Self::over(nodes.into(), &endpoint).await
    }

    async fn over(nodes: Vec<Nats>, endpoint: &str) -> Self {
        let (servers, clients) = crate::instances::instances(endpoint, 3).await;
        Self { servers, clients, nodes }
    }

    /// The instance that writes, once each of `among` names it, and its member id.
    pub async fn writer(&self, among: &[usize]) -> (usize, u64) {
        eventually("one writer that all agree on", async || {
            let mut found = None;
            let mut named = HashSet::new();
            for &at in among {
                let status = self.clients[at].status().await.ok()?;
                named.insert(status.leader);
                if status.header?.member_id == status.leader {
                    found = Some((at, status.leader));
                }
            }
            found.filter(|_| named.len() == 1)
        })
        .await
    }

    /// Waits until each of these instances knows the two others as ready; only such a one can take over at
    /// once.
    pub async fn members(&self) {
        eventually("three members", async || {
            (self.clients[0].members().await.ok()?.members.len() == 3).then_some(())
        })
        .await;
    }
}
