//! A nats-server of our own, for a jetway that finds its NATS running already.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::eventually;
use crate::server::{Port, signal, spawn};

/// The nats-server binary: the one jetway would run, or the one in PATH.
pub fn binary() -> PathBuf {
    std::env::var_os("JETWAY_NATS_SERVER").map_or_else(|| "nats-server".into(), PathBuf::from)
}

/// A running nats-server with JetStream. Dropping it kills the process and removes its store.
pub struct Nats {
    config: String,
    name: String,
    port: Port,
    cluster_port: Port,
    child: Option<Child>,
    // Last, so that the directory goes after the process.
    dir: TempDir,
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nats-server {} at {}", self.name, self.address())
    }
}

impl Nats {
    /// A single server without any credentials.
    pub async fn start() -> Self {
        Self::start_with("").await
    }

    /// A single server with more configuration. `DIR` in it stands for the server's directory, and `ROUTE`
    /// for an address of its own at which other servers may reach it.
    pub async fn start_with(config: &str) -> Self {
        let mut nats = Self::new("n0", config);
        nats.restart().await;
        nats
    }

    /// Three servers that form a cluster.
    pub async fn cluster() -> [Self; 3] {
        let mut nodes = Self::three();
        let addresses = nodes.each_ref().map(Self::route_address);
        Self::join(&mut nodes, "", |_, to| addresses[to].clone()).await;
        nodes
    }

    /// Three servers that are to form a cluster, by [`Nats::join`].
    pub fn three() -> [Self; 3] {
        [Self::new("n0", ""), Self::new("n1", ""), Self::new("n2", "")]
    }

    /// Starts servers that reach each other if `route` is true, for each pair of them. `config` is more of
    /// the block `cluster`.
    pub async fn join(nodes: &mut [Self; 3], config: &str, route: impl Fn(usize, usize) -> String) {
        for (from, node) in nodes.iter_mut().enumerate() {
            let routes: Vec<String> = (0..3).map(|to| format!("nats://{}", route(from, to))).collect();
            node.config = format!(
                "cluster {{ name: c, listen: \"{}\", routes: [{}]\n {config} }}",
                node.route_address(),
                routes.join(", ")
            );
        }
        for node in nodes.iter_mut() {
            node.spawn();
        }
        for node in nodes.iter_mut() {
            node.answers().await;
        }
    }

    /// The address at which other servers of its cluster reach this one.
    pub fn route_address(&self) -> String {
        format!("127.0.0.1:{}", self.cluster_port.number)
    }

    fn new(name: &str, config: &str) -> Self {
        Self {
            config: config.to_owned(),
            name: name.to_owned(),
            port: Port::claim(),
            cluster_port: Port::claim(),
            child: None,
            dir: tempfile::Builder::new().prefix("jetway-test-nats-").tempdir().unwrap(),
        }
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port.number)
    }

    /// The value of `--endpoint` for the bucket named `test`.
    pub fn endpoint(&self) -> String {
        format!("nats://{}?bucket=test", self.address())
    }

    /// Sets what [`Nats::start_with`] sets, for the next start, or for a reload by SIGHUP.
    pub fn set_config(&mut self, config: &str) {
        config.clone_into(&mut self.config);
        self.write_config();
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The folder of JetStream's files.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, number: i32) {
        signal(self.pid(), number);
    }

    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Asks the server to stop, which makes it write everything out, and waits until it has.
    pub async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(child.id(), libc::SIGTERM);
        eventually("nats-server to stop", async || child.try_wait().unwrap()).await;
    }

    /// Starts the server, again, on the same port and store, and waits until it answers.
    pub async fn restart(&mut self) {
        self.spawn();
        self.answers().await;
    }

    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "stop it first");
        let path = self.write_config();
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let mut command = Command::new(binary());
        command.arg("-c").arg(path).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(spawn(command).expect("start nats-server"));
    }

    fn write_config(&self) -> PathBuf {
        let dir = self.dir.path().to_str().unwrap();
        let config = format!(
            "server_name: {name}\nlisten: \"{address}\"\njetstream {{ store_dir: \"{dir}/store\" }}\n{more}\n",
            name = self.name,
            address = self.address(),
            more = self.config.replace("DIR", dir).replace("ROUTE", &self.route_address()),
        );
        let path = self.dir.path().join("nats.conf");
        fs::write(&path, config).unwrap();
        path
    }

    async fn answers(&mut self) {
        let address = self.address();
        let log = self.dir.path().join("log");
        let child = self.child.as_mut().expect("it has just been started");
        eventually("nats-server to answer", async || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("nats-server ended with {status}\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            let ready = fs::read_to_string(&log).unwrap_or_default().contains("Server is ready");
            (ready && TcpStream::connect(&address).await.is_ok()).then_some(())
        })
        .await;
    }

    /// One request below `$JS.API`, over a connection of its own without TLS or credentials. While a cluster
    /// has no leader nobody answers, so it is asked again.
    pub async fn api(&self, request: &str, body: &serde_json::Value) -> serde_json::Value {
        let again = std::time::Duration::from_secs(1);
        eventually("an answer of JetStream's API", async || {
            tokio::time::timeout(again, self.ask(request, body)).await.ok()
        })
        .await
    }

    async fn ask(&self, request: &str, body: &serde_json::Value) -> serde_json::Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.request(|inbox| format!("PUB $JS.API.{request} {inbox} {}\r\n{body}\r\n", body.len())).await
    }

    /// The names of the streams in another JetStream domain, if that one answers in time.
    pub async fn streams_of_domain(&self, domain: &str) -> Option<serde_json::Value> {
        let request = |inbox: &str| format!("PUB $JS.{domain}.API.STREAM.NAMES {inbox} 0\r\n\r\n");
        let answer = tokio::time::timeout(std::time::Duration::from_secs(1), self.request(request)).await;
        Some(answer.ok()?["streams"].clone())
    }

    /// Stores a message with headers, each with its line's end, as another program would; returns JetStream's
    /// answer.
    pub async fn publish(&self, subject: &str, headers: &str, payload: &str) -> serde_json::Value {
        let headers = format!("NATS/1.0\r\n{headers}\r\n");
        let (head, all) = (headers.len(), headers.len() + payload.len());
        self.request(|inbox| format!("HPUB {subject} {inbox} {head} {all}\r\n{headers}{payload}\r\n")).await
    }

    /// One operation of the protocol, which wants its answer at an inbox, and the answer. Each has an inbox
    /// of its own: a leaf connection carries the answers of both servers.
    async fn request(&self, operation: impl FnOnce(&str) -> String) -> serde_json::Value {
        let inbox = format!("answer.{:016x}", rand::random::<u64>());
        let operation = operation(&inbox);
        let mut stream = BufReader::new(TcpStream::connect(self.address()).await.unwrap());
        let commands =
            format!("CONNECT {{\"verbose\":false,\"headers\":true}}\r\nSUB {inbox} 1\r\n{operation}");
        stream.get_mut().write_all(commands.as_bytes()).await.unwrap();
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(stream.read_line(&mut line).await.unwrap(), 0, "nats-server hung up");
            if line.starts_with("MSG ") {
                line.clear();
                stream.read_line(&mut line).await.unwrap();
                return serde_json::from_str(&line).expect("an answer in JSON");
            }
        }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill9();
    }
}
