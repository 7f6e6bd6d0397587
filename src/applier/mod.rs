//! The state machine over the log: applies valid records to the core and the tables beside it. The only
//! caller of [`Writer`].
//!
//! Pure: no task, no clock, no NATS. Every instance applies the same records in the same order, so that every
//! instance has the same state at the same index.
//!
//! Invariants:
//! - A1: the state changes only by records, in the order of their indexes.
//! - A2: behind the index up to which records may be missing, each version finds its predecessor and each
//!   revision follows the one before. Otherwise the log is damaged, and nothing more is applied.
//! - A3: the digest of a trim, epoch or stop record is that of the state before it, on each instance.
//! - A4: at and below the compaction floor records stand alone; those of one revision are still applied
//!   together.

mod damage;
pub(crate) mod digest;
mod garbage;
mod tables;
#[cfg(test)]
mod tests;

pub(crate) use damage::Damage;
pub(crate) use garbage::Removals;
pub(crate) use tables::{Alarms, FullState, Members, Tables};

use crate::auth::AuthStore;
use crate::core::{Garbage, KeyVersion, State, Writer};
use crate::planted::{self, Fault, planted};
use crate::record::{Body, Digest, Placed, Record, Trim};
use crate::types::{LeaseId, LogIndex, Revision, Sequence};
use digest::Sum;
use garbage::{PendingRemovals, Removal};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The gaps that are allowed, and the checks that are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Strictness {
    /// Up to this index records may be missing.
    pub trim_to: LogIndex,
    /// The last trim record was met before these records.
    pub is_whole: bool,
    /// The digest that the state must have at an index.
    pub checkpoint: Option<(LogIndex, Digest)>,
}

/// A reserved record that another one of its kind supersedes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Reserved {
    Floor,
    Trim,
    Stop,
    Users,
    Alarm(crate::record::Alarm),
    Token(String),
    Member(u64),
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Applier {
    writer: Writer,
    tables: Tables,
    sum: Sum,
    users: AuthStore,
    tokens: HashMap<String, crate::auth::SimpleToken>,
    /// The newest message of each reserved record.
    reserved: HashMap<Reserved, Sequence>,
    pending: PendingRemovals,
    /// Versions of one revision, gathered until the next one begins, where records may be missing.
    gathering: Option<(Revision, LogIndex, Vec<KeyVersion>)>,
    compactions: Vec<(State, Revision)>,
    /// The floor of the last floor record. The state's own is that of the last trim record before that record
    /// has come.
    floor: Option<Revision>,
}

impl Applier {
    /// Applies to `writer`'s store and to `tables`, which are empty.
    pub(crate) fn new(writer: Writer, tables: Tables) -> Applier {
        let mut sum = Sum::default();
        sum.add(digest::of_users(&AuthStore::default()));
        Applier {
            writer,
            tables,
            sum,
            users: AuthStore::default(),
            tokens: HashMap::new(),
            reserved: HashMap::new(),
            pending: PendingRemovals::default(),
            gathering: None,
            compactions: Vec::new(),
            floor: None,
        }
    }

    /// Empties the state and begins again. `floor` is the compaction floor of the last trim record. The users
    /// stay in force until the log names others, so that nobody gets more rights during the load.
    pub(crate) fn reset(&mut self, floor: Option<Revision>) {
        self.writer.reset();
        self.begin(floor);
        self.tables.attachments.clear();
        self.tables.leases.clear();
        self.tables.alarms.replace(BTreeSet::new());
        self.tables.members.clear();
        self.sum = Sum::default();
        self.users = AuthStore::default();
        self.sum.add(digest::of_users(&self.users));
        self.tokens.clear();
        self.reserved.clear();
        self.pending.clear();
        self.gathering = None;
        self.compactions.clear();
        self.floor = None;
    }

    /// Sets the compaction floor of the last trim record, before the first record.
    pub(crate) fn begin(&mut self, floor: Option<Revision>) {
        if let Some(floor) = floor {
            self.writer.set_floor(floor);
        }
    }

    /// The state that the next publication will show.
    pub(crate) fn state(&self) -> &State {
        self.writer.state()
    }

