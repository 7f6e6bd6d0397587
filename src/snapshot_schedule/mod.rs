//! Snapshots at the times of `--snapshot-schedule`.
//!
//! The instance that writes saves them, so that a cluster with a directory for all has one of each. A failure
//! is counted and logged, and the next time of the schedule is the next try.
//!
//! In a directory (`dir`), a file has its name only when its checksum is right, all its pages can be read,
//! and its revision is that of the store. In a bucket of S3 (`bucket`), an object has its name when all of it
//! was uploaded. It is read back, and removed if its checksum is another one.

mod bucket;
mod dir;

use crate::api::header::HeaderSource;
use crate::applier::FullState;
use crate::cli::{SnapshotPlace, SnapshotSchedule};
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::snapshot::{FileError, S3Error, StatusError, Times};
use crate::telemetry::Metrics;
use crate::types::Revision;
use bucket::Bucket;
use dir::Dir;
use prometheus::{GaugeVec, IntCounter, IntGaugeVec, Opts};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use thiserror::Error;
use time::OffsetDateTime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The clock and the writer may change in a longer sleep.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);
/// The end of the names.
const END: &str = ".db";

/// A snapshot that was not saved.
#[derive(Debug, Error)]
enum ScheduleError {
    #[error("--snapshot-dir {dir}: {source}", dir = .dir.display())]
    Dir { dir: PathBuf, source: io::Error },
    #[error(transparent)]
    Store(#[from] EtcdError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("--snapshot-dir {0}")]
    S3(#[from] S3Error),
    #[error("the file has revision {found}, and the store had {expected}")]
    Revision { found: Revision, expected: Revision },
    #[error("the server stops")]
    Stopped,
}

/// A snapshot that was saved.
struct Saved {
    name: String,
    path: String,
    bytes: u64,
    revision: Revision,
}

/// The snapshots of one JetStream bucket. Their names begin alike, and go on with their time.
#[derive(Clone)]
enum Files {
    Dir(Dir),
    S3(Bucket),
}

impl Files {
    fn new(place: SnapshotPlace, cluster_id: u64) -> Files {
        let prefix = format!("snapshot-{cluster_id:x}-");
        match place {
            SnapshotPlace::Dir(dir) => Files::Dir(Dir { dir, prefix }),
            SnapshotPlace::S3(s3) => Files::S3(Bucket { s3, prefix }),
        }
    }

    /// The time and the size of the newest one. A place that cannot be read is in the log.
    async fn newest(&self) -> Option<(OffsetDateTime, u64)> {
        match self {
            // A directory that is not there yet is no mistake.
            Files::Dir(dir) => dir.newest(),
            Files::S3(bucket) => bucket.newest().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "scheduled snapshots cannot be listed: is --snapshot-dir right?");
                None
            }),
        }
    }

    async fn save(
        &self,
        full_state: FullState,
        term: u64,
        shutdown: &CancellationToken,
    ) -> Result<Saved, ScheduleError> {
        match self {
            Files::Dir(dir) => dir.clone().save(full_state, term, shutdown.clone()).await,
            Files::S3(bucket) => bucket.save(full_state, term, shutdown).await,
        }
    }

    /// Leaves the `kept` newest ones, of which the last one was saved as `saved`.
    async fn remove_old(&self, saved: &str, kept: usize) -> Result<(), ScheduleError> {
        match self {
            Files::Dir(dir) => dir.remove_old(saved, kept),
            Files::S3(bucket) => Ok(bucket.remove_old(saved, kept).await?),
        }
    }
}

/// The names of all but the `kept` newest snapshots. Nothing is newer than the one that was just saved as
/// `saved`: names with a later time are those of a clock that was ahead, and come before all others.
fn outdated(mut names: Vec<String>, saved: &str, kept: usize) -> Vec<String> {
    let second = saved.rsplit_once('-').map_or(saved, |(second, _)| second);
    names.retain(|name| name != saved);
    names.sort_unstable();
    let later = names.partition_point(|name| name.as_str() < saved || name.starts_with(second));
    names.rotate_left(later);
    names.truncate((names.len() + 1).saturating_sub(kept));
    names
}

/// The name of a snapshot.
fn name(prefix: &str, at: OffsetDateTime, revision: Revision) -> String {
    let time = format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        at.year(),
        u8::from(at.month()),
        at.day(),
        at.hour(),
        at.minute(),
        at.second()
    );
    format!("{prefix}{time}-{revision}{END}")
}

/// Gauges of the last snapshot. There are none before the first one.
#[derive(Clone)]
struct FileGauges {
    at: IntGaugeVec,
    bytes: IntGaugeVec,
    seconds: GaugeVec,
    failures: IntCounter,
}

impl FileGauges {
    fn new(metrics: &Metrics) -> FileGauges {
        let seconds = Opts::new(
            "jetway_snapshot_last_duration_seconds",
            "Time that the last scheduled snapshot took, with its check.",
        );
        FileGauges {
            at: metrics.gauges(
                "jetway_snapshot_last_success_timestamp_seconds",
                "When the last scheduled snapshot was saved, in seconds since 1970.",
                &[],
            ),
            bytes: metrics.gauges(
                "jetway_snapshot_last_size_bytes",
                "Size of the last scheduled snapshot.",
                &[],
            ),
            seconds: metrics.register(GaugeVec::new(seconds, &[]).expect("a legal name")),
            failures: metrics
                .counter("jetway_snapshot_failures_total", "Scheduled snapshots that were not saved."),
        }
    }

