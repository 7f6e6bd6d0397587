//! Entries of the meta stream: leases, the compaction floor, alarms, users and roles, tokens, the cluster's id. None of them spends a revision.
//!
//! Every entry is JSON under a readable key, so that `nats kv` shows it. One message is kept per key.

use super::Inner;
use super::leases::MAX_TTL;
use crate::applier::Floor;
use crate::auth::{AuthStore, SimpleToken};
use crate::error::EtcdError;
use crate::jetstream::record::KV_OPERATION;
use crate::jetstream::{Guard, Outgoing, PublishError, RawMessage, Step};
use crate::types::{LeaseId, Revision, Sequence};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How long the delete marker of an entry stays, for instances that are slow to see it.
const MARKER_TTL: Duration = Duration::from_hours(1);
/// Steps of a floor in one entry; what exceeds it is stored in entries of its own first.
const STEPS_PER_ENTRY: usize = 20_000;

const CLUSTER: &str = "cluster";
const FLOOR: &str = "floor";
const STEPS: &str = "steps";
const LEASE: &str = "lease";
const ALARM: &str = "alarm";
pub(super) const AUTH: &str = "auth";
const TOKEN: &str = "token";

/// Kinds of alarm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AlarmKind {
    /// No room for more data.
    NoSpace,
    /// Data was found damaged.
    Corrupt,
}

/// An alarm that somebody raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alarm {
    /// For which member; it need not exist.
    pub member: u64,
    /// What is wrong.
    pub kind: AlarmKind,
}

#[derive(Serialize, Deserialize)]
struct ClusterEntry {
    id: u64,
}

#[derive(Serialize, Deserialize)]
struct LeaseEntry {
    ttl: i64,
}

/// Steps are written as pairs of distances to the step before, which keeps them short.
#[derive(Serialize, Deserialize)]
struct FloorEntry {
    revision: i64,
    sequence: u64,
    /// How many entries of steps go before those in here.
    step_entries: usize,
    steps: Vec<(u64, u64)>,
}

/// A meta message, understood.
#[derive(Clone, Debug)]
enum MetaRecord {
    Cluster(u64),
    Floor(Floor),
    Lease(LeaseId, i64),
    LeaseGone(LeaseId),
    Alarm(Alarm, bool),
    Auth(AuthStore),
    Token(String, SimpleToken),
    /// Part of a floor that is still to come.
    Steps,
}

/// What the meta stream holds besides leases.
#[derive(Debug, Default)]
pub(super) struct MetaTable {
    inner: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    cluster_id: u64,
    floor: Option<Floor>,
    floor_entry: Sequence,
    steps: BTreeMap<(i64, usize), Vec<(u64, u64)>>,
    alarms: BTreeSet<Alarm>,
    /// The newest message of each key that has one.
    entries: HashMap<String, Sequence>,
}

impl MetaTable {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn cluster_id(&self) -> u64 {
        self.lock().cluster_id
    }

    pub(super) fn floor(&self) -> Option<Floor> {
        self.lock().floor.clone()
    }

    pub(super) fn floor_entry(&self) -> Sequence {
        self.lock().floor_entry
    }

    pub(super) fn alarms(&self) -> Vec<Alarm> {
        self.lock().alarms.iter().copied().collect()
    }

    /// The newest message of a key, [`Sequence::NONE`] where there is none.
    pub(super) fn entry(&self, key: &str) -> Sequence {
        self.lock().entries.get(key).copied().unwrap_or(Sequence::NONE)
    }

    /// A key's newest message turned out to be another one than the follower has shown.
    pub(super) fn correct(&self, key: &str, entry: Sequence) {
        self.lock().entries.insert(key.to_owned(), entry);
    }

    pub(super) fn clear(&self) {
        *self.lock() = Table::default();
    }

