//! The servers under load: where their binaries are, how they start, how they stop.

use crate::load::Failure;
use crate::usage;
use etcd_client::Client;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
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
    /// kine with the NATS that it embeds.
    KineNats,
    /// kine with SQLite.
    KineSqlite,
    /// T4 without an object store.
    T4,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Jetway => "jetway",
            Kind::Etcd => "etcd",
            Kind::KineNats => "kine, NATS",
            Kind::KineSqlite => "kine, SQLite",
            Kind::T4 => "T4",
        }
    }

    /// Whether it counts the writes of a key, so that a client can check that it has seen all.
    pub(crate) fn counts_versions(self) -> bool {
        !matches!(self, Kind::KineNats | Kind::KineSqlite)
    }

    /// The variable that names its binary, and where the binary is without it.
    fn binary(self) -> (&'static str, PathBuf) {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin");
        match self {
            Kind::Jetway => ("JETWAY_BENCH_JETWAY", PathBuf::from(env!("CARGO_BIN_EXE_jetway"))),
            Kind::Etcd => ("JETWAY_TEST_ETCD", peers.join("etcd")),
            Kind::KineNats | Kind::KineSqlite => ("JETWAY_BENCH_KINE", peers.join("kine")),
            Kind::T4 => ("JETWAY_BENCH_T4", peers.join("t4")),
        }
    }
}

/// A peer that can be started.
#[derive(Debug)]
pub(crate) struct Installation {
    pub(crate) kind: Kind,
    /// Its name in the table.
    pub(crate) label: String,
    pub(crate) version: String,
    binary: PathBuf,
    more_args: Vec<String>,
}

/// A peer that runs.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) endpoint: String,
    pub(crate) pid: u32,
    /// When its writes are on disk, in a few words.
    pub(crate) durability: String,
    // Before the folder, so that nobody writes there any more when it is removed.
    process: Process,
    dir: TempDir,
}

/// A process that does not outlive its owner, nor do those that it has started.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Without an id it was waited for, and the number may be another's by now.
        let Some(descendants) = self.0.id().and_then(|pid| usage::tree(pid).ok()) else { return };
        let pids = descendants.iter().map(u32::to_string);
        if let Err(error) = std::process::Command::new("kill").arg("-KILL").args(pids).status() {
            eprintln!("wire: {descendants:?} are left behind: {error}");
        }
    }
}

impl Installation {
    /// Finds the binary. `before` is how many of this kind there are already in this run.
    pub(crate) fn find(kind: Kind, before: usize, jetway_args: &[String]) -> Result<Self, Failure> {
        let name = kind.name();
        let (variable, default) = kind.binary();
        let binary = std::env::var_os(variable).map_or(default, PathBuf::from);
        if !binary.is_file() {
            return Err(format!(
                "{variable}: {} is not there; name {name}'s binary, or build it: make bench-peers",
                binary.display()
            )
            .into());
        }
        let label = if before == 0 { name.to_owned() } else { format!("{name} ({})", before + 1) };
        let more_args = if kind == Kind::Jetway { jetway_args.to_vec() } else { Vec::new() };
        let version = version(kind, &binary)?;
        Ok(Self { kind, label, version, binary, more_args })
    }

    /// Starts it on an empty data directory below `parent` and waits until it serves.
    pub(crate) async fn start(&self, parent: &Path) -> Result<Peer, Failure> {
        self.start_in(tempfile::Builder::new().prefix("jetway-wire-").tempdir_in(parent)?).await
    }

