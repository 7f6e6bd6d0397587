//! Supervisor of the embedded nats-server: one child process that keeps jetway's data.
//!
//! It finds a binary that is new enough, writes its configuration, starts it, waits until JetStream has recovered its
//! store, starts it again when it dies, forwards its log lines, and stops it. It knows nothing of streams, and speaks no
//! NATS beyond the first line that a server sends: what comes out is an address, a token and a [`Status`] to follow.
//!
//! Everything runs on one thread of its own, with a current-thread tokio runtime on it. The thread is there because the
//! kernel ties a parent-death signal to the *thread* that forked, not to the process: a child started from one of the
//! caller's worker threads would be told to stop when that worker goes away.
//!
//! Invariants:
//! - **N1** One data directory, one jetway: an exclusive lock on `jetway.lock` is held from before the first look at the
//!   directory until the child is gone.
//! - **N2** One store, one nats-server: two on one store corrupt it, and nats-server itself does not look. The child holds
//!   a lock of its own, on `nats-server.lock`, as its standard output. So the lock lasts exactly as long as the process,
//!   however its jetway ended, and no server is started while another one still writes its index.
//! - **N3** The child never outlives jetway by more than its clean stop: SIGTERM comes from the kernel when the supervisor
//!   thread ends, whatever ended it.
//! - **N4** The child is alone in its process group: Ctrl-C in a terminal reaches jetway only, which drains before it
//!   stops the child.
//! - **N5** A store is run standalone for ever or clustered for ever (`mode`): nats-server deletes the streams of a
//!   standalone store half a minute after it is started with a cluster block.
//! - **N6** The port and the token stay the same for the life of a [`NatsServer`], so that clients reconnect by
//!   themselves. The port changes only when another program took it while the child was down, and [`Status`] says so.
//!
//! What a crash leaves in the data directory: both lock files (locked by nobody), `nats-server.conf` with a token that no
//! longer opens anything, and perhaps a `.ports` file. All are written anew at the next start.
//!
//! Linux only: `/proc`, the parent-death signal and `flock` semantics are used.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

mod binary;
mod child;
mod config;
mod data_dir;
mod error;
mod extra_config;
mod log;
mod ready;
mod signal;
mod supervisor;

pub use error::Error;
pub use extra_config::ExtraConfigError;
#[cfg(any(fuzzing, test))]
pub(crate) use extra_config::fuzz as fuzz_config;

/// How the server brings acknowledged messages to stable storage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMode {
    /// fsync after each message, before its acknowledgement; its folders by syncs from outside, as with `Group`.
    #[default]
    Always,
    /// By syncs from outside, many messages with one: see [`crate::durability`].
    Group,
    /// The server's own interval (two minutes): a power cut loses what was acknowledged since.
    Lazy,
}

/// What to run, where, and how long to wait.
#[derive(Clone, Debug)]
pub struct NatsServerSettings {
    /// The nats-server binary (`--nats-server`). `None`: `JETWAY_NATS_SERVER`, then beside this executable, then `PATH`.
    pub binary: Option<PathBuf>,
    /// Holds the store (`nats/`), the configuration and the locks. Created with mode 0700 if missing.
    pub data_dir: PathBuf,
    /// A nats-server configuration file of the user's to include (`--nats-config`): leaf nodes, monitoring, routes. It may
    /// not set what jetway sets itself.
    pub extra_config: Option<PathBuf>,
    pub sync: SyncMode,
    /// Largest message, headers included.
    pub max_payload_bytes: u32,
    /// Most bytes JetStream may store; `None` for no limit of its own.
    pub max_file_store_bytes: Option<u64>,
    /// How long the server may take to recover its store before the start is given up.
    pub ready_timeout: Duration,
    /// How long the server may take to stop before it is killed; also how long a server left over from an earlier jetway
    /// may take.
    pub stop_timeout: Duration,
}

impl NatsServerSettings {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            binary: None,
            data_dir: data_dir.into(),
            extra_config: None,
            sync: SyncMode::default(),
            max_payload_bytes: 8 << 20,
            max_file_store_bytes: None,
            ready_timeout: Duration::from_mins(10),
            stop_timeout: Duration::from_mins(1),
        }
    }
}

