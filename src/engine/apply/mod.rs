//! The thread that waits for the disk, applies records, publishes states and sends answers.
//!
//! It is a thread of its own: between an acknowledgement and the answer that it allows there is no other
//! thread to be woken, and no read, however large, stands in the way of a write.

mod entry;

pub(super) use entry::{Entry, Report};

use super::compactor::Job;
use super::counters::Counters;
use super::failure::Loss;
use super::mark::{Mark, Marks};
use super::mode::Mode;
use super::proposal::Waiter;
use super::read_only::ReadOnlyState;
use crate::applier::{Applier, FullState, Removals, Strictness};
use crate::core::Reader;
use crate::durability::{Gate, NotDurable};
use crate::log::{Present, ReadOnly, is_within};
use crate::memory;
use crate::planted::{self, Fault, planted};
use crate::primitive::Notify;
use crate::record::{Body, Digest, Placed, Trim};
use crate::types::{LogIndex, Revision, Sequence};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Entries taken at once: all of them share a sync and a publication.
const AT_ONCE: usize = 256;
/// Versions that a compaction looks at in one turn, with all writes waiting: half a millisecond's work.
const SWEEP: usize = 512;
/// Digests that are remembered to compare them with those of the writer.
const DIGESTS: usize = 1024;
const TICK: Duration = Duration::from_secs(1);

/// The state of the thread.
pub(super) struct Task {
    pub(super) entries: mpsc::Receiver<Entry>,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    pub(super) applier: Applier,
    pub(super) reader: Reader,
    pub(super) published: Arc<Notify>,
    /// Used while the mode says so.
    pub(super) gate: Option<Gate>,
    pub(super) mode: Arc<Mode>,
    pub(super) read_only: ReadOnlyState,
    pub(super) marks: Option<Marks>,
    pub(super) jobs: mpsc::UnboundedSender<Job>,
    pub(super) counters: Counters,
    /// A compaction has freed much. Orders nothing: the allocator finds what was freed.
    pub(super) has_freed: Arc<AtomicBool>,
    pub(super) state: Progress,
}

/// The progress of the thread.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, and all pairs occur")]
pub(super) struct Progress {
    is_loaded: bool,
    is_damaged: bool,
    was_sweeping: bool,
    /// Whether the last records were synced here.
    synced_here: bool,
    /// The records that the mark names may be lost.
    accepts_loss: bool,
    /// The sequence of the last record that was applied.
    position: Sequence,
    /// The last sequence that was read, barriers and void messages included.
    read_to: Sequence,
    mark: Option<Mark>,
    digests: VecDeque<(LogIndex, Digest)>,
    to_compare: Option<(LogIndex, Digest)>,
    waiters: Vec<Waiter>,
    after_removals: Vec<Waiter>,
    full_state_senders: Vec<oneshot::Sender<FullState>>,
    /// From here on every sequence must be in the stream.
    whole_from: Sequence,
    /// Sequences behind that which were missing at the load.
    holes: Vec<(Sequence, Sequence)>,
    /// Messages behind that which a trim record permits to remove.
    removable: BTreeSet<Sequence>,
    /// Removals that other writers may not have ended.
    inherited: Removals,
    /// The last trim record that a load has read.
    trim_of_load: Option<(Trim, Sequence)>,
}

