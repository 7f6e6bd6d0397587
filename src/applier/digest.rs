//! The digest of a state: a sum with one term for each thing in it, so that each write changes it in constant
//! time.
//!
//! A term is the XXH3 hash of the thing's bytes. Sums wrap. Two states have the same digest if they hold the
//! same keys with the same values and numbers, leases with the same TTLs, users and roles, alarms, tokens and
//! members, at the same revision and compaction floor. The function is part of the stored format: marks, trim
//! records and epoch records hold its results.
//!
//! XXH3 reads a value of 1 KiB in 0.1 us where SHA-256 takes 3 us. It finds damage, not an attacker: whoever
//! can write to the stream can also write a fitting digest.

use crate::auth::{AuthStore, SimpleToken};
use crate::core::KeyVersion;
use crate::record::{Alarm, Digest, Member};
use crate::types::{LeaseId, Revision};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The kind of a thing, which is part of its term.
#[derive(Clone, Copy)]
enum Kind {
    Key = 1,
    Lease,
    Users,
    Alarm,
    Token,
    Member,
    State,
}

/// A sum of terms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sum(u64);

impl Sum {
    pub(crate) fn add(&mut self, term: u64) {
        self.0 = self.0.wrapping_add(term);
    }

    pub(crate) fn take_away(&mut self, term: u64) {
        self.0 = self.0.wrapping_sub(term);
    }

    /// The digest of the summed terms, the revision and the floor.
    pub(crate) fn digest(self, revision: Revision, floor: Option<Revision>) -> Digest {
        let floor = floor.map_or(-1, |floor| floor.0);
        Digest(numbers(Kind::State, &[self.0 as i64, revision.0, floor]))
    }
}

fn numbers(kind: Kind, numbers: &[i64]) -> u64 {
    let mut bytes = [0; 48];
    for (to, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        to.copy_from_slice(&number.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes[..8 * numbers.len()], kind as u64)
}

pub(crate) fn of_key(version: &KeyVersion) -> u64 {
    let numbers = numbers(
        Kind::Key,
        &[version.create_revision().0, version.mod_revision().0, version.version(), version.lease().0],
    );
    xxh3_64_with_seed(version.value(), xxh3_64_with_seed(version.key(), numbers))
}

pub(crate) fn of_lease(id: LeaseId, ttl: i64) -> u64 {
    numbers(Kind::Lease, &[id.0, ttl])
}

pub(crate) fn of_alarm(alarm: Alarm) -> u64 {
    numbers(Kind::Alarm, &[alarm.member as i64, alarm.kind as i64])
}

pub(crate) fn of_users(store: &AuthStore) -> u64 {
    let bytes = serde_json::to_vec(store).expect("users are plain data");
    xxh3_64_with_seed(&bytes, Kind::Users as u64)
}

pub(crate) fn of_token(hash: &str, token: &SimpleToken) -> u64 {
    let numbers = numbers(Kind::Token, &[token.revision as i64, xxh3_64(hash.as_bytes()) as i64]);
    xxh3_64_with_seed(token.user.as_bytes(), numbers)
}

pub(crate) fn of_member(member: &Member) -> u64 {
    let bytes = serde_json::to_vec(member).expect("members are plain data");
    xxh3_64_with_seed(&bytes, Kind::Member as u64)
}
