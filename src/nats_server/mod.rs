//! Supervisor of the embedded nats-server: one child process that keeps jetway's data.
//!
//! It finds a binary that is new enough, writes its configuration, starts it, waits until JetStream has
//! recovered its store, starts it again when it dies, forwards its log lines, and stops it. It reads only the
//! first line of the NATS protocol and knows no streams. Its results are an address, a token of each run and
//! a [`Status`].
//!
//! Everything runs on one thread of its own, with a current-thread tokio runtime. The kernel ties a
//! parent-death signal to the *thread* that forked, and not to the process: a child of one of the caller's
//! worker threads would get the signal when that thread ends.
//!
//! Invariants:
//! - **N1** One data directory, one jetway: an exclusive lock on `jetway.lock` is held from before the first
//!   access to the directory until the child has ended.
//! - **N2** One store, one nats-server: two on one store corrupt it, and nats-server itself does not check.
//!   The child holds a lock of its own, on `nats-server.lock`, as its standard output. So the lock lasts
//!   exactly as long as the process, even if jetway was killed, and no server is started while another one
//!   still writes its index.
//! - **N3** The child never outlives jetway by more than its clean stop: the kernel sends SIGTERM when the
//!   supervisor thread ends for any reason.
//! - **N4** The child is alone in its process group: Ctrl-C in a terminal reaches jetway alone, which drains
//!   before it stops the child.
//! - **N5** A store is run in the mode that it records (`mode`): nats-server deletes the streams of a
//!   standalone store half a minute after it is started with a cluster block. Only a conversion changes the
//!   mode, after it has prepared what the other mode needs.
//! - **N6** The port stays the same for the life of a [`NatsServer`], so that clients reconnect by
//!   themselves. If another program takes it while the child is down, the child is started again until the
//!   port is free.
//! - **N7** Each run of the child has a token of its own. It is published when this run's process listens on
//!   the port, and withdrawn when the process ends. A program that listens there in between gets the token of
//!   no run that is still to come.
//! - **N8** Behind a server that has ended without a stop, removed messages are taken out of the blocks of
//!   the store before the next start. The recovery of nats-server 2.15.1 rewrites a block in the middle of
//!   its work if more than half of the block was removed, and drops the removals in it that it has not yet
//!   applied. It then knows them in memory alone. After another end without a stop, removed messages would be
//!   there again, and the log would seem to be damaged.
//! - **N9** Behind a clean stop damaged records are taken out of the blocks of a store that is not a
//!   member's, before the first start. nats-server cuts a block off at a damaged record, also at a start that
//!   jetway refuses afterwards. The data directory keeps the block as it was (`damaged`).
//!
//! A crash leaves these files in the data directory: both lock files, without locks, `nats-server.conf` with
//! a token that is not valid any more, `nats-server.running` (N8), and perhaps a `.ports` file. The next
//! start writes all of them again.
//!
//! Linux only: `/proc`, the parent-death signal and `flock` semantics are used.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

mod anchor;
mod binary;
mod blocks;
mod carried;
mod child;
mod cluster;
mod config;
mod config_scanner;
mod conversion;
mod data_dir;
mod error;
mod extra_config;
mod log;
mod preparation;
mod ready;
mod restored;
mod salvage;
mod signal;
mod supervisor;
mod vitals;

pub use carried::carried_version;
pub(crate) use cluster::{ACCOUNT, MEMBER_TAG, OBSERVER_TAG, SYSTEM_USER, USER, server_tag};
pub use cluster::{
    ClusterSettings, Members, PeerTls, Restored, has_joined, is_member, keep_member_id, member_id,
    own_peer_urls, remember_member, remember_members, remember_name, remember_removal, remembered_members,
    restored, restored_token, sole_member_id,
};
#[cfg(any(fuzzing, test))]
pub(crate) use config_scanner::fuzz as fuzz_config;
pub(crate) use data_dir::spend_reserve;
pub use error::Error;
pub use extra_config::{ExtraConfigError, store_of_kine};
pub(crate) use preparation::{PreparationError, prepare};
pub(crate) use restored::{
    begin_restore, check_unlocked, is_unfinished_restore, restore_holder, restore_other,
};
use vitals::Vitals;

/// The way in which acknowledged messages become durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// The server syncs after each message, before its acknowledgement. jetway syncs the folders, as with
    /// `Group`.
    #[default]
    Always,
    /// jetway syncs, many messages at once: see the module `durability`.
    Group,
    /// The server syncs every two minutes. A power cut loses the messages that were acknowledged since.
    Lazy,
}

