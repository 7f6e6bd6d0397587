//! `jetway migrate`: the store of a running etcd becomes the log of an empty bucket, while clients go on to
//! write to that etcd.
//!
//! 1. A snapshot of the source is written as by a restore.
//! 2. A watch brings all changes since. They are appended with the numbers that they have.
//! 3. At the end leases, the compaction floor and the last revision are those of the source at one moment.
//!    `HashKV` of the source is compared with that of the records.
//! 4. The bucket may be served.
//!
//! A copy that is served at once is compared right before the fence, and has the floor of that moment. Behind
//! it the revisions and the versions of keys have no gap, and the numbers of keys are compared. `HashKV` of a
//! large store takes most of a second.
//!
//! An alarm fences the source: etcd refuses all writes while CORRUPT is raised. Leases do not expire there
//! either. Without the fence the migration ends well only if nobody has written meanwhile.
//!
//! The order at the end is that of safety. The last revision is read before the leases are, and must still be
//! the last one in the end. A lease that was granted for a later key, or that ended with its keys, would be
//! missing otherwise.

use super::fence::lifted_after_failure;
use super::follow::{Following, Source, SourceCallError};
use super::hashes::Hashes;
use super::outcome::{Compared, MigrateError, Migrated, Step};
use super::plan::{self, Plan, Reading, version};
use super::write::{self, Appender};
use super::{Opened, RestoreError, Target, pages};
use crate::client::ClientSettings;
use crate::log::Bucket;
use crate::record::{AlarmKind, Body};
use crate::snapshot::{Change, Saved};
use crate::types::{Grant, LeaseId, Revision};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The time between two requests for the revision of the source.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The pause before another connection to the source.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// How long the source may be away at the end.
const END_TIMEOUT: Duration = Duration::from_secs(30);
/// Revisions that may be missing when the source is fenced.
const NEAR: i64 = 1000;

/// A migration.
#[derive(Debug)]
pub(crate) struct MigrateSettings {
    /// The endpoints of the source.
    pub from: Vec<ClientSettings>,
    /// The place of the copy.
    pub target: Target,
    /// Whether only the source is looked at.
    pub is_dry_run: bool,
    /// Whether the source is fenced, and the migration ends, when all is copied.
    pub switches_over: bool,
}

/// Migrates a store. `stop` asks for the end: of a copy that only follows, it is the end that is wanted.
/// Any other one is given up, and the source is not fenced then.
///
/// # Errors
/// [`MigrateError`]. Then nothing can be served from the target, except after [`RestoreError::Uncertain`] and
/// [`MigrateError::LeftFenced`]. The source is fenced after [`MigrateError::LeftFenced`] and
/// [`MigrateError::StillFenced`] alone.
pub(crate) async fn run(
    settings: MigrateSettings,
    stop: CancellationToken,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Result<Migrated, MigrateError> {
    settings.target.check().await?;
    let serves = matches!(settings.target, Target::Served(_));
    let source = Source::connect(&settings.from).await?;
    let mut receive = |received, all| progress(Step::Receiving(received, all));
    let received = source.snapshot(&mut receive);
    let received = stop.run_until_cancelled(received).await.ok_or(MigrateError::Stopped)??;
    let Some((file, size)) = received else {
        return Box::pin(pages::run(source, settings, stop, progress)).await;
    };
    let MigrateSettings { from, target, is_dry_run, switches_over } = settings;
    let saved = Saved::open(file, size)?;
    // It would be in force at the copy, too.
    if saved.alarms.iter().any(|alarm| alarm.kind == AlarmKind::Corrupt) {
        return Err(MigrateError::Corrupt);
    }
    let bucket = target.bucket();
    let plan = plan::plan(&saved, None, &bucket)?;
    if is_dry_run {
        return Ok(Migrated {
            revision: plan.reading.revision,
            floor: plan.floor,
            keys: plan.reading.keys(),
            leases: saved.leases.len(),
            compared: Compared::Counts,
            frozen: None,
        });
    }
    let is_prepared = target.is_prepared();
    let opened = Opened::open(target, plan.reading.largest, None).await?;
    let mut fenced = None;
    let copied = async {
        let mut wrote = |written| progress(Step::Writing(written, plan.versions));
        let written = write::write(&opened, &saved, &plan, &mut wrote);
        let mut appender = stop.run_until_cancelled(written).await.ok_or(MigrateError::Stopped)??;
        appender.drain().await?;
        opened.can_be_loaded.cancel();
        let hashes = tokio::task::block_in_place(|| Hashes::of(&saved))?;
        let Plan { reading, floor, .. } = plan;
        let snapshot = reading.revision;
        let mut copy = Copy {
            from: &from,
            bucket,
            switches_over,
            reading,
            floor,
            appender,
            snapshot,
            hashes,
            is_prepared,
            compared_to: None,
        };
        loop {
            let outcome = copy.follow(&stop, progress).await;
            if let Some(followed) = unless_broken(outcome, &stop, progress).await {
                break followed?;
            }
        }
        if serves {
            copy.compare_before_the_end().await?;
        }
        let gives_up = if switches_over { stop } else { CancellationToken::new() };
        if gives_up.is_cancelled() {
            return Err(MigrateError::Stopped);
        }
        // The sync under the fence then finds the last changes alone.
        tokio::task::block_in_place(|| opened.sync()).map_err(RestoreError::Sync)?;
        copy.end(&saved, &opened, &gives_up, &mut fenced).await
    };
    let copied = lifted_after_failure(&from, copied.await, &mut fenced).await;
    let closed = opened.close(copied).await;
    lifted_after_failure(&from, closed, &mut fenced).await
}

/// The outcome of following a source over one connection. `None`, after a pause, if the connection has
/// broken and another one is to be made.
pub(super) async fn unless_broken<T>(
    outcome: Result<T, MigrateError>,
    stop: &CancellationToken,
    progress: &mut (dyn FnMut(Step) + Send),
) -> Option<Result<T, MigrateError>> {
    match outcome {
        Err(MigrateError::Source(error)) if error.is_transient() && !stop.is_cancelled() => {
            progress(Step::Retrying);
            tokio::time::sleep(RETRY).await;
            None
        }
        end => Some(end),
    }
}

/// Whether auth is enabled at a source that shows it in its snapshots alone, and its revision.
async fn auth_of_snapshot(source: &Source) -> Result<Option<(bool, u64)>, MigrateError> {
    let Some((file, size)) = source.snapshot(&mut |_, _| ()).await? else { return Ok(None) };
    let users = Saved::open(file, size)?.users;
    Ok(Some((users.is_enabled(), users.revision())))
}

/// A copy that follows its source.
struct Copy<'a> {
    from: &'a [ClientSettings],
    bucket: Bucket,
    switches_over: bool,
    reading: Reading,
    floor: Option<Revision>,
    appender: Appender,
    /// The last revision of the snapshot.
    snapshot: Revision,
    hashes: Hashes,
    /// Cancelled when the source may be fenced.
    is_prepared: CancellationToken,
    /// The revision to which both stores were compared before the fence.
    compared_to: Option<Revision>,
}