    /// The digest of the state so far.
    pub(crate) fn digest(&mut self) -> Digest {
        self.flush();
        self.sum.digest(self.current_revision(), self.floor)
    }

    /// Applies valid records, whole batches of them. Returns the last trim record among them, with its
    /// message's sequence.
    ///
    /// # Errors
    /// [`Damage`]; nothing may be shown after it.
    pub(crate) fn apply(
        &mut self,
        records: impl IntoIterator<Item = Placed>,
        strictness: Strictness,
    ) -> Result<Option<(Trim, Sequence)>, Damage> {
        let mut trim = None;
        let mut is_whole = strictness.is_whole;
        let mut batch: Vec<KeyVersion> = Vec::new();
        for Placed { sequence, record } in records {
            let Record { index, revision, place, count, .. } = record;
            match record.body {
                Body::Key(version) if index <= strictness.trim_to => self.gather(revision, index, version),
                Body::Key(version) => {
                    if place == 1 && is_whole {
                        let before = self.revision_before(strictness.trim_to);
                        if revision != before.next() {
                            return Err(Damage::Revision { index, found: revision, before });
                        }
                    }
                    if count == 1 || planted(Fault::TornBatch) {
                        self.apply_keys(revision, index, [version], true)?;
                    } else {
                        batch.push(version);
                        if place == count {
                            self.apply_keys(revision, index, std::mem::take(&mut batch), true)?;
                        }
                    }
                }
                // A restore has put it into the place of a change that a compaction had removed.
                body if place < count && self.is_gathering(revision) => {
                    self.apply_reserved(body, sequence, index);
                }
                body => {
                    // The record of a lease's end follows the deletes of its keys.
                    if let Some(first) = batch.first() {
                        let revision = first.mod_revision();
                        self.apply_keys(revision, index, std::mem::take(&mut batch), true)?;
                    }
                    self.flush();
                    // A digest from before the trim record was made under another floor.
                    is_whole |= matches!(&body, Body::Trim(trim) if trim.to == strictness.trim_to.0);
                    if is_whole && index > strictness.trim_to {
                        let before = self.revision_before(strictness.trim_to);
                        if revision != before {
                            return Err(Damage::Revision { index, found: revision, before });
                        }
                    }
                    self.writer.advance(revision.max(self.current_revision()), index);
                    if let Some(expected) = stated_digest(&body)
                        && is_whole
                        && index > strictness.trim_to
                    {
                        self.compare(index, expected)?;
                    }
                    if let Body::Trim(this) = &body {
                        trim = Some((Trim::clone(this), sequence));
                    }
                    self.apply_reserved(body, sequence, index);
                }
            }
            if let Some((at, expected)) = strictness.checkpoint
                && at == index
                && is_whole
                && index > strictness.trim_to
            {
                self.compare(index, expected)?;
            }
        }
        Ok(trim)
    }

    fn compare(&mut self, index: LogIndex, expected: Digest) -> Result<(), Damage> {
        let found = self.digest();
        let revision = self.current_revision();
        if found == expected { Ok(()) } else { Err(Damage::Digest { index, revision, found, expected }) }
    }

    /// The revision that the next record's must follow. The last records up to the trim record's index may be
    /// gone; then it is that of the floor.
    fn revision_before(&mut self, trim_to: LogIndex) -> Revision {
        self.flush();
        let state = self.writer.state();
        let floor = state.compacted.filter(|_| state.log_index <= trim_to);
        state.revision.max(floor.unwrap_or_default())
    }

    fn current_revision(&self) -> Revision {
        self.writer.state().revision
    }

    /// Adds void messages to the garbage.
    pub(crate) fn note_void(&mut self, sequences: &[Sequence]) {
        self.pending.add_void(sequences);
    }

    /// Adds a barrier behind the record at `index` to the garbage.
    pub(crate) fn note_barrier(&mut self, sequence: Sequence, index: LogIndex) {
        self.pending.add_barrier(sequence, index);
    }

    /// Publishes the state and the members.
    pub(crate) fn publish(&mut self) {
        self.flush();
        self.writer.publish();
        self.tables.members.publish();
    }