/// Settings of the embedded server.
#[derive(Clone, Debug)]
pub struct NatsServerSettings {
    /// The nats-server binary (`--nats-server`). `None`: `JETWAY_NATS_SERVER`, the one that this executable
    /// carries, beside this executable, `PATH`.
    pub binary: Option<PathBuf>,
    /// Directory of the store (`nats/`), the configuration and the locks. Created with mode 0700 if missing.
    pub data_dir: PathBuf,
    /// The user's nats-server configuration file to include (`--nats-config`): leaf nodes, monitoring,
    /// routes. It may not set jetway's own keys.
    pub extra_config: Option<PathBuf>,
    /// Whether that file is `serverConfig` of kine's endpoint, which may hold settings of kine's own server.
    pub extra_config_is_of_kine: bool,
    /// The JetStream domain (`--nats-js-domain`).
    pub domain: Option<String>,
    pub sync: SyncMode,
    /// The cluster that the server is part of; `None` for a server of its own.
    pub cluster: Option<ClusterSettings>,
    /// The server only meets the members of the cluster: it has no JetStream, so that it is in no group of
    /// theirs, and a name of its own. It leaves no record in the data directory.
    pub observes_at: Option<ObserverPort>,
    /// Largest message, headers included.
    pub max_payload_bytes: u32,
    /// Most bytes JetStream may store; `None` for no limit of its own.
    pub max_file_store_bytes: Option<u64>,
    /// Whether nothing of it goes to the log, where its caller reports what fails.
    pub is_quiet: bool,
    /// Longest recovery of the store before the start fails.
    pub ready_timeout: Duration,
    /// Longest stop before the server is killed; also that of a server that an earlier jetway left over.
    pub stop_timeout: Duration,
}

impl NatsServerSettings {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: None,
            data_dir: data_dir.into(),
            extra_config: None,
            extra_config_is_of_kine: false,
            domain: None,
            sync: SyncMode::default(),
            cluster: None,
            observes_at: None,
            max_payload_bytes: 8 << 20,
            max_file_store_bytes: None,
            is_quiet: false,
            ready_timeout: Duration::from_mins(10),
            stop_timeout: Duration::from_mins(1),
        }
    }
}

impl NatsServerSettings {
    /// Whether the server only meets the members of the cluster.
    fn is_observer(&self) -> bool {
        self.observes_at.is_some()
    }
}

/// The route port of an observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObserverPort {
    /// Any. A running process of the member may hold that of the member.
    Any,
    /// That of the member, at which members reach it that it does not know.
    OfMember,
}

/// The directory in the data directory in which two servers prepare JetStream's metadata.
const PREPARATION: &str = "preparation";

/// The form in which the server is run.
#[derive(Debug)]
pub enum Form {
    /// By itself.
    Standalone {
        /// Whether the copy of the store is taken, because the member was not found to hold all of it.
        from_copy: bool,
    },
    /// As the only member of a cluster, which others may join.
    Member {
        /// Its settings.
        settings: Box<ClusterSettings>,
        /// The data directory of the server that prepared JetStream's metadata, and has stopped.
        prepared: PathBuf,
    },
}

/// A change of the form, and the receiver of its outcome.
#[derive(Debug)]
struct Change {
    form: Form,
    done: oneshot::Sender<Result<(), Error>>,
}

/// The state of the child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The first start is under way.
    Starting,
    /// Accepts connections, with JetStream recovered. `generation` counts the starts that came this far, from
    /// 1.
    Running { port: u16, generation: u64 },
    /// It has ended, and a new one is being started. `attempt` counts the starts since it last ran, from 1.
    Restarting { cause: String, attempt: u32 },
    /// [`NatsServer::stop`] was called, or the handle was dropped, and the process has ended.
    Stopped,
}

/// The end of the child after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Clean,
    /// It did not end within `stop_timeout`: nothing durable is lost, but the next start rebuilds its index.
    Killed,
}

/// A running nats-server. Dropping the handle stops the server too, without waiting for it.
#[derive(Debug)]
pub struct NatsServer {
    token: watch::Receiver<Option<String>>,
    version: String,
    member_id: Option<u64>,
    members: Members,
    status: watch::Receiver<Status>,
    write_error: watch::Receiver<Option<String>>,
    ending: watch::Receiver<Option<Ending>>,
    /// The supervisor stops the child when this becomes true or is dropped.
    stop: watch::Sender<bool>,
    changes: mpsc::Sender<Change>,
    settings: NatsServerSettings,
    vitals: Arc<Vitals>,
}

/// The supervisor thread's report about the first start.
#[derive(Debug)]
struct Started {
    version: String,
    member_id: Option<u64>,
    members: Members,
}