    /// Starts it on what an earlier one of its kind has left, and waits until it serves.
    pub(crate) async fn start_in(&self, dir: TempDir) -> Result<Peer, Failure> {
        let endpoint = format!("http://127.0.0.1:{}", free_port()?);
        let mut command = Command::new(&self.binary);
        let durability = self.arguments(&mut command, dir.path(), &endpoint)?;
        let log = fs::File::create(dir.path().join("log"))?;
        let child = command
            .args(&self.more_args)
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.binary.display()))?;
        let pid = child.id().ok_or("it ended at once")?;
        let mut peer = Peer { endpoint, pid, durability, process: Process(child), dir };
        peer.wait_until_ready().await?;
        Ok(peer)
    }

    /// Each peer answers a write when it is on the disk, and keeps all history: etcd does so by itself, of the others it
    /// has to be asked. Tells the durability in a few words.
    fn arguments(&self, command: &mut Command, dir: &Path, endpoint: &str) -> Result<String, Failure> {
        let data = dir.join("data");
        let address = endpoint.trim_start_matches("http://");
        match self.kind {
            Kind::Jetway | Kind::Etcd => {
                command
                    .args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint])
                    .args(["--quota-backend-bytes", QUOTA_BYTES, "--log-level", "warn"])
                    .arg("--data-dir")
                    .arg(data);
                if self.kind == Kind::Etcd {
                    let peer_url = format!("http://127.0.0.1:{}", free_port()?);
                    let cluster = format!("default={peer_url}");
                    command
                        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                        .args(["--initial-cluster", &cluster]);
                }
                let sync = self.more_args.iter().position(|arg| arg == "--sync");
                Ok(match sync.and_then(|at| self.more_args.get(at + 1)) {
                    Some(sync) => format!("`--sync {sync}`"),
                    None => "a sync for each group of writes, before they are answered, as it comes".into(),
                })
            }
            Kind::KineNats => {
                fs::create_dir_all(&data)?;
                let config = dir.join("nats.conf");
                let jetstream =
                    format!("jetstream {{ store_dir: \"{}\", sync_interval: always }}\n", data.display());
                fs::write(&config, jetstream)?;
                let store = format!("nats://?dontListen&serverConfig={}", config.display());
                kine_listens(command, &store, address);
                Ok("each message synced before it is answered (`sync_interval: always`; its default is two minutes later)".into())
            }
            Kind::KineSqlite => {
                fs::create_dir_all(&data)?;
                // kine's own parameters with FULL for NORMAL, which in WAL mode syncs at checkpoints only.
                let store = format!(
                    "sqlite://{}?_journal_mode=WAL&_busy_timeout=30000&_synchronous=FULL&_txlock=immediate\
                     &_stmt_cache_size=20&cache=shared",
                    data.join("state.db").display()
                );
                kine_listens(command, &store, address);
                Ok("each commit synced before it is answered (`_synchronous=FULL`; its default NORMAL syncs at checkpoints)".into())
            }
            Kind::T4 => {
                let metrics = format!("127.0.0.1:{}", free_port()?);
                command
                    .args(["run", "--listen", address, "--metrics-addr", &metrics, "--log-level", "warn"])
                    .arg("--data-dir")
                    .arg(data);
                Ok("a sync for each group of writes, before they are answered, as it comes without an object store".into())
            }
        }
    }
}

/// What the binary calls itself.
fn version(kind: Kind, binary: &Path) -> Result<String, Failure> {
    let argument = if kind == Kind::T4 { "version" } else { "--version" };
    let output = std::process::Command::new(binary)
        .arg(argument)
        .output()
        .map_err(|error| format!("{}: {error}", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.lines().next().unwrap_or_default().split_whitespace();
    let number = |word: &str| word.trim_start_matches('v').starts_with(|first: char| first.is_ascii_digit());
    Ok(words.map(str::to_owned).find(|word| number(word)).unwrap_or_else(|| "of an unknown version".into()))
}

impl Peer {
    async fn wait_until_ready(&mut self) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.process.0.try_wait()? {
                return Err(format!("it ended at its start with {status}{}", self.last_words()).into());
            }
            match self.ask().await {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > PATIENCE => {
                    return Err(format!("it does not serve: {error}{}", self.last_words()).into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A linearizable read, which no server answers before it is ready.
    async fn ask(&self) -> Result<(), etcd_client::Error> {
        Client::connect([&self.endpoint], None).await?.get("ready", None).await.map(drop)
    }

    /// What its data takes on the disk, in bytes.
    pub(crate) fn disk(&self) -> std::io::Result<u64> {
        blocks_below(self.dir.path())
    }

    /// The end of its log, for an error message.
    pub(crate) fn last_words(&self) -> String {
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(10)..];
        if tail.is_empty() { String::new() } else { format!("\nIts log ends:\n{}", tail.join("\n")) }
    }

    /// Asks it to end, sees to it that it and all that it started is gone, and gives its data.
    pub(crate) async fn stop(mut self) -> Result<TempDir, Failure> {
        let descendants = usage::tree(self.pid)?;
        signal("-TERM", self.pid).await?;
        let stopped = tokio::time::timeout(PATIENCE, self.process.0.wait()).await;
        if stopped.is_err() {
            self.process.0.kill().await?;
        }
        let mut left = Vec::new();
        for pid in descendants {
            if fs::exists(format!("/proc/{pid}"))? {
                signal("-KILL", pid).await?;
                left.push(pid);
            }
        }
        stopped.map_err(|_| format!("it did not stop within {PATIENCE:?}"))??;
        if left.is_empty() { Ok(self.dir) } else { Err(format!("it left processes behind: {left:?}").into()) }
    }
}

fn blocks_below(dir: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A file may go away while the server that owns it runs.
        let Ok(facts) = entry.metadata() else { continue };
        bytes += if facts.is_dir() { blocks_below(&entry.path())? } else { facts.blocks() * 512 };
    }
    Ok(bytes)
}

/// A port that nobody listens on now.
fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

async fn signal(signal: &str, pid: u32) -> std::io::Result<()> {
    Command::new("kill").args([signal, &pid.to_string()]).status().await.map(drop)
}

/// What kine is told whatever its store is.
fn kine_listens(command: &mut Command, store: &str, address: &str) {
    command.args(["--endpoint", store, "--listen-address", address, "--metrics-bind-address", "0"]);
}
