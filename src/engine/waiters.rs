//! Who waits for what to become visible.

use crate::core::State;
use crate::types::{Revision, Sequence};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// A write as the log shows it.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    /// The revision it made.
    pub(super) revision: Revision,
    /// A state that includes it.
    pub(super) state: Arc<State>,
}

/// Writes of this instance that are on their way.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    writes: Mutex<HashMap<u64, oneshot::Sender<Committed>>>,
}

impl PendingWrites {
    /// To be called before the write is published, or the log may be faster.
    pub(super) fn expect(&self, operation: u64) -> PendingWrite<'_> {
        let (sender, receiver) = oneshot::channel();
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).insert(operation, sender);
        PendingWrite { writes: self, operation, receiver }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Tells whoever waits that the write is visible.
    pub(super) fn complete(&self, operations: impl Iterator<Item = (u64, Revision)>, state: &Arc<State>) {
        let mut writes = self.writes.lock().unwrap_or_else(PoisonError::into_inner);
        for (operation, revision) in operations {
            if let Some(sender) = writes.remove(&operation) {
                // The other side may have given up; then nobody needs to know.
                sender.send(Committed { revision, state: Arc::clone(state) }).ok();
            }
        }
    }
}

/// A write that is waited for, until this is dropped: a client that goes away must leave nothing behind.
#[derive(Debug)]
pub(super) struct PendingWrite<'a> {
    writes: &'a PendingWrites,
    operation: u64,
    /// Resolves when the write is visible.
    pub(super) receiver: oneshot::Receiver<Committed>,
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        self.writes.writes.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.operation);
    }
}

/// Calls that wait until everything up to a position is visible.
#[derive(Debug, Default)]
pub(super) struct PositionWaiters {
    table: Mutex<PositionTable>,
}

#[derive(Debug, Default)]
struct PositionTable {
    reached: Sequence,
    next_id: u64,
    waiting: BTreeMap<(Sequence, u64), oneshot::Sender<()>>,
}

impl PositionWaiters {
    /// Resolves once `position` is reached, at once where it is already.
    pub(super) fn wait(&self, position: Sequence) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.reached >= position {
            sender.send(()).ok();
        } else {
            let id = table.next_id;
            table.next_id += 1;
            table.waiting.insert((position, id), sender);
        }
        receiver
    }

    /// Everything up to `position` is visible. Positions go back only where a stream is loaded afresh.
    pub(super) fn reach(&self, position: Sequence) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.reached = position;
        let later = table.waiting.split_off(&(position.next(), 0));
        for sender in std::mem::replace(&mut table.waiting, later).into_values() {
            sender.send(()).ok();
        }
    }
}