    /// The published state `state`, which shows everything that was applied, and the tables at its index.
    pub(crate) fn full_state(&self, state: Arc<State>) -> FullState {
        debug_assert_eq!(state.log_index, self.writer.state().log_index);
        FullState {
            state,
            leases: self.tables.leases.ttls(),
            auth: self.tables.auth.store(),
            alarms: self.tables.alarms.all(),
            members: self.tables.members.all(),
        }
    }

    /// Whether compactions have left versions to free.
    pub(crate) fn is_sweeping(&self) -> bool {
        self.writer.is_sweeping()
    }

    /// Frees some of the versions that compactions have left. Visits about `most` versions, and returns the
    /// number of those freed.
    pub(crate) fn sweep(&mut self, most: usize) -> usize {
        let garbage = self.writer.sweep(most);
        let count = garbage.len();
        self.add_garbage(garbage);
        count
    }

    /// Whether compactions have left messages to remove.
    pub(crate) fn has_garbage(&self) -> bool {
        self.pending.has_keys()
    }

    /// Takes the messages that may be removed under a trim record, which stands at `sequence`.
    pub(crate) fn take_garbage(&mut self, trim: &Trim, sequence: Sequence) -> Removal {
        self.pending.take(LogIndex(trim.to), trim.floor.map(Revision), sequence)
    }

    fn add_garbage(&mut self, garbage: Vec<Garbage>) {
        let floor = self.writer.state().compacted;
        self.pending.add_keys(garbage, floor);
    }

    /// Floors that have risen, each with the state before it.
    pub(crate) fn take_compactions(&mut self) -> Vec<(State, Revision)> {
        std::mem::take(&mut self.compactions)
    }

    fn gather(&mut self, revision: Revision, index: LogIndex, version: KeyVersion) {
        match &mut self.gathering {
            Some((gathered, last, versions)) if *gathered == revision => {
                *last = index;
                versions.push(version);
            }
            _ => {
                self.flush();
                self.gathering = Some((revision, index, vec![version]));
            }
        }
    }

    fn is_gathering(&self, revision: Revision) -> bool {
        self.gathering.as_ref().is_some_and(|(gathered, ..)| *gathered == revision)
    }

    fn flush(&mut self) {
        if let Some((revision, index, versions)) = self.gathering.take() {
            self.apply_keys(revision, index, versions, false).expect("nothing is compared there");
        }
    }

    fn apply_keys(
        &mut self,
        revision: Revision,
        index: LogIndex,
        versions: impl IntoIterator<Item = KeyVersion>,
        is_compared: bool,
    ) -> Result<(), Damage> {
        self.flush();
        let Applier { writer, tables, sum, .. } = self;
        let mut damage = None;
        let garbage = writer.apply(revision, index, versions, |version, before| {
            let before = before.filter(|before| !before.is_tombstone());
            if is_compared && !follows(version, before) && !planted::is_any() {
                damage = damage.take().or_else(|| {
                    let key = version.key().escape_ascii().to_string();
                    let before = before.map_or(0, KeyVersion::version);
                    Some(Damage::Predecessor { index, revision, key, found: version.version(), before })
                });
            }
            if let Some(before) = before {
                sum.take_away(digest::of_key(before));
            }
            if !version.is_tombstone() {
                sum.add(digest::of_key(version));
            }
            let held = before.map_or(LeaseId::NONE, KeyVersion::lease);
            tables.attachments.moved(version.key(), held, version.lease());
        });
        self.add_garbage(garbage);
        damage.map_or(Ok(()), Err)
    }

