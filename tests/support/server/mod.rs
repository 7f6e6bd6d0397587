//! A jetway or an etcd process of our own: fresh directory, free port, gone when the test is.

mod port;
mod process;

pub use port::Port;
pub use process::{alive, nats_of, signal, spawn};

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use process::limit_descriptors;

use crate::client::Client;
use crate::network::Host;
use crate::{CAUGHT_UP, eventually};

/// Which server a test talks to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Target {
    Jetway,
    Etcd,
}

impl Target {
    /// The one named by `JETWAY_TEST_TARGET`, jetway by default.
    pub fn from_env() -> Self {
        Self::named(&std::env::var("JETWAY_TEST_TARGET").unwrap_or_else(|_| "jetway".into()))
    }

    pub fn named(name: &str) -> Self {
        match name {
            "jetway" => Self::Jetway,
            "etcd" => Self::Etcd,
            other => panic!("unknown target {other:?}: give jetway or etcd"),
        }
    }

    fn binary(self) -> PathBuf {
        match self {
            Self::Jetway => jetway(),
            Self::Etcd => peer("JETWAY_TEST_ETCD", "etcd"),
        }
    }
}

/// The jetway of this build, which cargo puts beside the folder of the test programs. Cargo names it to the
/// targets of the package `jetway` only.
pub fn jetway() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.ancestors().nth(2).expect("a test program lies in a folder of cargo").join("jetway");
    assert!(path.exists(), "no jetway at {}: run the test with cargo", path.display());
    path
}

/// A program that is not jetway: the path in the environment variable, else the one that the Makefile builds.
pub fn peer(variable: &str, name: &str) -> PathBuf {
    let path = std::env::var_os(variable).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/peers/bin").join(name),
        PathBuf::from,
    );
    assert!(path.exists(), "no {name} at {}: run `make peers` or name it in {variable}", path.display());
    path
}

/// A running server. Dropping it kills the process and removes its data.
pub struct Server {
    target: Target,
    /// Another program than the target's own.
    program: Option<PathBuf>,
    /// A command in the place of serving, and its flags.
    command: Vec<String>,
    args: Vec<String>,
    also_on: Vec<String>,
    descriptors: Option<u64>,
    variables: Vec<(String, String)>,
    client_port: Port,
    peer_port: Port,
    /// The host that it runs on, if not this one.
    host: Option<Host>,
    child: Option<Child>,
    // Last, so that the directory goes after the process.
    dir: TempDir,
}

/// How a server is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Launch<'a> {
    /// More flags.
    pub args: &'a [&'a str],
    /// More client URLs, beside the plain one that every test server has.
    pub also_on: &'a [&'a str],
    /// Most file descriptors that it may have, if not as many as this process.
    pub descriptors: Option<u64>,
    /// More variables of its environment.
    pub variables: &'a [(&'a str, &'a str)],
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at {}", self.target, self.endpoint())
    }
}

impl Server {
    /// A fresh server of the target under test.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// As [`Server::start`], with more flags.
    pub async fn start_with(args: &[&str]) -> Self {
        Self::launch(Target::from_env(), args).await
    }

    /// A fresh server of the given kind.
    pub async fn launch(target: Target, args: &[&str]) -> Self {
        Self::launch_as(target, Launch { args, ..Launch::default() }).await
    }

    /// As [`Server::launch`], with all settings.
    pub async fn launch_as(target: Target, launch: Launch<'_>) -> Self {
        let mut server = Self::create(target, launch);
        server.run().await;
        server
    }

    /// A server of the target under test that is yet to be started, by [`Server::restart`].
    pub fn prepare(args: &[&str]) -> Self {
        Self::create(Target::from_env(), Launch { args, ..Launch::default() })
    }

    /// Another program for the next start.
    pub fn set_program(&mut self, program: &Path) {
        self.program = Some(program.to_owned());
    }

    /// A variable in the environment of the next start.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.variables.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the process and waits for nothing.
    pub fn begin(&mut self) {
        assert!(self.child.is_none(), "stop it first");
        self.spawn();
    }

