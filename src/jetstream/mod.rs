//! JetStream as jetway uses it: the connection, the two streams of a bucket, publishing with guards, following a
//! stream without trusting a tail that may be lost, and the codec between messages and records.
//!
//! Everything that knows a NATS subject, header or error code is in this folder. Raw JSON requests are used instead of
//! the client library's typed stream API: that one drops fields it does not know (`state.lost`, newer settings), erases
//! message contents on delete, and its ordered consumers resume in silence past a tail that the server lost.

mod api;
mod connect;
mod follower;
mod line;
mod plain;
mod publisher;
pub mod record;
mod replay;
mod revision_map;
mod streams;
mod subjects;

pub use api::{Api, ApiError, StoredMessage, StreamInfo};
pub use connect::{Auth, ConnectError, Connection, Endpoint, Link};
pub use follower::{Followed, Follower, Own, OwnMessages, RawMessage, Start};
pub use publisher::{
    Acknowledgement, Acknowledgements, BATCH_MESSAGE_TIME, Basis, Guard, LATE, Outgoing, PublishError,
    Publisher,
};
pub use revision_map::{RevisionMap, Step};
pub use streams::{Bucket, FORMAT, SetupError};
pub use subjects::{KeyTooLong, MAX_SUBJECT_BYTES};
