//! Holds back what a follower reports until it is durable.

use super::StreamFiles;
use crate::jetstream::Followed;
use prometheus::Histogram;
use tokio::sync::{mpsc, watch};

/// Passes the reports of a follower on, each after a sync that began after it came: nothing is seen before it is durable.
/// Reports that come while a sync runs share the next one. After a sync that failed nothing is passed on any more, and
/// `failed` tells why. `durations` is told how long each sync takes.
///
/// Runs on a blocking thread for as long as both sides are there.
pub fn gate(
    mut reports: mpsc::Receiver<Followed>,
    mut files: StreamFiles,
    failed: watch::Sender<Option<String>>,
    durations: Histogram,
    capacity: usize,
) -> mpsc::Receiver<Followed> {
    let (durable, receiver) = mpsc::channel(capacity);
    tokio::task::spawn_blocking(move || {
        let mut batch = Vec::with_capacity(capacity);
        while reports.blocking_recv_many(&mut batch, capacity) > 0 {
            for report in &batch {
                if matches!(report, Followed::Up { .. }) {
                    files.forget();
                }
            }
            // A position counts too: what it passes over has spent its revisions, which nothing else may get after a cut.
            let is_news = |report: &Followed| !matches!(report, Followed::Down(_));
            if batch.iter().any(is_news)
                && let Err(error) = durations.observe_closure_duration(|| files.sync())
            {
                tracing::error!(%error, "the store cannot be brought to the disk: nothing more is answered");
                failed.send_replace(Some(error.to_string()));
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