    /// What a message says; nothing where jetway could not have written it.
    fn decode(&self, message: &RawMessage, is_delete: bool) -> Option<MetaRecord> {
        let mut words = message.subject.split('.');
        let record = match (words.next()?, words.next(), words.next()) {
            (CLUSTER, None, None) => {
                MetaRecord::Cluster(serde_json::from_slice::<ClusterEntry>(&message.payload).ok()?.id)
            }
            (LEASE, Some(id), None) => {
                let id = LeaseId(u64::from_str_radix(id, 16).ok()? as i64);
                if is_delete {
                    MetaRecord::LeaseGone(id)
                } else {
                    let ttl = serde_json::from_slice::<LeaseEntry>(&message.payload).ok()?.ttl;
                    if !(1..=MAX_TTL).contains(&ttl) {
                        return None;
                    }
                    MetaRecord::Lease(id, ttl)
                }
            }
            (ALARM, Some(member), Some(kind)) => {
                let kind = match kind {
                    "nospace" => AlarmKind::NoSpace,
                    "corrupt" => AlarmKind::Corrupt,
                    _ => return None,
                };
                let member = u64::from_str_radix(member, 16).ok()?;
                MetaRecord::Alarm(Alarm { member, kind }, !is_delete)
            }
            // Whoever may delete entries may reset users too, as after the loss of root's password.
            (AUTH, None, None) if is_delete => MetaRecord::Auth(AuthStore::default()),
            (AUTH, None, None) => {
                MetaRecord::Auth(serde_json::from_slice(&message.payload).unwrap_or_else(|error| {
                    tracing::error!(%error, "users and roles cannot be read: nobody may do anything");
                    AuthStore::locked()
                }))
            }
            (TOKEN, Some(letters), Some(position)) => {
                let entry = serde_json::from_slice(&message.payload).ok()?;
                MetaRecord::Token(format!("{letters}.{position}"), entry)
            }
            (STEPS, Some(revision), Some(at)) => {
                if !is_delete {
                    let steps: Vec<(u64, u64)> = serde_json::from_slice(&message.payload).ok()?;
                    self.lock().steps.insert((revision.parse().ok()?, at.parse().ok()?), steps);
                }
                MetaRecord::Steps
            }
            (FLOOR, None, None) => {
                let entry: FloorEntry = serde_json::from_slice(&message.payload).ok()?;
                let table = self.lock();
                let mut pairs = Vec::new();
                for at in 0..entry.step_entries {
                    pairs.extend_from_slice(table.steps.get(&(entry.revision, at))?);
                }
                pairs.extend(entry.steps);
                let floor = Floor {
                    revision: Revision(entry.revision),
                    sequence: Sequence(entry.sequence),
                    steps: undelta(pairs.into_iter())?,
                };
                if !floor.is_sound() {
                    return None;
                }
                MetaRecord::Floor(floor)
            }
            _ => return None,
        };
        Some(record)
    }
}

pub(super) fn lease_key(id: LeaseId) -> String {
    format!("{LEASE}.{:016x}", id.0)
}

fn alarm_key(alarm: Alarm) -> String {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => "nospace",
        AlarmKind::Corrupt => "corrupt",
    };
    format!("{ALARM}.{:016x}.{kind}", alarm.member)
}

fn delta(steps: &[Step]) -> Vec<(u64, u64)> {
    let mut last = (0, 0);
    steps
        .iter()
        .map(|step| {
            let pair = (step.from.0 - last.0, step.offset.wrapping_sub(last.1));
            last = (step.from.0, step.offset);
            pair
        })
        .collect()
}

/// Nothing where the sums exceed what a sequence can be.
fn undelta(pairs: impl Iterator<Item = (u64, u64)>) -> Option<Vec<Step>> {
    let mut last = (0_u64, 0_u64);
    pairs
        .map(|(from, offset)| {
            last = (last.0.checked_add(from)?, last.1.wrapping_add(offset));
            Some(Step { from: Sequence(last.0), offset: last.1 })
        })
        .collect()
}

impl Inner {
    /// Takes a message of the meta stream; answers a floor if it raises one. `age` is how long ago the message was
    /// stored.
    pub(super) fn take_meta(&self, message: &RawMessage, age: Duration) -> Option<Floor> {
        let is_delete = message.headers.as_ref().is_some_and(|headers| headers.get(KV_OPERATION).is_some())
            || message.headers.as_ref().is_some_and(|headers| headers.get("Nats-Marker-Reason").is_some());
        let floor = self.apply_meta(message, is_delete, age);
        // Last: whoever reads an entry and then what it says, to write the next, has the guard fail if that was older.
        // Tokens come and go without a guard and without a trace. Of leases there may be millions in time: who grants one
        // anew whose marker is still there finds it by the guard that fails.
        if is_delete && message.subject.starts_with(LEASE) {
            self.meta.lock().entries.remove(&message.subject);
        } else if !message.subject.starts_with(TOKEN) {
            self.meta.lock().entries.insert(message.subject.clone(), message.sequence);
        }
        floor
    }

