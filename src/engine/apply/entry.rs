//! The instructions to the thread, and its messages to the node.

use crate::applier::{Damage, FullState};
use crate::engine::failure::Loss;
use crate::engine::mark::Mark;
use crate::engine::proposal::Waiter;
use crate::log::Present;
use crate::record::{Digest, Placed};
use crate::types::{LogIndex, Revision, Sequence};
use tokio::sync::oneshot;

/// An instruction to the thread, in the order of the log.
#[derive(Debug)]
pub(in crate::engine) enum Entry {
    /// Valid records, whole batches, and the calls that they answer.
    Records {
        records: Vec<Placed>,
        waiters: Vec<Waiter>,
        trim_to: LogIndex,
        is_whole: bool,
        /// This instance has written them.
        is_own: bool,
    },
    /// Everything that the call's answer rests on is before this entry.
    Complete(Waiter),
    /// Messages that change nothing.
    Void(Vec<Sequence>),
    /// A barrier behind the record at an index.
    Barrier(Sequence, LogIndex),
    /// The log is read from its start.
    Begin { floor: Option<Revision>, mark: Option<Mark>, accepts_loss: bool },
    /// The log ends here, before anything is written behind it: the mark must not name more.
    End,
    /// Everything before this entry may be shown. The load began with the trim record at `first`, or that is
    /// the first message, and passed over holes.
    Loaded { first: Sequence, holes: Vec<(Sequence, Sequence)> },
    /// Asks for the first sequence that must be in the stream, and is not, and for the last one that was
    /// read.
    Lacking(Present, oneshot::Sender<(Option<Sequence>, Sequence)>),
    /// The server of the store may have been started again.
    ServerChanged,
    /// Asks for the next published state with its tables.
    FullState(oneshot::Sender<FullState>),
    /// Asks for the digest here.
    Digest(oneshot::Sender<(LogIndex, Digest)>),
    /// The writer has this digest at an index.
    Compare(LogIndex, Digest),
    /// To be answered when compactions have left nothing to sweep and to remove.
    AfterRemovals(Waiter),
    /// The writer stops: everything that is shown is the last mark.
    Stop(oneshot::Sender<()>),
}

impl Entry {
    /// Whether it may change the published state.
    pub(super) fn shows(&self) -> bool {
        !matches!(self, Entry::Complete(_) | Entry::Barrier(..) | Entry::Void(_) | Entry::Compare(..))
    }
}

/// A message of the thread to the node.
#[derive(Debug)]
pub(in crate::engine) enum Report {
    /// The log is damaged, or ends before the mark.
    Lost(Loss),
    /// The log is damaged, unless the load ran beside removals: it may have read a value and missed its
    /// delete.
    Suspected(Damage),
    /// The digest here is not the writer's.
    Differs { index: LogIndex, here: Digest, writer: Digest },
}

/// The sequence of the newest record among entries.
pub(super) fn newest(entries: &[Entry]) -> Option<Sequence> {
    let records = entries.iter().rev().find_map(|entry| match entry {
        Entry::Records { records, .. } => records.last(),
        _ => None,
    });
    records.map(|last| last.sequence)
}
