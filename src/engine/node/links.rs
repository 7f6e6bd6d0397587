//! The links to other instances, which a node has while it shares the log.

use super::Node;
use crate::applier::Members;
use crate::engine::StartError;
use crate::engine::duplicate::DuplicateCheck;
use crate::engine::join::{self, Origin};
use crate::log::{Incoming, Log, Messenger, OpenError, Serving};
use crate::record::Member;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The links to other instances.
#[derive(Debug)]
pub(in crate::engine) struct PeerLinks {
    pub(in crate::engine) messenger: Messenger,
    pub(in crate::engine) incoming: mpsc::Receiver<Incoming>,
    pub(in crate::engine) duplicate_check: DuplicateCheck,
    pub(in crate::engine) answering_newcomers: Option<Serving>,
}

impl PeerLinks {
    /// Opens them. Makes sure that no other process of this member lives, and answers those that are about to
    /// join, if `members` are given.
    ///
    /// # Errors
    /// [`StartError`].
    pub(in crate::engine) async fn open(
        log: &Log,
        own: &Member,
        start: u64,
        members: Option<&Arc<Members>>,
    ) -> Result<PeerLinks, StartError> {
        let (messenger, incoming) = Messenger::open(log.connection(), &log.instances(), start).await?;
        let duplicate_check = DuplicateCheck::open(&messenger, own, start).await?;
        let answering_newcomers = match members {
            Some(members) => {
                let snapshot = log.restored_snapshot().await.map_err(OpenError::from)?;
                let origin = Origin { snapshot, stream: log.facts().cluster_id };
                Some(join::answer(&messenger, members, &origin).await?)
            }
            None => None,
        };
        Ok(PeerLinks { messenger, incoming, duplicate_check, answering_newcomers })
    }
}

impl Node {
    /// Shares the log with others, or keeps it alone. The role that is taken next rests on it.
    pub(in crate::engine) fn share(&mut self, links: Option<Box<PeerLinks>>, done: oneshot::Sender<()>) {
        self.status.set_linearizable(false);
        self.mode.set_alone(links.is_none());
        if let Some(links) = links {
            self.set_links(*links);
        } else {
            (self.messenger, self.duplicate_check, self.answering_newcomers) = (None, None, None);
            self.incoming = mpsc::channel(1).1;
            self.peers.clear();
        }
        done.send(()).ok();
    }

    pub(in crate::engine) fn set_links(&mut self, links: PeerLinks) {
        let PeerLinks { messenger, incoming, duplicate_check, answering_newcomers } = links;
        self.messenger = Some(messenger);
        self.incoming = incoming;
        self.duplicate_check = Some(duplicate_check);
        self.answering_newcomers = answering_newcomers;
    }
}
