//! The second reading of a database: its content becomes the log.

use super::plan::{Plan, Reading, Revisions, version};
use super::{LastStepError, Opened, RestoreError};
use crate::log::{Acknowledged, AppendError, Pipeline, SetupError};
use crate::record::{Body, Digest, EpochStart, FORMAT, Member, OperationId, Record, Trim};
use crate::snapshot::Saved;
use crate::types::{Epoch, LeaseId, LogIndex, Revision, Sequence};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

/// Most bytes of records that wait for their acknowledgements.
const WAITING_BYTES: usize = 16 << 20;
/// Most records that do.
const WAITING: usize = 8192;
/// How long an acknowledgement may take. A nats-server whose disk is full sends none.
const ACK_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a line of nats-server's log may be on its way.
const LOG_TIMEOUT: Duration = Duration::from_secs(1);

/// The log on its way into the stream.
pub(super) struct Appender {
    pipeline: Pipeline<()>,
    emitted: Vec<Acknowledged<()>>,
    waiting_bytes: usize,
    nonce: u64,
    index: LogIndex,
    /// The batches so far.
    operation: OperationId,
    end: Sequence,
    /// The most bytes of a key and its value that NATS takes.
    limit: usize,
    /// The write errors of an embedded server, and its store.
    write_error: Option<(watch::Receiver<Option<String>>, PathBuf)>,
}

impl Appender {
    /// Begins the log of an empty bucket with the record of its epoch. `largest` is the most bytes of a key
    /// and its value, as far as they are known.
    pub(super) async fn begin(
        opened: &Opened,
        largest: usize,
        digest: Digest,
    ) -> Result<Appender, RestoreError> {
        let log = &opened.log;
        let end = log.facts().before_first;
        let operation = OperationId { instance: rand::random(), counter: 0 };
        let pipeline = log.append_behind(end).await?;
        let limit = pipeline.max_record_bytes();
        if largest > limit {
            return Err(RestoreError::TooLarge { largest, limit });
        }
        let mut appender = Appender {
            pipeline,
            emitted: Vec::new(),
            waiting_bytes: 0,
            nonce: rand::random(),
            index: LogIndex::NONE,
            operation,
            end,
            limit,
            write_error: opened.write_error.clone().zip(opened.store.clone()),
        };
        let start = EpochStart {
            instance: operation.instance,
            format: FORMAT,
            member: Member::default(),
            election_timeout_ms: 0,
            quota_bytes: 0,
            digest,
        };
        appender.batch(Revision::EMPTY_STORE, vec![Body::Epoch(Box::new(start))]).await?;
        Ok(appender)
    }

    /// The sequence of the record at a place of the next batch, from 1.
    pub(super) fn sequence_of(&self, place: u32) -> Sequence {
        Sequence(self.pipeline.next_sequence().0 + u64::from(place) - 1)
    }

    /// Appends a batch.
    pub(super) async fn batch(&mut self, revision: Revision, bodies: Vec<Body>) -> Result<(), RestoreError> {
        self.operation.counter += 1;
        let count = bodies.len() as u32;
        for (body, place) in bodies.into_iter().zip(1..) {
            self.index = self.index.next();
            let record = Record {
                epoch: Epoch(1),
                nonce: self.nonce,
                index: self.index,
                revision,
                place,
                count,
                operation: self.operation,
                body,
            };
            if record.size() > self.limit {
                return Err(RestoreError::TooLarge { largest: record.size(), limit: self.limit });
            }
            self.waiting_bytes += record.size();
            self.pipeline.append(record, None);
            while self.waiting_bytes > WAITING_BYTES || self.pipeline.unacknowledged() > WAITING {
                self.wait().await?;
            }
        }
        Ok(())
    }

    /// Waits for the next acknowledgements.
    async fn wait(&mut self) -> Result<(), RestoreError> {
        let is_waiting = self.pipeline.unacknowledged() > 0;
        let next = self.pipeline.next(&mut self.emitted);
        let acknowledged = if is_waiting {
            tokio::time::timeout(ACK_TIMEOUT, next).await.unwrap_or(Err(AppendError::Late))
        } else {
            next.await
        };
        if let Err(error) = acknowledged {
            return Err(self.reason(error).await);
        }
        for Acknowledged { sequence, record, .. } in self.emitted.drain(..) {
            self.waiting_bytes -= record.size();
            self.end = sequence;
        }
        Ok(())
    }

