//! Checks whether the stream may be written: a mirror may become the primary, a primary may be fenced or
//! learn that its standby was promoted, and a migration may end.

use super::measured::Measured;
use crate::log::{Log, ReadOnly, StandbyError, StreamInfo};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Time between two looks at the stream of a mirror. A promotion is noticed as late.
const MIRROR_INTERVAL: Duration = Duration::from_millis(250);
/// Time between two looks at a stream that a migration fills. No client is served meanwhile.
const UNFINISHED_INTERVAL: Duration = Duration::from_millis(50);
/// Time between two questions to the standby.
const STANDBY_INTERVAL: Duration = Duration::from_secs(1);

/// The reason why this instance writes nothing, if there is one.
pub(super) type ReadOnlyState = watch::Receiver<Option<ReadOnly>>;

/// Checks whether the stream may be written.
pub(super) struct ReadOnlyCheck {
    pub(super) log: Arc<Log>,
    pub(super) measured: watch::Receiver<Measured>,
    pub(super) read_only: watch::Sender<Option<ReadOnly>>,
    pub(super) stop: CancellationToken,
}

impl ReadOnlyCheck {
    /// Checks until the instance stops.
    pub(super) async fn run(mut self) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(async {
            loop {
                self.look().await;
            }
        })
        .await;
    }

    async fn look(&mut self) {
        let known = self.read_only.borrow().clone();
        let interval = match known {
            Some(ReadOnly::Mirror { .. }) => Some(MIRROR_INTERVAL),
            Some(ReadOnly::Unfinished) => Some(UNFINISHED_INTERVAL),
            _ => None,
        };
        if let Some(interval) = interval {
            tokio::time::sleep(interval).await;
            if let Ok(info) = self.log.info().await {
                self.note(ReadOnly::of(&info));
            }
            return;
        }
        let asks = self.log.has_standby() && known.is_none();
        tokio::select! {
            () = tokio::time::sleep(STANDBY_INTERVAL), if asks => self.ask_standby().await,
            // The receiver lives as long as the sender, which `Space` holds.
            _ = self.measured.changed() => {
                let measured = self.measured.borrow_and_update().clone();
                if let Some(info) = measured.stream {
                    // A look may be older than the end of a migration, after which there is no other one.
                    self.note(ReadOnly::of(&info).filter(|reason| *reason != ReadOnly::Unfinished));
                }
            }
        }
    }

    /// Fences this bucket if its standby was promoted. The fence also stops the instances that do not ask,
    /// and holds when the standby is away again.
    async fn ask_standby(&self) {
        match self.log.check_standby().await {
            Ok(()) => {}
            Err(StandbyError::Promoted(promotion)) => {
                if let Err(error) = self.log.fence(&promotion).await {
                    tracing::warn!(%error, "the stream is not fenced yet");
                }
                self.note(Some(ReadOnly::Fenced { promotion }));
            }
            Err(error) => tracing::debug!(%error, "nothing is known of the standby"),
        }
    }

    fn note(&self, now: Option<ReadOnly>) {
        self.read_only.send_if_modified(|known| {
            let changes = *known != now;
            if changes {
                match (&*known, &now) {
                    (Some(ReadOnly::Mirror { .. }), None) => {
                        tracing::info!("the mirror was promoted, and may be written now");
                    }
                    (Some(ReadOnly::Unfinished), None) => {
                        tracing::info!("the bucket is whole, and may be written now");
                    }
                    (_, Some(reason)) => {
                        tracing::error!(reason = reason.to_string(), "nothing is written any more");
                    }
                    (_, None) => tracing::warn!("the fence of the stream was taken away"),
                }
                *known = now;
            }
            changes
        });
    }
}

/// Looks for the primary that this bucket has replaced, until that is fenced. It need not know of its
/// standby.
pub(super) async fn fence_replaced(
    (log, mut measured, read_only): (Arc<Log>, watch::Receiver<Measured>, ReadOnlyState),
    stop: CancellationToken,
) {
    let fencing = async {
        while measured.changed().await.is_ok() {
            let stream = measured.borrow_and_update().stream.clone();
            // The look may be older than the promotion.
            let may_write = |info: &StreamInfo| read_only.borrow().is_none() && ReadOnly::of(info).is_none();
            let Some(info) = stream.filter(may_write) else { continue };
            match log.fence_replaced(&info).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "the old primary cannot be fenced; stop it, or remove its stream");
                    return;
                }
            }
        }
    };
    stop.run_until_cancelled(fencing).await;
}
