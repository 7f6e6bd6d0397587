//! The deadlines of leases, on the writer. A grant and an end count as soon as their records are planned,
//! before they are acknowledged.

use crate::primitive::Uptime;
use crate::txn;
use crate::types::{Grant, LeaseId, LogIndex};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// The least TTL in seconds, as etcd computes it from its default heartbeat and election timeouts.
pub(crate) const MIN_TTL: i64 = 2;
/// The greatest TTL in seconds.
pub(crate) const MAX_TTL: i64 = 9_000_000_000;

#[derive(Clone, Copy, Debug)]
struct Deadline {
    ttl: i64,
    at: Uptime,
    /// The record of the grant; none for a grant that the lessor found in the log.
    granted: LogIndex,
}

/// Leases and their deadlines.
#[derive(Debug, Default)]
pub(crate) struct Lessor {
    leases: HashMap<LeaseId, Deadline>,
    by_deadline: BTreeSet<(Uptime, LeaseId)>,
}

impl txn::LeaseTable for Lessor {
    fn exists(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }
}

impl Lessor {
    /// Takes the leases of a log. Each gets its full TTL and `grace` more from `now` on. The first writer of
    /// a copy gives the time that was left at the copy, if that is known.
    pub(crate) fn new(
        leases: impl IntoIterator<Item = (LeaseId, Grant)>,
        now: Uptime,
        grace: Duration,
        is_first_of_copy: bool,
    ) -> Lessor {
        let mut lessor = Lessor::default();
        for (id, Grant { ttl, remaining }) in leases {
            let left = remaining.filter(|_| is_first_of_copy).unwrap_or(ttl);
            let at = now + Duration::from_secs(left.max(0) as u64) + grace;
            lessor.set(id, Deadline { ttl, at, granted: LogIndex::NONE });
        }
        lessor
    }

    fn set(&mut self, id: LeaseId, deadline: Deadline) {
        if let Some(before) = self.leases.insert(id, deadline) {
            self.by_deadline.remove(&(before.at, id));
        }
        self.by_deadline.insert((deadline.at, id));
    }

    /// Adds a lease, which the record at an index grants.
    pub(crate) fn grant(&mut self, id: LeaseId, ttl: i64, now: Uptime, granted: LogIndex) {
        self.set(id, Deadline { ttl, at: now + Duration::from_secs(ttl.max(0) as u64), granted });
    }

    /// The index of the record that granted a lease; `None` if there is no such lease.
    pub(crate) fn granted(&self, id: LeaseId) -> Option<LogIndex> {
        self.leases.get(&id).map(|lease| lease.granted)
    }

    /// Removes a lease; returns whether there was one.
    pub(crate) fn revoke(&mut self, id: LeaseId) -> bool {
        match self.leases.remove(&id) {
            Some(lease) => self.by_deadline.remove(&(lease.at, id)),
            None => false,
        }
    }

    /// Gives a lease its full TTL again and returns the TTL; `None` if there is no such lease, or it has
    /// expired.
    pub(crate) fn renew(&mut self, id: LeaseId, now: Uptime) -> Option<i64> {
        let Deadline { ttl, at, granted } = *self.leases.get(&id)?;
        if at <= now {
            return None;
        }
        self.grant(id, ttl, now, granted);
        Some(ttl)
    }

    /// Seconds left, truncated toward zero and negative when overdue, and the granted TTL.
    pub(crate) fn time_left(&self, id: LeaseId, now: Uptime) -> Option<(i64, i64)> {
        let Deadline { ttl, at, .. } = *self.leases.get(&id)?;
        Some((at.seconds_after(now), ttl))
    }

    /// All leases, the one that ends first in front.
    pub(crate) fn by_deadline(&self) -> impl Iterator<Item = LeaseId> {
        self.by_deadline.iter().map(|(_, id)| *id)
    }

    /// Up to `most` expired leases.
    pub(crate) fn expired(&self, now: Uptime, most: usize) -> Vec<LeaseId> {
        self.by_deadline.iter().take_while(|(at, _)| *at <= now).take(most).map(|(_, id)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_ends_a_ttl_after_its_last_renewal_and_not_before() {
        let begin = Uptime::now();
        let mut lessor = Lessor::new([(LeaseId(1), Grant::full(10))], begin, SECOND, true);
        lessor.grant(LeaseId(2), 5, begin, LogIndex(7));
        assert_eq!(lessor.by_deadline().collect::<Vec<_>>(), [LeaseId(2), LeaseId(1)]);
        assert_eq!(lessor.time_left(LeaseId(1), begin), Some((11, 10)));
        assert_eq!(lessor.renew(LeaseId(2), begin + 4 * SECOND), Some(5));
        assert_eq!(
            [1, 2, 3].map(|id| lessor.granted(LeaseId(id))),
            [Some(LogIndex::NONE), Some(LogIndex(7)), None]
        );
        assert_eq!(lessor.expired(begin + 8 * SECOND, 9), []);
        assert_eq!(lessor.expired(begin + 9 * SECOND, 9), [LeaseId(2)]);
        assert_eq!(lessor.renew(LeaseId(2), begin + 9 * SECOND), None, "its time is over");
        assert_eq!(lessor.time_left(LeaseId(2), begin + 12 * SECOND), Some((-3, 5)));
        assert!(lessor.revoke(LeaseId(2)) && !lessor.revoke(LeaseId(2)));
        assert_eq!(lessor.renew(LeaseId(2), begin), None);
    }

    #[test]
    fn the_first_writer_of_a_copy_goes_on_where_the_source_was() {
        let begin = Uptime::now();
        let left = |is_first| {
            let grant = Grant { ttl: 60, remaining: Some(7) };
            let mut lessor = Lessor::new([(LeaseId(1), grant)], begin, SECOND, is_first);
            let first = lessor.time_left(LeaseId(1), begin);
            assert_eq!(lessor.renew(LeaseId(1), begin), Some(60));
            (first, lessor.time_left(LeaseId(1), begin))
        };
        assert_eq!(left(true), (Some((8, 60)), Some((60, 60))));
        assert_eq!(left(false), (Some((61, 60)), Some((60, 60))));
    }
}