    /// The reason of a refusal. A server that could not write a record refuses those behind it for their
    /// place, and its log has the reason.
    async fn reason(&mut self, error: AppendError) -> RestoreError {
        if let Some((write_error, store)) = &mut self.write_error {
            let logged = tokio::time::timeout(LOG_TIMEOUT, write_error.wait_for(Option::is_some)).await;
            if let Some(reason) = logged.ok().and_then(|logged| logged.ok()?.clone()) {
                return RestoreError::Write { store: store.clone(), reason };
            }
        }
        error.into()
    }

    /// Waits until all is acknowledged.
    pub(super) async fn drain(&mut self) -> Result<(), RestoreError> {
        while self.pipeline.unacknowledged() > 0 {
            self.wait().await?;
        }
        Ok(())
    }

    /// Keeps the connection alive, and takes acknowledgements. Never returns without an error.
    pub(super) async fn idle(&mut self) -> Result<(), RestoreError> {
        loop {
            self.wait().await?;
        }
    }

    /// Ends the log of a store, and lets it be served. It is made durable before.
    pub(super) async fn finish(
        mut self,
        reading: &Reading,
        floor: Option<Revision>,
        opened: &Opened,
    ) -> Result<(), RestoreError> {
        self.batch(reading.revision, vec![Body::Stop(reading.digest(floor))]).await?;
        self.drain().await?;
        opened.sync().map_err(RestoreError::Sync)?;
        opened.log.finish_restore(self.end, opened.snapshot()).await.map_err(|error| match error {
            SetupError::Api { .. } => RestoreError::Uncertain(LastStepError::Unanswered(error)),
            error => error.into(),
        })?;
        opened.can_be_loaded.cancel();
        Ok(())
    }
}

/// Writes the log of a database into a bucket that is empty, all but its end.
pub(super) async fn write(
    opened: &Opened,
    saved: &Saved,
    plan: &Plan,
    progress: &mut (dyn FnMut(usize) + Send),
) -> Result<Appender, RestoreError> {
    let mut appender = Appender::begin(opened, plan.reading.largest, plan.first_digest).await?;
    let users = Body::Users(Box::new(saved.users.clone()));
    let leases = saved.leases.iter().map(|(id, grant)| Body::Lease(*id, Some(*grant)));
    let alarms = saved.alarms.iter().map(|alarm| Body::Alarm(*alarm, true));
    for body in [users].into_iter().chain(leases).chain(alarms) {
        appender.batch(Revision::EMPTY_STORE, vec![body]).await?;
    }
    let mut written = 0;
    let mut kept = plan.kept.iter().peekable();
    let mut trim = plan.floor;
    let mut revisions = Revisions::new(saved);
    while let Some(changes) = revisions.next()? {
        let revision = changes[0].revision;
        if let Some(floor) = trim
            && revision > floor
        {
            append_floor(&mut appender, floor, plan.trim_digest).await?;
            trim = None;
        }
        let mut bodies = Vec::with_capacity(changes.len());
        for change in &changes {
            let is_needed = trim.is_none() || kept.next_if_eq(&&(revision, change.place)).is_some();
            if !is_needed {
                continue;
            }
            // A change that a compaction has removed leaves its place to the end of a lease that never was.
            bodies.resize(change.place as usize, Body::Lease(LeaseId::NONE, None));
            bodies.push(Body::Key(version(change, appender.sequence_of(bodies.len() as u32 + 1))));
            written += 1;
        }
        if !bodies.is_empty() {
            appender.batch(revision, bodies).await?;
            progress(written);
        }
    }
    if let Some(floor) = trim {
        append_floor(&mut appender, floor, plan.trim_digest).await?;
    }
    if written != plan.versions {
        return Err(RestoreError::Changed);
    }
    Ok(appender)
}

/// Appends a compaction of all up to `floor`, where the store has this digest.
pub(super) async fn append_floor(
    appender: &mut Appender,
    floor: Revision,
    digest: Digest,
) -> Result<(), RestoreError> {
    let to = appender.index.0;
    appender.batch(floor, vec![Body::Floor(floor)]).await?;
    let trim = Trim { to, floor: Some(floor.0), digest, is_lossy: false, loss: None };
    appender.batch(floor, vec![Body::Trim(Box::new(trim))]).await
}
