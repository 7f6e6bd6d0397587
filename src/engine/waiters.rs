//! Who waits for what to become visible.

use crate::core::State;
use crate::jetstream::PublishError;
use crate::jetstream::record::Body;
use crate::primitive::{Mutex, MutexGuard, oneshot};
use crate::types::{Revision, Sequence};
use prometheus::Histogram;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use tokio::time::Instant;

/// A write as the log shows it.
#[derive(Clone, Debug)]
pub(super) struct Committed {
    /// The revision it made.
    pub(super) revision: Revision,
    /// A state that includes it.
    pub(super) state: Arc<State>,
}

/// What became of a write.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is visible.
    Committed(Committed),
    /// It was not stored.
    Refused(PublishError),
    /// Nobody says whether it was stored; the log may still tell, through the receiver.
    Unknown(PublishError, oneshot::Receiver<Outcome>),
    /// The store began to fail before it had acknowledged.
    StoreFails(String),
    /// It was acknowledged, and did not become visible in time.
    Late,
}

/// How far a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Published,
    Acknowledged,
    Unknown,
}

#[derive(Debug)]
struct Pending {
    /// None once the outcome is told.
    sender: Option<oneshot::Sender<Outcome>>,
    progress: Progress,
    sent: Sent,
}

/// A write as it is published.
#[derive(Debug)]
pub(super) struct Sent {
    /// When, not later than the publication.
    pub(super) at: Instant,
    /// The connection it was handed to.
    pub(super) generation: u64,
    /// When its outcome must be told.
    pub(super) deadline: Instant,
    /// Its messages, where they are applied from the acknowledgements; empty where the log brings them.
    pub(super) bodies: Vec<Body>,
}

/// Writes of this instance that are on their way. A write whose caller has gone stays until it is acknowledged where its
/// messages are applied from that, or else until then only.
#[derive(Debug, Default)]
pub(super) struct PendingWrites {
    writes: Mutex<HashMap<u64, Pending>>,
    durations: Option<Histogram>,
}

impl PendingWrites {
    /// None yet. `durations` are told how long each took until it was known to be stored, be it by its acknowledgement or
    /// by the log.
    pub(super) fn new(durations: Option<Histogram>) -> PendingWrites {
        PendingWrites { writes: Mutex::default(), durations }
    }

    fn stored(&self, sent: &Sent) {
        if let Some(durations) = &self.durations {
            durations.observe(sent.at.elapsed().as_secs_f64());
        }
    }

    /// To be called before the write is published, or the log may be faster.
    pub(super) fn expect(&self, operation: u64, sent: Sent) -> PendingWrite<'_> {
        let (sender, receiver) = oneshot::channel();
        let pending = Pending { sender: Some(sender), progress: Progress::Published, sent };
        self.lock().insert(operation, pending);
        PendingWrite { writes: self, operation, receiver }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    /// Tells whoever waits that the write is visible.
    pub(super) fn complete(&self, operations: impl Iterator<Item = (u64, Revision)>, state: &Arc<State>) {
        let mut writes = self.lock();
        for (operation, revision) in operations {
            let Some(pending) = writes.remove(&operation) else { continue };
            if pending.progress != Progress::Acknowledged {
                self.stored(&pending.sent);
            }
            if let Some(sender) = pending.sender {
                // The other side may have given up; then nobody needs to know.
                sender.send(Outcome::Committed(Committed { revision, state: Arc::clone(state) })).ok();
            }
        }
    }

