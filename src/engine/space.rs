//! Room for data: the quota, and whatever else can take no more.
//!
//! Puts are refused, and the NOSPACE alarm is raised, before there is no room at all: on the file system, in the
//! JetStream account and in a stream with a limit some headroom is left to what makes room again, since a delete, a
//! compaction and the renewal of a lease are messages too. How much there is is asked now and then; between two
//! questions the estimated cost of each put is taken off the answer.
//!
//! Where the store is found full all the same (somebody else has taken the disk), the alarm holds here at once and is
//! recorded as soon as anything can be.

use super::{Alarm, AlarmKind, Engine, Inner};
use crate::disk;
use crate::error::EtcdError;
use crate::jetstream::StreamInfo;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How often the size is asked of JetStream.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);

/// What is known of the room there is.
#[derive(Debug)]
pub(super) struct Room {
    /// Bytes that count against the quota.
    in_use: AtomicU64,
    /// Bytes until something other than the quota has only its headroom left.
    left: AtomicI64,
    /// The store has refused a write for want of room, and the alarm is not recorded yet.
    is_full: AtomicBool,
    /// Told when it is.
    found_full: Arc<Notify>,
}

impl Default for Room {
    fn default() -> Room {
        Room {
            in_use: AtomicU64::new(0),
            left: AtomicI64::new(i64::MAX),
            is_full: AtomicBool::new(false),
            found_full: Arc::default(),
        }
    }
}

// Relaxed throughout: figures by themselves, estimates that the next measurement replaces. Writes under way may pass a
// limit by a little, which is what the headroom is for.
impl Room {
    /// Takes `cost` bytes; gives them back where that is too much.
    fn claim(&self, cost: u64, quota: Option<u64>) -> bool {
        let in_use = self.in_use.fetch_add(cost, Ordering::Relaxed) + cost;
        let left = self.left.fetch_sub(cost as i64, Ordering::Relaxed) - cost as i64;
        let fits = left >= 0 && quota.is_none_or(|quota| in_use < quota);
        if !fits {
            self.in_use.fetch_sub(cost, Ordering::Relaxed);
            self.left.fetch_add(cost as i64, Ordering::Relaxed);
        }
        fits
    }

    fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// The store has refused a write for want of room.
    pub(super) fn found_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
        self.found_full.notify_one();
    }
}

/// Bytes until only the headroom of a limit is left; a limit that is not positive is none.
fn left_of(limit: i64, used: u64) -> i64 {
    match u64::try_from(limit) {
        Ok(limit) if limit > 0 => limit as i64 - used as i64 - disk::headroom(limit) as i64,
        _ => i64::MAX,
    }
}

impl Engine {
    /// Refuses a write as the alarms want it: everything after CORRUPT, whatever adds data after NOSPACE. `cost` is
    /// about how many bytes the write adds, 0 for one that adds none.
    pub fn admit(&self, cost: u64) -> Result<(), EtcdError> {
        let alarms = self.alarms();
        let is_raised = |kind| alarms.iter().any(|alarm| alarm.kind == kind);
        if is_raised(AlarmKind::Corrupt) {
            return Err(EtcdError::Corrupt);
        }
        if cost > 0 && is_raised(AlarmKind::NoSpace) {
            return Err(EtcdError::NoSpace);
        }
        Ok(())
    }

    /// Refuses a write of about `cost` bytes where there is no room for it, and raises the NOSPACE alarm.
    pub async fn claim_space(&self, cost: u64) -> Result<(), EtcdError> {
        let inner = &self.inner;
        if cost == 0 || inner.room.claim(cost, inner.quota()) {
            return Ok(());
        }
        if let Err(error) = self.set_alarm(inner.no_space_alarm(), true).await {
            tracing::warn!(%error, "the NOSPACE alarm is not recorded yet");
            inner.room.found_full();
        }
        Err(EtcdError::NoSpace)
    }

    /// Alarms that are raised.
    pub fn alarms(&self) -> Vec<Alarm> {
        let inner = &self.inner;
        let mut alarms = inner.meta.alarms();
        let own = inner.no_space_alarm();
        if inner.room.is_full() && !alarms.contains(&own) {
            alarms.push(own);
        }
        alarms
    }
}

impl Inner {
    /// Why the store refuses writes, while it does.
    fn store_error(&self) -> Option<String> {
        self.settings.store_error.as_ref().and_then(|error| error.borrow().clone())
    }

