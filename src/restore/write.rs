//! The second reading of a database: its content becomes the log.

use super::RestoreError;
use super::plan::{Plan, Revisions, version};
use crate::log::{Acknowledged, Log, Pipeline};
use crate::record::{Body, EpochStart, FORMAT, Member, OperationId, Record, Trim};
use crate::snapshot::Saved;
use crate::types::{Epoch, LeaseId, LogIndex, Revision, Sequence};

/// Most bytes of records that wait for their acknowledgements.
const WAITING_BYTES: usize = 16 << 20;
/// Most records that do.
const WAITING: usize = 8192;

/// The log on its way into the stream.
struct Appender {
    pipeline: Pipeline<()>,
    emitted: Vec<Acknowledged<()>>,
    waiting_bytes: usize,
    nonce: u64,
    index: LogIndex,
    /// The batches so far.
    operation: OperationId,
    end: Sequence,
}

impl Appender {
    /// Appends a batch.
    async fn batch(&mut self, revision: Revision, bodies: Vec<Body>) -> Result<(), RestoreError> {
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
        self.pipeline.next(&mut self.emitted).await?;
        for Acknowledged { sequence, record, .. } in self.emitted.drain(..) {
            self.waiting_bytes -= record.size();
            self.end = sequence;
        }
        Ok(())
    }
}

/// Writes the log into a bucket that is empty, and lets it be served. `sync` makes it durable before.
pub(super) async fn write(
    log: &Log,
    saved: &Saved,
    plan: &Plan,
    progress: &mut dyn FnMut(usize),
    sync: impl Fn() -> std::io::Result<()>,
) -> Result<(), RestoreError> {
    let end = log.facts().before_first;
    let operation = OperationId { instance: rand::random(), counter: 0 };
    let mut appender = Appender {
        pipeline: log.append_behind(end).await?,
        emitted: Vec::new(),
        waiting_bytes: 0,
        nonce: rand::random(),
        index: LogIndex::NONE,
        operation,
        end,
    };
    let limit = appender.pipeline.max_record_bytes();
    if plan.largest > limit {
        return Err(RestoreError::TooLarge { largest: plan.largest, limit });
    }
    let start = EpochStart {
        instance: operation.instance,
        format: FORMAT,
        member: Member::default(),
        election_timeout_ms: 0,
        quota_bytes: 0,
        digest: plan.first_digest,
    };
    appender.batch(Revision::EMPTY_STORE, vec![Body::Epoch(Box::new(start))]).await?;
    let users = Body::Users(Box::new(saved.users.clone()));
    let leases = saved.leases.iter().map(|(id, ttl)| Body::Lease(*id, Some(*ttl)));
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
            append_floor(&mut appender, floor, plan).await?;
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
            let sequence = Sequence(appender.pipeline.next_sequence().0 + bodies.len() as u64);
            bodies.push(Body::Key(version(change, sequence)));
            written += 1;
        }
        if !bodies.is_empty() {
            appender.batch(revision, bodies).await?;
            progress(written);
        }
    }
    if let Some(floor) = trim {
        append_floor(&mut appender, floor, plan).await?;
    }
    if written != plan.versions {
        return Err(RestoreError::Changed);
    }
    appender.batch(plan.revision, vec![Body::Stop(plan.end_digest)]).await?;
    while appender.pipeline.unacknowledged() > 0 {
        appender.wait().await?;
    }
    sync().map_err(RestoreError::Sync)?;
    Ok(log.finish_restore(appender.end).await?)
}

async fn append_floor(appender: &mut Appender, floor: Revision, plan: &Plan) -> Result<(), RestoreError> {
    let to = appender.index.0;
    appender.batch(floor, vec![Body::Floor(floor)]).await?;
    let trim = Trim { to, floor: Some(floor.0), digest: plan.trim_digest, is_lossy: false };
    appender.batch(floor, vec![Body::Trim(Box::new(trim))]).await
}
