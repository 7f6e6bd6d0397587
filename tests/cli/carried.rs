//! One file, and nothing else on the machine: a jetway that carries its nats-server.

use std::fs;
use std::path::PathBuf;

use crate::program::{Program, Running, WorkingFolder, children_of, etcdctl};
use support::eventually;
use support::server::{Port, signal};

/// The children of the server by the names that `ps` and `pgrep` show.
fn children(server: &Running) -> Vec<(u32, String)> {
    let name = |pid: u32| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    children_of(server.pid())
        .into_iter()
        .filter_map(|pid| Some((pid, name(pid)?.trim().to_owned())))
        .collect()
}

/// A link named etcd in an empty folder, and nothing in `PATH`, serves. A nats-server that is killed is
/// replaced by the same one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a jetway that carries its nats-server: make carried"]
async fn a_link_in_an_empty_folder_serves() {
    let carrier = std::env::var_os("JETWAY_TEST_CARRIER").expect("a jetway: make carried names it");
    let folder = WorkingFolder::with(&fs::canonicalize(PathBuf::from(carrier)).unwrap());
    let (client, peer) = (Port::claim(), Port::claim());
    let url = format!("http://127.0.0.1:{}", client.number);
    let mut command = folder.command(Program::Link);
    command
        .arg(format!("--listen-client-urls={url}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg(format!("--listen-peer-urls=http://127.0.0.1:{}", peer.number))
        .arg("--data-dir=data")
        .env("PATH", "")
        .env_remove("JETWAY_NATS_SERVER");
    let server = folder.start(command).await;
    let endpoint = [format!("--endpoints={url}")];
    etcdctl(&endpoint, &["put", "greeting", "hello"]);

    let [(first, name)] = children(&server).try_into().expect("one child");
    assert_eq!(name, "nats-server");
    let started = server.line("nats-server is ready").expect("the line of the start");
    assert!(started["binary"].as_str().unwrap().starts_with("carried, SHA-256 "), "{started}");
    assert!(!folder.path("data/nats-server").exists(), "it runs from memory");

    signal(first, libc::SIGKILL);
    let second = eventually("another nats-server", async || {
        children(&server).into_iter().find(|&(pid, _)| pid != first)
    })
    .await;
    eventually("the other one to serve", async || server.line("nats-server is ready again")).await;
    assert_eq!(children(&server), [(second.0, "nats-server".to_owned())]);
    assert!(etcdctl(&endpoint, &["get", "greeting"]).contains("hello"));
    assert_eq!(server.stop().await, Some(0));
}
