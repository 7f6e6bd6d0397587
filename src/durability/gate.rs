//! Holds records back until they are durable.

use super::StreamFiles;
use crate::types::Sequence;
use prometheus::Histogram;
use std::io;
use std::sync::Arc;
use tokio::sync::watch;

/// Messages pass it once they are durable.
#[derive(Debug)]
pub(crate) struct Gate {
    files: StreamFiles,
    failed: watch::Sender<Option<Arc<io::Error>>>,
    durations: Histogram,
    durable_to: Sequence,
}

/// A sync failed: nothing may be shown any more.
#[derive(Debug)]
pub(crate) struct NotDurable;

impl Gate {
    /// A gate for the messages in `files`. `failed` gets the reason if nothing passes any more, `durations`
    /// the time of each sync.
    pub(crate) fn new(
        files: StreamFiles,
        failed: watch::Sender<Option<Arc<io::Error>>>,
        durations: Histogram,
    ) -> Gate {
        Gate { files, failed, durations, durable_to: Sequence::NONE }
    }

    /// Makes the next sync one of the whole store: a restart of the server may change any file.
    pub(crate) fn forget(&mut self) {
        self.files.forget();
        self.durable_to = Sequence::NONE;
    }

    /// Returns when all messages up to `newest` are durable: after one sync, which begins now, or at once if
    /// none is new. Blocks its thread while the disk works.
    ///
    /// # Errors
    /// [`NotDurable`], and from then on always.
    pub(crate) async fn pass(&mut self, newest: Sequence) -> Result<(), NotDurable> {
        if self.failed.borrow().is_some() {
            return Err(NotDurable);
        }
        if newest <= self.durable_to {
            return Ok(());
        }
        let timer = self.durations.start_timer();
        if let Err(error) = self.files.sync().await {
            timer.stop_and_discard();
            tracing::error!(%error, "the store cannot be synced to the disk: nothing more is answered");
            self.failed.send_replace(Some(Arc::new(error)));
            return Err(NotDurable);
        }
        timer.observe_duration();
        self.durable_to = newest;
        Ok(())
    }
}
