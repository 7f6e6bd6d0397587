//! `jetway migrate` from kine, which sends no snapshot: its keys are read in pages at one revision, and a
//! watch brings all changes since. Another server without snapshots has more than these keys, and is refused.
//!
//! kine keeps no number of versions of a key, and numbers changes of its own that no client sees. So:
//! - A key that was changed since its creation has version 2 at the copied revision, and one more with each
//!   change.
//! - The copy is compacted to the last revision behind which each one is known: the one that was read in
//!   pages, or the last one that no client saw.
//!
//! Nothing fences kine. The copy ends once the source has stood still for [`QUIET`]. Then all keys are read
//! once more, and compared.

use super::follow::Source;
use super::migrate::{CHECK_INTERVAL, MigrateSettings, unless_broken};
use super::outcome::{Compared, MigrateError, Migrated, Step};
use super::plan::{self, Reading, version};
use super::write::{self, Appender};
use super::{Opened, RestoreError, Target};
use crate::client::ClientSettings;
use crate::lease::MIN_TTL;
use crate::log::Bucket;
use crate::proto::mvccpb::KeyValue;
use crate::record::Body;
use crate::snapshot::Change;
use crate::types::{Grant, LeaseId, Revision};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long the source must have had no new revision at the end.
pub(crate) const QUIET: Duration = Duration::from_secs(5);
/// How long it may take until it stands still, after a signal that asks for the end.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys of kine's own: it keeps the floor of its compactions there.
const OWN_KEYS: &[u8] = b"compact_rev_key";

/// Migrates a store. `stop` asks for the end, as in [`super::migrate()`].
///
/// # Errors
/// [`MigrateError`]. Then nothing can be served from the target.
pub(super) async fn run(
    source: Source,
    settings: MigrateSettings,
    stop: CancellationToken,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<Migrated, MigrateError> {
    let MigrateSettings { from, target, is_dry_run, switches_over } = settings;
    if !source.is_kine().await? {
        return Err(MigrateError::NoSnapshot);
    }
    let floor = source.listed_revision().await?;
    let mut count = |keys| progress(Step::Listing(keys));
    let listed = stop.run_until_cancelled(source.list(floor, &mut count)).await;
    let mut pairs = listed.ok_or(MigrateError::Stopped)??;
    pairs.retain(is_copied);
    pairs.sort_unstable_by_key(|pair| pair.mod_revision);
    let bucket = target.bucket();
    let changes: Vec<Change> = pairs.into_iter().map(|pair| put(numbered(pair, None))).collect();
    let (reading, first_digest) = plan::plan_keys(&changes, floor, &bucket)?;
    let leases = leases_of(changes.iter().map(|change| &change.pair)).len();
    if is_dry_run {
        let (revision, keys) = (reading.revision, reading.keys());
        return Ok(Migrated {
            revision,
            floor: Some(floor),
            keys,
            leases,
            compared: Compared::Keys,
            frozen: None,
        });
    }
    // A copy that is to be served is of no use without a server.
    let gives_up = if matches!(target, Target::Served(_)) { stop.clone() } else { CancellationToken::new() };
    let opened = Opened::open(target, reading.largest, None).await?;
    let copied = async {
        let mut appender = Appender::begin(&opened, reading.largest, first_digest).await?;
        let all = changes.len();
        for (change, written) in changes.into_iter().zip(1..) {
            if stop.is_cancelled() {
                return Err(MigrateError::Stopped);
            }
            let body = Body::Key(version(&change, appender.sequence_of(1)));
            appender.batch(change.revision, vec![body]).await?;
            progress(Step::Writing(written, all));
        }
        write::append_floor(&mut appender, floor, reading.digest(Some(floor))).await?;
        let mut copy = Copy { from: &from, bucket, switches_over, reading, floor, appender };
        let last = loop {
            let outcome = copy.follow(&stop, progress).await;
            if let Some(last) = unless_broken(outcome, &stop, progress).await {
                break last?;
            }
        };
        copy.end(last, &opened, progress).await
    };
    let copied = gives_up.run_until_cancelled(copied).await.unwrap_or(Err(MigrateError::Stopped));
    opened.close(copied).await
}

/// A copy that follows its source.
struct Copy<'a> {
    from: &'a [ClientSettings],
    bucket: Bucket,
    switches_over: bool,
    reading: Reading,
    floor: Revision,
    appender: Appender,
}