    /// Takes note of an acknowledgement. Answers when the write was published and which messages are to be applied now, if
    /// any.
    pub(super) fn acknowledged(
        &self,
        operation: u64,
        stored: Result<(), PublishError>,
    ) -> Option<(Instant, Vec<Body>)> {
        let mut writes = self.lock();
        let mut entry = match writes.entry(operation) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(_) => return None,
        };
        let pending = entry.get_mut();
        let sent = pending.sent.at;
        // Nothing is left to be applied, whatever comes: a caller that goes away takes the entry along.
        let bodies = std::mem::take(&mut pending.sent.bodies);
        match stored {
            Ok(()) => {
                if pending.progress == Progress::Published {
                    pending.progress = Progress::Acknowledged;
                    self.stored(&pending.sent);
                }
                if pending.is_abandoned() {
                    entry.remove();
                }
                return Some((sent, bodies));
            }
            Err(error @ PublishError::Unknown(_)) => pending.lose(error),
            Err(error) => {
                if let Some(sender) = entry.remove().sender {
                    sender.send(Outcome::Refused(error)).ok();
                }
            }
        }
        None
    }

    /// Writes that were handed to another connection than that of `generation` and not acknowledged: nobody knows of them.
    pub(super) fn lose_all_before(&self, generation: u64) {
        for pending in self.lock().values_mut() {
            if pending.progress == Progress::Published && pending.sent.generation != generation {
                pending.lose(PublishError::Unknown("the connection to NATS broke and was made anew".into()));
            }
        }
    }

    /// The store fails: what is not acknowledged may or may not be there after its restart.
    pub(super) fn fail(&self, error: &str) {
        for pending in self.lock().values_mut() {
            if pending.progress == Progress::Published
                && let Some(sender) = pending.sender.take()
            {
                sender.send(Outcome::StoreFails(error.to_owned())).ok();
            }
        }
    }

    /// Tells those whose time is over.
    pub(super) fn expire(&self, now: Instant) {
        self.lock().retain(|_, pending| {
            if now < pending.sent.deadline {
                return true;
            }
            match pending.progress {
                Progress::Published => pending.lose(PublishError::Unknown("timed out".into())),
                Progress::Acknowledged => {
                    if let Some(sender) = pending.sender.take() {
                        sender.send(Outcome::Late).ok();
                    }
                }
                Progress::Unknown => {}
            }
            !pending.is_abandoned()
        });
    }
}

impl Pending {
    /// Whether nobody waits for it.
    fn is_abandoned(&self) -> bool {
        self.sender.as_ref().is_none_or(oneshot::Sender::is_closed)
    }

    fn lose(&mut self, error: PublishError) {
        self.progress = Progress::Unknown;
        let (sender, receiver) = oneshot::channel();
        if let Some(told) = self.sender.take()
            && told.send(Outcome::Unknown(error, receiver)).is_ok()
        {
            self.sender = Some(sender);
        }
    }
}

/// A write that is waited for, until this is dropped: a client that goes away must leave nothing behind for longer than
/// the acknowledgement takes.
#[derive(Debug)]
pub(super) struct PendingWrite<'a> {
    writes: &'a PendingWrites,
    operation: u64,
    /// Resolves with the outcome.
    pub(super) receiver: oneshot::Receiver<Outcome>,
}

