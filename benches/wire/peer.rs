//! The servers under load: where their binaries are, how they start, how they stop.

use crate::load::Failure;
use crate::process::{Process, Signal, TIMEOUT, end, signal, signal_all};
use crate::usage;
use etcd_client::Client;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command;

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

    /// Whether the benchmark can start several of it that are one.
    fn forms_clusters(self) -> bool {
        matches!(self, Kind::Jetway | Kind::Etcd)
    }

    /// The variable that names its binary, and where the binary is without it.
    fn binary(self) -> (&'static str, PathBuf) {
        match self {
            Kind::Jetway => ("JETWAY_BENCH_JETWAY", PathBuf::from(env!("CARGO_BIN_EXE_jetway"))),
            Kind::Etcd => ("JETWAY_TEST_ETCD", built("etcd")),
            Kind::KineNats | Kind::KineSqlite => ("JETWAY_BENCH_KINE", built("kine")),
            Kind::T4 => ("JETWAY_BENCH_T4", built("t4")),
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
    /// The servers that it consists of.
    members: usize,
    more_args: Vec<String>,
}

/// A peer that runs.
#[derive(Debug)]
pub(crate) struct Peer {
    /// One for each member.
    pub(crate) endpoints: Vec<String>,
    /// The processes from which all others of the peer descend, in the order of the endpoints.
    pub(crate) roots: Vec<u32>,
    /// When its writes are on disk, in a few words.
    pub(crate) durability: String,
    // Before the folder, so that nobody writes there any more when it is removed.
    servers: Vec<Process>,
    dir: TempDir,
}

/// A fault of a member.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// Its process alone is killed, and not what that has started.
    Killed,
    /// Its process is asked to end.
    Terminated,
    /// All its processes are killed.
    NodeKilled,
    /// All its processes stand still for so long.
    NodePaused(Duration),
}

/// A server of a peer before it is started. A peer that is not a cluster has one of them.
#[derive(Debug)]
struct Member {
    name: String,
    dir: PathBuf,
    endpoint: String,
    /// The address where the other members reach it.
    peer: String,
}

impl Installation {
    /// Finds the binary. `before` is how many of this kind there are already in this run.
    pub(crate) fn find(
        kind: Kind,
        before: usize,
        members: usize,
        jetway_args: &[String],
    ) -> Result<Self, Failure> {
        let name = kind.name();
        let is_cluster = members > 1;
        if is_cluster && !kind.forms_clusters() {
            return Err(format!("--peers: of {name} there is no cluster here").into());
        }
        let (variable, default) = kind.binary();
        let binary = located(variable, default)?;
        let label = if before == 0 { name.to_owned() } else { format!("{name} ({})", before + 1) };
        let more_args = if kind == Kind::Jetway { jetway_args.to_vec() } else { Vec::new() };
        let version = version(&binary, if kind == Kind::T4 { "version" } else { "--version" })?;
        Ok(Self { kind, label, version, binary, members, more_args })
    }

    /// Starts it on an empty data directory below `parent` and waits until it serves.
    pub(crate) async fn start(&self, parent: &Path) -> Result<Peer, Failure> {
        self.start_in(tempfile::Builder::new().prefix("jetway-wire-").tempdir_in(parent)?).await
    }

    /// Starts it on what an earlier one of its kind has left, and waits until it serves.
    pub(crate) async fn start_in(&self, dir: TempDir) -> Result<Peer, Failure> {
        let members = self.members(dir.path())?;
        let mut peer = Peer {
            endpoints: members.iter().map(|member| member.endpoint.clone()).collect(),
            roots: Vec::new(),
            durability: self.durability(),
            servers: Vec::new(),
            dir,
        };
        let started = self.start_members(&members, &mut peer).await;
        peer.with_logs(started)?;
        peer.roots = peer.servers.iter().map(|process| process.pid).collect();
        Ok(peer)
    }

    async fn start_members(&self, members: &[Member], peer: &mut Peer) -> Result<(), Failure> {
        for member in members {
            let mut command = Command::new(&self.binary);
            self.arguments(&mut command, member, members)?;
            command.args(&self.more_args);
            peer.servers.push(Process::spawn(&mut command, &member.dir, "log")?);
        }
        for (process, member) in peer.servers.iter_mut().zip(members) {
            // A linearizable read, which no server answers before it is ready.
            process
                .wait_until(async || {
                    Client::connect([&member.endpoint], None).await?.get("ready", None).await.map(drop)
                })
                .await?;
        }
        Ok(())
    }

    /// Gives each member ports, and a folder below `dir`.
    fn members(&self, dir: &Path) -> Result<Vec<Member>, Failure> {
        let mut members = Vec::new();
        for (number, [client, peer]) in (1..).zip(free_ports(self.members)?) {
            let name = format!("n{number}");
            let dir = dir.join(&name);
            fs::create_dir_all(&dir)?;
            members.push(Member { name, dir, endpoint: format!("http://{client}"), peer: peer.to_string() });
        }
        Ok(members)
    }

