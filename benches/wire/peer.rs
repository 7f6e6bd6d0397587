//! The servers under load: where their binaries are, how they start, how they stop.

use crate::load::Failure;
use crate::usage;
use etcd_client::Client;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// For a start and for a stop, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(90);

/// Room for the history of the longest sample; etcd's default of 2 GiB may end one.
const QUOTA_BYTES: &str = "17179869184";

/// The programs that can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// The one from this tree.
    Jetway,
    /// A real etcd.
    Etcd,
}

/// A peer that can be started.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) kind: Kind,
    /// Its name in the table.
    pub(crate) label: String,
    binary: PathBuf,
    more_args: Vec<String>,
}

/// A peer that runs.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: String,
    pub(crate) pid: u32,
    pub(crate) version: String,
    /// When its writes are on disk, in a few words.
    pub(crate) durability: String,
    child: Child,
    dir: TempDir,
}

impl Installation {
    /// Finds the binary. `before` is how many of this kind there are already in this run.
    pub(crate) fn find(kind: Kind, before: usize, jetway_args: &[String]) -> Result<Self, Failure> {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (name, variable, default) = match kind {
            Kind::Jetway => ("jetway", "JETWAY_BENCH_JETWAY", PathBuf::from(env!("CARGO_BIN_EXE_jetway"))),
            Kind::Etcd => ("etcd", "JETWAY_TEST_ETCD", tree.join("target/peers/bin/etcd")),
        };
        let binary = std::env::var_os(variable).map_or(default, PathBuf::from);
        if !binary.is_file() {
            return Err(format!("{variable}: {} is not there; name {name}'s binary", binary.display()).into());
        }
        let label = if before == 0 { name.to_owned() } else { format!("{name} ({})", before + 1) };
        let more_args = if kind == Kind::Jetway { jetway_args.to_vec() } else { Vec::new() };
        Ok(Self { kind, label, binary, more_args })
    }

    /// Starts it on an empty data directory below `parent` and waits until it serves.
    pub(crate) async fn start(&self, parent: &Path) -> Result<Peer, Failure> {
        let dir = tempfile::Builder::new().prefix("jetway-wire-").tempdir_in(parent)?;
        let endpoint = format!("http://127.0.0.1:{}", free_port()?);
        let mut command = Command::new(&self.binary);
        command
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--quota-backend-bytes", QUOTA_BYTES, "--log-level", "warn"])
            .arg("--data-dir")
            .arg(dir.path().join("data"));
        if self.kind == Kind::Etcd {
            let peer_url = format!("http://127.0.0.1:{}", free_port()?);
            let cluster = format!("default={peer_url}");
            command
                .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                .args(["--initial-cluster", &cluster]);
        }
        let log = fs::File::create(dir.path().join("log"))?;
        let child = command
            .args(&self.more_args)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        let pid = child.id().ok_or("it ended at once")?;
        let mut peer = Peer { endpoint, pid, version: String::new(), durability: String::new(), child, dir };
        peer.wait_until_ready().await?;
        peer.durability = self.durability(&peer);
        Ok(peer)
    }

    fn durability(&self, peer: &Peer) -> String {
        match self.kind {
            Kind::Etcd => "group of writes fsynced before its answers".into(),
            Kind::Jetway => {
                let config =
                    fs::read_to_string(peer.dir.path().join("data/nats-server.conf")).unwrap_or_default();
                let interval = config.lines().map(str::trim).find(|line| line.starts_with("sync_interval"));
                let interval = interval.unwrap_or("no sync_interval");
                format!("nats-server with `{interval}`, arguments {:?}", self.more_args)
            }
        }
    }
}

impl Peer {
    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("it ended at its start with {status}{}", self.last_words()).into());
            }
            match self.ask().await {
                Ok(version) => {
                    self.version = version;
                    return Ok(());
                }
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(format!("it does not serve: {error}{}", self.last_words()).into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A linearizable read, which no server answers before it is ready, then its version.
    async fn ask(&self) -> Result<String, etcd_client::Error> {
        let mut client = Client::connect([&self.endpoint], None).await?;
        client.get("ready", None).await?;
        Ok(client.status().await?.version().to_owned())
    }

    /// The end of its log, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(10)..];
        if tail.is_empty() { String::new() } else { format!("\nIts log ends:\n{}", tail.join("\n")) }
    }

    /// Asks it to end, and sees to it that it and all that it started is gone.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        let descendants = usage::tree(self.pid)?;
        signal("-TERM", self.pid).await?;
        let stopped = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        if stopped.is_err() {
            self.child.kill().await?;
        }
        let mut left = Vec::new();
        for pid in descendants {
            if fs::exists(format!("/proc/{pid}"))? {
                signal("-KILL", pid).await?;
                left.push(pid);
            }
        }
        stopped.map_err(|_| format!("it did not stop within {PATIENCE:?}"))??;
        if left.is_empty() { Ok(()) } else { Err(format!("it left processes behind: {left:?}").into()) }
    }
}

/// A port that nobody listens on now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn signal(signal: &str, pid: u32) -> std::io::Result<()> {
    Command::new("kill").args([signal, &pid.to_string()]).status().await.map(drop)
}
