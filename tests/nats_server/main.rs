//! The supervisor of the embedded nats-server, against a real one.

mod leftovers;
mod refusals;
mod runs;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use jetway::nats_server::{NatsServer, NatsServerSettings, Status};
use support::TIMEOUT;
use support::server::peer;

/// The program that the supervisor runs.
fn nats_server() -> PathBuf {
    peer("JETWAY_NATS_SERVER", "nats-server")
}

fn settings(dir: &Path) -> NatsServerSettings {
    NatsServerSettings { binary: Some(nats_server()), ready_timeout: TIMEOUT, ..NatsServerSettings::new(dir) }
}

/// The next run after `generation`, with its port.
async fn running_after(server: &NatsServer, generation: u64) -> (u16, u64) {
    let mut status = server.status();
    let newer = status
        .wait_for(|status| matches!(status, Status::Running { generation: now, .. } if *now > generation));
    let newer = tokio::time::timeout(TIMEOUT, newer)
        .await
        .expect("it comes back")
        .expect("the supervisor lives")
        .clone();
    let Status::Running { port, generation } = newer else { unreachable!("the wait was for this one") };
    (port, generation)
}

/// The process that holds the store.
fn server_pid(dir: &Path) -> u32 {
    loop {
        // It is empty for a moment while it is written anew.
        let record = fs::read_to_string(dir.join("nats-server.lock")).unwrap();
        if let Some((pid, _)) = record.split_once(' ').filter(|_| record.ends_with('\n')) {
            return pid.parse().unwrap();
        }
    }
}

fn ports_files(dir: &Path) -> usize {
    fs::read_dir(dir)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|e| e == "ports"))
        .count()
}

async fn connect(server: &NatsServer) -> async_nats::Client {
    options(server).connect(server.client_url().unwrap()).await.unwrap()
}

/// With the token of the run to which it connects.
fn options(server: &NatsServer) -> async_nats::ConnectOptions {
    let token = server.token();
    async_nats::ConnectOptions::with_auth_callback(move |_| {
        let mut auth = async_nats::Auth::new();
        auth.username = Some("jetway".to_owned());
        auth.password.clone_from(&token.borrow());
        async { Ok(auth) }
    })
}

/// A request over the client, asked again until it is answered: the connection may just have been lost.
async fn ask(client: &async_nats::Client, subject: &'static str, body: &'static str) -> serde_json::Value {
    let started = Instant::now();
    loop {
        match client.request(subject, body.into()).await {
            Ok(answer) => return serde_json::from_slice(&answer.payload).unwrap(),
            Err(error) => assert!(started.elapsed() < TIMEOUT, "{subject}: {error}"),
        }
    }
}
