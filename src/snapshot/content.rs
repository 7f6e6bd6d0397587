//! The content of a snapshot: the buckets of etcd 3.7, their keys and values.

use super::TTL_OF_ENDED_LEASES;
use super::bbolt::{Key, Value};
use crate::applier::FullState;
use crate::core::{KeyVersion, State};
use crate::proto::mvccpb::KeyValue;
use crate::record::{AlarmKind, Member};
use crate::txn::key_value;
use crate::types::{KeyRange, LeaseId, Revision};
use prost::Message;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Revisions whose events are taken from the log at once.
const AT_ONCE: usize = 64;
/// Mark of a tombstone behind its revision.
const TOMBSTONE: u8 = b't';

/// A value of a snapshot.
#[derive(Clone)]
pub(super) enum Stored {
    Bytes(Vec<u8>),
    Version(KeyVersion),
}

impl Stored {
    fn of(message: &impl Message) -> Stored {
        Stored::Bytes(message.encode_to_vec())
    }
}

/// A version as etcd stores it.
fn stored(version: &KeyVersion) -> KeyValue {
    let pair = key_value(version);
    if version.is_tombstone() { KeyValue { key: pair.key, ..KeyValue::default() } } else { pair }
}

impl Value for Stored {
    fn len(&self) -> usize {
        match self {
            Stored::Bytes(bytes) => bytes.len(),
            Stored::Version(version) => stored(version).encoded_len(),
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        match self {
            Stored::Bytes(bytes) => to.extend_from_slice(bytes),
            Stored::Version(version) => stored(version).encode(to).expect("a vector grows as needed"),
        }
    }
}

/// A grant as etcd stores it.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Lease {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
    #[prost(int64, tag = "2")]
    pub(super) ttl: i64,
    /// The time that was left at etcd's last checkpoint of the lease; 0 for none. jetway makes no
    /// checkpoints.
    #[prost(int64, tag = "3")]
    pub(super) remaining: i64,
}

/// All buckets. A clone begins at the first one again.
#[derive(Clone)]
pub(super) struct Content {
    state: Arc<State>,
    /// The last revision that is in it.
    end: Revision,
    /// Versions below the floor that can still be read, in the order of their revisions.
    old: Arc<[KeyVersion]>,
    /// The buckets in the order of their names. The content of `key` is `None`: it has too many pairs.
    buckets: Arc<[Bucket]>,
}

/// A bucket and its pairs.
pub(super) struct Bucket {
    pub(super) name: &'static str,
    pairs: Option<Vec<(Key, Stored)>>,
}

impl Content {
    /// The content of a snapshot of `full_state`, made in the epoch `term`, with the changes of keys up to
    /// `end`. Takes as long as it takes to visit each key.
    pub(super) fn new(full_state: &FullState, term: u64, storage_version: &str, end: Revision) -> Content {
        let state = Arc::clone(&full_state.state);
        let old = state.compacted.map_or_else(Vec::new, |floor| {
            let all = KeyRange::all();
            let live = state.index.live_range(&all, floor);
            // The log has those of the floor itself.
            let mut old: Vec<_> = live.filter(|version| version.mod_revision() < floor).cloned().collect();
            old.sort_unstable_by_key(|version| (version.mod_revision(), version.place()));
            old
        });
        let buckets = buckets(full_state, term, storage_version, end);
        let buckets = buckets.map(|(name, pairs)| Bucket { name, pairs });
        Content { state, end, old: old.into(), buckets: Arc::new(buckets) }
    }

    /// The bucket at a place, counted from 0.
    pub(super) fn bucket(&self, at: usize) -> Option<&Bucket> {
        self.buckets.get(at)
    }

    /// The pairs of a bucket from a place on, ascending by key: at least one, none at its end.
    pub(super) fn pairs(&self, bucket: &Bucket, from: &mut Position) -> Vec<(Key, Stored)> {
        if let Some(pairs) = &bucket.pairs {
            let rest = pairs.get(from.passed..).unwrap_or_default();
            from.passed = pairs.len();
            return rest.to_vec();
        }
        let version = |version: &KeyVersion| (revision_key(version), Stored::Version(version.clone()));
        if from.passed < self.old.len() {
            let end = self.old.len().min(from.passed + AT_ONCE);
            let pairs = self.old[from.passed..end].iter().map(version).collect();
            from.passed = end;
            return pairs;
        }
        let first = from.next.max(self.state.compacted.unwrap_or_default());
        let mut pairs = Vec::with_capacity(AT_ONCE);
        let entries = self.state.log.since(first).take(AT_ONCE);
        for entry in entries.take_while(|entry| entry.revision() <= self.end) {
            pairs.extend(entry.events().iter().map(|event| version(&event.version)));
            from.next = entry.revision().next();
        }
        pairs
    }
}

/// A place in a bucket.
#[derive(Default)]
pub(super) struct Position {
    /// The number of pairs that were returned, without those of the event log.
    passed: usize,
    /// The next revision of the event log.
    next: Revision,
}

