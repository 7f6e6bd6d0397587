//! The responses of a Watch call, before they are encoded.

use crate::error::EtcdError;
use crate::types::Revision;
use bytes::Bytes;
use smallvec::SmallVec;

/// The watch id of progress for a whole stream, and of watchers that were never created.
pub const NO_WATCHER: i64 = -1;

/// One response, before it is encoded.
#[derive(Clone, Debug)]
pub struct Response {
    /// Revision of the header; 0 with [`Body::Compacted`].
    pub revision: Revision,
    /// The watcher, or [`NO_WATCHER`].
    pub watch_id: i64,
    /// Its content.
    pub body: Body,
}

/// The content of a response.
#[derive(Clone, Debug)]
pub enum Body {
    /// The watcher exists now.
    Created,
    /// The watcher could not be made.
    Refused(EtcdError),
    /// The client has ended the watcher.
    Canceled,
    /// A revision that the watcher needs is compacted; this is the oldest one left.
    Compacted(Revision),
    /// Everything up to the header's revision has been sent.
    Progress,
    /// Events of whole revisions, in order.
    Events {
        /// Encoded as `mvccpb.Event`.
        events: SmallVec<[Bytes; 1]>,
        /// Whether the client takes them in pieces.
        may_fragment: bool,
    },
}
