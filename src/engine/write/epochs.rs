//! Reads the epoch records behind the own one: one of them is how a writer learns that it is deposed.

use crate::log::{ConsumeError, Consumer, Log};
use crate::types::Sequence;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The consumer of epoch records, by which a writer learns of another one.
pub(super) enum Epochs {
    None,
    Opening(JoinHandle<Result<Consumer, ConsumeError>>),
    Reading(Box<Consumer>),
}

impl Epochs {
    pub(super) fn open(log: &Arc<Log>, after: Sequence) -> Epochs {
        let log = Arc::clone(log);
        Epochs::Opening(tokio::spawn(async move { log.consume_epochs(after).await }))
    }

    /// The nonce of the next epoch record. Nothing is lost where the future is dropped.
    pub(super) async fn next(&mut self, log: &Arc<Log>, position: Sequence) -> Option<u64> {
        match self {
            Epochs::None => pending().await,
            Epochs::Opening(opening) => {
                if let Ok(Ok(consumer)) = opening.await {
                    *self = Epochs::Reading(Box::new(consumer));
                } else {
                    *self = Epochs::open(log, position);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
            Epochs::Reading(consumer) => match consumer.next().await {
                Ok(delivered) => {
                    return delivered.messages.into_iter().find_map(|(_, record)| Some(record?.nonce));
                }
                Err(error) => {
                    tracing::debug!(%error, "epoch records are not followed");
                    *self = Epochs::open(log, position);
                }
            },
        }
        None
    }
}
