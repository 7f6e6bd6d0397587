//! The reasons why a stream cannot serve as a bucket, each with its remedy.

use super::api::ApiError;
use crate::version::TooOld;
use serde_json::Value;
use std::path::PathBuf;
use thiserror::Error;

/// A bucket cannot be used.
#[derive(Debug, Error)]
pub enum SetupError {
    /// Another program's, or of another format.
    #[error(
        "stream {stream} exists and is {found}; choose another bucket with --endpoint …?bucket=NAME, or another --data-dir"
    )]
    Foreign {
        /// The stream.
        stream: String,
        /// A description of what it is.
        found: String,
    },
    /// A restore into it has not ended.
    #[error(
        "stream {stream} is being filled by jetway restore or jetway migrate, or that was broken off; run the same command once \
         more, which begins anew, or remove the stream"
    )]
    Unfinished {
        /// The stream.
        stream: String,
    },
    /// A restore needs an empty one.
    #[error(
        "stream {stream} holds {messages} messages, and a restore needs an empty bucket. If a restore or a migration has ended \
         there, start jetway on it, without that command. Else choose another bucket with --bucket, --endpoint …?bucket=NAME or \
         --data-dir"
    )]
    NotEmpty {
        /// The stream.
        stream: String,
        /// Its messages.
        messages: u64,
    },
    /// Something else has changed the stream during a restore.
    #[error("stream {stream} was changed by another program meanwhile; run the same command once more")]
    Disturbed {
        /// The stream.
        stream: String,
    },
    /// The number of replicas asked for is not that of the stream.
    #[error(
        "--endpoint asks for replicas={asked} and stream {stream} has {found}; leave replicas= away, or change the stream \
         (nats stream edit {stream} --replicas {asked})"
    )]
    Replicas {
        /// The stream.
        stream: String,
        /// The number in the endpoint.
        asked: usize,
        /// The number that the stream has.
        found: u64,
    },
    /// A setting that would break an invariant, and that jetway leaves as it is.
    #[error(
        "stream {stream} has {setting} = {found}, which jetway cannot use and does not change; expected {expected}. Choose \
         another bucket with --endpoint …?bucket=NAME, or make the stream anew"
    )]
    Unusable {
        /// The stream.
        stream: String,
        /// The setting.
        setting: &'static str,
        /// Its value.
        found: Value,
        /// The value that it must have.
        expected: Value,
    },
    /// The files of the stream exist, but nats-server does not load it.
    #[error(
        "nats-server does not load stream {stream} from {}: meta.inf or meta.sum there is damaged or missing. Restore a copy, or \
         accept the loss with --accept-data-loss",
        folder.display()
    )]
    Unloaded {
        /// The stream.
        stream: String,
        /// Its files.
        folder: PathBuf,
    },
    /// This member has been in its cluster, and the stream of that is not known any more.
    #[error(
        "this member has been in its cluster, whose servers do not know stream {stream} any more: most of them have lost \
         JetStream's metadata. Nothing was changed. Keep a copy of each --data-dir. Then put them back as they were before, or \
         restore a snapshot into empty ones (jetway restore --initial-cluster). With --accept-data-loss the cluster begins empty"
    )]
    Vanished {
        /// The stream.
        stream: String,
    },
    /// The files of a damaged stream cannot be prepared for another load.
    #[error("cannot remove the damaged {}: {source}", file.display())]
    Files {
        /// One of them.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A mirror is served only where the endpoint says so.
    #[error(
        "stream {stream} is a mirror of the one behind {origin}; add mirror= with the domain of that one to --endpoint, to serve \
         it read-only, or make it the primary with jetway promote"
    )]
    IsMirror {
        /// The stream.
        stream: String,
        /// The API of its origin.
        origin: String,
    },
    /// The endpoint asks for a mirror.
    #[error(
        "stream {stream} is not a mirror, and --endpoint asks for one of the stream behind {asked}; leave mirror= away, or remove \
         the stream, which is then made again as a mirror"
    )]
    NoMirror {
        /// The stream.
        stream: String,
        /// The API of the origin that was asked for.
        asked: String,
    },
    /// The primary of a new mirror does not answer.
    #[error(
        "stream {stream} cannot become a mirror: the primary behind {origin} does not answer: {source}; mirror= in --endpoint \
         names its JetStream domain, or the beginning of its API"
    )]
    Origin {
        /// The stream.
        stream: String,
        /// The API of the primary.
        origin: String,
        /// Why.
        source: ApiError,
    },
    /// The origin of a new mirror is not a bucket that jetway writes to.
    #[error(
        "stream {stream} cannot become a mirror: the one behind {origin} is no primary of jetway's, but another program's, of \
         another format, a mirror, or fenced"
    )]
    NoPrimary {
        /// The stream.
        stream: String,
        /// The API of the origin.
        origin: String,
    },
    /// JetStream makes no stream, for a limit of the account or of the servers.
    #[error("cannot make stream {stream}: {source}; {remedy}")]
    Limit {
        /// The stream.
        stream: String,
        /// The refusal.
        source: ApiError,
        /// The way out.
        remedy: String,
    },
    /// The stream's leader is too old.
    #[error("the leader of stream {stream} is {reason}")]
    TooOld {
        /// The stream.
        stream: String,
        /// Its version, and the reason.
        reason: TooOld,
    },
    /// JetStream refused or did not answer.
    #[error("cannot set up stream {stream}: {source}")]
    Api {
        /// The stream.
        stream: String,
        /// Why.
        source: ApiError,
    },
}