    fn apply_reserved(&mut self, body: Body, sequence: Sequence, index: LogIndex) {
        match body {
            // Epoch records stay in the log for ever. So they set nothing that another record could end.
            Body::Key(_) | Body::Barrier | Body::Epoch(_) => {}
            Body::Lease(id, Some(grant)) => {
                if let Some(before) = self.tables.leases.put(id, grant, sequence) {
                    self.sum.take_away(digest::of_lease(id, before.grant.ttl));
                    self.pending.add_reserved(before.sequence, index, false);
                }
                self.sum.add(digest::of_lease(id, grant.ttl));
            }
            Body::Lease(id, None) => {
                if let Some(before) = self.tables.leases.remove(id) {
                    self.sum.take_away(digest::of_lease(id, before.grant.ttl));
                    self.pending.add_reserved(before.sequence, index, false);
                }
                self.pending.add_reserved(sequence, index, true);
            }
            // Behind records that count since a loss was accepted: the higher floor stays in force.
            Body::Floor(floor) if self.floor > Some(floor) => {
                self.pending.add_reserved(sequence, index, false);
            }
            Body::Floor(floor) => {
                self.supersede(Reserved::Floor, sequence, index, false);
                self.floor = Some(floor);
                if self.writer.state().compacted.is_none_or(|current| floor > current) {
                    self.compactions.push((self.writer.state().clone(), floor));
                    self.writer.compact(floor);
                }
            }
            Body::Trim(_) => self.supersede(Reserved::Trim, sequence, index, false),
            Body::Stop(_) => self.supersede(Reserved::Stop, sequence, index, false),
            Body::Users(store) => {
                self.supersede(Reserved::Users, sequence, index, false);
                self.sum.take_away(digest::of_users(&self.users));
                self.sum.add(digest::of_users(&store));
                self.users = AuthStore::clone(&store);
                self.tables.auth.replace(*store);
            }
            Body::Alarm(alarm, is_raised) => {
                self.supersede(Reserved::Alarm(alarm), sequence, index, !is_raised);
                if self.tables.alarms.set(alarm, is_raised) {
                    let term = digest::of_alarm(alarm);
                    if is_raised { self.sum.add(term) } else { self.sum.take_away(term) }
                }
            }
            Body::Token(hash, token) => {
                self.supersede(Reserved::Token(hash.clone()), sequence, index, token.is_none());
                let before = match &token {
                    Some(token) => self.tokens.insert(hash.clone(), token.clone()),
                    None => self.tokens.remove(&hash),
                };
                if let Some(before) = before {
                    self.sum.take_away(digest::of_token(&hash, &before));
                }
                match token {
                    Some(token) => {
                        self.sum.add(digest::of_token(&hash, &token));
                        self.tables.auth.tokens().remember(&hash, token);
                    }
                    None => self.tables.auth.tokens().forget(&hash),
                }
            }
            Body::Member(id, member) => {
                self.supersede(Reserved::Member(id), sequence, index, member.is_none());
                self.set_member(id, member.map(|member| *member));
            }
        }
    }

    fn set_member(&mut self, id: u64, member: Option<crate::record::Member>) {
        if let Some(member) = &member {
            self.sum.add(digest::of_member(member));
        }
        if let Some(before) = self.tables.members.set(id, member) {
            self.sum.take_away(digest::of_member(&before));
        }
    }

    /// Makes the message of a reserved record supersede the one before. A message that ends something becomes
    /// garbage itself, since it is not needed once the one before is gone.
    fn supersede(&mut self, what: Reserved, sequence: Sequence, index: LogIndex, is_end: bool) {
        let before = if is_end { self.reserved.remove(&what) } else { self.reserved.insert(what, sequence) };
        if let Some(before) = before {
            self.pending.add_reserved(before, index, false);
        }
        if is_end {
            self.pending.add_reserved(sequence, index, true);
        }
    }

    /// Drops users from before a load if the log names none.
    pub(crate) fn settle_users(&mut self) {
        if *self.tables.auth.store() != self.users {
            self.tables.auth.replace(self.users.clone());
        }
        self.tables.auth.tokens().keep_only(|hash| self.tokens.contains_key(hash));
    }
}

/// The digest of the state before a record, if the record holds it.
fn stated_digest(body: &Body) -> Option<Digest> {
    match body {
        Body::Epoch(start) => Some(start.digest),
        Body::Trim(trim) => Some(trim.digest),
        Body::Stop(digest) => Some(*digest),
        _ => None,
    }
}

/// Whether a version can follow the live version before.
fn follows(version: &KeyVersion, before: Option<&KeyVersion>) -> bool {
    match (before, version.version()) {
        (None, 1) => version.create_revision() == version.mod_revision(),
        (Some(_), 0) => true,
        (Some(before), number) => {
            number == before.version() + 1 && version.create_revision() == before.create_revision()
        }
        (None, _) => false,
    }
}