impl Task {
    /// Runs until the node is gone.
    pub(super) async fn run(mut self) {
        let mut entries = Vec::with_capacity(AT_ONCE);
        let mut tick = tokio::time::interval(TICK);
        loop {
            let is_sweeping = self.state.is_loaded && self.applier.is_sweeping();
            tokio::select! {
                count = self.entries.recv_many(&mut entries, AT_ONCE) => if count == 0 {
                    return;
                },
                _ = tick.tick() => self.tick(),
                // Turns alternate: whatever has come in meanwhile is shown before the next one.
                () = tokio::task::yield_now(), if is_sweeping => {}
            }
            if self.state.is_damaged {
                // Nothing can be added to a damaged state; another load begins with an empty one.
                let begin = entries.iter().rposition(|entry| matches!(entry, Entry::Begin { .. }));
                entries.drain(..begin.unwrap_or(entries.len()));
                if entries.is_empty() {
                    continue;
                }
            }
            if self.state.is_loaded && self.sync(entry::newest(&entries)).await.is_err() {
                return;
            }
            // Reads of a quiet store come with barriers alone, which show nothing new.
            let shows = entries.is_empty() || entries.iter().any(Entry::shows);
            for entry in entries.drain(..) {
                match self.take(entry).await {
                    Ok(()) => {}
                    Err(Stop::Damaged(report)) => {
                        self.state.is_damaged = true;
                        self.state.waiters.clear();
                        self.state.full_state_senders.clear();
                        drop(self.reports.send(report));
                    }
                    Err(Stop::NotDurable) => return,
                }
                if self.state.is_damaged {
                    break;
                }
            }
            if self.state.is_loaded && !self.state.is_damaged {
                if shows {
                    self.publish();
                }
                self.answer();
                self.sweep();
            }
        }
    }

    async fn sync(&mut self, newest: Option<Sequence>) -> Result<(), NotDurable> {
        let syncs_here = self.mode.syncs_here();
        let synced_before = std::mem::replace(&mut self.state.synced_here, syncs_here);
        match (&mut self.gate, newest) {
            (Some(gate), Some(newest)) if syncs_here => {
                if !synced_before {
                    gate.forget();
                }
                gate.pass(newest).await
            }
            _ => Ok(()),
        }
    }

    async fn take(&mut self, entry: Entry) -> Result<(), Stop> {
        match entry {
            Entry::Records { mut records, waiters, trim_to, is_whole, is_own } => {
                if planted(Fault::SkippedRecord) && !is_own {
                    records.retain(|placed| placed.record.count > 1 || placed.sequence.0 % 50 != 0);
                }
                let is_whole = is_whole && !planted::is_any();
                let strictness = Strictness { trim_to, is_whole, checkpoint: self.checkpoint() };
                self.take_records(records, strictness, is_own)?;
                self.state.waiters.extend(waiters);
            }
            Entry::Complete(waiter) => self.state.waiters.push(waiter),
            Entry::Void(sequences) => {
                self.state.read_to = sequences.iter().copied().fold(self.state.read_to, Ord::max);
                self.applier.note_void(&sequences);
            }
            Entry::Barrier(sequence, index) => {
                self.state.read_to = self.state.read_to.max(sequence);
                self.applier.note_barrier(sequence, index);
            }
            Entry::Begin { floor, mark, accepts_loss } => {
                self.applier.reset(floor);
                self.state = Progress { accepts_loss, mark, ..Progress::default() };
            }
            Entry::End => self.check_mark()?,
            Entry::Loaded { first, mut holes } => {
                self.load().await?;
                self.begin_whole(first);
                holes.retain(|(_, to)| *to >= self.state.whole_from);
                self.state.holes = holes;
                // Its writer may remove what it permits beside the load and afterwards.
                if let Some((trim, sequence)) = self.state.trim_of_load.take() {
                    self.trimmed(&trim, sequence, false);
                }
            }
            // A load knows neither the floor nor the holes before its end.
            Entry::Lacking(_, sender) if !self.state.is_loaded => {
                sender.send((None, Sequence::default())).ok();
            }
            Entry::Lacking(present, sender) => {
                self.state.inherited.forget(|at| present.is_gone(at));
                sender.send((self.lacking(&present), self.state.read_to)).ok();
            }
            Entry::ServerChanged => {
                if let Some(gate) = &mut self.gate {
                    gate.forget();
                }
            }
            Entry::FullState(sender) => self.state.full_state_senders.push(sender),
            Entry::Digest(sender) => {
                let digest = self.applier.digest();
                sender.send((self.applier.state().log_index, digest)).ok();
            }
            Entry::Compare(index, digest) => {
                self.state.to_compare = Some((index, digest));
                self.compare()?;
            }
            Entry::AfterRemovals(waiter) => self.state.after_removals.push(waiter),
            Entry::Stop(done) => {
                self.note_mark();
                done.send(()).ok();
            }
        }
        Ok(())
    }