    /// Each peer answers a write when it is on the disk, and keeps all history: etcd does so by itself, of
    /// the others it has to be asked.
    fn arguments(&self, command: &mut Command, member: &Member, members: &[Member]) -> Result<(), Failure> {
        let data = member.dir.join("data");
        let endpoint = &member.endpoint;
        let address = endpoint.trim_start_matches("http://");
        match self.kind {
            Kind::Jetway | Kind::Etcd => {
                command
                    .args(["--name", &member.name])
                    .args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint])
                    .args(["--quota-backend-bytes", QUOTA_BYTES, "--log-level", "warn"]);
                command.arg("--data-dir").arg(data);
                if self.kind == Kind::Etcd || members.len() > 1 {
                    let peer_url = format!("http://{}", member.peer);
                    let cluster: Vec<String> = members
                        .iter()
                        .map(|member| format!("{}=http://{}", member.name, member.peer))
                        .collect();
                    command
                        .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
                        .args(["--initial-cluster", &cluster.join(",")]);
                }
            }
            Kind::KineNats => {
                fs::create_dir_all(&data)?;
                let config = member.dir.join("nats.conf");
                fs::write(&config, jetstream(&data))?;
                let store = format!("nats://?dontListen&serverConfig={}", config.display());
                kine_listens(command, &store, address);
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
            }
            Kind::T4 => {
                // Alone it has no members to listen to.
                let metrics = &member.peer;
                command
                    .args(["run", "--listen", address, "--metrics-addr", metrics, "--log-level", "warn"])
                    .arg("--data-dir")
                    .arg(data);
            }
        }
        Ok(())
    }

    /// When its writes are on disk, in a few words.
    fn durability(&self) -> String {
        let members = self.members;
        match self.kind {
            Kind::Jetway if members > 1 => {
                format!("{members} members, each message synced by most of them before it is answered")
            }
            Kind::Jetway | Kind::Etcd => {
                let sync = self.more_args.iter().position(|arg| arg == "--sync");
                match sync.and_then(|at| self.more_args.get(at + 1)) {
                    Some(sync) => format!("`--sync {sync}`"),
                    None if members > 1 => format!(
                        "{members} members: most have synced a group of writes before they are answered, as it comes"
                    ),
                    None => "a sync for each group of writes, before they are answered, as it comes".into(),
                }
            }
            Kind::KineNats => "each message synced before it is answered (`sync_interval: always`; its default is two minutes later)".into(),
            Kind::KineSqlite => "each commit synced before it is answered (`_synchronous=FULL`; its default NORMAL syncs at checkpoints)".into(),
            Kind::T4 => {
                "a sync for each group of writes, before they are answered, as it comes without an object store".into()
            }
        }
    }
}

/// The binary that a variable names, or else the default.
fn located(variable: &str, default: PathBuf) -> Result<PathBuf, Failure> {
    let binary = std::env::var_os(variable).map_or(default, PathBuf::from);
    if binary.is_file() {
        return Ok(binary);
    }
    let binary = binary.display();
    Err(format!("{variable}: {binary} is not there; name the binary, or build it: make peers bench-peers")
        .into())
}

/// The place where `make` puts a binary.
fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin").join(name)
}

/// The name that the binary prints when it is given this argument.
fn version(binary: &Path, argument: &str) -> Result<String, Failure> {
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
    /// Lets one member fail, and no other. Returns when its process is gone, or goes on.
    pub(crate) async fn fail_member(&mut self, member: usize, fault: Fault) -> Result<(), Failure> {
        let process = &mut self.servers[member];
        let tree = usage::tree(&[process.pid])?;
        match fault {
            Fault::Killed => signal(Signal::Kill, process.pid).await?,
            Fault::Terminated => signal(Signal::Terminate, process.pid).await?,
            Fault::NodeKilled => signal_all(Signal::Kill, &tree).await?,
            Fault::NodePaused(time) => {
                signal_all(Signal::Stop, &tree).await?;
                tokio::time::sleep(time).await;
                return Ok(signal_all(Signal::Continue, &tree).await?);
            }
        }
        tokio::time::timeout(TIMEOUT, process.child.wait())
            .await
            .map_err(|_| format!("it did not end within {TIMEOUT:?}"))??;
        Ok(())
    }

    /// The size of its data on the disk, in bytes.
    pub(crate) fn disk(&self) -> std::io::Result<u64> {
        blocks_below(self.dir.path())
    }

    /// The same outcome; a failure gets the ends of the peer's logs.
    pub(crate) fn with_logs<T>(&self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        outcome.map_err(|failure| {
            let logs: String = self.servers.iter().map(Process::log_tail).collect();
            format!("{failure}{logs}").into()
        })
    }

    /// Asks it to end, sees to it that it and all that it started is gone, and gives its data.
    pub(crate) async fn stop(mut self) -> Result<TempDir, Failure> {
        end(&mut self.servers).await?;
        Ok(self.dir)
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

/// Three addresses for each of `count` servers, on ports that nobody listens on now.
fn free_ports(count: usize) -> std::io::Result<Vec<[SocketAddr; 2]>> {
    // All are held until the last one is found, so that none is found twice.
    let mut held = Vec::new();
    for _ in 0..2 * count {
        held.push(TcpListener::bind("127.0.0.1:0")?);
    }
    let addresses = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    Ok(addresses.as_chunks().0.to_vec())
}

/// The flags of kine that do not depend on its store.
fn kine_listens(command: &mut Command, store: &str, address: &str) {
    command.args(["--endpoint", store, "--listen-address", address, "--metrics-bind-address", "0"]);
}

/// nats-server's configuration of a JetStream that keeps its files in this folder, each message synced.
fn jetstream(data: &Path) -> String {
    format!("jetstream {{ store_dir: \"{}\", sync_interval: always }}\n", data.display())
}
