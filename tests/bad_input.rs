//! Mistakes of those who start jetway, and a disk that is full: each is told in words that name the remedy, and ends in
//! an exit or an etcd error, never in a panic or a hang.
#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and is read from top to bottom"
)]

#[path = "support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use support::client::{Client, put};
use support::eventually;
use support::nats::Nats;
use support::server::Server;
use tonic::Code;

/// Starts jetway with flags with which it must not serve. Everything in `words` must be in what it says.
async fn refused(args: &[&str], words: &[&str]) {
    let began = Instant::now();
    let (status, said) = Server::fails_to_start(args).await;
    assert!(status.code().is_some_and(|code| code != 0), "{args:?} ended with {status}: {said}");
    assert!(!said.contains("panicked"), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in what jetway says about {args:?}: {said}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{args:?} took {:?}", began.elapsed());
}

#[tokio::test]
async fn flags_that_mean_nothing_are_named() {
    // In the words of Go's flags, which know one dash.
    refused(&["--no-such-flag"], &["-no-such-flag", "--help"]).await;
    refused(&["--max-txn-ops", "many"], &["-max-txn-ops", "many", "expected a number"]).await;
    refused(&["--listen-client-urls", "localhost:1"], &["-listen-client-urls", "localhost:1", "http://"])
        .await;
    refused(&["--endpoint", "http://127.0.0.1:1"], &["--endpoint", "nats"]).await;
    refused(&["--endpoint", "nats://127.0.0.1:1?colour=red"], &["--endpoint", "colour"]).await;
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    let words = ["--listen-client-urls", &url, "in use"];
    refused(&["--listen-client-urls", &url], &words).await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written_is_named() {
    let dir = tempfile::tempdir().unwrap();
    // Not even root can make a directory below a file.
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("data");
    refused(&["--data-dir", below.to_str().unwrap()], &["--data-dir", below.to_str().unwrap()]).await;
    refused(&["--data-dir", "/proc/no-place-for-data"], &["--data-dir", "/proc/no-place-for-data"]).await;
}

#[tokio::test]
async fn a_second_instance_on_a_data_directory_is_refused_and_the_first_goes_on() {
    let first = Server::start().await;
    let client = first.client().await;
    let data = first.dir().join("data");
    let pid = first.pid().to_string();
    refused(&["--data-dir", data.to_str().unwrap()], &["in use by another jetway", &pid, "--data-dir"]).await;
    let written = client.put("/k", "v").await;
    assert_eq!(client.kv("/k").await.unwrap().mod_revision, written);
}

#[tokio::test]
async fn a_nats_server_that_is_missing_or_unfit_is_named_with_the_way_to_another() {
    refused(&["--nats-server", "/no/such/nats-server"], &["/no/such/nats-server"]).await;
    let dir = tempfile::tempdir().unwrap();
    let script = |name: &str, prints: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{prints}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let old = script("old", "nats-server: v2.10.22");
    refused(&["--nats-server", &old], &["2.10.22", "2.14.4", "recommended", &old]).await;
    let other = script("other", "no server at all");
    refused(&["--nats-server", &other], &["does not look like a nats-server", &other]).await;
}

#[tokio::test]
async fn a_nats_that_is_not_there_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(&["--endpoint", &format!("nats://{free}")], &["--endpoint", &free.to_string()]).await;
}

#[tokio::test]
async fn a_nats_without_jetstream_is_refused() {
    // An account that has no JetStream, on a server that has.
    let config = "accounts { A { users: [{ user: a, password: a }] }, B { jetstream: enabled } }";
    let nats = Nats::start_with(config).await;
    let endpoint = format!("nats://a:a@{}", nats.address());
    refused(&["--endpoint", &endpoint], &["JetStream"]).await;
}

#[tokio::test]
async fn a_bucket_of_somebody_else_is_refused_and_left_alone() {
    let nats = Nats::start().await;
    let foreign = json!({
        "name": "KV_test", "subjects": ["$KV.test.>"], "storage": "file", "retention": "limits", "discard": "new",
        "max_msgs_per_subject": 1, "allow_rollup_hdrs": true, "deny_delete": true, "num_replicas": 1,
    });
    let created = nats.api("STREAM.CREATE.KV_test", &foreign).await;
    assert!(created.get("error").is_none(), "{created}");
    refused(&["--endpoint", &nats.endpoint()], &["KV_test", "not a jetway bucket", "bucket="]).await;
    let after = nats.api("STREAM.INFO.KV_test", &json!(null)).await;
    assert_eq!(after["config"], created["config"]);
    let other = nats.endpoint().replace("bucket=test", "bucket=mine");
    let server = Server::start_with(&["--endpoint", &other]).await;
    server.client().await.put("/k", "v").await;
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// Or why there can be none.
    fn mount(megabytes: u32) -> Result<Self, String> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output();
        match mount {
            Ok(output) if output.status.success() => Ok(Self { dir }),
            Ok(output) => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: whoever still holds a file there is about to end.
        drop(Command::new("umount").arg("-l").arg(self.dir.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_nothing_else_until_there_is_room() {
    let disk = match SmallDisk::mount(96) {
        Ok(disk) => disk,
        Err(reason) => return println!("skipped: no small file system can be mounted here: {reason}"),
    };
    let data = disk.path().join("data");
    let server = Server::start_with(&["--data-dir", data.to_str().unwrap()]).await;
    let client = server.client().await;
    let kept = client.put("/kept", "v").await;
    // Somebody else takes the room, and we the rest.
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 64 << 20]).unwrap();
    let began = Instant::now();
    let mut answered = Vec::new();
    let status = loop {
        let key = format!("/fill/{}", answered.len());
        match client.put_request(put(&key, vec![b'x'; 256 << 10])).await {
            Ok(answer) => answered.push((key, answer.header.unwrap().revision)),
            Err(status) => break status,
        }
        assert!(answered.len() < 1000, "the disk does not fill");
    };
    println!("{} answered, then {status:?} after {:?}", answered.len(), began.elapsed());
    // The one that met the end of the disk may not know what became of it; what comes then is refused in etcd's words.
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable), "{status:?}");
    let refused = eventually("a refusal", async || {
        let status = client.put_request(put("/more", vec![b'x'; 256 << 10])).await.err()?;
        (status.code() == Code::ResourceExhausted).then_some(status)
    })
    .await;
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");

    // Reads go on, and everything answered is there.
    assert_eq!(client.kv("/kept").await.unwrap().mod_revision, kept);
    for (key, revision) in &answered {
        assert_eq!(client.kv(key).await.unwrap().mod_revision, *revision, "{key}");
    }

    fs::remove_file(&ballast).unwrap();
    let pid = server.pid();
    let written = eventually("a write with room again", async || {
        disarm(&client).await;
        Some(client.put_request(put("/after", "v")).await.ok()?.header?.revision)
    })
    .await;
    assert_eq!(server.pid(), pid);
    assert!(written > answered.last().unwrap().1);
    for (key, revision) in &answered {
        assert_eq!(client.kv(key).await.unwrap().mod_revision, *revision, "{key}");
    }
}

/// Lowers the alarms there are, as an operator does after having made room.
async fn disarm(client: &Client) {
    use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
    use jetway::proto::etcdserverpb::{AlarmRequest, AlarmType};
    let alarm = |action: AlarmAction, member_id| AlarmRequest {
        action: action.into(),
        member_id,
        alarm: AlarmType::Nospace.into(),
    };
    let Ok(raised) = client.alarm(alarm(AlarmAction::Get, 0)).await else { return };
    for raised in raised.alarms {
        drop(client.alarm(alarm(AlarmAction::Deactivate, raised.member_id)).await);
    }
}