    fn take_records(
        &mut self,
        records: Vec<Placed>,
        strictness: Strictness,
        is_own: bool,
    ) -> Result<(), Stop> {
        let Some(last) = records.last().map(|last| last.sequence) else { return Ok(()) };
        if self.state.is_loaded {
            for placed in &records {
                if let Body::Key(version) = &placed.record.body
                    && !version.is_tombstone()
                {
                    self.counters.put(version.key().len() + version.value().len());
                }
            }
        }
        let trim = self.applier.apply(records, strictness).map_err(|damage| {
            Stop::Damaged(if self.state.is_loaded {
                Report::Lost(damage.into())
            } else {
                Report::Suspected(damage)
            })
        })?;
        self.state.position = last;
        self.state.read_to = self.state.read_to.max(last);
        if let Some((trim, sequence)) = trim {
            if self.state.is_loaded {
                self.trimmed(&trim, sequence, is_own);
            } else {
                self.state.trim_of_load = Some((trim, sequence));
            }
        }
        if !is_own && self.state.is_loaded {
            self.remember_digest();
            self.compare()?;
        }
        Ok(())
    }

    /// A trim record permits removals. The writer carries its own ones out, behind those that other writers
    /// may not have ended. A mirror does not follow the removals of its primary, so its instances repeat
    /// them.
    fn trimmed(&mut self, trim: &Trim, sequence: Sequence, is_own: bool) {
        let removal = self.applier.take_garbage(trim, sequence);
        self.begin_whole(sequence);
        // Void messages and barriers; after an accepted loss others too, because the trim record's index may
        // lie above the floor.
        let whole_from = self.state.whole_from;
        self.state.removable.extend(removal.iter().filter(|at| *at >= whole_from));
        self.state.inherited.push(removal);
        let is_of_mirror = matches!(&*self.read_only.borrow(), Some(ReadOnly::Mirror { .. }));
        if is_own || is_of_mirror {
            let removals = std::mem::take(&mut self.state.inherited);
            drop(self.jobs.send(Job::Remove(removals, trim.clone())));
        }
    }

    /// Everything is there from the first revision above the floor on, and behind the trim record itself,
    /// which stands at `begin`, but for `holes` and `removable`.
    fn begin_whole(&mut self, begin: Sequence) {
        let state = self.applier.state();
        let above = state.compacted.map_or(Revision::default(), Revision::next);
        let first = state.log.since(above).next();
        let first = first.map_or(begin, |entry| entry.events()[0].version.sequence());
        self.state.whole_from = first.min(begin).max(self.state.whole_from);
        self.state.removable = self.state.removable.split_off(&self.state.whole_from);
    }

    fn lacking(&self, present: &Present) -> Option<Sequence> {
        let Progress { whole_from, read_to, holes, removable, .. } = &self.state;
        let is_permitted = |at: &Sequence| removable.contains(at) || is_within(holes, *at);
        present.gone_within(*whole_from, *read_to).find(|at| !is_permitted(at))
    }

    fn checkpoint(&self) -> Option<(LogIndex, Digest)> {
        let mark = self.state.mark.filter(|_| !self.state.is_loaded && !self.state.accepts_loss)?;
        Some((mark.index, mark.digest))
    }

    /// Fails where more was synced than the log holds. Done before anything is written behind what is left of
    /// it.
    fn check_mark(&mut self) -> Result<(), Stop> {
        let index = self.applier.state().log_index;
        if let Some(mark) = self.state.mark.filter(|mark| mark.index > index) {
            let lost = mark.index.0 - index.0;
            self.counters.lost(lost);
            if self.state.accepts_loss {
                self.state.mark = None;
                tracing::error!(lost, %index, mark = %mark.index, "records at the end of the log are lost, and given up");
            } else {
                let (synced, sequence) = (mark.index, mark.sequence);
                let loss = Loss::EndsBeforeMark { index, lost, synced, sequence };
                return Err(Stop::Damaged(Report::Lost(loss)));
            }
        }
        Ok(())
    }

