//! Holds back what a follower reports until it is durable.

use super::StreamFiles;
use crate::jetstream::Followed;
use crate::types::Sequence;
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
        // What was in the stream before a sync of the whole store is durable since: a load need not wait for any more.
        let mut durable_to = Sequence::NONE;
        while reports.blocking_recv_many(&mut batch, capacity) > 0 {
            let mut found = None;
            for report in &batch {
                if let Followed::Up { last, .. } = report {
                    files.forget();
                    found = Some(*last);
                }
            }
            if batch.iter().any(|report| is_news(report, durable_to))
                && let Err(error) = durations.observe_closure_duration(|| files.sync())
            {
                tracing::error!(%error, "the store cannot be brought to the disk: nothing more is answered");
                failed.send_replace(Some(error.to_string()));
                return;
            }
            durable_to = found.unwrap_or(durable_to);
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
