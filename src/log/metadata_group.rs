//! The group of servers that keeps JetStream's metadata, over NATS' system account.

use super::connect::{ConnectError, Connection, Endpoint};
use super::login::Auth;
use async_nats::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use thiserror::Error;

/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The silence after which a server counts as out of reach. Servers answer the leader every second. NATS
/// itself notices a server that ended without a word after two and a half minutes.
const SILENCE: Duration = Duration::from_secs(10);

/// The group cannot be asked or changed.
#[derive(Debug, Error)]
pub enum GroupError {
    /// Nobody answered; perhaps there is no leader.
    #[error("no leader of JetStream's metadata answers")]
    NoLeader,
    /// The answer cannot be read.
    #[error("unexpected answer about JetStream's metadata: {0}")]
    Malformed(#[from] serde_json::Error),
    /// This version makes ids in another way, so that they prove nothing about names.
    #[error(
        "JetStream has the id {0} for a server, which is not made of its name as in the versions that jetway knows"
    )]
    OtherIds(String),
    /// It was refused.
    #[error("JetStream does not remove server {server}: {reason}")]
    Refused {
        /// The server's id.
        server: String,
        /// NATS' reason.
        reason: String,
    },
}

/// The beginning of the name of a server of which the group has heard nothing since its leader started.
const UNKNOWN_NAME: &str = "Server name unknown";

/// A server of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id in the group: see [`server_id`].
    pub id: String,
    /// Its name, if the group's leader knows it.
    pub name: Option<String>,
    /// Whether it cannot be reached.
    pub is_offline: bool,
}

/// A server's answer about its part of each Raft group, by account and group.
#[derive(Debug, Deserialize)]
struct RaftAnswer {
    #[serde(default)]
    data: BTreeMap<String, BTreeMap<String, RaftState>>,
}

/// A server's part of a Raft group, in indexes of the group's log.
#[derive(Clone, Debug, Deserialize)]
pub struct RaftState {
    state: String,
    committed: u64,
    applied: u64,
    /// The newest entry.
    pindex: u64,
}

impl RaftState {
    /// Whether the server leads the group.
    pub fn is_leader(&self) -> bool {
        self.state == "LEADER"
    }

    /// The last entry that is known to be on a majority of the servers.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The last entry whose effect is in the server's store.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Whether the server has committed and applied every entry that it has.
    pub fn has_applied_all(&self) -> bool {
        self.committed == self.pindex && self.applied == self.pindex
    }
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
    /// The leader's id.
    #[serde(default)]
    peer: String,
    #[serde(default)]
    replicas: Vec<Replica>,
}

#[derive(Debug, Deserialize)]
struct Replica {
    name: String,
    peer: String,
    #[serde(default)]
    offline: bool,
    /// Nanoseconds since the leader heard of it; 0 if it never did.
    #[serde(default)]
    active: u64,
}

impl Replica {
    fn is_offline(&self) -> bool {
        self.offline || Duration::from_nanos(self.active) > SILENCE
    }
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
        let leader = Replica { name: group.leader, peer: group.peer, offline: false, active: 0 };
        let servers = std::iter::once(leader).chain(group.replicas).map(|replica| {
            let is_offline = replica.is_offline();
            let name = (!replica.name.starts_with(UNKNOWN_NAME)).then_some(replica.name);
            Peer { id: replica.peer, name, is_offline }
        });
        let servers: Vec<Peer> = servers.collect();
        let is_other = |peer: &&Peer| peer.name.as_ref().is_some_and(|name| server_id(name) != peer.id);
        match servers.iter().find(is_other) {
            Some(peer) => Err(GroupError::OtherIds(peer.id.clone())),
            None => Ok(servers),
        }
    }

    /// A server's part of the Raft group of a stream in `account`; `None` if it has none.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn raft_state(
        &self,
        server: &str,
        account: &str,
        group: &str,
    ) -> Result<Option<RaftState>, GroupError> {
        let body = json!({ "server_name": server, "exact_match": true, "account": account, "group": group });
        let answer = self.ask("$SYS.REQ.SERVER.PING.RAFTZ", &body).await;
        let mut answer: RaftAnswer = serde_json::from_slice(&answer.ok_or(GroupError::NoLeader)?)?;
        Ok(answer.data.get_mut(account).and_then(|groups| groups.remove(group)))
    }

    /// Asks the leader to hand over to a server.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn prefer(&self, server: &str) -> Result<(), GroupError> {
        let body = json!({ "placement": { "preferred": server } });
        self.ask("$JS.API.META.LEADER.STEPDOWN", &body).await.map(drop).ok_or(GroupError::NoLeader)
    }

    /// Removes the server with an id for good. NATS does not take it back for five minutes.
    ///
    /// # Errors
    /// [`GroupError`].
    pub async fn remove(&self, server: &str) -> Result<(), GroupError> {
        // By its name only a server that was heard of could be removed.
        let answer = self.ask("$JS.API.SERVER.REMOVE", &json!({ "peer_id": server })).await;
        let answer: Value = serde_json::from_slice(&answer.ok_or(GroupError::NoLeader)?)?;
        if answer["success"] == true {
            return Ok(());
        }
        let reason = answer["error"]["description"].as_str().unwrap_or("no reason given").to_owned();
        Err(GroupError::Refused { server: server.to_owned(), reason })
    }
}

/// The id of the server of a name. JetStream makes it of the name alone. So a server is recognised of which
/// nothing was heard since the others started.
pub fn server_id(name: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let digest = ring::digest::digest(&ring::digest::SHA256, name.as_bytes());
    digest.as_ref()[..8].iter().map(|byte| char::from(DIGITS[usize::from(byte % 62)])).collect()
}

#[cfg(test)]
mod tests {
    use super::server_id;

    #[test]
    fn ids_are_those_of_nats_server() {
        // As nats-server 2.15.1 shows them.
        assert_eq!((server_id("m2"), server_id("m3")), ("f7sDjKXP".to_owned(), "LuIoXmBr".to_owned()));
    }
}
