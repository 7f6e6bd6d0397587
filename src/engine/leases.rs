//! Lease calls, and the ending of leases whose time is over.

use super::{Engine, Inner, REQUEST_TIMEOUT, meta};
use crate::auth::Caller;
use crate::core::State;
use crate::error::EtcdError;
use crate::jetstream::PublishError;
use crate::lease::Lease;
use crate::proto::etcdserverpb::DeleteRangeResponse;
use crate::txn::{self, Planned};
use crate::types::{LeaseId, Sequence};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The least TTL, as etcd computes it from its default heartbeat and election timeouts.
const MIN_TTL: i64 = 2;
/// The greatest.
pub(super) const MAX_TTL: i64 = 9_000_000_000;
/// How often deadlines are looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Leases ended at one look, so that a flood of them does not crowd out everything else.
const ENDED_AT_ONCE: usize = 500;

impl Engine {
    /// Grants a lease; id 0 lets the server choose. Answers id and effective TTL.
    pub async fn grant_lease(&self, id: i64, ttl: i64) -> Result<(LeaseId, i64), EtcdError> {
        let inner = &self.inner;
        if ttl > MAX_TTL {
            return Err(EtcdError::LeaseTtlTooLarge);
        }
        let ttl = ttl.max(MIN_TTL);
        inner.wait_ready().await?;
        loop {
            let chosen = LeaseId(if id == 0 { rand::random_range(1..i64::MAX) } else { id });
            // A lease of that id may have ended before; its marker, if it is still there, is what the guard must name.
            // The entry before the lease: if somebody else grants it in between, the guard does not hold.
            let known = inner.meta.entry(&meta::lease_key(chosen));
            if inner.leases.get(chosen).is_some() {
                if id == 0 {
                    continue;
                }
                return Err(EtcdError::LeaseExists);
            }
            match inner.put_lease(chosen, ttl, known).await {
                Ok(entry) => {
                    inner.wait_meta(entry).await?;
                    inner.counters.granted(ttl);
                    return Ok((chosen, ttl));
                }
                Err(PublishError::Conflict(_)) => inner.resolve_lease_conflict(chosen, known).await?,
                Err(error) => return Err(meta::failed(error)),
            }
        }
    }

    /// Ends a lease and deletes its keys, all of which the caller must be allowed to write; answers a state in which
    /// they are gone.
    pub async fn revoke_lease(&self, id: LeaseId, caller: &Caller) -> Result<Arc<State>, EtcdError> {
        self.inner.wait_ready().await?;
        self.check_lease_write(caller, id)?;
        loop {
            let lease = self.inner.known_lease(id).await?.ok_or(EtcdError::LeaseNotFound)?;
            if self.inner.end_lease(lease).await? {
                self.inner.counters.revoked();
                return self.inner.delete_keys_of(id).await;
            }
        }
    }