    /// A server that is yet to be started.
    pub fn create(target: Target, launch: Launch<'_>) -> Self {
        let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
        Self {
            target,
            args: owned(launch.args),
            also_on: owned(launch.also_on),
            descriptors: launch.descriptors,
            program: None,
            command: Vec::new(),
            variables: launch
                .variables
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect(),
            client_port: Port::claim(),
            peer_port: Port::claim(),
            host: None,
            child: None,
            dir: tempfile::Builder::new().prefix("jetway-test-").tempdir().unwrap(),
        }
    }

    /// Starts jetway with flags with which it cannot serve; returns its exit status and its output. The flags
    /// come last and so win over those that every test server gets.
    pub async fn fails_to_start(args: &[&str]) -> (ExitStatus, String) {
        Self::fails_to_start_as(Target::Jetway, Launch { args, ..Launch::default() }).await
    }

    /// As [`Server::fails_to_start`], for either server.
    pub async fn fails_to_start_as(target: Target, launch: Launch<'_>) -> (ExitStatus, String) {
        let mut server = Self::create(target, launch);
        server.spawn();
        let child = server.child.as_mut().expect("it has just been started");
        let status = eventually("the server to give up", async || child.try_wait().unwrap()).await;
        server.child = None;
        (status, server.log())
    }

