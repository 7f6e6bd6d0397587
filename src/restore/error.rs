//! Why a restore has failed, with the remedy.

use super::cut::CutError;
use super::plan::PlanError;
use super::source::SourceError;
use crate::log::{AppendError, ConnectError, OpenError, SetupError, WireError};
use crate::nats_server::{self, PreparationError};
use crate::snapshot::SavedError;
use std::path::PathBuf;
use thiserror::Error;

/// A restore that failed.
#[derive(Debug, Error)]
pub(crate) enum RestoreError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("{source_name} {reason}")]
    Plan { source_name: String, reason: PlanError },
    #[error("{source_name} {reason}")]
    Cut { source_name: String, reason: CutError },
    #[error("the file has changed while it was read: {0}")]
    Read(#[from] SavedError),
    #[error("the file has changed while it was read; run the same command once more")]
    Changed,
    #[error(
        "the store has a key and a value of {largest} bytes together, and NATS takes {limit}; raise max_payload there, or \
         --max-request-bytes of an embedded one"
    )]
    TooLarge { largest: usize, limit: usize },
    #[error(
        "--data-dir {path}: holds the data of an etcd, beside which jetway restores nothing; give an empty directory",
        path = .0.display()
    )]
    OfEtcd(PathBuf),
    #[error(
        "--data-dir {path}: belongs to a member of a cluster; run the same command with its --initial-cluster once more, or \
         give an empty directory",
        path = .0.display()
    )]
    OfMember(PathBuf),
    #[error(
        "--data-dir {path}: holds the bucket {bucket} of a jetway, and a restore needs an empty bucket. If a restore or a migration \
         has ended there, start jetway on it, without that command. Else give an empty directory, or another --bucket",
        path = .path.display()
    )]
    InUse { path: PathBuf, bucket: String },
    #[error(transparent)]
    NatsServer(#[from] nats_server::Error),
    #[error(transparent)]
    Preparation(#[from] PreparationError),
    #[error("{0}; run the same command once more, which begins anew")]
    Connect(ConnectError),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error(
        "the store is written, and it is not known whether the last step is done: {0}; start jetway on it. If it is refused, run the \
         same command once more, which begins anew"
    )]
    Uncertain(LastStepError),
    #[error("cannot write to the bucket: {0}; run the same command once more, which begins anew")]
    Append(#[from] AppendError),
    #[error("cannot connect to the bucket: {0}; run the same command once more, which begins anew")]
    Wire(#[from] WireError),
    #[error(
        "nats-server cannot write to {store}: {reason}. Make room, and run the same command once more, which begins anew",
        store = .store.display()
    )]
    Write { store: PathBuf, reason: String },
    #[error("the restored store cannot be synced: {0}; run the same command once more, which begins anew")]
    Sync(std::io::Error),
}

/// The failure of a step behind which a store can be served.
#[derive(Debug, Error)]
pub(crate) enum LastStepError {
    #[error(transparent)]
    Unanswered(SetupError),
    #[error(transparent)]
    NatsServer(nats_server::Error),
    #[error("it cannot be synced: {0}")]
    Sync(std::io::Error),
}

impl From<OpenError> for RestoreError {
    fn from(error: OpenError) -> RestoreError {
        match error {
            OpenError::Connect(error) => RestoreError::Connect(error),
            OpenError::Setup(error) => RestoreError::Setup(error),
        }
    }
}
