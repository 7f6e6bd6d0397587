//! Servers that a killed or abandoned process has left behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use jetway::nats_server::{Error, NatsServer, NatsServerSettings};
use support::eventually;
use support::server::{alive, signal};
use tempfile::TempDir;

use super::{nats_server, ports_files, server_pid, settings};

#[tokio::test]
async fn an_abandoned_start_leaves_no_process() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_owned();
    let record = path.join("nats-server.lock");
    let start = tokio::spawn(NatsServer::start(settings(&path)));
    eventually("the process exists", async || {
        fs::read_to_string(&record).ok().filter(|text| text.ends_with('\n'))
    })
    .await;
    let pid = server_pid(&path);
    start.abort();
    drop(start.await);
    eventually("the process is gone", async || (!alive(pid)).then_some(())).await;
}

/// Makes this test binary act as a jetway that runs a server on the directory for ever.
const OTHER_DIR: &str = "JETWAY_TEST_OTHER_DIR";

#[tokio::test]
async fn a_server_stops_cleanly_when_its_jetway_is_killed() {
    if let Some(dir) = std::env::var_os(OTHER_DIR) {
        let _server = NatsServer::start(settings(Path::new(&dir))).await.unwrap();
        std::future::pending::<()>().await;
    }
    let dir = TempDir::new().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "leftovers::a_server_stops_cleanly_when_its_jetway_is_killed"])
        .env(OTHER_DIR, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the other one's server is ready", async || (ports_files(dir.path()) == 1).then_some(()))
        .await;
    let pid = server_pid(dir.path());
    other.kill().unwrap();
    other.wait().unwrap();
    eventually("the server is gone", async || (!alive(pid)).then_some(())).await;
    assert_eq!(ports_files(dir.path()), 0, "a clean stop removes the ports file");
    NatsServer::start(settings(dir.path())).await.unwrap().stop().await.unwrap();
}

/// A server on the store in `dir` that no jetway watches any more, stopped in its tracks: as if it took its
/// time to write its index. It holds the store's lock in the way a supervisor has its child hold it.
async fn left_over(dir: &Path) -> std::process::Child {
    NatsServer::start(settings(dir)).await.unwrap().stop().await.unwrap();
    let lock_path = dir.join("nats-server.lock");
    let lock = fs::File::open(&lock_path).unwrap();
    lock.try_lock().unwrap();
    let server = Command::new(nats_server())
        .arg("-c")
        .arg(dir.join("nats-server.conf").canonicalize().unwrap())
        .stdout(lock)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let pid = server.id();
    eventually("the server is ready", async || (ports_files(dir) == 1).then_some(())).await;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let start_ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap();
    fs::write(&lock_path, format!("{pid} {start_ticks}\n")).unwrap();
    signal(pid, libc::SIGSTOP);
    server
}

#[tokio::test]
async fn a_start_waits_for_the_server_of_a_dead_process() {
    let dir = TempDir::new().unwrap();
    let mut old = left_over(dir.path()).await;
    let start = tokio::spawn(NatsServer::start(settings(dir.path())));
    // It is asked to stop, and cannot yet.
    let status = format!("/proc/{}/status", old.id());
    eventually("the signal is pending", async || {
        let status = fs::read_to_string(&status).unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
        (u64::from_str_radix(pending.trim(), 16).unwrap() & (1 << (libc::SIGTERM - 1)) != 0).then_some(())
    })
    .await;
    assert!(!start.is_finished());
    signal(old.id(), libc::SIGCONT);
    let server = start.await.unwrap().unwrap();
    assert!(old.try_wait().unwrap().expect("it is gone").success());
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_hanging_server_of_a_dead_process_is_killed() {
    use std::os::unix::process::ExitStatusExt;
    let dir = TempDir::new().unwrap();
    let mut old = left_over(dir.path()).await;
    let hurried = NatsServerSettings { stop_timeout: Duration::from_millis(300), ..settings(dir.path()) };
    let server = NatsServer::start(hurried).await.unwrap();
    assert_eq!(old.try_wait().unwrap().expect("it is gone").signal(), Some(libc::SIGKILL));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_does_not_stop_is_killed() {
    let dir = TempDir::new().unwrap();
    let hurried = NatsServerSettings { stop_timeout: Duration::from_millis(300), ..settings(dir.path()) };
    let server = NatsServer::start(hurried).await.unwrap();
    let pid = server_pid(dir.path());
    signal(pid, libc::SIGSTOP);
    let error = server.stop().await.unwrap_err();
    assert!(matches!(error, Error::StopTimeout { .. }), "{error}");
    assert!(!alive(pid));
}