fn revision_key(version: &KeyVersion) -> Key {
    // etcd counts the changes of a revision from 0.
    let mut key = revision_bytes(version.mod_revision(), version.place() - 1);
    if version.is_tombstone() {
        key.push(TOMBSTONE);
    }
    key
}

fn revision_bytes(revision: Revision, place: u32) -> Key {
    let mut key = Key::new();
    key.extend_from_slice(&revision.0.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&u64::from(place).to_be_bytes());
    key
}

type Pairs = Vec<(Key, Stored)>;

fn buckets(
    full_state: &FullState,
    term: u64,
    storage_version: &str,
    end: Revision,
) -> [(&'static str, Option<Pairs>); 10] {
    [
        ("alarm", Some(alarms(full_state))),
        ("auth", Some(auth(full_state))),
        ("authRoles", Some(named(full_state.auth.stored_roles().map(|role| (role.name.clone(), role))))),
        ("authUsers", Some(named(full_state.auth.stored_users().map(|user| (user.name.clone(), user))))),
        ("cluster", Some(vec![text("clusterVersion", storage_version)])),
        ("key", None),
        ("lease", Some(leases(full_state, end))),
        ("members", Some(sorted(full_state.members.values().map(member).collect()))),
        ("members_removed", Some(Vec::new())),
        ("meta", Some(meta(full_state, term, storage_version))),
    ]
}

fn pair(key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> (Key, Stored) {
    (Key::from_slice(key.as_ref()), Stored::Bytes(value.into()))
}

fn text(key: &str, value: &str) -> (Key, Stored) {
    pair(key, value)
}

fn named<M: Message>(messages: impl Iterator<Item = (impl AsRef<[u8]>, M)>) -> Pairs {
    messages.map(|(name, message)| (Key::from_slice(name.as_ref()), Stored::of(&message))).collect()
}

/// etcd keeps an alarm as a key that is the whole message.
fn alarms(full_state: &FullState) -> Pairs {
    use crate::proto::etcdserverpb::{AlarmMember, AlarmType};
    let message = |alarm: &crate::record::Alarm| {
        let kind = match alarm.kind {
            AlarmKind::NoSpace => AlarmType::Nospace,
            AlarmKind::Corrupt => AlarmType::Corrupt,
        };
        AlarmMember { member_id: alarm.member, alarm: kind.into() }.encode_to_vec()
    };
    sorted(full_state.alarms.iter().map(|alarm| pair(message(alarm), "")).collect())
}

fn auth(full_state: &FullState) -> Pairs {
    vec![
        pair("authEnabled", [u8::from(full_state.auth.is_enabled())]),
        pair("authRevision", full_state.auth.revision().to_be_bytes()),
    ]
}

fn leases(full_state: &FullState, end: Revision) -> Pairs {
    let state = &full_state.state;
    let mut all: BTreeMap<LeaseId, i64> = full_state.leases.iter().copied().collect();
    if end < state.revision {
        let all_keys = KeyRange::all();
        let on_leases = state.index.live_range(&all_keys, end).map(KeyVersion::lease);
        for id in on_leases.filter(|id| *id != LeaseId::NONE) {
            all.entry(id).or_insert(TTL_OF_ENDED_LEASES);
        }
    }
    let stored = |(id, ttl): (LeaseId, i64)| {
        (Key::from_slice(&id.0.to_be_bytes()), Stored::of(&Lease { id: id.0, ttl, remaining: 0 }))
    };
    sorted(all.into_iter().map(stored).collect())
}

fn member(member: &Member) -> (Key, Stored) {
    let mut stored = json!({ "id": member.id, "peerURLs": member.peer_urls });
    if member.is_learner {
        stored["isLearner"] = true.into();
    }
    if !member.name.is_empty() {
        stored["name"] = member.name.clone().into();
    }
    if !member.client_urls.is_empty() {
        stored["clientURLs"] = member.client_urls.clone().into();
    }
    // Its ids have no leading zeros.
    text(&format!("{:x}", member.id), &stored.to_string())
}

fn meta(full_state: &FullState, term: u64, storage_version: &str) -> Pairs {
    let members = |learners: bool| -> Vec<u64> {
        let members = full_state.members.values().filter(|member| member.is_learner == learners);
        members.map(|member| member.id).collect()
    };
    let mut configuration = json!({ "voters": members(false), "auto_leave": false });
    let learners = members(true);
    if !learners.is_empty() {
        configuration["learners"] = learners.into();
    }
    let mut pairs = vec![
        text("confState", &configuration.to_string()),
        pair("consistent_index", full_state.state.log_index.0.to_be_bytes()),
        text("storageVersion", storage_version),
        pair("term", term.to_be_bytes()),
    ];
    if let Some(floor) = full_state.state.compacted {
        for name in ["finishedCompactRev", "scheduledCompactRev"] {
            pairs.push(pair(name, revision_bytes(floor, 0).as_slice()));
        }
    }
    sorted(pairs)
}

fn sorted(mut pairs: Pairs) -> Pairs {
    pairs.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    pairs
}
