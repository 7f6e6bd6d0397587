//! Scheduled snapshots in a bucket of S3.

use super::{END, Saved, ScheduleError, name, outdated};
use crate::applier::FullState;
use crate::error::EtcdError;
use crate::snapshot::{Listed, S3, S3Error, Snapshot, Upload};
use crate::version::CLUSTER_VERSION;
use time::OffsetDateTime;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

/// Parts of the snapshot that are laid out at once, each of 32 KiB.
const AT_ONCE: usize = 64;

/// The objects of one JetStream bucket in a bucket of S3.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) s3: S3,
    pub(super) prefix: String,
}

impl Bucket {
    pub(super) async fn save(
        &self,
        full_state: FullState,
        term: u64,
        shutdown: &CancellationToken,
    ) -> Result<Saved, ScheduleError> {
        let revision = full_state.state.revision;
        let laid_out = spawn_blocking(move || Snapshot::new(&full_state, term, CLUSTER_VERSION)).await;
        let snapshot = laid_out.map_err(|error| EtcdError::Unknown(error.to_string()))?;
        let name = name(&self.prefix, OffsetDateTime::now_utc(), revision);
        let object = self.s3.child(&name);
        let mut upload = object.upload(snapshot.size()).await?;
        let sent = tokio::select! {
            () = shutdown.cancelled() => Err(ScheduleError::Stopped),
            sent = send(snapshot, &mut upload) => sent,
        };
        match sent {
            Ok(()) => Ok(Saved { name, path: object.to_string(), bytes: upload.finish().await?, revision }),
            Err(error) => {
                upload.abort().await;
                Err(error)
            }
        }
    }

    /// The objects, ascending by their time.
    async fn all(&self) -> Result<Vec<Listed>, S3Error> {
        let mut all = self.s3.list().await?;
        all.retain(|object| object.name.starts_with(&self.prefix) && object.name.ends_with(END));
        Ok(all)
    }

    /// The time and the size of the newest one.
    pub(super) async fn newest(&self) -> Result<Option<(OffsetDateTime, u64)>, S3Error> {
        Ok(self.all().await?.pop().map(|object| (object.at, object.bytes)))
    }

    /// Leaves the `kept` newest ones, of which the last one was saved as `saved`.
    pub(super) async fn remove_old(&self, saved: &str, kept: usize) -> Result<(), S3Error> {
        let names = self.all().await?.into_iter().map(|object| object.name).collect();
        for name in outdated(names, saved, kept) {
            self.s3.child(&name).remove().await?;
        }
        Ok(())
    }
}

/// Lays out the snapshot on threads that may block, and uploads it meanwhile.
async fn send(mut snapshot: Snapshot, upload: &mut Upload) -> Result<(), ScheduleError> {
    loop {
        let part = move || {
            let mut bytes = Vec::new();
            snapshot.by_ref().take(AT_ONCE).for_each(|blob| bytes.extend_from_slice(&blob.bytes));
            (snapshot, bytes)
        };
        let laid_out = spawn_blocking(part).await;
        let (rest, bytes) = laid_out.map_err(|error| EtcdError::Unknown(error.to_string()))?;
        if bytes.is_empty() {
            return Ok(());
        }
        upload.write(&bytes).await?;
        snapshot = rest;
    }
}
