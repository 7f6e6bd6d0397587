//! No room: a disk that fills up, and limits of JetStream. Puts are refused in etcd's words, what makes room
//! goes on, and afterwards everything does, without a restart.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use jetway::proto::etcdserverpb::*;
use support::client::{Client, delete, delete_all, put};
use support::cluster::Cluster;
use support::eventually;
use support::nats::Nats;
use support::server::{Server, Target};
use support::snapshot::{Saved, text};
use tonic::Code;

/// A small file system of its own, unmounted when dropped.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    fn mount(megabytes: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(dir.path()).output().unwrap();
        assert!(output.status.success(), "run this as root: {}", String::from_utf8_lossy(&output.stderr));
        Self { dir }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, since a process that still holds a file there is about to end.
        drop(Command::new("umount").arg("-l").arg(self.dir.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, to mount a small disk: make full-disk"]
async fn a_full_disk_refuses_writes_alone_until_it_has_room() {
    let disk = SmallDisk::mount(96);
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
    // The one that met the end of the disk may not know what became of it; what comes then is refused in
    // etcd's words.
    assert!(matches!(status.code(), Code::ResourceExhausted | Code::Unavailable), "{status:?}");
    let refused = eventually("a refusal", async || {
        let status = client.put_request(put("/more", vec![b'x'; 256 << 10])).await.err()?;
        (status.code() == Code::ResourceExhausted).then_some(status)
    })
    .await;
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");

    // The log names the limit, or the error of the write that met it.
    let line = eventually("a word of it", async || {
        let log = server.log();
        log.lines().find(|line| line.contains("WARN") && line.contains("NOSPACE")).map(str::to_owned)
    })
    .await;
    assert!(
        line.contains("the disk of the data directory") || line.contains("no space left on device"),
        "{line}"
    );

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

/// The disk of one member of three is full: that member raises the alarm, which names it. Puts are refused by
/// all, as after any NOSPACE alarm; reads and deletes go on. With room again the member holds everything, and
/// nobody was restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, to mount a small disk: make full-disk"]
async fn a_member_with_a_full_disk_is_named_and_comes_back() {
    let disk = SmallDisk::mount(96);
    let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
    let data = disk.path().join("data");
    let all = cluster.list(0..3);
    cluster.set_flags(2, &all, "new", &["--data-dir", data.to_str().unwrap()]);
    cluster.start_all().await;
    let clients = cluster.clients().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    let full = clients[2].status().await.unwrap().header.unwrap().member_id;
    let pids = || cluster.members.iter().map(support::server::Server::pid).collect::<Vec<_>>();
    let before = pids();
    let ballast = disk.path().join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}

    let mut answered = Vec::new();
    let refused = eventually("a refusal by another member", async || {
        let key = format!("/fill/{}", answered.len());
        let answer = clients[answered.len() % 2].put_request(put(&key, vec![b'x'; 64 << 10])).await;
        match answer {
            Ok(answer) => answered.push((key, answer.header?.revision)),
            Err(status) if status.code() == Code::ResourceExhausted => return Some(status),
            Err(_) => {}
        }
        None
    })
    .await;
    assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    println!("{} answered before", answered.len());
    let raised = clients[0].alarm(AlarmRequest::default()).await.unwrap().alarms;
    assert_eq!(raised.iter().map(|alarm| alarm.member_id).collect::<Vec<_>>(), [full], "{raised:?}");
    eventually("the full disk in the member's log", async || {
        cluster.members[2].log().lines().any(is_of_full_disk).then_some(())
    })
    .await;
    for client in &clients[..2] {
        eventually("a delete", async || client.delete_range(delete("/none")).await.ok()).await;
        for (key, revision) in &answered {
            assert_eq!(client.kv(key).await.unwrap().mod_revision, *revision, "{key}");
        }
    }

    drop(file);
    fs::remove_file(&ballast).unwrap();
    for (member, client) in clients.iter().enumerate() {
        eventually(&format!("a write through member {member}"), async || {
            disarm(client).await;
            client.put_request(put("/after", "v")).await.ok()
        })
        .await;
        for (key, revision) in &answered {
            assert_eq!(client.kv(key).await.unwrap().mod_revision, *revision, "{key} by member {member}");
        }
    }
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    assert_eq!(pids(), before, "no jetway was restarted");
}

/// A warning that names a full disk.
fn is_of_full_disk(line: &str) -> bool {
    let is_grave = line.contains("WARN") || line.contains("ERROR");
    is_grave && (line.contains("no space left on device") || line.contains("the disk of the data directory"))
}

/// Lowers the alarms there are, as an operator does after having made room.
async fn disarm(client: &Client) {
    use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
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

/// Deletes and compactions work without room for anything else, and then there is room again, without a
/// restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, to mount a small disk: make full-disk"]
async fn a_disk_filled_by_jetway_is_cleared_by_deletes_and_a_compaction() {
    let disk = SmallDisk::mount(128);
    let data = disk.path().join("data");
    let server = Server::start_with(&["--data-dir", data.to_str().unwrap()]).await;
    let client = server.client().await;
    let nats = server.nats_pid();
    fill_and_clear(&client, 128).await;
    assert_eq!(server.nats_pid(), nats, "it was never restarted");
}

/// The same where somebody else has taken the disk to its last byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, to mount a small disk: make full-disk"]
async fn a_disk_filled_by_others_accepts_deletes_and_compactions() {
    let disk = SmallDisk::mount(128);
    let data = disk.path().join("data");
    let server = Server::start_with(&["--data-dir", data.to_str().unwrap()]).await;
    let client = server.client().await;
    client.lease_grant(1, 600).await.unwrap();
    client.put_request(PutRequest { lease: 1, ..put("/leased", "v") }).await.unwrap();
    for n in 0..100 {
        client.put(format!("/fill/{n}"), vec![b'x'; 256 << 10]).await;
    }
    let mut ballast = fs::File::create(disk.path().join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[0; 4096]).is_ok() {}
    eventually("a refusal for want of space", async || {
        let status = client.put_request(put("/more", vec![b'x'; 256 << 10])).await.err()?;
        (status.code() == Code::ResourceExhausted).then_some(())
    })
    .await;
    assert_eq!(client.list("/fill/").await.len(), 100);
    clear(&client, 100).await;
}

/// A start on a full disk takes the room of the reserve, alone and as a member, so that deletes and
/// compactions are possible.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, to mount a small disk: make full-disk"]
async fn a_start_on_a_full_disk_takes_the_reserve() {
    let disk = SmallDisk::mount(128);
    let data = disk.path().join("data");
    let mut server = Server::start_with(&["--data-dir", text(&data)]).await;
    let client = server.client().await;
    client.lease_grant(1, 600).await.unwrap();
    client.put_request(PutRequest { lease: 1, ..put("/leased", "v") }).await.unwrap();
    for n in 0..100 {
        client.put(format!("/fill/{n}"), vec![b'x'; 256 << 10]).await;
    }
    drop(client);
    server.stop().await;
    assert!(data.join("reserve").exists());
    fill(&disk);
    server.restart().await;
    assert!(!data.join("reserve").exists());
    assert!(server.log().contains("the file reserve is deleted"), "{}", server.log());
    let client = server.client().await;
    assert_eq!(client.list("/fill/").await.len(), 100);
    client.delete_range(delete_all("/fill/")).await.unwrap();
    let revision = client.revision().await;
    client.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
    drop(client);
    server.stop().await;

    let disk = SmallDisk::mount(96);
    let data = disk.path().join("data");
    let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "https", &["--peer-auto-tls"]);
    let all = cluster.list(0..3);
    cluster.set_flags(2, &all, "new", &["--data-dir", text(&data)]);
    cluster.start_all().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    cluster.members[2].stop().await;
    assert!(data.join("reserve").exists());
    fill(&disk);
    cluster.members[2].restart().await;
    assert!(!data.join("reserve").exists());
    let client = cluster.members[2].client().await;
    eventually("a delete", async || client.delete_range(delete("/none")).await.ok()).await;

    // Nothing is left to give: the error names the file and the remedy.
    drop(client);
    cluster.members[2].stop().await;
    fill(&disk);
    assert!(!cluster.members[2].ends().await.success());
    let log = cluster.members[2].log();
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(text(&data)) && last.contains("make room"), "{log}");
    assert!(!last.contains("--data-dir"), "{log}");
}

/// Takes a disk to its last byte.
fn fill(disk: &SmallDisk) {
    let mut ballast =
        fs::File::options().create(true).append(true).open(disk.path().join("ballast")).unwrap();
    while std::io::Write::write_all(&mut ballast, &[0; 4096]).is_ok() {}
}

/// Clears a store that has no room: deletes, a compaction, renewals and revokes of leases, and at last `alarm
/// disarm`.
async fn clear(client: &Client, values: usize) {
    let alarms = async || client.alarm(AlarmRequest::default()).await.unwrap().alarms;
    let raised =
        eventually("the alarm", async || Some(alarms().await).filter(|raised| raised.len() == 1)).await;
    assert_eq!(raised[0].alarm(), AlarmType::Nospace);
    let refused = client.put_request(put("/small", "x")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(client.lease_grant(2, 600).await.is_err());
    assert_eq!(client.kv("/leased").await.unwrap().value, "v");
    for n in 0..values / 2 {
        eventually("a delete", async || client.delete_range(delete(format!("/fill/{n}"))).await.ok()).await;
    }
    let mut keep_alive = support::lease::KeepAlive::open(client);
    assert_eq!(keep_alive.renew(1).await.ttl, 600);
    client.lease_revoke(1).await.unwrap();
    assert_eq!(client.kv("/leased").await, None);
    client.delete_range(delete_all("/fill/")).await.unwrap();
    let revision = client.revision().await;
    client.compact_request(CompactionRequest { revision, physical: true }).await.unwrap();
    client.defragment().await.unwrap();
    eventually("room after disarming", async || {
        disarm(client).await;
        client.put_request(put("/after", "x")).await.ok()
    })
    .await;
    for n in 0..20 {
        client.put(format!("/again/{n}"), vec![b'x'; 256 << 10]).await;
    }
    assert!(alarms().await.is_empty());
}

/// Limits of JetStream's own are as good as a full disk: those of an account, and one that somebody has set
/// on the stream.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_of_jetstream_accept_deletes_and_compactions() {
    let account =
        "accounts { A { jetstream: { max_file: 40MB, max_mem: 1MB }, users: [{ user: a, password: b }] } }";
    let nats = Nats::start_with(account).await;
    let server =
        Server::start_with(&["--endpoint", &format!("nats://a:b@{}?bucket=test", nats.address())]).await;
    fill_and_clear(&server.client().await, 100).await;

    let nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let mut config = nats.api("STREAM.INFO.KV_test", &serde_json::Value::Null).await["config"].clone();
    config["max_bytes"] = serde_json::json!(40_000_000);
    let updated = nats.api("STREAM.UPDATE.KV_test", &config).await;
    assert_eq!(updated["config"]["max_bytes"], 40_000_000, "{updated}");
    fill_and_clear(&server.client().await, 100).await;
}

async fn fill_and_clear(client: &Client, least: usize) {
    client.lease_grant(1, 600).await.unwrap();
    client.put_request(PutRequest { lease: 1, ..put("/leased", "v") }).await.unwrap();
    let mut written = 0;
    let status = loop {
        match client.put_request(put(format!("/fill/{written}"), vec![b'x'; 256 << 10])).await {
            Ok(_) => written += 1,
            Err(status) => break status,
        }
        assert!(written < 1000, "it does not fill");
    };
    assert_eq!(
        (status.code(), status.message()),
        (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
    );
    assert!(written > least, "{written} values of 256 KiB");
    clear(client, written).await;
}

/// The store does not fit: the reason is named, and the same command begins anew with room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs root, to mount a small disk: make full-disk"]
async fn a_restore_or_a_migration_onto_a_full_disk_names_it() {
    let source = Server::start().await;
    let client = source.client().await;
    for number in 0..40 {
        client.put(format!("k/{number}"), vec![b'v'; 500_000]).await;
    }
    let saved = Saved::of(&client).await;
    let disk = SmallDisk::mount(8);
    let data = disk.path().join("data");
    let file = saved.path();
    let restore = ["restore", text(&file)];
    let migrate = ["migrate", "--from", &source.endpoint(), "--switch-over"];
    let serve = [&migrate[..], &["--serve"]].concat();
    for command in [&restore[..], &migrate, &serve] {
        let mut server = Server::prepare(&["--data-dir", text(&data)]);
        server.set_command(command);
        assert!(!server.ends().await.success(), "{command:?}");
        let log = server.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains("no space left on device") && last.contains("once more"), "{log}");
        assert!(last.contains(text(&data)), "{log}");
    }
    client.put("k/1", "the source is not fenced").await;
}