    /// Renews a lease; answers its TTL, `None` for a lease that is gone.
    pub async fn keep_lease_alive(&self, id: LeaseId) -> Result<Option<i64>, EtcdError> {
        let inner = &self.inner;
        inner.wait_ready().await?;
        let asked = Instant::now();
        loop {
            let mut turn = inner.renewals.turn(id).await;
            let Some(lease) = inner.known_lease(id).await? else { return Ok(None) };
            if lease.deadline <= Instant::now() {
                // Over, but not ended yet: it cannot be revived.
                drop(turn);
                if asked.elapsed() > REQUEST_TIMEOUT {
                    return Err(EtcdError::Timeout);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            if turn.is_done_since(asked) {
                inner.counters.renewed();
                return Ok(Some(lease.ttl));
            }
            let began = Instant::now();
            match inner.put_lease(id, lease.ttl, lease.entry).await {
                Ok(entry) => {
                    inner.wait_meta(entry).await?;
                    turn.done(began);
                    inner.counters.renewed();
                    return Ok(Some(lease.ttl));
                }
                Err(PublishError::Conflict(_)) => inner.refresh_meta().await?,
                Err(error) => return Err(meta::failed(error)),
            }
        }
    }

    /// One lease. Who is told that it is gone finds no key of it any more.
    pub async fn lease(&self, id: LeaseId) -> Result<Option<Lease>, EtcdError> {
        self.inner.wait_ready().await?;
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let lease = self.inner.known_lease(id).await?;
            if lease.is_some() || self.inner.attachments.keys(id).is_empty() {
                return Ok(lease);
            }
            // Its end and the deletion of its keys are two writes, and this is between them.
            if Instant::now() > deadline {
                return Err(EtcdError::Timeout);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All leases, those that end first in front.
    pub async fn all_leases(&self) -> Result<Vec<Lease>, EtcdError> {
        self.inner.wait_loaded().await?;
        Ok(self.inner.leases.by_deadline())
    }

    /// Raises or lowers an alarm.
    pub async fn set_alarm(&self, alarm: meta::Alarm, raised: bool) -> Result<(), EtcdError> {
        let inner = &self.inner;
        inner.wait_ready().await?;
        while inner.meta.alarms().contains(&alarm) != raised {
            let stored = if raised { inner.put_alarm(alarm).await } else { inner.delete_alarm(alarm).await };
            match stored {
                Ok(entry) => inner.wait_meta(entry).await?,
                Err(PublishError::Conflict(_)) => inner.refresh_meta().await?,
                Err(error) => return Err(meta::failed(error)),
            }
        }
        inner.alarm_settled(alarm);
        if !raised {
            // Whoever lowers it has made room, and expects that to count at once.
            inner.measure().await;
        }
        Ok(())
    }
}

impl Inner {
    pub(super) async fn wait_ready(&self) -> Result<(), EtcdError> {
        self.wait_loaded().await?;
        self.wait_following(tokio::time::Instant::now() + REQUEST_TIMEOUT).await
    }

    /// A lease as of now: where others write too, one that is not known here may just not have arrived.
    async fn known_lease(&self, id: LeaseId) -> Result<Option<Lease>, EtcdError> {
        let lease = self.leases.get(id);
        if lease.is_some() || self.settings.sole_writer {
            return Ok(lease);
        }
        self.refresh_meta().await?;
        Ok(self.leases.get(id))
    }

    /// A lease's key is not what we thought. If that is news, the caller looks again; if not, the marker we remember
    /// has been removed by the server meanwhile.
    async fn resolve_lease_conflict(&self, id: LeaseId, known: Sequence) -> Result<(), EtcdError> {
        self.refresh_meta().await?;
        let key = meta::lease_key(id);
        if self.meta.entry(&key) == known {
            let subject = format!("{}{key}", self.bucket.meta_prefix);
            let last = self.api.last_message(&self.bucket.meta, &subject).await;
            let last = last.map_err(|error| EtcdError::Unavailable(error.to_string()))?;
            self.meta.correct(&key, last.map_or(Sequence::NONE, |message| Sequence(message.seq)));
        }
        Ok(())
    }

    /// Deletes a lease's entry as we know it; `false` where it has been renewed or ended meanwhile.
    async fn end_lease(&self, lease: Lease) -> Result<bool, EtcdError> {
        match self.delete_meta(&meta::lease_key(lease.id), lease.entry).await {
            Ok(entry) => self.wait_meta(entry).await.map(|()| true),
            Err(PublishError::Conflict(_)) => self.refresh_meta().await.map(|()| false),
            Err(error) => Err(meta::failed(error)),
        }
    }

    /// Deletes what hangs on a lease that has ended, in one revision.
    async fn delete_keys_of(&self, id: LeaseId) -> Result<Arc<State>, EtcdError> {
        let keys: Vec<Bytes> = self.attachments.keys(id);
        if !keys.is_empty() {
            let planner = |state: &Arc<State>| {
                // Only what still hangs on it: a put may have moved a key meanwhile.
                let attached =
                    keys.iter().filter(|key| state.get(key).is_some_and(|version| version.lease() == id));
                Ok(match txn::plan_delete_keys(state, attached.cloned()) {
                    Some(plan) => Planned::Write(plan),
                    None => Planned::Answer(txn::Response::DeleteRange(DeleteRangeResponse::default())),
                })
            };
            self.write(&keys, planner).await?;
        }
        self.linearizable().await
    }

    async fn look_at_leases(&self) -> Result<(), EtcdError> {
        // Their ends are writes, which a corrupt store takes no more of.
        if self.meta.alarms().iter().any(|alarm| alarm.kind == meta::AlarmKind::Corrupt) {
            return Ok(());
        }
        for lease in self.leases.expired(Instant::now()).into_iter().take(ENDED_AT_ONCE) {
            if self.end_lease(lease).await? {
                self.counters.expired();
                self.delete_keys_of(lease.id).await?;
            }
        }
        // Keys on a lease that is not there: its end was not finished, or a put raced with it.
        let orphaned = |inner: &Inner| -> HashSet<LeaseId> {
            inner.attachments.leases().into_iter().filter(|id| inner.leases.get(*id).is_none()).collect()
        };
        if orphaned(self).is_empty() {
            return Ok(());
        }
        // The key stream may be ahead of the meta stream here; only a fresh look can tell.
        self.refresh_meta().await?;
        for id in orphaned(self) {
            self.delete_keys_of(id).await?;
        }
        Ok(())
    }
}

pub(super) fn spawn(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let stop = inner.stop.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let Some(inner) = weak.upgrade() else { return };
            // Leases do not end while nothing can be written.
            if inner.wait_ready().await.is_ok()
                && let Err(error) = inner.look_at_leases().await
            {
                tracing::debug!(%error, "leases are looked at again later");
            }
        }
    });
}
