//! The response header: who answers, and at which revision.

use crate::proto::etcdserverpb::ResponseHeader;
use crate::types::Revision;

/// What is the same in every header that this instance sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderSource {
    /// Shared by all instances on a bucket.
    pub cluster_id: u64,
    /// This instance.
    pub member_id: u64,
    /// There are no elections among instances; clients only want it to be there.
    pub raft_term: u64,
}

impl HeaderSource {
    /// A header at a revision; 0 for calls that have none.
    pub fn at(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id,
            member_id: self.member_id,
            revision: revision.0,
            raft_term: self.raft_term,
        }
    }

    /// Fills the ids into a header that has only its revision.
    pub fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(self.at(Revision(revision)));
    }
}
