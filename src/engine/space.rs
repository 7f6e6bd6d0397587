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
use super::measured::{ABSENCE, Limit, Measured};
use super::proposal::Proposal;
use crate::applier::Alarms;
use crate::disk;
use crate::error::EtcdError;
use crate::log::Log;
use crate::record::{Alarm, AlarmKind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
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
    measured: watch::Sender<Measured>,
    /// Why the store was found full, or this member's NOSPACE alarm raised.
    reason: Mutex<Option<String>>,
    /// The raised alarms that were logged.
    logged: Mutex<Vec<Alarm>>,
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
            measured: watch::Sender::default(),
            reason: Mutex::default(),
            logged: Mutex::default(),
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
        let nearest = self.limits().into_iter().min_by_key(Limit::left);
        self.set_reason(nearest.map(|limit| limit.to_string()).unwrap_or_default());
        if let Err(error) = self.set_alarm(self.own_alarm(), true).await {
            tracing::warn!(%error, "the NOSPACE alarm is not recorded yet");
            self.notice_full();
        }
        Err(EtcdError::NoSpace)
    }

    /// The limits there are, with the use that was last measured.
    pub(super) fn limits(&self) -> Vec<Limit> {
        let in_use = self.in_use.load(Ordering::Relaxed);
        let quota = self.quota().map(|quota| Limit::quota(in_use, quota));
        self.measured.borrow().limits().into_iter().chain(quota).collect()
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

    /// The store has refused a write for want of room, in these words.
    pub(super) fn found_full(&self, refusal: &str) {
        self.set_reason(format!("NATS refused a write: {refusal}"));
        self.notice_full();
    }

    fn notice_full(&self) {
        self.is_full.store(true, Ordering::Relaxed);
        self.found_full.notify_one();
    }

    fn set_reason(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// The result of the last look; changes with each look.
    pub(super) fn measured(&self) -> watch::Receiver<Measured> {
        self.measured.subscribe()
    }

    /// Logs the alarms that were raised or disarmed since it was last called.
    fn log_alarms(&self) {
        let now = self.alarms();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        for alarm in now.iter().filter(|alarm| !logged.contains(alarm)) {
            let (kind, member) = (alarm.kind.name(), format!("{:x}", alarm.member));
            let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            let reason = if *alarm == self.own_alarm() { reason.take() } else { None };
            match alarm.kind {
                AlarmKind::NoSpace => tracing::warn!(
                    alarm = kind,
                    member,
                    reason,
                    "an alarm is raised, and puts are refused; delete keys, compact, then run etcdctl alarm disarm"
                ),
                AlarmKind::Corrupt => tracing::warn!(
                    alarm = kind,
                    member,
                    "an alarm is raised by a client, and all writes are refused; compare the members with etcdctl \
                     endpoint hashkv, then run etcdctl alarm disarm"
                ),
            }
        }
        for alarm in logged.iter().filter(|alarm| !now.contains(alarm)) {
            let (kind, member) = (alarm.kind.name(), format!("{:x}", alarm.member));
            tracing::info!(alarm = kind, member, "an alarm is disarmed");
        }
        *logged = now;
    }

    /// Raises or lowers an alarm.
    pub(super) async fn set_alarm(&self, alarm: Alarm, raised: bool) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::Alarm { alarm, raised }).await?;
        if alarm == self.own_alarm() {
            self.is_full.store(false, Ordering::Relaxed);
        }
        if !raised {
            // Room was made before the alarm was lowered, and counts at once.
            self.measure().await;
        }
        self.log_alarms();
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
        let mut measured = Measured::default();
        let api = self.log.api();
        measured.is_connected = api.is_connected();
        if measured.is_connected {
            // The embedded server lets jetway ask for its load; an existing one may not.
            let load = async {
                match self.store_dir {
                    Some(_) => api.account_load().await.ok().flatten(),
                    None => None,
                }
            };
            let (stream, account, load) = tokio::join!(self.log.info(), api.account_info(), load);
            (measured.stream, measured.account, measured.load) = (stream.ok(), account.ok(), load);
        }
        if let Some(dir) = self.store_dir.clone() {
            measured.disk = tokio::task::spawn_blocking(move || disk::space(&dir)).await.ok().flatten();
        }
        if let Some(stream) = &measured.stream {
            self.in_use.store(stream.state.bytes, Ordering::Relaxed);
            let left = measured.limits().iter().map(Limit::left).min().unwrap_or(i64::MAX);
            self.left.store(left, Ordering::Relaxed);
        }
        self.measured.send_replace(measured);
        self.in_use()
    }

    /// Bytes that JetStream held at the last look.
    pub(super) fn in_use(&self) -> u64 {
        self.in_use.load(Ordering::Relaxed)
    }

    /// Measures, and records the alarm where the store was found full, until `stop`.
    pub(super) async fn watch(
        self: Arc<Space>,
        store_error: Option<watch::Receiver<Option<String>>>,
        stop: CancellationToken,
    ) {
        let mut store_error = store_error;
        let mut absent: Option<Instant> = None;
        let mut tick = tokio::time::interval(MEASURE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_measuring = tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => true,
                () = self.found_full.notified() => false,
                error = changed(&mut store_error) => {
                    if let Some(error) = error.filter(|error| disk::is_full(error)) {
                        self.set_reason(format!("nats-server cannot write: {error}"));
                        self.is_full.store(true, Ordering::Relaxed);
                    }
                    false
                }
            };
            if is_measuring {
                let begun = Instant::now();
                self.measure().await;
                if self.measured.borrow().has_leader() != Some(false) {
                    absent = None;
                } else if absent.get_or_insert(begun).elapsed() >= ABSENCE {
                    // The server may be the one that its cluster has lost.
                    self.log.connection().leave_server();
                }
            }
            self.log_alarms();
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
