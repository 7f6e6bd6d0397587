//! Reads the epoch records behind the writer's own one. One that another instance has stored deposes the
//! writer.

use crate::log::{ConsumeError, Consumer, Log};
use crate::types::Sequence;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The consumer of epoch records.
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

    /// Returns the nonce of the next epoch record. A dropped future loses nothing.
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
                    tracing::debug!(%error, "epoch records cannot be read; another consumer is made");
                    *self = Epochs::open(log, position);
                }
            },
        }
        None
    }
}