    /// One server for all tests of the process that keep to a prefix of their own.
    pub async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Option<Arc<Server>>> = tokio::sync::Mutex::const_new(None);
        extern "C" fn stop() {
            if let Ok(mut shared) = SHARED.try_lock() {
                drop(shared.take());
            }
        }
        let mut shared = SHARED.lock().await;
        if let Some(server) = &*shared {
            return server.clone();
        }
        // A static is never dropped, and the server has a directory to remove.
        #[expect(unsafe_code, reason = "the standard library has no hook for the end of a process")]
        // SAFETY: `stop` is a function without captures that stays valid until the process ends.
        unsafe {
            libc::atexit(stop);
        }
        shared.insert(Arc::new(Self::start().await)).clone()
    }

    pub fn target(&self) -> Target {
        self.target
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    pub fn address(&self) -> String {
        format!("{}:{}", self.ip(), self.client_port.number)
    }

    /// The address on which the other members of a cluster reach it.
    pub fn peer_address(&self) -> String {
        format!("{}:{}", self.ip(), self.peer_port.number)
    }

    fn ip(&self) -> &str {
        self.host.as_ref().map_or("127.0.0.1", |host| &host.address)
    }

    /// Moves a server that is yet to be started to a host of its own.
    pub fn set_host(&mut self, host: Host) {
        self.host = Some(host);
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// The nats-server that jetway runs as its child.
    pub fn nats_pid(&self) -> u32 {
        self.find_nats_pid().unwrap_or_else(|| panic!("{self:?} has no nats-server\n{}", self.log()))
    }

    /// As [`Self::nats_pid`], `None` while there is none.
    pub fn find_nats_pid(&self) -> Option<u32> {
        nats_of(self.pid())
    }

    /// The output of the process so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.endpoint()).await
    }

    /// Kills the process as a power cut of its own would: no handler runs.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Ends all processes of the server as a power cut does. A stopped nats-server would not do: the kernel
    /// wakes it when jetway ends, and it then ends in order.
    pub fn kill_machine(&mut self) {
        if let Some(nats) = self.find_nats_pid() {
            // So that it does not start another one.
            signal(self.pid(), libc::SIGSTOP);
            signal(nats, libc::SIGKILL);
        }
        self.kill9();
    }

    /// Whether it was started, and neither killed nor awaited.
    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// How the process has ended by itself, if it has.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().expect("it was started").try_wait().unwrap()
    }

    /// Asks the process to stop and waits until it has.
    pub async fn stop(&mut self) -> ExitStatus {
        signal(self.pid(), libc::SIGTERM);
        self.ended().await
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("the server runs");
        let status = eventually("the server to stop", async || child.try_wait().unwrap()).await;
        self.child = None;
        status
    }

    /// Starts the process again on the same directory and port.
    pub async fn restart(&mut self) {
        assert!(self.child.is_none(), "stop it first");
        self.run().await;
    }

    /// Starts the process again where it cannot serve, and waits until it has given up.
    pub async fn ends(&mut self) -> ExitStatus {
        assert!(self.child.is_none(), "stop it first");
        self.spawn();
        self.ended().await
    }

    /// Starts the process again where it may be unable to serve; fails with the way it ended.
    pub async fn try_restart(&mut self) -> Result<(), String> {
        assert!(self.child.is_none(), "stop it first");
        self.spawn();
        let served = self.serves().await;
        if served.is_err() {
            self.kill9();
        }
        served
    }

    /// The next starts run this command with the flags of a server.
    pub fn set_command(&mut self, command: &[&str]) {
        self.command = command.iter().map(ToString::to_string).collect();
    }

    /// Replaces the flags of the next start.
    pub fn set_args(&mut self, args: &[&str]) {
        self.args = args.iter().map(ToString::to_string).collect();
    }

    async fn run(&mut self) {
        self.spawn();
        self.is_up().await;
    }

    /// Waits until the process that was started serves.
    pub async fn is_up(&mut self) {
        if let Err(problem) = self.serves().await {
            panic!("{self:?} {problem}\n{}", self.log());
        }
    }

    fn spawn(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let program = self.program.clone().unwrap_or_else(|| self.target.binary());
        let mut command = match &self.host {
            Some(host) => host.command(&program),
            None => Command::new(&program),
        };
        let mut listen = self.also_on.clone();
        listen.insert(0, self.endpoint());
        command
            .args(&self.command)
            .args(["--listen-client-urls", &listen.join(","), "--advertise-client-urls", &self.endpoint()])
            .arg("--data-dir")
            .arg(self.dir.path().join("data"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let given = |flag: &str| self.args.iter().any(|arg| arg == flag);
        if !given("--watch-progress-notify-interval") {
            command.args(["--watch-progress-notify-interval", "1s"]);
        }
        match self.target {
            Target::Etcd => {
                let peer = format!("http://{}", self.peer_address());
                command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
                command.args(["--initial-cluster", &format!("default={peer}"), "--unsafe-no-fsync"]);
            }
            Target::Jetway if !given("--sync") => {
                command.args(["--sync", "lazy"]);
            }
            Target::Jetway => {}
        }
        command.args(&self.args).envs(self.variables.iter().cloned());
        if let Some(descriptors) = self.descriptors {
            limit_descriptors(&mut command, descriptors);
        }
        self.child = Some(spawn(command).expect("start the server"));
    }

    /// Waits until the server answers a read, and fails at once if it ends instead.
    async fn serves(&mut self) -> Result<(), String> {
        let client = Client::lazy(&self.endpoint());
        let serving = async {
            loop {
                if let Some(status) = self.child.as_mut().expect("the server runs").try_wait().unwrap() {
                    return Err(format!("ended with {status}"));
                }
                match tokio::time::timeout(Duration::from_secs(1), client.get("health")).await {
                    Ok(Ok(_)) => return Ok(()),
                    // With auth on, only a server that serves asks who this is.
                    Ok(Err(status)) if status.message().ends_with("user name is empty") => return Ok(()),
                    Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                    // Asked again, in case the server has ended meanwhile.
                    Err(_) => {}
                }
            }
        };
        // A member of a cluster waits for the copy on its server for 30 s by itself.
        let served = tokio::time::timeout(CAUGHT_UP, serving).await;
        served.unwrap_or_else(|_| Err(format!("does not serve after {CAUGHT_UP:?}")))
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the log of {self:?}:\n{}", self.log());
        }
        if self.child.is_none() {
            return;
        }
        // No graceful stop: the client of the test still holds its connection, and a drain would wait for it.
        let nats = self.find_nats_pid();
        self.kill9();
        // nats-server ends with jetway, and the directory must not go before it.
        while nats.is_some_and(alive) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
