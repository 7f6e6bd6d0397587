//! Holds back what a follower reports until it is durable.

use super::StreamFiles;
use crate::jetstream::Followed;
use crate::types::Sequence;
use prometheus::Histogram;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

/// What nothing is seen behind before it is durable.
#[derive(Debug)]
pub struct Gate {
    files: StreamFiles,
    failed: watch::Sender<Option<String>>,
    durations: Histogram,
    /// What was in the stream before a sync of the whole store is durable since: a load need not wait for any more.
    durable_to: Sequence,
}

/// A sync failed: nothing may be passed on any more.
#[derive(Debug)]
pub struct NotDurable;

impl Gate {
    /// A gate before what is in `files`. `failed` is told why nothing is passed on any more, `durations` how long each sync
    /// takes.
    pub fn new(files: StreamFiles, failed: watch::Sender<Option<String>>, durations: Histogram) -> Gate {
        Gate { files, failed, durations, durable_to: Sequence::NONE }
    }

    /// Returns when all is durable that a follower has reported: after one sync, which begins now, or at once where nothing
    /// is news. Blocks while the disk works: for a thread that has nothing else to do.
    ///
    /// # Errors
    /// [`NotDurable`], and from then on always.
    pub async fn pass(&mut self, batch: &[Followed]) -> Result<(), NotDurable> {
        if self.failed.borrow().is_some() {
            return Err(NotDurable);
        }
        let mut found = None;
        for report in batch {
            if let Followed::Up { last, .. } = report {
                self.files.forget();
                found = Some(*last);
            }
        }
        if batch.iter().any(|report| is_news(report, self.durable_to)) {
            let timer = self.durations.start_timer();
            if let Err(error) = self.files.sync().await {
                timer.stop_and_discard();
                tracing::error!(%error, "the store cannot be brought to the disk: nothing more is answered");
                self.failed.send_replace(Some(error.to_string()));
                return Err(NotDurable);
            }
            timer.observe_duration();
        }
        self.durable_to = found.unwrap_or(self.durable_to);
        Ok(())
    }
}

/// Passes the reports of a follower on, each after a sync that began after it came: nothing is seen before it is durable.
/// Reports that come while a sync runs share the next one. After a sync that failed nothing is passed on any more.
///
/// Runs on a blocking thread for as long as both sides are there.
pub fn gate(
    mut reports: mpsc::Receiver<Followed>,
    mut gate: Gate,
    capacity: usize,
) -> mpsc::Receiver<Followed> {
    let (durable, receiver) = mpsc::channel(capacity);
    let runtime = Handle::current();
    tokio::task::spawn_blocking(move || {
        let mut batch = Vec::with_capacity(capacity);
        while reports.blocking_recv_many(&mut batch, capacity) > 0 {
            if runtime.block_on(gate.pass(&batch)).is_err() {
                return;
            }
            for report in batch.drain(..) {
                if durable.blocking_send(report).is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// Whether a report is of anything behind `durable_to`. A position counts as well: what it passes over has spent its
/// revisions, which nothing else may get after a cut.
fn is_news(report: &Followed, durable_to: Sequence) -> bool {
    match report {
        Followed::Up { .. } | Followed::Lost(_) => true,
        Followed::Messages(messages) => messages.last().is_some_and(|last| last.sequence > durable_to),
        Followed::Records(records) => records.last().is_some_and(|last| last.sequence > durable_to),
        Followed::Position(position) => *position > durable_to,
        Followed::Down(_) => false,
    }
}
