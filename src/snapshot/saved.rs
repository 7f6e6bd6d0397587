//! The content of a database of etcd's, of any version from 3.4 on.

use super::content::Lease;
use super::reader::{Cursor, Database, ReadError};
use crate::auth::AuthStore;
use crate::proto::{authpb, etcdserverpb, mvccpb};
use crate::record::{Alarm, AlarmKind};
use crate::types::{Grant, LeaseId, Revision};
use crate::version::{CLUSTER_VERSION, NatsVersion as Version};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use thiserror::Error;

/// Bytes of a revision's key: the revision, a letter and the place.
const REVISION_BYTES: usize = 17;

/// A database whose content cannot be used.
#[derive(Debug, Error)]
pub(crate) enum SavedError {
    /// The file itself.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Another kind of database.
    #[error("is a database without etcd's bucket {0:?}")]
    Bucket(&'static str),
    /// An entry that makes no sense.
    #[error("is damaged in its bucket {bucket:?}, at {place}: {reason}")]
    Entry {
        /// The bucket.
        bucket: &'static str,
        /// The key.
        place: String,
        /// The mistake.
        reason: &'static str,
    },
    /// A later etcd.
    #[error("is of etcd {0}, and jetway knows etcd up to {CLUSTER_VERSION}")]
    TooNew(String),
}

/// A database of etcd's. All but the keys is in memory.
#[derive(Debug)]
pub(crate) struct Saved {
    database: Database,
    buckets: BTreeMap<Bytes, super::reader::Bucket>,
    /// The compaction floor, that of a scheduled compaction too.
    pub(crate) floor: Option<Revision>,
    /// The granted TTL of each lease.
    pub(crate) leases: Vec<(LeaseId, Grant)>,
    /// Users and roles.
    pub(crate) users: AuthStore,
    /// The alarms that are raised.
    pub(crate) alarms: BTreeSet<Alarm>,
    /// The last entry of etcd's own log that the database shows.
    pub(crate) consistent_index: u64,
    /// The last revision that is read, if it is not that of the file.
    pub(crate) end: Option<Revision>,
}

/// A change of a key.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// The revision.
    pub(crate) revision: Revision,
    /// Its place among the changes of the revision, from 0.
    pub(crate) place: u64,
    /// Whether it is a delete.
    pub(crate) is_delete: bool,
    /// The key with its new value.
    pub(crate) pair: mvccpb::KeyValue,
}

impl Saved {
    /// Reads the first `size` bytes of a file.
    pub(crate) fn open(file: File, size: u64) -> Result<Saved, SavedError> {
        let database = Database::open(file, size)?;
        let buckets = database.buckets()?.into_iter().map(|bucket| (bucket.name.clone(), bucket)).collect();
        let mut saved = Saved {
            database,
            buckets,
            floor: None,
            leases: Vec::new(),
            users: AuthStore::default(),
            alarms: BTreeSet::new(),
            consistent_index: 0,
            end: None,
        };
        if !saved.buckets.contains_key(&b"key"[..]) {
            return Err(SavedError::Bucket("key"));
        }
        saved.check_version()?;
        saved.read_meta()?;
        saved.read_leases()?;
        saved.read_users()?;
        saved.read_alarms()?;
        Ok(saved)
    }

    /// The SHA-256 of the file without the checksum at its end, as digits.
    pub(crate) fn sha256(&self) -> Result<String, SavedError> {
        Ok(self.database.sha256()?)
    }

