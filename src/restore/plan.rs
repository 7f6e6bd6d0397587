//! The first reading of a database: everything is checked, and all numbers that the log needs are known.
//!
//! The log of a restored store is one that was compacted: the newest versions of keys up to the floor, in the
//! order of their revisions, then the records of the floor and of the trim, then the full history. The
//! numbers of all versions stay. Of a transaction up to the floor some changes may be gone. Others take their
//! places in the log, so that a change keeps its place.
//!
//! A key costs its name and a few numbers in memory. Values are read and dropped.

use crate::applier::digest::{self, Sum};
use crate::auth::AuthStore;
use crate::core::{KeyVersion, VersionParts};
use crate::log::{Bucket, KeyTooLong};
use crate::proto::mvccpb::KeyValue;
use crate::record::Digest;
use crate::snapshot::{Change, Changes, Saved, SavedError};
use crate::types::{Grant, LeaseId, Revision, Sequence};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use thiserror::Error;

/// No record has a greater number (`log::codec`).
const MAX_ITEMS: i64 = i64::MAX / 2;

/// A store that cannot be restored.
#[derive(Debug, Error)]
pub(crate) enum PlanError {
    /// The database.
    #[error(transparent)]
    Content(#[from] SavedError),
    /// The history does not hold together.
    #[error("is damaged at revision {revision}: {reason}")]
    History {
        /// The revision.
        revision: Revision,
        /// The mistake.
        reason: String,
    },
    /// A key that a subject cannot hold.
    #[error(
        "has the key {key} at revision {revision}, whose subject in NATS would have {size} bytes, more than the {limit} that jetway \
         permits; delete it there and compact that, then copy the store",
        limit = crate::log::MAX_SUBJECT_BYTES
    )]
    Key {
        /// The revision.
        revision: Revision,
        /// Its beginning.
        key: String,
        /// The length of the subject.
        size: usize,
    },
    /// A bump beyond all numbers.
    #[error("is at revision {revision}, and --bump-revision {bump} leads beyond the highest one; give less")]
    Bump {
        /// The revision of the store.
        revision: Revision,
        /// The bump.
        bump: u64,
    },
}

/// The numbers of the log that is to be written.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) floor: Option<Revision>,
    pub(super) revision: Revision,
    /// The changes up to the floor that are still needed, ascending.
    pub(super) kept: Vec<(Revision, u64)>,
    /// The digests at the beginning and at the trim record.
    pub(super) first_digest: Digest,
    pub(super) trim_digest: Digest,
    /// The store at its end.
    pub(super) reading: Reading,
    /// The number of versions that are restored.
    pub(super) versions: usize,
}

/// The newest version of a key.
#[derive(Debug)]
struct Live {
    at: (Revision, u64),
    created: Revision,
    version: i64,
    term: u64,
}

/// A store of which the changes are read one after the other.
#[derive(Debug)]
pub(super) struct Reading {
    live: HashMap<Bytes, Live>,
    sum: Sum,
    /// The most bytes of a key and its value.
    pub(super) largest: usize,
    /// The last revision.
    pub(super) revision: Revision,
    /// The number of versions behind the floor.
    pub(super) versions: usize,
}