    async fn load(&mut self) -> Result<(), Stop> {
        if self.state.is_loaded {
            return Ok(());
        }
        self.state.mark = None;
        if let Some(gate) = self.gate.as_mut().filter(|_| self.mode.syncs_here()) {
            gate.forget();
            // The writer of the last records may have died between their acknowledgement and a sync.
            gate.pass(Sequence(self.state.position.0.max(1))).await.map_err(|NotDurable| Stop::NotDurable)?;
            self.state.synced_here = true;
        }
        self.applier.settle_users();
        // etcd forgets the hashes of compactions when it starts.
        drop(self.applier.take_compactions());
        self.state.is_loaded = true;
        self.publish();
        self.note_mark();
        // An older mark names what was given up. With it on the disk the next start would refuse the store.
        if let Some(marks) = self.marks.as_mut().filter(|_| self.state.accepts_loss) {
            marks.written().await;
        }
        memory::give_back();
        Ok(())
    }

    fn remember_digest(&mut self) {
        let (index, digest) = (self.applier.state().log_index, self.applier.digest());
        self.state.digests.push_back((index, digest));
        if self.state.digests.len() > DIGESTS {
            self.state.digests.pop_front();
        }
    }

    fn compare(&mut self) -> Result<(), Stop> {
        let Some((index, writer)) = self.state.to_compare else { return Ok(()) };
        if let Ok(at) = self.state.digests.binary_search_by_key(&index, |(index, _)| *index) {
            self.state.to_compare = None;
            let here = self.state.digests[at].1;
            if here != writer && !planted::is_any() {
                return Err(Stop::Damaged(Report::Differs { index, here, writer }));
            }
        }
        Ok(())
    }

    fn publish(&mut self) {
        for (before, floor) in self.applier.take_compactions() {
            self.counters.floor_rose();
            drop(self.jobs.send(Job::Compacted(Arc::new(before), floor)));
        }
        self.applier.publish();
        self.published.notify_one();
    }

    /// Answers the calls whose answers are visible now.
    fn answer(&mut self) {
        if !self.state.waiters.is_empty() {
            let state = self.reader.snapshot();
            for waiter in self.state.waiters.drain(..) {
                waiter.complete(&state);
            }
        }
        for sender in self.state.full_state_senders.drain(..) {
            // A client that has gone needs none.
            sender.send(self.applier.full_state(self.reader.snapshot())).ok();
        }
    }

    /// Gives a compaction a turn to free memory. Each loop has one, however busy it is.
    fn sweep(&mut self) {
        if self.applier.is_sweeping() {
            let begun = Instant::now();
            let versions = self.applier.sweep(SWEEP);
            self.counters.swept(begun.elapsed(), versions);
            self.state.was_sweeping = true;
        }
        if self.applier.is_sweeping() {
            return;
        }
        let has_garbage = self.applier.has_garbage() || !self.state.inherited.is_empty();
        if std::mem::take(&mut self.state.was_sweeping) && has_garbage {
            drop(self.jobs.send(Job::Swept));
        }
        for waiter in self.state.after_removals.drain(..) {
            drop(self.jobs.send(Job::Fence(Box::new(waiter))));
        }
    }

    fn tick(&mut self) {
        if self.state.is_loaded && !self.state.is_damaged {
            self.note_mark();
            if self.has_freed.swap(false, Ordering::Relaxed) {
                memory::give_back();
            }
        }
    }

    fn note_mark(&mut self) {
        // A migration that is run again makes another stream.
        if matches!(&*self.read_only.borrow(), Some(ReadOnly::Unfinished)) {
            return;
        }
        // Before the first sync after a change of the mode, what is shown may not be on this disk.
        if let Some(marks) = self.marks.as_ref().filter(|_| self.mode.syncs_here() && self.state.synced_here)
        {
            let index = self.applier.state().log_index;
            let mark = Mark { sequence: self.state.position, index, digest: self.applier.digest() };
            marks.note(mark);
        }
    }
}

/// The thread cannot go on.
enum Stop {
    Damaged(Report),
    NotDurable,
}

#[cfg(test)]
mod tests;
