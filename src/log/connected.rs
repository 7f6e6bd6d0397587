//! The servers of a NATS cluster that are connected now, over NATS' system account.

use super::connect::{ConnectError, Connection, Endpoint};
use super::login::Auth;
use async_nats::Client;
use futures_util::StreamExt as _;
use serde::Deserialize;
use std::collections::BTreeSet;
use std::time::Duration;

/// The request that each server of the cluster answers.
const PING: &str = "$SYS.REQ.SERVER.PING";

/// The servers of a cluster.
#[derive(Debug)]
pub struct ConnectedServers {
    client: Client,
}

#[derive(Deserialize)]
struct Answer {
    server: Server,
}

#[derive(Deserialize)]
struct Server {
    #[serde(default)]
    tags: Vec<String>,
}

impl ConnectedServers {
    /// Connects to the system account.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn open(endpoint: &Endpoint, login: &Auth) -> Result<ConnectedServers, ConnectError> {
        let endpoint = Endpoint { auth: login.clone(), ..endpoint.clone() };
        Ok(ConnectedServers { client: Connection::open(&endpoint, "jetway observer").await?.client })
    }

    /// The tags of those that answer within `time`.
    pub async fn tags(&self, time: Duration) -> BTreeSet<String> {
        let mut tags = BTreeSet::new();
        let inbox = self.client.new_inbox();
        let gathering = async {
            let mut answers = self.client.subscribe(inbox.clone()).await.ok()?;
            self.client.publish_with_reply(PING, inbox, bytes::Bytes::new()).await.ok()?;
            while let Some(answer) = answers.next().await {
                if let Ok(Answer { server }) = serde_json::from_slice(&answer.payload) {
                    tags.extend(server.tags);
                }
            }
            Some(())
        };
        // The answers have no end of their own.
        drop(tokio::time::timeout(time, gathering).await);
        tags
    }
}