    fn apply_meta(&self, message: &RawMessage, is_delete: bool, age: Duration) -> Option<Floor> {
        let Some(record) = self.meta.decode(message, is_delete) else {
            tracing::warn!(subject = message.subject, sequence = %message.sequence, "an entry of the meta stream that jetway did not write is ignored");
            return None;
        };
        let mut table = self.meta.lock();
        match record {
            MetaRecord::Cluster(id) => table.cluster_id = id,
            MetaRecord::Lease(id, ttl) => {
                let total = Duration::from_secs(ttl as u64);
                self.leases.put(id, ttl, total.saturating_sub(age), message.sequence);
            }
            MetaRecord::LeaseGone(id) => self.leases.remove(id),
            MetaRecord::Alarm(alarm, true) => drop(table.alarms.insert(alarm)),
            MetaRecord::Alarm(alarm, false) => drop(table.alarms.remove(&alarm)),
            MetaRecord::Auth(store) => self.auth.replace(store),
            MetaRecord::Token(token, entry) => self.auth.tokens().remember(&token, entry, age),
            MetaRecord::Steps => {}
            MetaRecord::Floor(floor) => {
                table.floor = Some(floor.clone());
                table.floor_entry = message.sequence;
                table.steps.clear();
                return Some(floor);
            }
        }
        None
    }

