//! Members answer one that is about to join with the list of them.
//!
//! The one that asks is in no group of theirs yet: its nats-server is an observer. So a refused start leaves
//! nothing behind.

use super::StartError;
use super::duplicate;
use crate::applier;
use crate::log::{Connection, Endpoint, Messenger, Serving};
use crate::record::Member;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// How long one question may take. It is asked again.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

/// The source of a cluster's data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Origin {
    /// The name of the snapshot with which the cluster was made anew; `None` if it was founded without one.
    pub(crate) snapshot: Option<String>,
    /// The id of its stream.
    pub(crate) stream: u64,
}

/// Answers with the published members, once there are any, and with the origin of the data.
pub(super) async fn answer(
    messenger: &Messenger,
    members: &Arc<applier::Members>,
    origin: &Origin,
) -> Result<Serving, async_nats::SubscribeError> {
    let published = members.published();
    let members = move || {
        let members: Vec<Member> = published.borrow().values().cloned().collect();
        (!members.is_empty()).then(|| serde_json::to_vec(&members).expect("plain data").into())
    };
    let origin: Bytes = serde_json::to_vec(origin).expect("plain data").into();
    messenger.answer_with_members(members, move || Some(origin.clone())).await
}

/// A connection over which the members are asked.
#[derive(Debug)]
pub(crate) struct Observer {
    messenger: Messenger,
    start: u64,
}

impl Observer {
    /// Connects to the observing nats-server.
    ///
    /// # Errors
    /// [`StartError`].
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Observer, StartError> {
        let connection =
            Connection::open(endpoint, "jetway observer").await.map_err(crate::log::OpenError::from)?;
        let start = rand::random();
        let (messenger, _) = Messenger::open(&connection, &endpoint.bucket, start).await?;
        Ok(Observer { messenger, start })
    }

    /// The members of the cluster, if one of them answers now.
    pub(crate) async fn members(&self) -> Option<Vec<Member>> {
        serde_json::from_slice(&self.messenger.ask_for_members(ANSWER_TIMEOUT).await?).ok()
    }

    /// The origin of the cluster's data, if a member answers now.
    pub(crate) async fn origin(&self) -> Option<Origin> {
        serde_json::from_slice(&self.messenger.ask_for_snapshot(ANSWER_TIMEOUT).await?).ok()
    }

    /// How an operator finds the running process of a member; `None` if there is none.
    pub(crate) async fn process_of(&self, member: u64) -> Option<String> {
        duplicate::find(&self.messenger, member, self.start).await
    }
}
