//! The source of messages: a consumer, or the pause before the next one.

use crate::engine::failure::Mismatch;
use crate::log::{ConsumeError, Consumer, Delivered, Log};
use crate::record::{Chain, Record};
use crate::types::{Epoch, LogIndex, Sequence};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// The source of messages.
pub(super) enum Source {
    Opening(JoinHandle<Result<Consumer, OpeningError>>),
    Reading(Box<Consumer>),
    Pausing(Instant),
}

pub(super) enum FromSource {
    /// A consumer was made; the stream holds so many messages behind the position.
    Opened {
        pending: u64,
    },
    /// The log does not hold the records that were read. A new stream leader may still be loading them; a
    /// different message at their sequence is certain loss.
    Lost {
        mismatch: Mismatch,
        is_certain: bool,
    },
    Delivered(Delivered),
    Failed(ConsumeError),
    Paused,
}

pub(super) enum OpeningError {
    Consume(ConsumeError),
    Lost { mismatch: Mismatch, is_certain: bool },
}

impl<E: Into<ConsumeError>> From<E> for OpeningError {
    fn from(error: E) -> OpeningError {
        OpeningError::Consume(error.into())
    }
}

/// The position up to which the log was read, with what identifies it.
#[derive(Clone, Copy)]
struct ReadPosition {
    epoch: Epoch,
    nonce: u64,
    index: LogIndex,
    /// The sequences of the last record and of the last epoch record.
    last: Sequence,
    last_epoch: Sequence,
    position: Sequence,
}

impl ReadPosition {
    fn of(chain: &Chain) -> ReadPosition {
        let (last, last_epoch) = chain.last();
        let (epoch, nonce, index, position) = (chain.epoch(), chain.nonce(), chain.index(), chain.position());
        ReadPosition { epoch, nonce, index, last, last_epoch, position }
    }

    /// Compares the log with the records that were read of it: another store may have taken its place.
    async fn compare(&self, log: &Log) -> Result<(), OpeningError> {
        if self.last == Sequence::default() {
            return Ok(());
        }
        let message = log.message_at(self.last).await?;
        let is_same = |record: &Record| {
            (record.epoch, record.nonce, record.index) == (self.epoch, self.nonce, self.index)
        };
        match message {
            Some(record) if record.as_ref().is_some_and(is_same) => return Ok(()),
            Some(_) => {
                let mismatch = Mismatch::OtherMessage { sequence: self.last, index: self.index };
                return Err(OpeningError::Lost { mismatch, is_certain: true });
            }
            None => {}
        }
        // A later trim record may permit the removal of the last record. Epoch records are never removed.
        let epoch = log.message_at(self.last_epoch).await?;
        if epoch.flatten().is_none_or(|record| (record.epoch, record.nonce) != (self.epoch, self.nonce)) {
            let mismatch = Mismatch::NoEpoch { epoch: self.epoch, sequence: self.last_epoch };
            return Err(OpeningError::Lost { mismatch, is_certain: false });
        }
        let (end, position) = (Sequence(log.info().await?.state.last_seq), self.position);
        if end < position {
            let mismatch = Mismatch::Shorter { end, position };
            return Err(OpeningError::Lost { mismatch, is_certain: false });
        }
        Ok(())
    }
}

impl Source {
    /// Makes a consumer behind what was read. Gives up after `timeout`: a request that reaches NATS while
    /// the stream has no leader is never answered.
    pub(super) fn open(log: &Arc<Log>, chain: &Chain, timeout: Duration, pace: Option<u64>) -> Source {
        let (log, known) = (Arc::clone(log), ReadPosition::of(chain));
        Source::Opening(tokio::spawn(async move {
            let opened = async {
                known.compare(&log).await?;
                Ok(log.consume(known.position, pace).await?)
            };
            let opened = tokio::time::timeout(timeout, opened).await;
            opened.unwrap_or(Err(OpeningError::Consume(ConsumeError::NoAnswer(timeout))))
        }))
    }

    /// Returns the next event. A dropped future loses nothing.
    pub(super) async fn next(&mut self) -> FromSource {
        match self {
            Source::Opening(opening) => match opening.await {
                Ok(Ok(consumer)) => {
                    let pending = consumer.pending();
                    *self = Source::Reading(Box::new(consumer));
                    FromSource::Opened { pending }
                }
                Ok(Err(OpeningError::Consume(error))) => FromSource::Failed(error),
                Ok(Err(OpeningError::Lost { mismatch, is_certain })) => {
                    FromSource::Lost { mismatch, is_certain }
                }
                Err(_) => FromSource::Failed(ConsumeError::Silent),
            },
            Source::Reading(consumer) => match consumer.next().await {
                Ok(delivered) => FromSource::Delivered(delivered),
                Err(error) => FromSource::Failed(error),
            },
            Source::Pausing(until) => {
                tokio::time::sleep_until(*until).await;
                FromSource::Paused
            }
        }
    }
}