/// Reads all keys of a database. A `bump` raises the revision, and compacts all before.
pub(super) fn plan(saved: &Saved, bump: Option<u64>, bucket: &Bucket) -> Result<Plan, PlanError> {
    let mut sum = Sum::default();
    sum.add(digest::of_users(&AuthStore::default()));
    let first_digest = sum.digest(Revision::EMPTY_STORE, None);
    sum.take_away(digest::of_users(&AuthStore::default()));
    sum.add(digest::of_users(&saved.users));
    saved.leases.iter().for_each(|(id, grant)| sum.add(digest::of_lease(*id, grant.ttl)));
    saved.alarms.iter().for_each(|alarm| sum.add(digest::of_alarm(*alarm)));

    let mut reading =
        Reading { live: HashMap::new(), sum, largest: 0, revision: Revision::EMPTY_STORE, versions: 0 };
    let floor = if bump.is_some() { Some(Revision(MAX_ITEMS)) } else { saved.floor };
    let mut kept: Vec<(Revision, u64)> = Vec::new();
    let mut trim_sum = None;
    let mut revisions = Revisions::new(saved);
    while let Some(changes) = revisions.next()? {
        let revision = changes[0].revision;
        for change in &changes {
            check(change, bucket)?;
        }
        if floor.is_some_and(|floor| revision <= floor) {
            for change in &changes {
                reading.replay(change);
            }
            if Some(revision) == floor {
                let deletes = changes.iter().filter(|change| change.is_delete);
                kept.extend(deletes.map(|change| (revision, change.place)));
            }
            reading.revision = reading.revision.max(revision);
            continue;
        }
        if trim_sum.is_none() {
            reading.revision = reading.revision.max(floor.unwrap_or_default());
            kept.extend(reading.live.values().map(|live| live.at));
            trim_sum = Some(reading.sum);
        }
        reading.follow(revision, &changes)?;
    }
    let mut revision = reading.revision.max(saved.floor.unwrap_or_default());
    let floor = match bump {
        None => saved.floor,
        Some(bump) => {
            let raised = i64::try_from(bump).ok().and_then(|bump| revision.0.checked_add(bump));
            let raised = raised.filter(|raised| *raised <= MAX_ITEMS);
            revision = Revision(raised.ok_or(PlanError::Bump { revision, bump })?);
            Some(revision)
        }
    };
    if trim_sum.is_none() && floor.is_some() {
        kept.extend(reading.live.values().map(|live| live.at));
    }
    kept.sort_unstable();
    Ok(Plan {
        floor,
        revision,
        first_digest,
        trim_digest: trim_sum.unwrap_or(reading.sum).digest(floor.unwrap_or(revision), floor),
        versions: reading.versions + kept.len(),
        kept,
        reading: Reading { revision, ..reading },
    })
}

/// Reads all keys of a store whose history before `floor` is not known. Returns the digest at the beginning
/// of its log, too.
pub(super) fn plan_keys(
    changes: &[Change],
    floor: Revision,
    bucket: &Bucket,
) -> Result<(Reading, Digest), PlanError> {
    let mut sum = Sum::default();
    sum.add(digest::of_users(&AuthStore::default()));
    let first_digest = sum.digest(Revision::EMPTY_STORE, None);
    let mut reading = Reading { live: HashMap::new(), sum, largest: 0, revision: floor, versions: 0 };
    for change in changes {
        check(change, bucket)?;
        reading.replay(change);
    }
    Ok((reading, first_digest))
}

/// Refuses a key that a subject cannot hold.
pub(super) fn check(change: &Change, bucket: &Bucket) -> Result<(), PlanError> {
    bucket.check_key(&change.pair.key).map_err(|KeyTooLong(size)| {
        let start = &change.pair.key[..change.pair.key.len().min(64)];
        PlanError::Key { revision: change.revision, key: format!("{}…", start.escape_ascii()), size }
    })
}

impl Reading {
    /// The version of a key.
    pub(super) fn version_of(&self, key: &[u8]) -> Option<i64> {
        self.live.get(key).map(|live| live.version)
    }

    /// Whether a key is as another server has it, whatever the number of its version is there.
    pub(super) fn holds(&self, pair: &KeyValue) -> bool {
        self.live.get(&pair.key).is_some_and(|live| {
            let pair = KeyValue { version: live.version, ..pair.clone() };
            let (revision, place) = live.at;
            let is_at = pair.mod_revision == revision.0;
            let change = Change { revision, place, is_delete: false, pair };
            is_at && digest::of_key(&version(&change, Sequence::NONE)) == live.term
        })
    }

    /// The number of keys.
    pub(super) fn keys(&self) -> usize {
        self.live.len()
    }

    /// The digest of the store under a floor.
    pub(super) fn digest(&self, floor: Option<Revision>) -> Digest {
        self.sum.digest(self.revision, floor)
    }

    /// The revisions and places of the newest versions.
    pub(super) fn newest(&self) -> HashSet<(Revision, u64)> {
        self.live.values().map(|live| live.at).collect()
    }

