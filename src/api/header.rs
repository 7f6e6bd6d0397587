//! The header of every answer.

use crate::proto::etcdserverpb::ResponseHeader;
use crate::types::Revision;

/// Who answers. The ids are not zero and never change while the server runs (HDR-1).
#[derive(Clone, Copy, Debug)]
pub struct HeaderSource {
    /// The bucket, the same for every instance that serves it.
    pub cluster_id: u64,
    /// This instance.
    pub member_id: u64,
    /// What stands in for the term of a Raft leader; not zero.
    pub raft_term: u64,
}

impl HeaderSource {
    /// The header of an answer that was made at `revision`.
    pub fn header(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: revision.0,
            raft_term: self.raft_term,
        }
    }
}
