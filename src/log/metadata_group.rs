//! The group of servers that keeps JetStream's metadata, over NATS' system account.

use super::connect::{ConnectError, Connection, Endpoint};
use super::login::Auth;
use async_nats::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use thiserror::Error;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The group cannot be asked or changed.
#[derive(Debug, Error)]
pub enum GroupError {
    /// Nobody answered; perhaps there is no leader.
    #[error("no leader of JetStream's metadata answers")]
    NoLeader,
    /// The answer cannot be read.
    #[error("unexpected answer about JetStream's metadata: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It was refused.
    #[error("JetStream does not remove server {server}: {reason}")]
    Refused {
        /// The server.
        server: String,
        /// NATS' reason.
        reason: String,
    },
}

/// A server of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Whether it cannot be reached.
    pub is_offline: bool,
}

/// The group of servers that keeps JetStream's metadata.
#[derive(Debug)]
pub struct MetadataGroup {
    client: Client,
}

#[derive(Debug, Deserialize)]
struct Answer {
    #[serde(default)]
    data: Data,
}

#[derive(Debug, Default, Deserialize)]
struct Data {
    #[serde(default)]
    meta_cluster: Option<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    #[serde(default)]
    leader: String,
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
struct Replica {
    name: String,
    #[serde(default)]
    offline: bool,
}

impl MetadataGroup {
    /// Connects to the system account.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(super) async fn open(endpoint: &Endpoint, login: &Auth) -> Result<MetadataGroup, ConnectError> {
        let endpoint = Endpoint { auth: login.clone(), ..endpoint.clone() };
        Ok(MetadataGroup { client: Connection::open(&endpoint, "jetway members").await?.client })
    }

    async fn ask(&self, subject: &str, body: &Value) -> Option<bytes::Bytes> {
        let request = self.client.request(subject.to_owned(), body.to_string().into());
        Some(tokio::time::timeout(TIMEOUT, request).await.ok()?.ok()?.payload)
    }

    /// The servers, as their leader knows them, the leader first.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn peers(&self) -> Result<Vec<Peer>, GroupError> {
        let answer = self.ask("$SYS.REQ.SERVER.PING.JSZ", &json!({ "leader_only": true })).await;
        let answer: Answer = serde_json::from_slice(&answer.ok_or(GroupError::NoLeader)?)?;
        let group = answer.data.meta_cluster.ok_or(GroupError::NoLeader)?;
        let others = group.replicas.into_iter();
        let others = others.map(|peer| Peer { name: peer.name, is_offline: peer.offline });
        Ok(std::iter::once(Peer { name: group.leader, is_offline: false }).chain(others).collect())
    }

    /// Asks the leader to hand over to a server.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn prefer(&self, server: &str) -> Result<(), GroupError> {
        let body = json!({ "placement": { "preferred": server } });
        self.ask("$JS.API.META.LEADER.STEPDOWN", &body).await.map(drop).ok_or(GroupError::NoLeader)
    }

    /// Removes a server for good. NATS does not take a server of this name back for five minutes.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn remove(&self, server: &str) -> Result<(), GroupError> {
        let answer = self.ask("$JS.API.SERVER.REMOVE", &json!({ "peer": server })).await;
        let answer: Value = serde_json::from_slice(&answer.ok_or(GroupError::NoLeader)?)?;
        if answer["success"] == true {
            return Ok(());
        }
        let reason = answer["error"]["description"].as_str().unwrap_or("no reason given").to_owned();
        Err(GroupError::Refused { server: server.to_owned(), reason })
    }
}