    /// Replaces a lease; `None` for no lease.
    pub(super) fn set_lease(&mut self, id: LeaseId, before: Option<Grant>, now: Option<Grant>) {
        if let Some(grant) = before {
            self.sum.take_away(digest::of_lease(id, grant.ttl));
        }
        if let Some(grant) = now {
            self.sum.add(digest::of_lease(id, grant.ttl));
        }
    }

    /// Takes a change up to the floor, whose predecessors may be gone.
    fn replay(&mut self, change: &Change) {
        let before = self.live.remove(&change.pair.key);
        self.put_in_place(change, before.as_ref());
    }

    /// Takes all changes of a revision behind the floor.
    pub(super) fn follow(&mut self, revision: Revision, changes: &[Change]) -> Result<(), PlanError> {
        let fault = |reason: String| Err(PlanError::History { revision, reason });
        if revision != self.revision.next() {
            return fault(format!("it follows revision {}", self.revision));
        }
        if revision.0 > MAX_ITEMS {
            return fault("it is higher than jetway can number".to_owned());
        }
        self.revision = revision;
        for (change, place) in changes.iter().zip(0..) {
            if change.place != place {
                return fault(format!("its change number {} is missing", place + 1));
            }
            let pair = &change.pair;
            if pair.key.is_empty() {
                return fault("it changes a key without a name".to_owned());
            }
            let before = self.live.remove(&pair.key);
            let fits = match &before {
                _ if change.is_delete => before.is_some(),
                None => pair.version == 1 && pair.create_revision == revision.0,
                Some(live) => pair.version == live.version + 1 && pair.create_revision == live.created.0,
            };
            if !fits {
                let (key, found) = (pair.key.escape_ascii(), pair.version);
                let before = before.map_or(0, |live| live.version);
                return fault(format!("{key} has version {found} there, and version {before} before it"));
            }
            self.put_in_place(change, before.as_ref());
            self.versions += 1;
        }
        Ok(())
    }

    fn put_in_place(&mut self, change: &Change, before: Option<&Live>) {
        let pair = &change.pair;
        if let Some(before) = before {
            self.sum.take_away(before.term);
        }
        // An entry without a key is etcd's mark of a revision that was bumped.
        if change.is_delete || pair.key.is_empty() {
            return;
        }
        self.largest = self.largest.max(pair.key.len() + pair.value.len());
        let term = digest::of_key(&version(change, Sequence::NONE));
        self.sum.add(term);
        let live = Live {
            at: (change.revision, change.place),
            created: Revision(pair.create_revision),
            version: pair.version,
            term,
        };
        // A slice of the page would keep all of it.
        self.live.insert(Bytes::copy_from_slice(&pair.key), live);
    }
}

/// A change as a version of jetway's, at a sequence.
pub(super) fn version(change: &Change, sequence: Sequence) -> KeyVersion {
    let pair = &change.pair;
    let (create_revision, version, lease) = if change.is_delete {
        (Revision(0), 0, LeaseId::NONE)
    } else {
        (Revision(pair.create_revision), pair.version, LeaseId(pair.lease))
    };
    KeyVersion::new(&VersionParts {
        key: &pair.key,
        value: if change.is_delete { &[] } else { &pair.value },
        create_revision,
        mod_revision: change.revision,
        version,
        lease,
        sequence,
        // etcd counts the changes of a revision from 0.
        place: change.place as u32 + 1,
    })
}

/// Walks over a database by revisions.
pub(super) struct Revisions<'a> {
    changes: Changes<'a>,
    next: Option<Change>,
}

impl<'a> Revisions<'a> {
    pub(super) fn new(saved: &'a Saved) -> Revisions<'a> {
        Revisions { changes: saved.changes(), next: None }
    }

    /// The changes of the next revision, of which there is at least one.
    pub(super) fn next(&mut self) -> Result<Option<Vec<Change>>, SavedError> {
        let first = match self.next.take() {
            Some(change) => change,
            None => match self.changes.next()? {
                Some(change) => change,
                None => return Ok(None),
            },
        };
        let revision = first.revision;
        let mut changes = vec![first];
        while let Some(change) = self.changes.next()? {
            if change.revision != revision {
                self.next = Some(change);
                break;
            }
            changes.push(change);
        }
        Ok(Some(changes))
    }
}
