//! Who waits for what to become visible.

use crate::core::State;
use crate::primitive::{Mutex, oneshot};
use crate::types::{Revision, Sequence};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};

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

/// A writer's own thread and those who wait for it. Loom sees the tables' mutexes, what is sent and who is woken; that
/// tokio's `oneshot` is what `primitive` puts in its place is taken from it. The order of the applier's steps after a
/// batch (publish, then the writes, then the position) is repeated here from `follow`.
#[cfg(all(test, jetway_loom))]
mod loom_model {
    use super::*;
    use crate::core::{Reader, Writer};
    use loom::future::block_on;
    use loom::thread;

    /// Shows the message at position `at`, which makes the revision of the same number and is this operation's.
    fn show(
        (writer, reader): (&mut Writer, &Reader),
        pending: &PendingWrites,
        positions: &PositionWaiters,
        at: i64,
        operation: u64,
    ) {
        let position = Sequence(at as u64);
        writer.advance(Revision(at), position);
        writer.publish();
        let state = reader.snapshot();
        pending.complete([(operation, Revision(at))].into_iter(), &state);
        positions.reach(position);
    }

    #[test]
    fn every_expected_write_is_answered_with_a_state_that_has_it() {
        loom::model(|| {
            let (mut writer, reader) = Writer::new();
            let (pending, positions) = (Arc::new(PendingWrites::default()), PositionWaiters::default());
            let (sent, arrives) = loom::sync::mpsc::channel();
            let writes: Vec<_> = [2, 3]
                .into_iter()
                .map(|operation| {
                    let (pending, reader, sent) = (Arc::clone(&pending), reader.clone(), sent.clone());
                    thread::spawn(move || {
                        let mut write = pending.expect(operation);
                        sent.send(operation).expect("the applier is there");
                        let committed = block_on(&mut write.receiver).expect("an answer");
                        assert!(committed.revision.0 >= 2 && committed.state.revision >= committed.revision);
                        // Its own write is there for whoever reads after the answer.
                        assert!(reader.revision() >= committed.revision);
                    })
                })
                .collect();
            for revision in [2, 3] {
                let operation = arrives.recv().expect("a write");
                show((&mut writer, &reader), &pending, &positions, revision, operation);
            }
            for write in writes {
                write.join().expect("a write");
            }
            assert_eq!((pending.len(), reader.revision()), (0, Revision(3)));
        });
    }

    #[test]
    fn a_write_given_up_leaves_nothing_behind() {
        loom::model(|| {
            let (mut writer, reader) = Writer::new();
            let (pending, positions) = (Arc::new(PendingWrites::default()), PositionWaiters::default());
            let write = thread::spawn({
                let pending = Arc::clone(&pending);
                move || drop(pending.expect(2))
            });
            show((&mut writer, &reader), &pending, &positions, 2, 2);
            write.join().expect("the write");
            assert_eq!(pending.len(), 0);
        });
    }

    #[test]
    fn who_waits_for_a_position_is_woken_when_it_is_visible() {
        loom::model(|| {
            let (mut writer, reader) = Writer::new();
            let positions = Arc::new(PositionWaiters::default());
            let waiters: Vec<_> = [2, 3]
                .into_iter()
                .map(|position| {
                    let (positions, reader) = (Arc::clone(&positions), reader.clone());
                    thread::spawn(move || {
                        block_on(positions.wait(Sequence(position))).expect("the table keeps the other end");
                        assert!(reader.snapshot().position >= Sequence(position));
                    })
                })
                .collect();
            for at in [2, 3] {
                show((&mut writer, &reader), &PendingWrites::default(), &positions, at, 0);
            }
            for waiter in waiters {
                waiter.join().expect("a waiter");
            }
            assert!(positions.table.lock().expect("no panics").waiting.is_empty());
        });
    }
}
