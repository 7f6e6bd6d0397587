//! Room for data: the quota, and a store that can take no more.

use super::{Alarm, AlarmKind, Engine, Inner};
use crate::error::EtcdError;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the size is compared with the quota.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Engine {
    /// Refuses what adds data while there is no room.
    pub fn check_space(&self) -> Result<(), EtcdError> {
        let is_full = self.alarms().iter().any(|alarm| alarm.kind == AlarmKind::NoSpace);
        if is_full || self.inner.store_error().is_some() { Err(EtcdError::NoSpace) } else { Ok(()) }
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

    async fn is_over_quota(&self) -> bool {
        self.wait_loaded().await.is_ok()
            && u64::try_from(self.settings.quota_bytes).is_ok_and(|quota| quota > 0)
            && self.measure().await >= self.settings.quota_bytes as u64
    }
}

/// Raises the NOSPACE alarm when the quota is used up. Lowering it is the operator's, as in etcd.
pub(super) fn spawn(inner: &Arc<Inner>) {
    let weak = Arc::downgrade(inner);
    let stop = inner.stop.clone();
    let alarm = Alarm { member: inner.settings.member_id, kind: AlarmKind::NoSpace };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(CHECK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let Some(inner) = weak.upgrade() else { return };
            if !inner.meta.alarms().contains(&alarm) && inner.is_over_quota().await {
                tracing::warn!(
                    quota_bytes = inner.settings.quota_bytes,
                    "the quota is used up: raising the NOSPACE alarm"
                );
                if let Err(error) = (Engine { inner }).set_alarm(alarm, true).await {
                    tracing::warn!(%error, "the alarm cannot be raised yet");
                }
            }
        }
    });
}
