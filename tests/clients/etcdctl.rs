//! etcd's own command line: every command it has.

use std::process::{Command, Stdio};

use crate::script::{QUICK_PASSWORDS, session};
use support::server::{Server, Target, peer, spawn};

#[tokio::test]
async fn keys() {
    session("etcdctl/keys.txt", &[]).await;
}

#[tokio::test]
async fn transactions() {
    session("etcdctl/transactions.txt", &[]).await;
}

#[tokio::test]
async fn leases() {
    session("etcdctl/leases.txt", &[]).await;
}

#[tokio::test]
async fn watches() {
    session("etcdctl/watches.txt", &[]).await;
}

#[tokio::test]
async fn concurrency() {
    session("etcdctl/concurrency.txt", &[]).await;
}

#[tokio::test]
async fn maintenance() {
    session("etcdctl/maintenance.txt", &[]).await;
}

#[tokio::test]
async fn auth() {
    session("etcdctl/auth.txt", &QUICK_PASSWORDS).await;
}

#[tokio::test]
async fn mirror() {
    session("etcdctl/mirror.txt", &[]).await;
}

#[tokio::test]
async fn space() {
    session("etcdctl/space.txt", &["--quota-backend-bytes", "1"]).await;
}

#[tokio::test]
async fn tls() {
    session("etcdctl/tls.txt", &[]).await;
}

#[tokio::test]
async fn offline() {
    session("etcdctl/offline.txt", &[]).await;
}

/// Runs one of etcdctl's own checks, whose figures depend on the machine, and returns what it prints.
async fn check(target: Target, args: &[&str]) -> String {
    let server = Server::launch(target, &[]).await;
    let mut command = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
    command.args(["--endpoints", &server.address(), "check"]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let printed = spawn(command).unwrap().wait_with_output().unwrap();
    assert!(server.client().await.revision().await > 1000, "the load was there");
    String::from_utf8_lossy(&printed.stdout).into_owned()
}

/// Ten thousand keys of a kilobyte, and the memory that the server reports before and after.
#[tokio::test]
async fn check_datascale() {
    let args = ["datascale", "--load", "s", "--auto-compact", "--auto-defrag"];
    for target in [Target::Etcd, Target::from_env()] {
        let printed = check(target, &args).await;
        assert!(printed.contains("PASS: Approximate system memory used"), "{target:?}: {printed}");
    }
}

/// A minute of 150 writes a second. Its verdict on the speed depends on the machine; that no request fails
/// does not.
#[tokio::test]
async fn check_perf() {
    let printed = check(Target::from_env(), &["perf", "--load", "s"]).await;
    assert!(printed.contains("Throughput is"), "{printed}");
    assert!(!printed.contains("too many errors"), "{printed}");
}