    /// Makes the cluster's id where there is none yet. Whoever is first wins.
    pub(super) async fn ensure_cluster_id(&self) -> Result<(), PublishError> {
        if self.meta.cluster_id() != 0 {
            return Ok(());
        }
        let entry = ClusterEntry { id: rand::random::<u64>() | 1 };
        match self.put_meta(CLUSTER, &entry, Sequence::NONE).await {
            Ok(_) | Err(PublishError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Records a floor. The guard is the floor it was computed on, so floors only rise.
    pub(super) async fn put_floor(&self, floor: &Floor, known: Sequence) -> Result<Sequence, PublishError> {
        let mut steps = delta(&floor.steps);
        let mut step_entries = 0;
        while steps.len() > STEPS_PER_ENTRY {
            let rest = steps.split_off(STEPS_PER_ENTRY);
            let key = format!("{STEPS}.{}.{step_entries}", floor.revision);
            let guard = self.meta.entry(&key);
            self.put_meta(&key, &steps, guard).await?;
            steps = rest;
            step_entries += 1;
        }
        let entry =
            FloorEntry { revision: floor.revision.0, sequence: floor.sequence.0, step_entries, steps };
        self.put_meta(FLOOR, &entry, known).await
    }

    /// Grants or renews a lease.
    pub(super) async fn put_lease(
        &self,
        id: LeaseId,
        ttl: i64,
        known: Sequence,
    ) -> Result<Sequence, PublishError> {
        self.put_meta(&lease_key(id), &LeaseEntry { ttl }, known).await
    }

    /// Raises an alarm.
    pub(super) async fn put_alarm(&self, alarm: Alarm) -> Result<Sequence, PublishError> {
        let key = alarm_key(alarm);
        let known = self.meta.entry(&key);
        self.put_meta(&key, &serde_json::json!({}), known).await
    }

    /// Lowers an alarm.
    pub(super) async fn delete_alarm(&self, alarm: Alarm) -> Result<Sequence, PublishError> {
        let key = alarm_key(alarm);
        let known = self.meta.entry(&key);
        self.delete_meta(&key, known).await
    }

    /// Exchanges users and roles.
    pub(super) async fn put_auth(
        &self,
        store: &AuthStore,
        known: Sequence,
    ) -> Result<Sequence, PublishError> {
        self.put_meta(AUTH, store, known).await
    }

    /// Writes the entry of a token, or writes it again. It goes away by itself.
    pub(super) async fn put_token(
        &self,
        token: &str,
        entry: &SimpleToken,
        ttl: Duration,
    ) -> Result<Sequence, PublishError> {
        let payload = serde_json::to_vec(entry).expect("entries are plain data");
        let subject = format!("{}{TOKEN}.{token}", self.bucket.meta_prefix);
        let ttl = Some(Duration::from_secs(ttl.as_secs_f64().ceil() as u64));
        self.publisher
            .publish(Outgoing { subject, headers: Vec::new(), payload: payload.into(), guard: None, ttl })
            .await
    }

    async fn put_meta(
        &self,
        key: &str,
        entry: &impl Serialize,
        known: Sequence,
    ) -> Result<Sequence, PublishError> {
        let payload = serde_json::to_vec(entry).expect("entries are plain data");
        self.publisher
            .publish(Outgoing {
                subject: format!("{}{key}", self.bucket.meta_prefix),
                headers: Vec::new(),
                payload: payload.into(),
                guard: Some(Guard::Subject(known)),
                ttl: None,
            })
            .await
    }

    pub(super) async fn delete_meta(&self, key: &str, known: Sequence) -> Result<Sequence, PublishError> {
        self.publisher
            .publish(Outgoing {
                subject: format!("{}{key}", self.bucket.meta_prefix),
                headers: vec![(KV_OPERATION, "DEL".to_owned())],
                payload: Bytes::new(),
                guard: Some(Guard::Subject(known)),
                ttl: Some(MARKER_TTL),
            })
            .await
    }

    /// Waits until a meta message is part of the tables here.
    pub(super) async fn wait_meta(&self, sequence: Sequence) -> Result<(), EtcdError> {
        match tokio::time::timeout(super::REQUEST_TIMEOUT, self.meta_positions.wait(sequence)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(EtcdError::Stopped),
            Err(_) => Err(self.unavailable()),
        }
    }

    /// Brings the tables here up to what the meta stream holds now.
    pub(super) async fn refresh_meta(&self) -> Result<(), EtcdError> {
        let info = self
            .api
            .stream_info(&self.bucket.meta)
            .await
            .map_err(|error| EtcdError::Unavailable(error.to_string()))?;
        self.wait_meta(info.last()).await
    }
}

/// A meta write that failed, in a client's terms.
pub(super) fn failed(error: PublishError) -> EtcdError {
    match error {
        PublishError::NoSpace(_) => EtcdError::NoSpace,
        PublishError::Unknown(_) => EtcdError::Timeout,
        other => EtcdError::Unavailable(other.to_string()),
    }
}

/// For fuzzing: entries of the meta stream, which may be of any text.
#[cfg(any(fuzzing, test))]
pub(crate) fn fuzz(data: &[u8]) {
    use crate::applier::Applier;
    use crate::core::Writer;
    use crate::fuzzing::Choices;
    use crate::lease::{Attachments, LeaseTable};

    let mut choices = Choices::new(data);
    let (table, leases) = (MetaTable::default(), LeaseTable::default());
    let (writer, reader) = Writer::new();
    let mut applier = Applier::new(writer, Attachments::default(), None);
    let mut sequence = Sequence(0);
    while !choices.is_empty() {
        sequence = sequence.next();
        let is_delete = choices.byte().is_multiple_of(4);
        let subject = match choices.byte() {
            at @ 0..=199 => {
                let names =
                    ["floor", "steps.5.0", "lease.7", "auth", "token.ab.1", "alarm.1.nospace", "cluster"];
                names[usize::from(at) % names.len()].to_owned()
            }
            _ => choices.text(),
        };
        let payload = Bytes::copy_from_slice(choices.bytes());
        let age = Duration::from_secs(choices.number().unsigned_abs());
        let message = RawMessage { sequence, time: 0, subject, headers: None, payload };
        match table.decode(&message, is_delete) {
            Some(MetaRecord::Floor(floor)) => {
                // Short form and long form say the same.
                assert_eq!(undelta(delta(&floor.steps).into_iter()).as_ref(), Some(&floor.steps));
                drop(Applier::new(Writer::new().0, Attachments::default(), Some(floor.clone())));
                applier.raise_floor(floor);
                applier.advance(Sequence(u64::from(choices.byte())));
                applier.publish();
                assert!(reader.snapshot().compacted <= Some(reader.revision()));
            }
            Some(MetaRecord::Lease(id, ttl)) => {
                leases.put(id, ttl, Duration::from_secs(ttl as u64).saturating_sub(age), sequence);
                leases.leave_at_least(Duration::from_secs(5));
                let now = std::time::Instant::now();
                drop((leases.by_deadline(), leases.expired(now)));
                assert!(leases.get(id).is_some_and(|lease| lease.remaining(now) <= ttl));
            }
            Some(MetaRecord::Auth(store)) => {
                let again = serde_json::to_vec(&store).expect("plain data");
                assert_eq!(serde_json::from_slice::<AuthStore>(&again).ok(), Some(store));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_survive_their_short_form() {
        let steps = vec![
            Step { from: Sequence(5), offset: 2 },
            Step { from: Sequence(9), offset: 3 },
            Step { from: Sequence(1 << 40), offset: 1 },
        ];
        assert_eq!(undelta(delta(&steps).into_iter()), Some(steps));
    }
}