    /// Resolves when the store begins to refuse writes, with the reason.
    pub(super) async fn store_fails(&self) -> String {
        if let Some(mut error) = self.settings.store_error.clone()
            && let Ok(error) = error.wait_for(Option::is_some).await
            && let Some(error) = error.clone()
        {
            return error;
        }
        std::future::pending().await
    }

    /// Waits while the store refuses writes: it is being made writable again.
    pub(super) async fn store_recovers(&self, deadline: Instant) -> Result<(), EtcdError> {
        let Some(error) = self.store_error() else { return Ok(()) };
        let refused = || EtcdError::Unavailable(format!("the store refuses writes: {error}"));
        let Some(mut now) = self.settings.store_error.clone() else { return Ok(()) };
        tokio::time::timeout_at(deadline, now.wait_for(Option::is_none))
            .await
            .map_err(|_| refused())?
            .map_err(|_| EtcdError::Stopped)?;
        Ok(())
    }

    /// Bytes that JetStream holds for both streams; the last known figure where it does not answer now.
    pub(super) async fn measure(&self) -> u64 {
        if !self.api.is_connected() {
            return self.room.in_use.load(Ordering::Relaxed);
        }
        let (keys, meta, account) = tokio::join!(
            self.api.stream_info(&self.bucket.keys),
            self.api.stream_info(&self.bucket.meta),
            self.api.account_info(),
        );
        let mut left = i64::MAX;
        if let (Ok(keys), Ok(meta)) = (&keys, &meta) {
            self.room.in_use.store(keys.state.bytes + meta.state.bytes, Ordering::Relaxed);
            let of_stream = |info: &StreamInfo| {
                left_of(info.config["max_bytes"].as_i64().unwrap_or_default(), info.state.bytes)
            };
            left = left.min(of_stream(keys)).min(of_stream(meta));
        }
        if let Ok(account) = &account {
            // What is stored counts once for each replica.
            let replicas = self.settings.endpoint.replicas.max(1) as i64;
            let of_account = account.storage().map(|(used, limit)| left_of(limit, used) / replicas);
            left = left.min(of_account.min().unwrap_or(i64::MAX));
        }
        if let Some(dir) = self.settings.store_dir.clone() {
            let space = tokio::task::spawn_blocking(move || disk::space(&dir)).await.ok().flatten();
            left = left
                .min(space.map_or(i64::MAX, |space| space.free as i64 - disk::headroom(space.total) as i64));
        }
        // Who may not ask for the account's limits learns of them when they are met.
        if keys.is_ok() && meta.is_ok() {
            self.room.left.store(left, Ordering::Relaxed);
        }
        self.room.in_use.load(Ordering::Relaxed)
    }

    fn quota(&self) -> Option<u64> {
        u64::try_from(self.settings.quota_bytes).ok().filter(|quota| *quota > 0)
    }

    fn no_space_alarm(&self) -> Alarm {
        Alarm { member: self.settings.member_id, kind: AlarmKind::NoSpace }
    }

    /// The alarm is recorded, or somebody has lowered it.
    pub(super) fn alarm_settled(&self, alarm: Alarm) {
        if alarm == self.no_space_alarm() {
            self.room.is_full.store(false, Ordering::Relaxed);
        }
    }
}

/// Whether an error of the store means that its disk is full, rather than broken.
fn is_full_disk(error: &str) -> bool {
    let error = error.to_lowercase();
    error.contains("no space left") || error.contains("quota exceeded")
}

/// Measures the store now and then, and records the alarm where it was found full.
pub(super) fn spawn(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let stop = inner.stop.clone();
    let found_full = Arc::clone(&inner.room.found_full);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(MEASURE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_measuring = tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => true,
                () = found_full.notified() => false,
            };
            let Some(inner) = weak.upgrade() else { return };
            if is_measuring && inner.wait_loaded().await.is_ok() {
                inner.measure().await;
            }
            if inner.room.is_full() && inner.store_error().is_none() {
                let alarm = inner.no_space_alarm();
                if let Err(error) = (Engine { inner }).set_alarm(alarm, true).await {
                    tracing::warn!(%error, "the NOSPACE alarm is not recorded yet");
                }
            }
        }
    });
    let weak = Arc::downgrade(inner);
    let stop = inner.stop.clone();
    let Some(mut store_error) = inner.settings.store_error.clone() else { return };
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                changed = store_error.changed() => if changed.is_err() { return },
            }
            let is_full = store_error.borrow_and_update().as_deref().is_some_and(is_full_disk);
            let Some(inner) = weak.upgrade() else { return };
            if is_full {
                inner.room.found_full();
            }
        }
    });
}
