//! The reasons why an instance ends.

use crate::applier::Damage;
use crate::record::{FORMAT, Member};
use crate::types::{Epoch, LogIndex, Sequence};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// The remedies for a log that is not whole.
const REMEDY: &str = "Restore a copy, or accept the loss with --accept-data-loss";

/// The reason why the node ended.
pub(super) type Failure = watch::Sender<Option<DataError>>;

/// An instance cannot serve its data any more.
#[derive(Clone, Debug, Error)]
pub enum DataError {
    /// A sync failed. Only a new start can find out what is stored.
    #[error("{0}")]
    Sync(Arc<std::io::Error>),
    /// The log or the state is damaged, or not whole.
    #[error("{0}. {REMEDY}")]
    Lost(#[from] Loss),
    /// The stream holds another log than the one that was read.
    #[error(
        "the log is not the one that was read: {0}. Its store was replaced, restored or purged. Start again to serve \
         what is there, restore a copy, or accept the loss with --accept-data-loss"
    )]
    Replaced(Mismatch),
    /// The format of the log.
    #[error("the log is of format {0}, which a newer jetway has written; this one knows {FORMAT}")]
    Format(u32),
    /// Another process of the same member.
    #[error(transparent)]
    NameTaken(#[from] NameTaken),
}

/// A part of the data is damaged or lost.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Loss {
    /// A record does not fit the state before it.
    #[error(transparent)]
    Damage(#[from] Damage),
    /// The store ends before the mark.
    #[error(
        "the store ends at index {index}, and {lost} more records were synced and answered (up to index {synced}, sequence \
         {sequence}): its newest messages are lost, or it is an older copy"
    )]
    EndsBeforeMark {
        /// The last index of the log.
        index: LogIndex,
        /// Records behind it.
        lost: u64,
        /// The index of the mark.
        synced: LogIndex,
        /// The sequence of the mark.
        sequence: Sequence,
    },
    /// A load from the start does not explain a missing message.
    #[error(
        "the log has lost messages behind sequence {position} (index {index}): a message is missing where none may be. It \
         was purged, edited, or its store is damaged"
    )]
    Messages {
        /// The last sequence before.
        position: Sequence,
        /// The last index before.
        index: LogIndex,
    },
    /// The stream counts messages that it does not have.
    #[error(
        "the log has lost its newest messages: the stream ends at sequence {end}, and nothing is there behind {position}. It \
         was purged or edited"
    )]
    NothingBehind {
        /// The last sequence of the stream.
        end: Sequence,
        /// The last message.
        position: Sequence,
    },
    /// The stream ends before what this instance has read.
    #[error(
        "the log has lost its newest messages: the stream ends at sequence {end}, and this instance has read sequence \
         {position}"
    )]
    EndsBeforePosition {
        /// The last sequence of the stream.
        end: Sequence,
        /// The last sequence that was read.
        position: Sequence,
    },
    /// Another instance has applied records that this one does not find.
    #[error(
        "the log has lost its tail: it ends at index {here}, and another instance has applied index {there}"
    )]
    Tail {
        /// The last index of the log.
        here: LogIndex,
        /// The index of the other instance.
        there: LogIndex,
    },
    /// The stream of this name is gone.
    #[error("the stream {0} was deleted")]
    StreamDeleted(String),
    /// The stream of this name is another one.
    #[error("the stream {0} was deleted and made again")]
    StreamMadeAgain(String),
    /// A message that was read is gone.
    #[error(
        "the log has lost the message at sequence {0}: it was purged or deleted, or its store is damaged"
    )]
    Message(Sequence),
}

/// The difference between the log and the records that were read of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Mismatch {
    /// Another message is in the place of a record.
    #[error("another message is at sequence {sequence}, where record {index} was")]
    OtherMessage {
        /// The place.
        sequence: Sequence,
        /// The index of the record that was read there.
        index: LogIndex,
    },
    /// The epoch record is gone, which is never removed.
    #[error("the record of epoch {epoch} is not at sequence {sequence} any more")]
    NoEpoch {
        /// The epoch.
        epoch: Epoch,
        /// The place of its record.
        sequence: Sequence,
    },
    /// The stream is shorter.
    #[error("the stream ends at sequence {end}, and it was read up to {position}")]
    Shorter {
        /// The last sequence of the stream.
        end: Sequence,
        /// The last sequence that was read.
        position: Sequence,
    },
}

/// Another process of the same member answers.
#[derive(Clone, Debug, Error)]
#[error(
    "member {id:x} is another process already, which answers: pid {pid} on host {host:?} has the same --name {name:?} and \
     the same --advertise-client-urls {urls:?}. Give each instance its own --name, or stop the other one first",
    id = member.id, name = member.name, urls = member.client_urls.join(",")
)]
pub struct NameTaken {
    /// The member.
    pub member: Member,
    /// The process id of the other one.
    pub pid: u32,
    /// The host of the other one.
    pub host: String,
}
