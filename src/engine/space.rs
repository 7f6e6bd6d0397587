//! Room for data: the quota, and a store that can take no more.

use super::{Alarm, AlarmKind, Engine, Inner};
use crate::error::EtcdError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the size is asked of JetStream.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);

impl Engine {
    /// Refuses a write as the alarms want it: everything after CORRUPT, whatever adds data after NOSPACE. `cost` is
    /// about how many bytes the write adds, 0 for one that adds none.
    pub fn admit(&self, cost: u64) -> Result<(), EtcdError> {
        let inner = &self.inner;
        let alarms = inner.meta.alarms();
        let is_raised = |kind| alarms.iter().any(|alarm| alarm.kind == kind);
        if is_raised(AlarmKind::Corrupt) {
            return Err(EtcdError::Corrupt);
        }
        if cost > 0 && (is_raised(AlarmKind::NoSpace) || inner.store_error().is_some()) {
            return Err(EtcdError::NoSpace);
        }
        Ok(())
    }

    /// Refuses a write of about `cost` bytes where there is no room for it. The write that would use up the quota
    /// raises the NOSPACE alarm.
    pub async fn claim_space(&self, cost: u64) -> Result<(), EtcdError> {
        let inner = &self.inner;
        if cost == 0 {
            return Ok(());
        }
        // Relaxed: an estimate that the next measurement replaces; writes under way may pass the quota by a little.
        let claimed = inner.bytes_in_use.fetch_add(cost, Ordering::Relaxed) + cost;
        if inner.quota().is_some_and(|quota| claimed >= quota) {
            inner.bytes_in_use.fetch_sub(cost, Ordering::Relaxed);
            self.set_alarm(inner.no_space_alarm(), true).await?;
            return Err(EtcdError::NoSpace);
        }
        Ok(())
    }
}

impl Inner {
    /// Why the store refuses writes, while it does.
    pub(super) fn store_error(&self) -> Option<String> {
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

    /// Bytes that JetStream holds for both streams; the last known figure where it does not answer now.
    pub(super) async fn measure(&self) -> u64 {
        let (keys, meta) =
            tokio::join!(self.api.stream_info(&self.bucket.keys), self.api.stream_info(&self.bucket.meta));
        if let (Ok(keys), Ok(meta)) = (keys, meta) {
            // Relaxed: a figure by itself, nothing hangs on its order.
            self.bytes_in_use.store(keys.state.bytes + meta.state.bytes, Ordering::Relaxed);
        }
        self.bytes_in_use.load(Ordering::Relaxed)
    }

    fn quota(&self) -> Option<u64> {
        u64::try_from(self.settings.quota_bytes).ok().filter(|quota| *quota > 0)
    }

    fn no_space_alarm(&self) -> Alarm {
        Alarm { member: self.settings.member_id, kind: AlarmKind::NoSpace }
    }
}

/// Measures the store now and then, so that the estimate stays near the truth.
pub(super) fn spawn(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let stop = inner.stop.clone();
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(MEASURE_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let Some(inner) = weak.upgrade() else { return };
            if inner.wait_loaded().await.is_ok() {
                inner.measure().await;
            }
        }
    });
}