    fn show(&self, at: OffsetDateTime, bytes: u64) {
        self.at.with_label_values::<&str>(&[]).set(at.unix_timestamp());
        self.bytes.with_label_values::<&str>(&[]).set(bytes as i64);
    }
}

/// Saves snapshots as `schedule` wants it until `shutdown`. The task ends after it, when an upload that had
/// begun is aborted.
pub(crate) fn spawn(
    schedule: SnapshotSchedule,
    engine: Engine,
    header: HeaderSource,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> JoinHandle<()> {
    let figures = FileGauges::new(metrics);
    let files = Files::new(schedule.place, header.cluster_id);
    let times = schedule.times;
    tokio::spawn(async move {
        // A restart is no reason for another one.
        let newest = async || shutdown.run_until_cancelled(files.newest()).await.flatten();
        let mut last = newest().await.map(|(at, bytes)| {
            figures.show(at, bytes);
            at
        });
        let mut due = times.after(last, OffsetDateTime::now_utc());
        loop {
            let now = OffsetDateTime::now_utc();
            let left = due.map_or(LONGEST_SLEEP, |due| (due - now).try_into().unwrap_or_default());
            if !left.is_zero() || !engine.is_leader() {
                let wait = if left.is_zero() { LONGEST_SLEEP / 60 } else { left.min(LONGEST_SLEEP) };
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(wait) => continue,
                }
            }
            // Another instance may have saved one meanwhile, into a directory for all.
            if let Some((at, bytes)) = newest().await
                && matches!(times, Times::Every(_))
                // A clock that was ahead has saved a later one.
                && at <= now
                && last.is_none_or(|last| at > last)
            {
                figures.show(at, bytes);
                last = Some(at);
                due = times.after(last, now);
                continue;
            }
            let begun = Instant::now();
            match save(&engine, &header, &files, &shutdown).await {
                Ok(Saved { name, path, bytes, revision }) => {
                    let took = begun.elapsed();
                    figures.show(OffsetDateTime::now_utc(), bytes);
                    figures.seconds.with_label_values::<&str>(&[]).set(took.as_secs_f64());
                    tracing::info!(path, bytes, %revision, ?took, "saved a scheduled snapshot");
                    let removal = shutdown.run_until_cancelled(files.remove_old(&name, schedule.kept)).await;
                    if let Some(Err(error)) = removal {
                        tracing::warn!(%error, "old scheduled snapshots cannot be removed");
                    }
                }
                Err(ScheduleError::Stopped) => return,
                Err(error) => {
                    figures.failures.inc();
                    tracing::warn!(%error, "a scheduled snapshot was not saved; the next time is the next try");
                }
            }
            let now = OffsetDateTime::now_utc();
            last = Some(now);
            due = times.after(last, now);
        }
    })
}

async fn save(
    engine: &Engine,
    header: &HeaderSource,
    files: &Files,
    shutdown: &CancellationToken,
) -> Result<Saved, ScheduleError> {
    let full_state = engine.full_state().await?;
    let term = header.at(full_state.state.revision).raft_term;
    files.save(full_state, term, shutdown).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(all: &[&str], saved: &str, kept: usize) -> Vec<String> {
        let mut names: Vec<_> = all.iter().map(|name| (*name).to_owned()).collect();
        let removed = outdated(names.clone(), saved, kept);
        names.retain(|name| !removed.contains(name));
        names
    }

    #[test]
    fn the_newest_ones_are_left() {
        let all = ["s-20260101T000000Z-3.db", "s-20260102T000000Z-4.db", "s-20260103T000000Z-5.db"];
        let [_, late, saved] = all;
        assert_eq!(left(&all, saved, 5), all);
        assert_eq!(left(&all, saved, 3), all);
        assert_eq!(left(&all, saved, 2), [late, saved]);
        assert_eq!(left(&all, saved, 1), [saved]);
    }

    #[test]
    fn those_of_a_clock_that_was_ahead_go_first() {
        let (before, saved) = ("s-20260101T000000Z-3.db", "s-20260102T000000Z-9.db");
        let ahead = ["s-20270101T000000Z-4.db", "s-20270102T000000Z-5.db"];
        let all = [before, saved, ahead[0], ahead[1]];
        assert_eq!(left(&all, saved, 3), [before, saved, ahead[1]]);
        assert_eq!(left(&all, saved, 2), [before, saved]);
        assert_eq!(left(&all, saved, 1), [saved]);
    }

    /// The revisions in names are not of one length.
    #[test]
    fn two_of_one_second_are_told_apart() {
        let (before, same, saved) =
            ("s-20260101T000000Z-3.db", "s-20260102T000000Z-9.db", "s-20260102T000000Z-10.db");
        let all = [before, saved, same];
        assert_eq!(left(&all, saved, 2), [saved, same]);
        assert_eq!(left(&all, saved, 1), [saved]);
    }
}
