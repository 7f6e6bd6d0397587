//! The parts of a state beside its keys. The applier writes them. Calls read them, and only those of leases
//! take a lock.

use crate::auth::{Auth, AuthStore};
use crate::core::State;
use crate::lease::{Attachments, LeaseTable};
use crate::record::{Alarm, AlarmKind, Member};
use crate::types::LeaseId;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::sync::watch;

/// Handles on all of them; clones share the content.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    /// Keys by lease.
    pub attachments: Attachments,
    /// Leases.
    pub leases: Arc<LeaseTable>,
    /// Users, roles and tokens.
    pub auth: Arc<Auth>,
    /// Alarms.
    pub alarms: Arc<Alarms>,
    /// Members.
    pub members: Arc<Members>,
}

impl Tables {
    /// Empty tables.
    pub(crate) fn new(auth: crate::auth::AuthSettings) -> Tables {
        Tables {
            attachments: Attachments::default(),
            leases: Arc::default(),
            auth: Arc::new(Auth::new(auth)),
            alarms: Arc::default(),
            members: Arc::default(),
        }
    }
}

/// A state with all that belongs to it, at one index of the log.
#[derive(Clone, Debug)]
pub(crate) struct FullState {
    /// The keys.
    pub state: Arc<State>,
    /// The granted TTL of every lease, ascending by id.
    pub leases: Vec<(LeaseId, i64)>,
    /// Users and roles.
    pub auth: Arc<AuthStore>,
    /// Alarms.
    pub alarms: Arc<BTreeSet<Alarm>>,
    /// Members.
    pub members: Arc<BTreeMap<u64, Member>>,
}

/// The alarms that are raised.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    /// One bit for each kind that is raised for any member, which calls check first. It is stored after the
    /// set with Release and loaded with Acquire: a reader of the bit finds the alarm in the set.
    kinds: AtomicU8,
    set: ArcSwap<BTreeSet<Alarm>>,
}

impl Alarms {
    /// Whether an alarm of a kind is raised for any member.
    pub(crate) fn is_raised(&self, kind: AlarmKind) -> bool {
        self.kinds.load(Ordering::Acquire) & bit(kind) != 0
    }

    /// All of them, ascending.
    pub(crate) fn all(&self) -> Arc<BTreeSet<Alarm>> {
        self.set.load_full()
    }

    pub(super) fn set(&self, alarm: Alarm, is_raised: bool) -> bool {
        let mut alarms = BTreeSet::clone(&self.set.load());
        let changed = if is_raised { alarms.insert(alarm) } else { alarms.remove(&alarm) };
        self.replace(alarms);
        changed
    }

    pub(super) fn replace(&self, alarms: BTreeSet<Alarm>) {
        let kinds = alarms.iter().fold(0, |kinds, alarm| kinds | bit(alarm.kind));
        self.set.store(Arc::new(alarms));
        self.kinds.store(kinds, Ordering::Release);
    }
}

fn bit(kind: AlarmKind) -> u8 {
    match kind {
        AlarmKind::NoSpace => 1,
        AlarmKind::Corrupt => 2,
    }
}

/// The members, by id. Those of the published state are kept apart: a load clears the table and fills it
/// again, and a member is not removed because its record is read late.
#[derive(Debug, Default)]
pub(crate) struct Members {
    applied: ArcSwap<BTreeMap<u64, Member>>,
    published: watch::Sender<Arc<BTreeMap<u64, Member>>>,
}

impl Members {
    /// All that are applied, ascending by id.
    pub(crate) fn all(&self) -> Arc<BTreeMap<u64, Member>> {
        self.applied.load_full()
    }

    /// Those of the published state, and a notification of each change of them.
    pub(crate) fn published(&self) -> watch::Receiver<Arc<BTreeMap<u64, Member>>> {
        self.published.subscribe()
    }

    /// Replaces, adds or removes one; returns the one before.
    pub(super) fn set(&self, id: u64, member: Option<Member>) -> Option<Member> {
        let mut members = BTreeMap::clone(&self.applied.load());
        let before = match member {
            Some(member) => members.insert(id, member),
            None => members.remove(&id),
        };
        self.applied.store(Arc::new(members));
        before
    }

    pub(super) fn clear(&self) {
        self.applied.store(Arc::default());
    }

    pub(super) fn publish(&self) {
        let applied = self.applied.load();
        if !Arc::ptr_eq(&applied, &self.published.borrow()) {
            self.published.send_replace(Arc::clone(&applied));
        }
    }
}
