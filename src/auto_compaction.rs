//! Automatic compaction (`--auto-compaction-mode`), at the times and revisions at which etcd does it.
//!
//! Each instance on a bucket has its own clock and samples. Two that compact do no harm: floors only rise,
//! and the later one finds its revision compacted already.

use crate::cli::AutoCompaction;
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::types::Revision;
use crate::watch::WatchHub;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The longest time between two periodic compactions, and between two samples ten times.
const LONGEST_INTERVAL: Duration = Duration::from_hours(1);
/// A period may be given in nanoseconds.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);
/// Samples of the revision in the time between two compactions.
const SAMPLES: u32 = 10;

/// When to compact, and at which revision.
#[derive(Debug)]
enum Policy {
    Periodic {
        period: Duration,
        /// The revision at the end of each interval, as many as fit into the period. The oldest is a period
        /// old.
        samples: VecDeque<Revision>,
        compacted: Revision,
        /// The last success, at first the start.
        since: Instant,
        has_begun: bool,
    },
    Revisions {
        kept: i64,
        interval: Duration,
        compacted: Revision,
    },
}

impl Policy {
    fn new(mode: AutoCompaction, now: Instant) -> Policy {
        let compacted = Revision(0);
        match mode {
            AutoCompaction::Periodic(period) => {
                Policy::Periodic { period, samples: VecDeque::new(), compacted, since: now, has_begun: false }
            }
            AutoCompaction::Revision { kept, interval } => Policy::Revisions { kept, interval, compacted },
        }
    }

    /// Time between two looks.
    fn interval(&self) -> Duration {
        match self {
            Policy::Periodic { period, .. } => {
                ((*period).min(LONGEST_INTERVAL) / SAMPLES).max(SHORTEST_INTERVAL)
            }
            Policy::Revisions { interval, .. } => (*interval).max(SHORTEST_INTERVAL),
        }
    }

    /// Learns the revision at the beginning of an interval.
    fn sample(&mut self, revision: Revision) {
        let interval = self.interval();
        if let Policy::Periodic { period, samples, .. } = self {
            samples.push_back(revision);
            let kept = (period.as_nanos() / interval.as_nanos()) as usize + 1;
            if samples.len() > kept {
                samples.pop_front();
            }
        }
    }

    /// The revision to compact at the end of an interval, with the store at `revision` now.
    fn due(&mut self, revision: Revision, now: Instant) -> Option<Revision> {
        match self {
            Policy::Periodic { period, samples, compacted, since, has_begun } => {
                let oldest = *samples.front()?;
                // The first time only when a whole period has passed, which may be longer than an hour.
                let wait = if *has_begun { (*period).min(LONGEST_INTERVAL) } else { *period };
                if now.duration_since(*since) < wait || oldest == *compacted {
                    return None;
                }
                *has_begun = true;
                Some(oldest)
            }
            Policy::Revisions { kept, compacted, .. } => {
                let oldest = Revision(revision.0 - *kept);
                (oldest.0 > 0 && oldest != *compacted).then_some(oldest)
            }
        }
    }

    /// The compaction is done.
    fn done(&mut self, at: Revision, now: Instant) {
        match self {
            Policy::Periodic { compacted, since, .. } => (*compacted, *since) = (at, now),
            Policy::Revisions { compacted, .. } => *compacted = at,
        }
    }
}

/// Compacts as `mode` wants it until `shutdown`.
pub(crate) fn spawn(mode: AutoCompaction, engine: Engine, hub: WatchHub, shutdown: CancellationToken) {
    let mut policy = Policy::new(mode, Instant::now());
    tokio::spawn(async move {
        loop {
            policy.sample(engine.reader().revision());
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(policy.interval()) => {}
            }
            // A mirror is compacted by its primary.
            if engine.read_only().is_some() {
                continue;
            }
            let Some(revision) = policy.due(engine.reader().revision(), Instant::now()) else { continue };
            tracing::info!(%revision, "starting auto compaction");
            // A watcher that is up to date must not find its events gone because the hub has not come to them
            // yet.
            hub.routed(revision).await;
            let compacted = match engine.admit(0) {
                Ok(()) => engine.compact(revision, false).await.map(drop),
                Err(error) => Err(error),
            };
            match compacted {
                Ok(()) | Err(EtcdError::Compacted) => {
                    tracing::info!(%revision, "completed auto compaction");
                    policy.done(revision, Instant::now());
                }
                Err(error) => tracing::warn!(%revision, %error, "auto compaction is tried again later"),
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a policy for some intervals; the store is at revision 10, 20, 30… at their beginnings. Answers
    /// after which interval it compacted, and at which revision.
    fn run(mode: AutoCompaction, intervals: i64, fails_at: Option<i64>) -> Vec<(i64, i64)> {
        let mut now = Instant::now();
        let mut policy = Policy::new(mode, now);
        let mut compacted = Vec::new();
        for interval in 1..=intervals {
            policy.sample(Revision(interval * 10));
            now += policy.interval();
            if let Some(at) = policy.due(Revision(interval * 10 + 10), now) {
                compacted.push((interval, at.0));
                if fails_at != Some(interval) {
                    policy.done(at, now);
                }
            }
        }
        compacted
    }

    #[test]
    fn a_period_below_an_hour_is_the_time_between_compactions() {
        let mode = AutoCompaction::Periodic(Duration::from_mins(10));
        assert_eq!(run(mode, 35, None), [(10, 10), (20, 100), (30, 200)]);
    }

    #[test]
    fn a_longer_period_is_waited_for_once_and_then_it_compacts_every_hour() {
        let mode = AutoCompaction::Periodic(Duration::from_hours(3));
        // Ten samples an hour; the compacted revision is three hours old.
        assert_eq!(run(mode, 55, None), [(30, 10), (40, 100), (50, 200)]);
    }

    #[test]
    fn a_failure_is_followed_by_another_try_an_interval_later() {
        let mode = AutoCompaction::Periodic(Duration::from_mins(10));
        assert_eq!(run(mode, 25, Some(10)), [(10, 10), (11, 10), (21, 110)]);
    }

    #[test]
    fn revisions_are_counted_from_the_newest() {
        let mode = |kept| AutoCompaction::Revision { kept, interval: Duration::from_secs(7) };
        assert_eq!(run(mode(25), 4, None), [(2, 5), (3, 15), (4, 25)]);
        assert_eq!(run(mode(1000), 4, None), []);
        assert_eq!(Policy::new(mode(1), Instant::now()).interval(), Duration::from_secs(7));
    }

    #[test]
    fn nothing_is_compacted_where_nothing_was_written() {
        let mut now = Instant::now();
        let mut policy = Policy::new(AutoCompaction::Periodic(Duration::from_secs(10)), now);
        let mut compacted = 0;
        for _ in 0..40 {
            policy.sample(Revision(7));
            now += policy.interval();
            if let Some(at) = policy.due(Revision(7), now) {
                policy.done(at, now);
                compacted += 1;
            }
        }
        assert_eq!(compacted, 1);
    }
}