impl NatsServer {
    /// Starts the server and waits until it accepts connections with JetStream ready, which takes as long as
    /// the recovery of the store. Dropping the future stops the server.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub async fn start(settings: NatsServerSettings) -> Result<Self, Error> {
        let (status_tx, status) = watch::channel(Status::Starting);
        let (token_tx, token) = watch::channel(None);
        let (write_error_tx, write_error) = watch::channel(None);
        let (ending_tx, ending) = watch::channel(None);
        let (stop, stop_rx) = watch::channel(false);
        let (started_tx, started) = oneshot::channel();
        let (changes, changes_rx) = mpsc::channel(1);
        let kept = settings.clone();
        let vitals = Arc::new(Vitals::new());
        let outputs = supervisor::Outputs {
            status: status_tx,
            token: token_tx,
            write_error: write_error_tx,
            ending: ending_tx,
            vitals: Arc::clone(&vitals),
        };
        std::thread::Builder::new()
            .name("nats-supervisor".into())
            .spawn(move || supervisor::thread(settings, outputs, stop_rx, changes_rx, started_tx))
            .map_err(Error::Thread)?;
        let Started { version, member_id, members } = started.await.map_err(|_| Error::SupervisorGone)??;
        Ok(Self {
            token,
            version,
            member_id,
            members,
            status,
            write_error,
            ending,
            stop,
            changes,
            settings: kept,
            vitals,
        })
    }

    /// Stops the server and starts it again in another form, on the same port and store. After an error it
    /// runs in the form that it had.
    ///
    /// # Errors
    /// [`enum@Error`].
    pub async fn change(&self, form: Form) -> Result<(), Error> {
        let (done, outcome) = oneshot::channel();
        self.changes.send(Change { form, done }).await.map_err(|_| Error::SupervisorGone)?;
        outcome.await.map_err(|_| Error::SupervisorGone)?
    }

    /// Removes the copy of the store from which the form of a server alone could be had back.
    ///
    /// # Errors
    /// That of the file system.
    pub fn discard_copy(&self) -> std::io::Result<()> {
        for dir in [copy_dir(&self.settings.data_dir), self.settings.data_dir.join(PREPARATION)] {
            match std::fs::remove_dir_all(dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The settings of the start.
    pub fn settings(&self) -> &NatsServerSettings {
        &self.settings
    }

    /// The port, on 127.0.0.1; `None` while the server is down.
    pub fn port(&self) -> Option<u16> {
        match *self.status.borrow() {
            Status::Running { port, .. } => Some(port),
            _ => None,
        }
    }

    /// `nats://127.0.0.1:<port>`, without the token; `None` while the server is down.
    pub fn client_url(&self) -> Option<String> {
        self.port().map(client_url)
    }

    /// The JetStream store, if jetway must sync it while it is the only copy. With [`SyncMode::Always`] and
    /// in a cluster the server syncs each message, but never the folders: a new block would be lost with its
    /// name.
    pub fn synced_store(&self) -> Option<PathBuf> {
        (self.settings.sync != SyncMode::Lazy).then(|| store_dir(&self.settings.data_dir))
    }

    /// The password of a connection to the present run, whose user is `jetway`; `None` while the server is
    /// down. A connection must have been opened after the token was taken.
    pub fn token(&self) -> watch::Receiver<Option<String>> {
        self.token.clone()
    }

    /// The server's version, as `2.15.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The id of this member of a cluster; `None` without a cluster.
    pub fn member_id(&self) -> Option<u64> {
        self.member_id
    }

    /// The members of the server's cluster, as far as they are known at its start; none without a cluster.
    pub fn members(&self) -> &Members {
        &self.members
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The server's first error that its store cannot be written (full disk, I/O error); `None` without one.
    /// After it the server leaves publishes unanswered until a restart. The supervisor restarts it once there
    /// is room again.
    pub fn write_error(&self) -> watch::Receiver<Option<String>> {
        self.write_error.clone()
    }

    /// Stops the server and waits until its process has ended. May be called again.
    ///
    /// # Errors
    /// [`Error::StopTimeout`], [`Error::SupervisorGone`].
    pub async fn stop(&self) -> Result<(), Error> {
        self.stop.send_replace(true);
        let mut ending = self.ending.clone();
        let ending = *ending.wait_for(Option::is_some).await.map_err(|_| Error::SupervisorGone)?;
        match ending {
            Some(Ending::Killed) => Err(Error::StopTimeout { after: self.settings.stop_timeout }),
            _ => Ok(()),
        }
    }
}

/// The path of the store in a data directory.
pub fn store_dir(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("nats")
}

/// The path of the copy that a change of the form keeps for a moment.
fn copy_dir(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("nats.kept")
}

/// The address of the embedded server on `port`.
pub fn client_url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}
