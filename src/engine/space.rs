//! Room for data: the quota, and every other limit.
//!
//! Puts are refused, and the NOSPACE alarm is raised, before there is no room at all: on the file system, in
//! the JetStream account and in a stream with a limit some headroom is left to what makes room again, since a
//! delete and a compaction are messages too. The room is measured every two seconds; in between the estimated
//! cost of each put is taken off the last measurement.
//!
//! If the store is found full all the same (another program has taken the disk), the alarm holds here at once
//! and is recorded as soon as anything can be.

use super::Calls;
use super::proposal::Proposal;
use crate::applier::Alarms;
use crate::disk;
use crate::error::EtcdError;
use crate::log::{Log, StreamInfo};
use crate::record::{Alarm, AlarmKind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

/// How often the room is measured.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);

/// The room there is, as far as it is known.
#[derive(Debug)]
pub(super) struct Space {
    log: Arc<Log>,
    calls: Calls,
    alarms: Arc<Alarms>,
    /// The store's directory where it is on this machine.
    store_dir: Option<PathBuf>,
    quota_bytes: i64,
    member: u64,
    /// Bytes that count against the quota.
    in_use: AtomicU64,
    /// Bytes until something other than the quota has only its headroom left.
    left: AtomicI64,
    /// The store has refused a write for want of room, and the alarm is not recorded yet.
    is_full: AtomicBool,
    found_full: Notify,
}

// Relaxed throughout: figures by themselves, estimates that the next measurement replaces. Writes in flight
// may pass a limit by a little, and the headroom is for that.
impl Space {
    pub(super) fn new(
        log: Arc<Log>,
        calls: Calls,
        alarms: Arc<Alarms>,
        store_dir: Option<PathBuf>,
        quota_bytes: i64,
        member: u64,
    ) -> Space {
        Space {
            log,
            calls,
            alarms,
            store_dir,
            quota_bytes,
            member,
            in_use: AtomicU64::new(0),
            left: AtomicI64::new(i64::MAX),
            is_full: AtomicBool::new(false),
            found_full: Notify::new(),
        }
    }

    fn quota(&self) -> Option<u64> {
        u64::try_from(self.quota_bytes).ok().filter(|quota| *quota > 0)
    }

    fn own_alarm(&self) -> Alarm {
        Alarm { member: self.member, kind: AlarmKind::NoSpace }
    }

    /// Refuses a write as the alarms want it: everything after CORRUPT, and after NOSPACE whatever adds data.
    /// `cost` is about how many bytes the write adds, 0 for one that adds none.
    pub(super) fn admit(&self, cost: u64) -> Result<(), EtcdError> {
        if self.alarms.is_raised(AlarmKind::Corrupt) {
            return Err(EtcdError::Corrupt);
        }
        let is_full = || self.alarms.is_raised(AlarmKind::NoSpace) || self.is_full.load(Ordering::Relaxed);
        if cost > 0 && is_full() { Err(EtcdError::NoSpace) } else { Ok(()) }
    }

    /// Takes `cost` bytes; refuses, and raises the alarm, where that is too much.
    pub(super) async fn claim(&self, cost: u64) -> Result<(), EtcdError> {
        if cost == 0 || self.fits(cost) {
            return Ok(());
        }
        if let Err(error) = self.set_alarm(self.own_alarm(), true).await {
            tracing::warn!(%error, "the NOSPACE alarm is not recorded yet");
            self.found_full();
        }
        Err(EtcdError::NoSpace)
    }

    fn fits(&self, cost: u64) -> bool {
        let in_use = self.in_use.fetch_add(cost, Ordering::Relaxed) + cost;
        let left = self.left.fetch_sub(cost as i64, Ordering::Relaxed) - cost as i64;
        let fits = left >= 0 && self.quota().is_none_or(|quota| in_use < quota);
        if !fits {
            self.in_use.fetch_sub(cost, Ordering::Relaxed);
            self.left.fetch_add(cost as i64, Ordering::Relaxed);
        }
        fits
    }

    /// The store has refused a write for want of room.
    pub(super) fn found_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
        self.found_full.notify_one();
    }

    /// Raises or lowers an alarm.
    pub(super) async fn set_alarm(&self, alarm: Alarm, raised: bool) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::Alarm { alarm, raised }).await?;
        if alarm == self.own_alarm() {
            self.is_full.store(false, Ordering::Relaxed);
        }
        if raised {
            tracing::warn!(member = alarm.member, kind = ?alarm.kind, "an alarm is raised");
        } else {
            // Room was made before the alarm was lowered, and counts at once.
            self.measure().await;
        }
        Ok(())
    }

    /// Alarms that are raised, ascending.
    pub(super) fn alarms(&self) -> Vec<Alarm> {
        let mut alarms: Vec<Alarm> = self.alarms.all().iter().copied().collect();
        if self.is_full.load(Ordering::Relaxed) && !alarms.contains(&self.own_alarm()) {
            alarms.push(self.own_alarm());
        }
        alarms
    }

    /// Bytes that JetStream holds; the last known figure where it does not answer now.
    pub(super) async fn measure(&self) -> u64 {
        let api = self.log.api();
        if !api.is_connected() {
            return self.in_use.load(Ordering::Relaxed);
        }
        let (stream, account) = tokio::join!(self.log.info(), api.account_info());
        let mut left = i64::MAX;
        if let Ok(info) = &stream {
            self.in_use.store(info.state.bytes, Ordering::Relaxed);
            left = left.min(left_of_stream(info));
            if let Ok(account) = &account {
                // Everything that is stored counts once for each replica.
                let replicas = info.config["num_replicas"].as_i64().unwrap_or(1).max(1);
                let of_account = account.storage().map(|(used, limit)| left_of(limit, used) / replicas);
                left = left.min(of_account.min().unwrap_or(i64::MAX));
            }
        }
        if let Some(dir) = self.store_dir.clone() {
            let space = tokio::task::spawn_blocking(move || disk::space(&dir)).await.ok().flatten();
            left = left
                .min(space.map_or(i64::MAX, |space| space.free as i64 - disk::headroom(space.total) as i64));
        }
        // A user that may not ask for the account's limits learns of them when they are met.
        if stream.is_ok() {
            self.left.store(left, Ordering::Relaxed);
        }
        self.in_use.load(Ordering::Relaxed)
    }

    /// Measures, and records the alarm where the store was found full, until `stop`.
    pub(super) async fn watch(
        self: Arc<Space>,
        store_error: Option<watch::Receiver<Option<String>>>,
        stop: CancellationToken,
    ) {
        let mut store_error = store_error;
        let mut tick = tokio::time::interval(MEASURE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_measuring = tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => true,
                () = self.found_full.notified() => false,
                error = changed(&mut store_error) => {
                    if error.as_deref().is_some_and(is_full_disk) {
                        self.is_full.store(true, Ordering::Relaxed);
                    }
                    false
                }
            };
            if is_measuring {
                self.measure().await;
            }
            let is_writable = store_error.as_ref().is_none_or(|error| error.borrow().is_none());
            if self.is_full.load(Ordering::Relaxed)
                && is_writable
                && let Err(error) = self.set_alarm(self.own_alarm(), true).await
            {
                tracing::warn!(%error, "the NOSPACE alarm is not recorded yet");
            }
        }
    }
}

async fn changed(store_error: &mut Option<watch::Receiver<Option<String>>>) -> Option<String> {
    if let Some(error) = store_error
        && error.changed().await.is_ok()
    {
        return error.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Bytes until only the headroom of a limit is left; a limit that is not positive is none.
fn left_of(limit: i64, used: u64) -> i64 {
    match u64::try_from(limit) {
        Ok(limit) if limit > 0 => limit as i64 - used as i64 - disk::headroom(limit) as i64,
        _ => i64::MAX,
    }
}

fn left_of_stream(info: &StreamInfo) -> i64 {
    left_of(info.config["max_bytes"].as_i64().unwrap_or_default(), info.state.bytes)
}

/// Whether an error of the store means that its disk is full, rather than broken.
fn is_full_disk(error: &str) -> bool {
    let error = error.to_lowercase();
    error.contains("no space left") || error.contains("quota exceeded")
}
