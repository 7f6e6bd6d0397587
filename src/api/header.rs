//! The response header: ids of cluster and member, epoch and revision.

use crate::proto::etcdserverpb::ResponseHeader;
use crate::types::Revision;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes the headers that this instance sends.
#[derive(Clone, Debug)]
pub(crate) struct HeaderSource {
    /// Shared by all instances on a bucket.
    pub cluster_id: u64,
    /// This instance.
    pub member_id: u64,
    /// The current epoch. Its accesses are relaxed, since it orders nothing.
    pub epoch: Arc<AtomicU64>,
}

impl HeaderSource {
    /// A header at a revision; 0 for calls that have none.
    pub(crate) fn at(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: revision.0,
            raft_term: self.epoch.load(Ordering::Relaxed),
        }
    }

    /// Fills the ids into a header that has only its revision.
    pub(crate) fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.at(Revision(revision)));
    }
}
