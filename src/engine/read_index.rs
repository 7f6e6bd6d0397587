//! Linearizable reads where other instances write too: a position that includes every write answered before the read
//! came, learned in one round trip for all reads that came meanwhile.
//!
//! On one replica the stream's last sequence is that position. On several, only a committed entry proves who leads,
//! so a barrier message is published: its sequence is the position, and it is no key, no event and no revision.

use super::{Inner, LinearizableReads, REQUEST_TIMEOUT};
use crate::core::State;
use crate::error::EtcdError;
use crate::jetstream::{Guard, Outgoing, record};
use crate::types::Sequence;
use bytes::Bytes;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

pub(super) type Waiter = oneshot::Sender<Result<Arc<State>, EtcdError>>;

/// Serves the read-index requests of an engine for as long as it lives.
pub(super) fn spawn(inner: &Arc<Inner>, mut requests: mpsc::Receiver<Waiter>) {
    let inner = Arc::downgrade(inner);
    tokio::spawn(async move {
        while let Some(first) = requests.recv().await {
            let Some(inner) = inner.upgrade() else { return };
            let mut waiters = vec![first];
            while let Ok(waiter) = requests.try_recv() {
                waiters.push(waiter);
            }
            let begun = Instant::now();
            let result = inner.read_index_once().await;
            inner.counters.read_index(begun.elapsed(), result.is_ok());
            for waiter in waiters {
                drop(waiter.send(result.clone()));
            }
        }
    });
}

impl Inner {
    /// A state that includes every write answered before this call.
    pub(super) async fn read_index(&self) -> Result<Arc<State>, EtcdError> {
        let (sender, receiver) = oneshot::channel();
        self.read_index.send(sender).await.map_err(|_| EtcdError::Stopped)?;
        receiver.await.map_err(|_| EtcdError::Stopped)?
    }

    async fn read_index_once(&self) -> Result<Arc<State>, EtcdError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        self.wait_following(deadline).await?;
        let position =
            tokio::time::timeout_at(deadline, self.stream_end()).await.map_err(|_| self.unavailable())??;
        if let Some(own) = &*self.own.load() {
            own.want(position);
        }
        tokio::time::timeout_at(deadline, self.positions.wait(position))
            .await
            .map_err(|_| self.unavailable())?
            .map_err(|_| EtcdError::Stopped)?;
        Ok(self.reader.snapshot())
    }

    /// A message that takes a place in the stream and is no key, no event and no revision.
    pub(super) fn barrier(&self, guard: Option<Guard>) -> Outgoing {
        Outgoing {
            subject: format!("{}{}", self.bucket.keys_prefix, record::BARRIER),
            headers: Vec::new(),
            payload: Bytes::new(),
            guard,
            ttl: None,
        }
    }

    async fn stream_end(&self) -> Result<Sequence, EtcdError> {
        let unavailable = |error: &dyn std::fmt::Display| EtcdError::Unavailable(error.to_string());
        if self.settings.endpoint.replicas > 1
            && self.settings.linearizable_reads == LinearizableReads::Quorum
        {
            return self.publisher.publish(self.barrier(None)).await.map_err(|error| unavailable(&error));
        }
        let info = self.api.stream_info(&self.bucket.keys).await.map_err(|error| unavailable(&error))?;
        if !info.is_from_leader() {
            return Err(EtcdError::NoLeader);
        }
        Ok(info.last())
    }
}
