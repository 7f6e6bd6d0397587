//! The version of a nats-server over the network.

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::access::refused;
use support::client::put;
use support::eventually;
use support::nats::Nats;
use support::server::Server;

/// The first line of a server, whose version another one replaces.
fn with_version(line: &str, version: &str) -> String {
    let mut info: serde_json::Value = serde_json::from_str(line.strip_prefix("INFO ").unwrap()).unwrap();
    info["version"] = version.into();
    format!("INFO {info}\r\n")
}

/// An address at which a server reports another version. A new version ends all connections.
async fn address_with_version(server: String, version: watch::Receiver<Option<&'static str>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let (server, mut version) = (server.clone(), version.clone());
            tokio::spawn(async move {
                let mut server = BufReader::new(TcpStream::connect(server).await.unwrap());
                let mut line = String::new();
                server.read_line(&mut line).await.unwrap();
                let reported = *version.borrow_and_update();
                let line = reported.map_or_else(|| line.clone(), |reported| with_version(&line, reported));
                if client.write_all(line.as_bytes()).await.is_ok() {
                    tokio::select! {
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                        _ = version.changed() => {}
                    }
                }
            });
        }
    });
    address
}

const WORDS: [&str; 3] = ["nats-server 2.11.9", "jetway needs 2.14.4 or newer", "recommended: 2.15.1"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_that_is_too_old_is_refused_at_the_start_and_at_each_reconnection() {
    let nats = Nats::start().await;
    let (version, reported) = watch::channel(Some("2.11.9"));
    let endpoint = format!("nats://{}?bucket=test", address_with_version(nats.address(), reported).await);
    let output = refused(&["--endpoint", &endpoint]).await;
    assert!(WORDS.iter().all(|word| output.contains(word)), "{output}");

    version.send_replace(None);
    let server = Server::start_with(&["--endpoint", &endpoint]).await;
    let client = server.client().await;
    client.put("/k", "v").await;
    version.send_replace(Some("2.11.9"));
    eventually("the warning", async || {
        let log = server.log();
        let line = log.lines().find(|line| line.contains("WARN") && line.contains(WORDS[0]))?;
        WORDS.iter().all(|word| line.contains(word)).then_some(())
    })
    .await;
    client.put_request(put("/k", "w")).await.unwrap_err();
    assert_eq!(server.log().matches(WORDS[1]).count(), 1, "{}", server.log());
    version.send_replace(None);
    eventually("a write", async || client.put_request(put("/k", "x")).await.ok()).await;
}

/// One server of several that is too old is passed over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_of_an_endpoint_that_are_new_enough_are_used() {
    let nats = Nats::start().await;
    let (version, reported) = watch::channel(None);
    let endpoint = format!(
        "nats://{},{}?bucket=test",
        address_with_version(nats.address(), reported).await,
        nats.address()
    );
    let server = Server::start_with(&["--endpoint", &endpoint]).await;
    let client = server.client().await;
    client.put("/k", "v").await;
    version.send_replace(Some("2.11.9"));
    for at in 0..20 {
        eventually("a write", async || client.put_request(put(format!("/{at}"), "w")).await.ok()).await;
    }
}
