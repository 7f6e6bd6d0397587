//! The first connection of a clustered server that is alone.
//!
//! Raft in nats-server waits at its start until one route, leaf node or gateway is connected, even where one
//! server is the majority. So a server whose cluster has no other started member gets a leaf node for a
//! moment: this process, in an account of its own that holds nothing.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// The line of the configuration that makes the account.
pub(super) const ACCOUNT: &str = "\x20 ANCHOR {}\n";
/// The user of the leaf node.
const USER: &str = "anchor";
/// Longest wait for the listener and for its answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the connection stays. 150 ms are enough on an idle machine.
const CONNECTION_TIME: Duration = Duration::from_secs(5);

/// The listener.
pub(super) fn render(port: u16, token: &str, quote: &impl Fn(&str) -> String) -> String {
    let (listen, token) = (quote(&format!("127.0.0.1:{port}")), quote(token));
    format!(
        "leafnodes {{\n\
         \x20 listen: {listen}\n\
         \x20 authorization {{ user: {USER}, password: {token}, account: ANCHOR }}\n\
         }}\n"
    )
}

/// A port that is free now. The ports file of nats-server does not name that of leaf nodes.
pub(super) async fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?.port())
}

/// Connects to the listener on `port`, and stays for a moment.
pub(super) async fn hold(port: u16, version: String, token: String) {
    match tokio::time::timeout(CONNECT_TIMEOUT, connect(port, &version, &token)).await {
        Ok(Ok(stream)) => {
            let (mut reading, mut bytes) = (stream, [0; 4096]);
            let ended = async { while reading.read(&mut bytes).await.is_ok_and(|read| read > 0) {} };
            tokio::time::timeout(CONNECTION_TIME, ended).await.ok();
        }
        Ok(Err(error)) => tracing::warn!(%error, "nats-server has no first connection yet"),
        Err(_) => tracing::warn!("nats-server takes no leaf node"),
    }
}

async fn connect(port: u16, version: &str, token: &str) -> io::Result<BufReader<TcpStream>> {
    const PAUSE: Duration = Duration::from_millis(10);
    let stream = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let mut stream = BufReader::new(stream);
    stream.read_line(&mut String::new()).await?;
    let hello = serde_json::json!({ "user": USER, "pass": token, "name": USER, "version": version });
    stream.write_all(format!("CONNECT {hello}\r\nPING\r\n").as_bytes()).await?;
    Ok(stream)
}