impl Drop for PendingWrite<'_> {
    fn drop(&mut self) {
        if let Entry::Occupied(mut entry) = self.writes.lock().entry(self.operation) {
            if entry.get().sent.bodies.is_empty() {
                entry.remove();
            } else {
                entry.get_mut().sender = None;
            }
        }
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

#[cfg(all(test, not(jetway_loom)))]
mod tests {
    use super::*;

    fn sent(bodies: Vec<Body>) -> Sent {
        let at = Instant::now();
        Sent { at, generation: 1, deadline: at + std::time::Duration::from_secs(7), bodies }
    }

    #[test]
    fn what_is_to_be_applied_outlives_a_caller_that_goes_away() {
        let writes = PendingWrites::default();
        drop(writes.expect(1, sent(vec![Body::Barrier])));
        drop(writes.expect(2, sent(Vec::new())));
        assert_eq!(writes.len(), 1);
        let (_, bodies) = writes.acknowledged(1, Ok(())).expect("the first one");
        assert_eq!((bodies.len(), writes.len()), (1, 0));
    }

    #[test]
    fn each_write_that_is_stored_is_timed_once_whoever_tells_first() {
        let times = Histogram::with_opts(prometheus::HistogramOpts::new("a", "b")).expect("a legal name");
        let writes = PendingWrites::new(Some(times.clone()));
        let state = crate::core::Writer::new().1.snapshot();
        let visible = |operation| writes.complete(std::iter::once((operation, Revision(2))), &state);
        let _told_by_the_log = writes.expect(1, sent(Vec::new()));
        visible(1);
        writes.acknowledged(1, Ok(()));
        assert_eq!(times.get_sample_count(), 1);
        let _told_by_both = writes.expect(2, sent(Vec::new()));
        writes.acknowledged(2, Ok(()));
        assert_eq!(times.get_sample_count(), 2);
        visible(2);
        let _refused = writes.expect(3, sent(Vec::new()));
        writes.acknowledged(3, Err(PublishError::Conflict(String::new())));
        assert_eq!(times.get_sample_count(), 2);
    }

    #[test]
    fn a_write_that_was_lost_may_still_be_refused() {
        let writes = PendingWrites::default();
        let mut write = writes.expect(1, sent(Vec::new()));
        writes.lose_all_before(1);
        assert!(write.receiver.try_recv().is_err());
        writes.lose_all_before(2);
        let Ok(Outcome::Unknown(_, mut later)) = write.receiver.try_recv() else {
            panic!("it was not lost");
        };
        writes.acknowledged(1, Err(PublishError::Conflict(String::new())));
        assert!(matches!(later.try_recv(), Ok(Outcome::Refused(PublishError::Conflict(_)))));
    }

    #[test]
    fn time_is_over_for_those_who_wait_and_those_who_left() {
        let writes = PendingWrites::default();
        let mut waiting = writes.expect(1, sent(vec![Body::Barrier]));
        drop(writes.expect(2, sent(vec![Body::Barrier])));
        writes.expire(Instant::now());
        assert_eq!(writes.len(), 2);
        writes.acknowledged(1, Ok(()));
        writes.expire(Instant::now() + std::time::Duration::from_secs(8));
        assert!(matches!(waiting.receiver.try_recv(), Ok(Outcome::Late)));
        writes.expire(Instant::now() + std::time::Duration::from_secs(8));
        assert_eq!(writes.len(), 0);
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

    /// A write that the log brings back.
    fn by_the_log() -> Sent {
        Sent { at: Instant::now(), generation: 1, deadline: Instant::now(), bodies: Vec::new() }
    }

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
                        let mut write = pending.expect(operation, by_the_log());
                        sent.send(operation).expect("the applier is there");
                        let outcome = block_on(&mut write.receiver).expect("an answer");
                        let Outcome::Committed(committed) = outcome else { panic!("{outcome:?}") };
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
                move || drop(pending.expect(2, by_the_log()))
            });
            show((&mut writer, &reader), &pending, &positions, 2, 2);
            write.join().expect("the write");
            assert_eq!(pending.len(), 0);
        });
    }

    #[test]
    fn what_is_applied_from_its_acknowledgement_is_there_once_though_its_caller_leaves() {
        loom::model(|| {
            let pending = Arc::new(PendingWrites::default());
            let sent = Sent { bodies: vec![Body::Barrier], ..by_the_log() };
            // The table is asked for by the caller's own thread before anything is published.
            let (sender, receiver) = loom::sync::mpsc::channel();
            let write = thread::spawn({
                let pending = Arc::clone(&pending);
                move || {
                    let write = pending.expect(2, sent);
                    sender.send(()).expect("the other side is there");
                    drop(write);
                }
            });
            receiver.recv().expect("a write");
            let (_, bodies) = pending.acknowledged(2, Ok(())).expect("it is waited for");
            assert_eq!(bodies.len(), 1);
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