/// Where the child is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// The first start is under way.
    Starting,
    /// Accepts connections, with JetStream recovered. `generation` counts the starts that came this far, from 1.
    Running { port: u16, generation: u64 },
    /// It went away; a new one is being started. `attempt` counts the starts tried since it last ran, from 1.
    Restarting { cause: String, attempt: u32 },
    /// [`NatsServer::stop`] was called, or the handle dropped, and the process is gone.
    Stopped,
}

/// How the child ended after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Clean,
    /// It did not end within `stop_timeout`: nothing durable is lost, but the next start rebuilds its index.
    Killed,
}

/// A running nats-server. Dropping the handle stops the server too, without waiting for it.
#[derive(Debug)]
pub struct NatsServer {
    token: String,
    version: String,
    status: watch::Receiver<Status>,
    write_error: watch::Receiver<Option<String>>,
    ending: watch::Receiver<Option<Ending>>,
    /// The supervisor stops the child when this turns true, and when it is dropped.
    stop: watch::Sender<bool>,
    stop_timeout: Duration,
    synced_store: Option<PathBuf>,
}

/// What the supervisor thread reports once, when the first start has succeeded.
#[derive(Debug)]
struct Started {
    token: String,
    version: String,
}

impl NatsServer {
    /// Starts the server and waits until it accepts connections with JetStream ready, which takes as long as the recovery
    /// of the store. Dropping the future stops what it started.
    pub async fn start(settings: NatsServerSettings) -> Result<Self, Error> {
        let (status_tx, status) = watch::channel(Status::Starting);
        let (write_error_tx, write_error) = watch::channel(None);
        let (ending_tx, ending) = watch::channel(None);
        let (stop, stop_rx) = watch::channel(false);
        let (started_tx, started) = oneshot::channel();
        let stop_timeout = settings.stop_timeout;
        // With `Always` the server syncs each message, but never the folders: a new block would be lost with its name.
        let synced_store = (settings.sync != SyncMode::Lazy).then(|| store_dir(&settings.data_dir));
        let outputs =
            supervisor::Outputs { status: status_tx, write_error: write_error_tx, ending: ending_tx };
        std::thread::Builder::new()
            .name("nats-supervisor".into())
            .spawn(move || supervisor::thread(settings, outputs, stop_rx, started_tx))
            .map_err(Error::Thread)?;
        let Started { token, version } = started.await.map_err(|_| Error::SupervisorGone)??;
        Ok(Self { token, version, status, write_error, ending, stop, stop_timeout, synced_store })
    }

    /// The port of the newest run, on 127.0.0.1. Follow [`Self::status`] for a change.
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

    /// The JetStream store, if it is for us to bring it to the disk.
    pub fn synced_store(&self) -> Option<PathBuf> {
        self.synced_store.clone()
    }

    /// The secret that opens a connection (`auth_token` in a client's CONNECT). Drawn anew by each [`Self::start`].
    pub fn token(&self) -> &str {
        &self.token
    }

    /// The server's version, as `2.15.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// The server's first complaint that its store can no longer be written (full disk, I/O error). From then on it leaves
    /// publishes unanswered until it is restarted, which the supervisor does once there is room again. `None` when well.
    pub fn write_error(&self) -> watch::Receiver<Option<String>> {
        self.write_error.clone()
    }

    /// Stops the server and waits until its process is gone. Calling it again waits likewise.
    pub async fn stop(&self) -> Result<(), Error> {
        self.stop.send_replace(true);
        let mut ending = self.ending.clone();
        let ending = *ending.wait_for(Option::is_some).await.map_err(|_| Error::SupervisorGone)?;
        match ending {
            Some(Ending::Killed) => Err(Error::StopTimeout { after: self.stop_timeout }),
            _ => Ok(()),
        }
    }
}

/// Where the store of a data directory is.
pub fn store_dir(data_dir: &std::path::Path) -> PathBuf {
    data_dir.join("nats")
}

/// The address of the embedded server on `port`.
pub fn client_url(port: u16) -> String {
    format!("nats://127.0.0.1:{port}")
}
