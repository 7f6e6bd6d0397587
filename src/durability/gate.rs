//! Holds back what was read of the log until it is durable.

use super::StreamFiles;
use crate::types::Sequence;
use prometheus::Histogram;
use tokio::sync::watch;

/// Nothing behind it is shown before it is durable.
#[derive(Debug)]
pub struct Gate {
    files: StreamFiles,
    failed: watch::Sender<Option<String>>,
    durations: Histogram,
    durable_to: Sequence,
}

/// A sync failed: nothing may be shown any more.
#[derive(Debug)]
pub struct NotDurable;

impl Gate {
    /// A gate before the content of `files`. `failed` gets the reason why nothing passes any more, `durations` the time of each
    /// sync.
    pub fn new(files: StreamFiles, failed: watch::Sender<Option<String>>, durations: Histogram) -> Gate {
        Gate { files, failed, durations, durable_to: Sequence::NONE }
    }

    /// The server may have been started again, which changes any file: the next sync is one of the whole store.
    pub fn forget(&mut self) {
        self.files.forget();
        self.durable_to = Sequence::NONE;
    }

    /// Returns when all messages up to `newest` are durable: after one sync, which begins now, or at once where nothing is new.
    /// Blocks while the disk works: for a thread that has nothing else to do.
    ///
    /// # Errors
    /// [`NotDurable`], and from then on always.
    pub async fn pass(&mut self, newest: Sequence) -> Result<(), NotDurable> {
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
            self.failed.send_replace(Some(error.to_string()));
            return Err(NotDurable);
        }
        timer.observe_duration();
        self.durable_to = newest;
        Ok(())
    }
}
