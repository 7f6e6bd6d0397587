//! Processes with a command line of their own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::eventually;
use crate::server::{alive, jetway, peer, signal, spawn};

/// The program that is called `etcd`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Program {
    /// jetway, by a link of that name.
    Link,
    /// etcd itself.
    Etcd,
}

/// A directory to run in, with links to jetway named `etcd` and `kine` in it.
pub struct WorkingFolder {
    dir: TempDir,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    /// All it printed, in which quotes inside of JSON are plain ones.
    pub output: String,
}

impl Default for WorkingFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl WorkingFolder {
    pub fn new() -> Self {
        Self::with(&jetway())
    }

    /// The link is to another jetway than that of the tests.
    pub fn with(jetway: &Path) -> Self {
        let dir = tempfile::Builder::new().prefix("jetway-cli-").tempdir().unwrap();
        for name in ["etcd", "kine"] {
            std::os::unix::fs::symlink(jetway, dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// A command that runs here.
    pub fn command(&self, program: Program) -> Command {
        self.command_of(match program {
            Program::Link => self.path("etcd"),
            Program::Etcd => peer("JETWAY_TEST_ETCD", "etcd"),
        })
    }

    /// The same for any program.
    pub fn command_of(&self, program: PathBuf) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        command
    }

    /// Runs a command that is expected to end by itself.
    pub async fn run(&self, mut command: Command) -> Ended {
        let log = tempfile::NamedTempFile::new_in(self.dir.path()).unwrap();
        command.stdout(log.reopen().unwrap()).stderr(log.reopen().unwrap());
        let what = format!("{command:?} to end");
        let mut child = Running { child: spawn(command).unwrap(), log: log.path().to_owned() };
        let status = eventually(&what, async || child.child.try_wait().unwrap()).await;
        let status = status.code().unwrap_or_else(|| -status.signal().unwrap());
        Ended { status, output: child.log().replace("\\\"", "\"") }
    }

    /// Starts a command that is expected to serve.
    pub async fn start(&self, command: Command) -> Running {
        self.start_logging_to(command, &self.path("log")).await
    }

    /// The same, of which the log may be elsewhere.
    pub async fn start_logging_to(&self, command: Command, log: &Path) -> Running {
        let mut running = Running::begin(command, log);
        running.serves().await;
        running
    }
}

/// A server. Dropping it kills it.
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    /// Starts a command and waits for nothing.
    pub fn begin(mut command: Command, log: &Path) -> Self {
        let output = File::options().create(true).append(true).open(log).unwrap();
        // The lines of an earlier start are not those of this one.
        output.set_len(0).unwrap();
        command.stdout(output.try_clone().unwrap()).stderr(output);
        Self { child: spawn(command).unwrap(), log: log.to_owned() }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its line of readiness.
    pub async fn serves(&mut self) {
        eventually("the server to serve", async || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{}", self.log());
            self.log().contains("ready to serve client requests").then_some(())
        })
        .await;
    }

    /// Asks it to stop and waits until it has.
    pub async fn stop(mut self) -> Option<i32> {
        signal(self.child.id(), libc::SIGTERM);
        eventually("the server to stop", async || self.child.try_wait().unwrap()).await.code()
    }

    /// The line of its JSON log that has this message.
    pub fn line(&self, message: &str) -> Option<serde_json::Value> {
        line_of(&self.log(), message)
    }
}

/// The line of a JSON log that has this message.
pub fn line_of(log: &str, message: &str) -> Option<serde_json::Value> {
    log.lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find(|line| line["msg"] == message)
}

impl Drop for Running {
    fn drop(&mut self) {
        let children = children_of(self.child.id());
        drop(self.child.kill());
        drop(self.child.wait());
        // nats-server ends with its parent, and the directory must not go before it.
        while children.iter().any(|&pid| alive(pid)) {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// The processes that any thread of the parent started.
pub fn children_of(parent: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Runs etcdctl to its end.
pub fn etcdctl(flags: &[impl AsRef<OsStr>], args: &[&str]) -> String {
    try_etcdctl(flags, args).unwrap_or_else(|output| panic!("{args:?}: {output}"))
}

/// As [`etcdctl`], which may fail.
pub fn try_etcdctl(flags: &[impl AsRef<OsStr>], args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
    command.args(flags).args(args).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let both = text(&output.stdout) + &text(&output.stderr);
    if output.status.success() { Ok(both) } else { Err(both) }
}

/// Assignments of a file in the form that systemd and shells read.
pub fn assignments(path: &Path) -> Vec<(String, String)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.split_once('=').unwrap();
            (name.to_owned(), value.trim_matches('"').to_owned())
        })
        .collect()
}