impl Copy<'_> {
    /// Follows the source over one connection until it stands still, if that is asked for. Returns its
    /// revision.
    async fn follow(
        &mut self,
        stop: &CancellationToken,
        progress: &mut (dyn FnMut(Step) + Send),
    ) -> Result<Revision, MigrateError> {
        let source = Source::connect(self.from).await?;
        let mut following = source.follow_listed(self.reading.revision.next()).await?;
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last, mut since, mut asked) = (Revision(0), Instant::now(), None);
        loop {
            tokio::select! {
                changes = following.next() => {
                    let changes = changes?;
                    if !changes.is_empty() {
                        since = Instant::now();
                    }
                    self.append(changes).await?;
                }
                error = self.appender.idle() => error?,
                () = stop.cancelled(), if asked.is_none() => asked = Some(Instant::now()),
                _ = checks.tick() => {
                    let now = source.listed_revision().await?;
                    if now != last {
                        (last, since) = (now, Instant::now());
                    }
                    let is_ending = asked.is_some() || self.switches_over && self.reading.revision >= now;
                    progress(Step::Following(self.reading.revision, now));
                    if is_ending {
                        progress(Step::Waiting(now));
                    }
                    if since.elapsed() >= QUIET && (asked.is_some() || self.switches_over) {
                        return Ok(last);
                    }
                    if asked.is_some_and(|asked| asked.elapsed() >= STOP_TIMEOUT) {
                        return Err(MigrateError::WentOn { copied: self.reading.revision, now });
                    }
                }
            }
        }
    }

    /// Appends changes of the source. Changes that are copied already are passed over.
    async fn append(&mut self, revisions: Vec<Vec<Change>>) -> Result<(), MigrateError> {
        for change in revisions.into_iter().flatten() {
            let revision = change.revision;
            if revision <= self.reading.revision || !is_copied(&change.pair) {
                continue;
            }
            plan::check(&change, &self.bucket)?;
            let live = self.reading.version_of(&change.pair.key);
            if change.is_delete && live.is_none() {
                continue;
            }
            let change = if change.is_delete { change } else { put(numbered(change.pair, live)) };
            if revision > self.reading.revision.next() {
                self.compact(Revision(revision.0 - 1)).await?;
            }
            self.reading.follow(revision, std::slice::from_ref(&change))?;
            let body = Body::Key(version(&change, self.appender.sequence_of(1)));
            self.appender.batch(revision, vec![body]).await?;
        }
        Ok(())
    }

    /// Raises the revision and the floor, as revisions before are not known.
    async fn compact(&mut self, floor: Revision) -> Result<(), RestoreError> {
        (self.reading.revision, self.floor) = (floor, floor);
        write::append_floor(&mut self.appender, floor, self.reading.digest(Some(floor))).await
    }

    /// Compares both stores at the last revision, and lets the copy be served.
    async fn end(
        mut self,
        last: Revision,
        opened: &Opened,
        progress: &mut (dyn FnMut(Step) + Send),
    ) -> Result<Migrated, MigrateError> {
        let source = Source::connect(self.from).await?;
        let mut pairs = source.list(last, &mut |keys| progress(Step::Listing(keys))).await?;
        pairs.retain(is_copied);
        let keys = self.reading.keys();
        if pairs.len() != keys {
            let (ours, theirs) = (format!("{keys} keys"), pairs.len().to_string());
            return Err(MigrateError::Different { revision: last, ours, theirs });
        }
        if let Some(pair) = pairs.iter().find(|pair| !self.reading.holds(pair)) {
            let ours = format!("another version of {}", pair.key.escape_ascii());
            let theirs = format!("the one of revision {}", pair.mod_revision);
            return Err(MigrateError::Different { revision: last, ours, theirs });
        }
        let now = source.listed_revision().await?;
        if now != last {
            return Err(MigrateError::WentOn { copied: last, now });
        }
        let leases = leases_of(pairs.iter());
        let count = leases.len();
        for id in leases {
            // kine names a lease by its TTL.
            let grant = Some(Grant::full(id.0.max(MIN_TTL)));
            self.reading.set_lease(id, None, grant);
            self.appender.batch(self.reading.revision, vec![Body::Lease(id, grant)]).await?;
        }
        if last > self.reading.revision {
            self.compact(last).await?;
        }
        let floor = Some(self.floor);
        self.appender.finish(&self.reading, floor, opened).await?;
        Ok(Migrated { revision: last, floor, keys, leases: count, compared: Compared::Keys, frozen: None })
    }
}

fn is_copied(pair: &KeyValue) -> bool {
    !pair.key.starts_with(OWN_KEYS)
}

/// A pair with a number of its version: the one behind `before`, or the least one that fits its revisions.
fn numbered(pair: KeyValue, before: Option<i64>) -> KeyValue {
    let least = if pair.create_revision == pair.mod_revision { 1 } else { 2 };
    KeyValue { version: before.map_or(least, |before| before + 1), ..pair }
}

fn put(pair: KeyValue) -> Change {
    Change { revision: Revision(pair.mod_revision), place: 0, is_delete: false, pair }
}

fn leases_of<'a>(pairs: impl Iterator<Item = &'a KeyValue>) -> BTreeSet<LeaseId> {
    pairs.map(|pair| LeaseId(pair.lease)).filter(|lease| lease.is_some()).collect()
}