    /// The changes of keys, in the order of their revisions.
    pub(crate) fn changes(&self) -> Changes<'_> {
        let cursor = self.cursor("key").expect("it was there when the file was opened");
        Changes { cursor, end: self.end }
    }

    fn cursor(&self, bucket: &str) -> Option<Cursor<'_>> {
        Some(self.database.pairs(self.buckets.get(bucket.as_bytes())?))
    }

    fn pairs(&self, bucket: &'static str) -> Result<BTreeMap<Bytes, Bytes>, SavedError> {
        let Some(mut cursor) = self.cursor(bucket) else { return Ok(BTreeMap::new()) };
        let mut pairs = BTreeMap::new();
        while let Some((key, value)) = cursor.next()? {
            pairs.insert(key, value);
        }
        Ok(pairs)
    }

    fn check_version(&self) -> Result<(), SavedError> {
        for (bucket, key) in [("cluster", "clusterVersion"), ("meta", "storageVersion")] {
            let pairs = self.pairs(bucket)?;
            let Some(value) = pairs.get(key.as_bytes()) else { continue };
            let text = String::from_utf8_lossy(value);
            let version = Version::parse(&text);
            if version.is_none_or(|version| Some(version) > Version::parse(CLUSTER_VERSION)) {
                return Err(SavedError::TooNew(text.into_owned()));
            }
        }
        Ok(())
    }

    fn read_meta(&mut self) -> Result<(), SavedError> {
        let meta = self.pairs("meta")?;
        let number = |key: &'static str, bytes: usize| match meta.get(key.as_bytes()) {
            None => Ok(None),
            Some(value) if value.len() == bytes => Ok(value.first_chunk().map(|n| i64::from_be_bytes(*n))),
            Some(_) => Err(damaged("meta", key, "it has another length")),
        };
        // etcd takes a compaction up again that it was stopped in.
        let floors =
            [number("finishedCompactRev", REVISION_BYTES)?, number("scheduledCompactRev", REVISION_BYTES)?];
        self.floor = floors.into_iter().flatten().max().filter(|floor| *floor > 0).map(Revision);
        self.consistent_index = number("consistent_index", 8)?.unwrap_or_default() as u64;
        Ok(())
    }

    fn read_leases(&mut self) -> Result<(), SavedError> {
        for (key, value) in self.pairs("lease")? {
            match Lease::decode(value) {
                Ok(lease) if *key == lease.id.to_be_bytes() && lease.id != 0 && lease.ttl > 0 => {
                    let remaining = Some(lease.remaining).filter(|seconds| *seconds > 0);
                    self.leases.push((LeaseId(lease.id), Grant { ttl: lease.ttl, remaining }));
                }
                _ => return Err(damaged("lease", &key, "it is no lease")),
            }
        }
        Ok(())
    }

    fn read_users(&mut self) -> Result<(), SavedError> {
        fn all<M: Message + Default>(
            bucket: &'static str,
            pairs: BTreeMap<Bytes, Bytes>,
        ) -> Result<Vec<M>, SavedError> {
            let decode = |(key, value): (Bytes, Bytes)| {
                M::decode(value).map_err(|_| damaged(bucket, &key, "it is no message of etcd's"))
            };
            pairs.into_iter().map(decode).collect()
        }
        let auth = self.pairs("auth")?;
        let is_enabled = auth.get(&b"authEnabled"[..]).is_some_and(|value| **value == [1]);
        let revision = match auth.get(&b"authRevision"[..]) {
            // etcd begins with this one and writes it with the first change.
            None => 1,
            Some(value) => value
                .first_chunk()
                .filter(|_| value.len() == 8)
                .map(|number| u64::from_be_bytes(*number))
                .ok_or_else(|| damaged("auth", "authRevision", "it has another length"))?,
        };
        let users = all::<authpb::User>("authUsers", self.pairs("authUsers")?)?;
        let roles = all::<authpb::Role>("authRoles", self.pairs("authRoles")?)?;
        self.users = AuthStore::of_stored(is_enabled, revision, users, roles)
            .ok_or_else(|| damaged("authUsers", "", "a name or a hash is no text"))?;
        Ok(())
    }

    fn read_alarms(&mut self) -> Result<(), SavedError> {
        use etcdserverpb::{AlarmMember, AlarmType};
        // An alarm is a key that is the whole message.
        for key in self.pairs("alarm")?.into_keys() {
            let alarm = AlarmMember::decode(key.clone()).ok();
            let kind = alarm.and_then(|alarm| match alarm.alarm() {
                AlarmType::Nospace => Some(AlarmKind::NoSpace),
                AlarmType::Corrupt => Some(AlarmKind::Corrupt),
                AlarmType::None => None,
            });
            match (alarm, kind) {
                (Some(alarm), Some(kind)) => self.alarms.insert(Alarm { member: alarm.member_id, kind }),
                _ => return Err(damaged("alarm", &key, "it is no alarm that jetway knows")),
            };
        }
        Ok(())
    }
}

/// Walks over the changes of keys.
#[derive(Debug)]
pub(crate) struct Changes<'a> {
    cursor: Cursor<'a>,
    end: Option<Revision>,
}

impl Changes<'_> {
    /// The next change.
    pub(crate) fn next(&mut self) -> Result<Option<Change>, SavedError> {
        let Some((key, value)) = self.cursor.next()? else { return Ok(None) };
        let of_key = |reason| damaged("key", &key, reason);
        let (head, mark) = key.split_at_checked(REVISION_BYTES).ok_or_else(|| of_key("it is no revision"))?;
        let number = |at: usize| head[at..].first_chunk().map(|number| i64::from_be_bytes(*number));
        let (revision, place) = number(0).zip(number(9)).ok_or_else(|| of_key("it is no revision"))?;
        if self.end.is_some_and(|end| revision > end.0) {
            return Ok(None);
        }
        let is_delete = match mark {
            [] => false,
            b"t" => true,
            _ => return Err(of_key("it has an unknown mark")),
        };
        if revision < 1 || place < 0 || head[8] != b'_' {
            return Err(of_key("it is no revision"));
        }
        let of_change = |reason| damaged("key", format!("revision {revision}, change {place}"), reason);
        let pair = mvccpb::KeyValue::decode(value).map_err(|_| of_change("its value is no key of etcd's"))?;
        let is_consistent = pair.mod_revision == revision
            && pair.version >= 1
            && (1..=revision).contains(&pair.create_revision);
        // A bump of the revision writes an entry without a key.
        if !is_delete && !pair.key.is_empty() && !is_consistent {
            return Err(of_change("its numbers do not fit its revision"));
        }
        Ok(Some(Change { revision: Revision(revision), place: place as u64, is_delete, pair }))
    }
}

fn damaged(bucket: &'static str, key: impl AsRef<[u8]>, reason: &'static str) -> SavedError {
    SavedError::Entry { bucket, place: key.as_ref().escape_ascii().to_string(), reason }
}