impl Copy<'_> {
    /// Appends changes of the source. Changes that are copied already are passed over.
    async fn append(&mut self, revisions: Vec<Vec<Change>>) -> Result<(), MigrateError> {
        for changes in revisions {
            let revision = changes[0].revision;
            if revision <= self.reading.revision {
                continue;
            }
            self.reading.follow(revision, &changes)?;
            let mut bodies = Vec::with_capacity(changes.len());
            for (change, place) in changes.iter().zip(1..) {
                plan::check(change, &self.bucket)?;
                self.hashes.push(change);
                bodies.push(Body::Key(version(change, self.appender.sequence_of(place))));
            }
            self.appender.batch(revision, bodies).await?;
        }
        Ok(())
    }

    /// Follows the source over one connection until a stop is asked for, or until all is copied if it
    /// switches over.
    async fn follow(
        &mut self,
        stop: &CancellationToken,
        progress: &mut (dyn FnMut(Step) + Send),
    ) -> Result<(), MigrateError> {
        // A token may end while this goes on, so each connection logs in.
        let source = Source::connect(self.from).await?;
        let mut following = source.follow(self.reading.revision.next()).await?;
        let mut checks = tokio::time::interval(CHECK_INTERVAL);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changes = following.next() => self.append(changes?).await?,
                error = self.appender.idle() => error?,
                () = stop.cancelled() => return Ok(()),
                _ = checks.tick() => {
                    let asked = async {
                        match source.revision().await {
                            // The token has ended; the watch goes on.
                            Err(_) => Source::connect(self.from).await?.revision().await,
                            now => now,
                        }
                    };
                    let Some(now) = stop.run_until_cancelled(asked).await.transpose()? else { return Ok(()) };
                    progress(Step::Following(self.reading.revision, now));
                    let is_near = now.0 - self.reading.revision.0 <= NEAR;
                    if self.switches_over && is_near && self.is_prepared.is_cancelled() {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Copies what is left, compares both stores, and lets the copy be served. `fenced` gets the member for
    /// which the source is fenced.
    async fn end(
        mut self,
        saved: &Saved,
        opened: &Opened,
        gives_up: &CancellationToken,
        fenced: &mut Option<u64>,
    ) -> Result<Migrated, MigrateError> {
        let source = Source::connect(self.from).await?;
        let mut following = source.follow(self.reading.revision.next()).await?;
        let begun = Instant::now();
        if self.switches_over {
            let member = source.member_id().await?;
            // Without an answer it may be raised, too.
            *fenced = Some(member);
            source.fence(member, true).await?;
        }
        let last = source.revision().await?;
        let leases = source.leases().await?;
        tokio::select! {
            drained = self.drain(&mut following, last) => drained?,
            () = gives_up.cancelled() => return Err(MigrateError::Stopped),
            () = tokio::time::sleep(END_TIMEOUT) => {
                let late = format!("it does not send revision {last} in time");
                return Err(SourceCallError::Canceled(late).into());
            }
        }
        // They may have come with the last ones that were waited for.
        if self.reading.revision > last {
            return Err(MigrateError::WentOn { copied: last, now: self.reading.revision });
        }
        let auth = match source.auth_revision().await? {
            None => auth_of_snapshot(&source).await?,
            auth => auth,
        };
        if auth != Some((saved.users.is_enabled(), saved.users.revision())) {
            return Err(MigrateError::AuthChanged);
        }
        self.take_leases(saved, &leases).await?;
        let compared = match self.compared_to {
            Some(revision) => {
                self.compare_counts(last, source.count(last).await?)?;
                Compared::HashTo(revision)
            }
            None => self.compare(&source, last).await?,
        };
        let (keys, count) = (self.reading.keys(), leases.len());
        let (reading, floor) = (&self.reading, self.floor);
        let now = source.revision().await?;
        if now != last {
            return Err(MigrateError::WentOn { copied: last, now });
        }
        if gives_up.is_cancelled() {
            return Err(MigrateError::Stopped);
        }
        self.appender.finish(reading, floor, opened).await?;
        let frozen = self.switches_over.then(|| begun.elapsed());
        Ok(Migrated { revision: last, floor, keys, leases: count, compared, frozen })
    }

    async fn drain(&mut self, following: &mut Following, last: Revision) -> Result<(), MigrateError> {
        while self.reading.revision < last {
            let changes = following.next().await?;
            self.append(changes).await?;
        }
        Ok(())
    }

    /// Makes the leases those of the source.
    async fn take_leases(
        &mut self,
        saved: &Saved,
        leases: &BTreeMap<LeaseId, Grant>,
    ) -> Result<(), MigrateError> {
        let known: BTreeMap<_, _> = saved.leases.iter().copied().collect();
        let ids: BTreeSet<_> = known.keys().chain(leases.keys()).copied().collect();
        for id in ids {
            let (before, now) = (known.get(&id).copied(), leases.get(&id).copied());
            if before != now {
                self.reading.set_lease(id, before, now);
                self.appender.batch(self.reading.revision, vec![Body::Lease(id, now)]).await?;
            }
        }
        Ok(())
    }

    /// Compares both stores while the source is written to, so that it need not be fenced for that.
    async fn compare_before_the_end(&mut self) -> Result<(), MigrateError> {
        let source = Source::connect(self.from).await?;
        let revision = self.reading.revision;
        if self.compare(&source, revision).await? == Compared::Hash {
            self.compared_to = Some(revision);
        }
        Ok(())
    }

    /// Compares the copy with the source at its last revision. A later floor of the source is copied.
    async fn compare(&mut self, source: &Source, last: Revision) -> Result<Compared, MigrateError> {
        let ours = async { self.hash() };
        let (theirs, count, mut ours) = tokio::join!(source.hash_kv(last), source.count(last), ours);
        let ((theirs, floor), count) = (theirs?, count?);
        if let Some(floor) = floor.filter(|floor| Some(*floor) > self.floor) {
            self.floor = Some(floor);
            self.appender.batch(last, vec![Body::Floor(floor)]).await?;
            ours = self.hash();
        }
        self.compare_counts(last, count)?;
        // Behind a later floor the hash leaves out changes of the watch, which were not kept.
        if self.floor.is_some_and(|floor| floor > self.snapshot) || Some(last) == self.floor {
            return Ok(Compared::Counts);
        }
        if ours != theirs {
            let (ours, theirs) = (format!("the hash {ours}"), format!("the hash {theirs}"));
            return Err(MigrateError::Different { revision: last, ours, theirs });
        }
        Ok(Compared::Hash)
    }

    /// The hash of the copy under its floor.
    fn hash(&self) -> u32 {
        tokio::task::block_in_place(|| self.hashes.hash(self.floor, &self.reading.newest()))
    }

    /// Compares the numbers of keys. The source has `count`.
    fn compare_counts(&self, last: Revision, count: i64) -> Result<(), MigrateError> {
        let keys = self.reading.keys();
        if i64::try_from(keys) == Ok(count) {
            return Ok(());
        }
        let (ours, theirs) = (format!("{keys} keys"), count.to_string());
        Err(MigrateError::Different { revision: last, ours, theirs })
    }
}
