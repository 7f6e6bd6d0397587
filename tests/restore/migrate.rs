//! `jetway migrate`: a running server is copied while its clients go on.

use std::fs::File;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::{AlarmRequest, AlarmType, CompactionRequest, PutRequest};
use support::client::*;
use support::nats::Nats;
use support::proxy::Proxy;
use support::s3::S3Server;
use support::server::{Launch, Server, Target, jetway, signal, spawn};
use support::snapshot::{QUICK, keys, same_history, text};
use support::{eventually, within};
use tempfile::TempDir;

/// A `jetway migrate` and its output.
pub struct Migration {
    child: Child,
    folder: TempDir,
}

impl Migration {
    pub fn begin(args: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let output = File::create(folder.path().join("output")).unwrap();
        let mut command = Command::new(jetway());
        command.arg("migrate").args(args).stdout(output.try_clone().unwrap()).stderr(output);
        Self { child: spawn(command).unwrap(), folder }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output")).unwrap()
    }

    pub async fn follows(&mut self) {
        eventually("the migration to follow", async || {
            let status = self.child.try_wait().unwrap();
            assert!(status.is_none(), "{status:?}: {}", self.output());
            self.output().contains("following the source: copied").then_some(())
        })
        .await;
    }

    pub async fn ended(mut self) -> (ExitStatus, String) {
        let status = eventually("the migration to end", async || self.child.try_wait().unwrap()).await;
        (status, self.output())
    }

    /// Asks it to end.
    pub async fn stop(self) -> (ExitStatus, String) {
        signal(self.child.id(), libc::SIGTERM);
        self.ended().await
    }
}

impl Drop for Migration {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub fn empty() -> (Server, String) {
    let server = Server::create(Target::Jetway, Launch { args: &QUICK, ..Launch::default() });
    let data = text(&server.dir().join("data")).to_owned();
    (server, data)
}

/// Every answered write of a client is in the copy, and none after the switch-over is answered.
async fn nothing_is_lost_at_a_switch_over(from: Target) {
    let source = Server::launch(from, &[]).await;
    let client = source.client().await;
    for number in 0..200 {
        client.put(format!("k/{}", number % 50), format!("{number}")).await;
    }
    client.compact_request(CompactionRequest { revision: 60, physical: true }).await.unwrap();
    client.lease_grant(5, 600).await.unwrap();
    client.lease_grant(6, 600).await.unwrap();
    client.put_request(PutRequest { lease: 6, ..put("leased/6", "x") }).await.unwrap();
    let (mut target, data) = empty();
    let endpoint = source.endpoint();
    let mut migration = Migration::begin(&["--from", &endpoint, "--data-dir", &data, "--switch-over"]);
    let writer = source.client().await;
    let writing = async {
        let mut last = 0;
        for number in 0.. {
            let value = format!("{number}");
            let puts = vec![op(put("left", &value)), op(put("right", &value)), op(delete("k/7"))];
            match writer.txn(run(puts)).await {
                Ok(answer) => last = answer.header.unwrap().revision,
                Err(refusal) => return (number, last, refusal),
            }
            if number == 20 {
                client.lease_grant(7, 600).await.unwrap();
                client.put_request(PutRequest { lease: 7, ..put("leased/7", "x") }).await.unwrap();
                client.lease_revoke(6).await.unwrap();
            }
        }
        unreachable!("it has no end")
    };
    let ((number, last, refusal), ()) = tokio::join!(within("the fence", writing), async {
        // It may have ended when it is looked at.
        eventually("the end of the migration", async || migration.child.try_wait().unwrap()).await;
    });
    let (status, output) = migration.ended().await;
    assert!(status.success(), "{output}");
    assert!(number > 20, "{number} writes before the fence");
    assert!(refusal.message().contains("corrupt"), "{refusal}");
    assert!(output.contains("HashKV is equal"), "{output}");
    assert!(output.contains("the source has been fenced"), "{output}");
    target.restart().await;
    let copy = target.client().await;
    assert!(copy.revision().await >= last);
    assert_eq!(copy.revision().await, client.revision().await);
    same_history(&client, &copy, copy.revision().await.max(90) - 30, true).await;
    let mut leases: Vec<_> = copy.leases().await.unwrap().leases.iter().map(|lease| lease.id).collect();
    leases.sort_unstable();
    assert_eq!(leases, [5, 7]);
    let lease = copy.lease_time_to_live(7, true).await.unwrap();
    assert_eq!((lease.granted_ttl, &lease.keys[..]), (600, &[b"leased/7".to_vec().into()][..]));
    // The fence is not copied.
    copy.put("left", "by the copy").await;
}

#[tokio::test]
async fn nothing_is_lost_at_a_switch_over_from_etcd() {
    nothing_is_lost_at_a_switch_over(Target::Etcd).await;
}

#[tokio::test]
async fn nothing_is_lost_at_a_switch_over_from_jetway() {
    nothing_is_lost_at_a_switch_over(Target::Jetway).await;
}

/// A compaction at the source is one at the copy. The source may be away for a while.
#[tokio::test]
async fn a_migration_ends_when_it_is_asked_to() {
    let mut source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    client.put("a", "1").await;
    let (mut target, data) = empty();
    let mut migration = Migration::begin(&["--from", &source.endpoint(), "--data-dir", &data]);
    migration.follows().await;
    for number in 0..50 {
        client.put("a", format!("{number}")).await;
        client.put(format!("b/{number}"), vec![b'v'; 20_000]).await;
    }
    client.delete_range(delete_all("b/1")).await.unwrap();
    client.compact_request(CompactionRequest { revision: 70, physical: true }).await.unwrap();
    source.kill9();
    eventually("the loss of the source to be noticed", async || {
        migration.output().contains("trying again").then_some(())
    })
    .await;
    source.restart().await;
    let client = source.client().await;
    client.put("c", "1").await;
    let (status, output) = migration.stop().await;
    assert!(status.success(), "{output}");
    assert!(output.contains("compacted to 70") && output.contains("numbers of keys are equal"), "{output}");
    target.restart().await;
    let copy = target.client().await;
    same_history(&client, &copy, 70, false).await;
    client.put("c", "the source goes on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_written_to_after_the_end_is_reported() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    client.put("a", "1").await;
    let (mut target, data) = empty();
    let mut migration = Migration::begin(&["--from", &source.endpoint(), "--data-dir", &data]);
    migration.follows().await;
    // So many that at least one write is under way at each moment.
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let client = client.clone();
        writers.spawn(async move {
            loop {
                client.put("a", vec![b'v'; 100]).await;
            }
        });
    }
    let (status, output) = migration.stop().await;
    writers.shutdown().await;
    assert!(!status.success() && output.contains("was written to after the end of the copy"), "{output}");
    assert!(target.try_restart().await.is_err());
    assert!(target.log().contains("run the same command once more"), "{}", target.log());
}

#[tokio::test]
async fn a_migration_that_is_killed_begins_anew() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for number in 0..100 {
        client.put(format!("k/{}", number % 30), vec![b'v'; 10_000]).await;
    }
    let nats = Nats::start().await;
    let (from, to) = (source.endpoint(), nats.endpoint());
    let args = ["--from", &from, "--endpoint", &to];
    let mut migration = Migration::begin(&args);
    migration.follows().await;
    drop(migration);
    let (status, log) = Server::fails_to_start(&["--endpoint", &to]).await;
    assert!(!status.success() && log.contains("run the same command once more"), "{log}");
    let (status, output) = Migration::begin(&[&args[..], &["--switch-over"]].concat()).ended().await;
    assert!(status.success(), "{output}");
    let copy = Server::launch(Target::Jetway, &["--endpoint", &to]).await;
    same_history(&client, &copy.client().await, 1, true).await;
    // The fence is lifted by the command of the message.
    for alarm in client.alarm(AlarmRequest::default()).await.unwrap().alarms {
        let (action, member_id, alarm) = (AlarmAction::Deactivate.into(), alarm.member_id, alarm.alarm);
        client.alarm(AlarmRequest { action, member_id, alarm }).await.unwrap();
    }
    client.put("k/1", "the source writes again").await;
    let (status, output) = Migration::begin(&args).ended().await;
    assert!(!status.success() && output.contains("a restore needs an empty bucket"), "{output}");
    assert!(output.contains("start jetway on it, without that command"), "{output}");
}

/// Before anything is fetched, and without a change.
#[tokio::test]
async fn a_store_in_use_is_refused_before_the_source_is_read() {
    let source = Server::launch(Target::Etcd, &[]).await;
    source.client().await.put("a", "1").await;
    let mut target = Server::launch(Target::Jetway, &[]).await;
    target.client().await.put("b", "1").await;
    target.stop().await;
    let nats = Nats::start().await;
    let (from, to, data) = (source.endpoint(), nats.endpoint(), target.dir().join("data"));
    let other = Server::launch(Target::Jetway, &["--endpoint", &to]).await;
    for place in [["--data-dir", text(&data)], ["--endpoint", &to]] {
        let args = [&["--from", &from, "--switch-over"][..], &place].concat();
        let (status, output) = Migration::begin(&args).ended().await;
        assert!(!status.success() && output.contains("a restore needs an empty bucket"), "{output}");
        assert!(!output.contains("receiving the snapshot"), "{output}");
    }
    other.client().await.put("b", "2").await;
    target.set_command(&["migrate", "--from", &from, "--switch-over", "--serve"]);
    assert!(!target.ends().await.success());
    assert!(target.log().contains("a restore needs an empty bucket"), "{}", target.log());
    target.set_command(&[]);
    target.restart().await;
    assert_eq!(target.client().await.get("b").await.unwrap().count, 1);
    source.client().await.put("a", "not fenced").await;
}

#[tokio::test]
async fn a_source_that_is_no_etcd_is_named() {
    let s3 = S3Server::start().await;
    let from = format!("http://{}", s3.address());
    let (_target, data) = empty();
    let (status, output) = Migration::begin(&["--from", &from, "--data-dir", &data]).ended().await;
    assert!(!status.success() && output.contains(&format!("--from {from}: ")), "{output}");
    assert!(output.contains("If an etcd, a jetway or a kine serves there"), "{output}");
}

#[tokio::test]
async fn users_come_along_and_a_late_change_of_them_is_refused() {
    let source = Server::launch(Target::Etcd, &QUICK).await;
    let root = support::auth::enable(&source.client().await).await;
    root.put("a", "1").await;
    let from = source.endpoint();
    let (mut target, data) = empty();
    let args = ["--from", &from, "--data-dir", &data];
    let (status, output) = Migration::begin(&args).ended().await;
    assert!(!status.success() && output.contains("user name is empty. It has auth"), "{output}");
    let wrong = [&args[..], &["--user", "root:wrong"]].concat();
    let (status, output) = Migration::begin(&wrong).ended().await;
    assert!(!status.success() && output.contains(&format!("--from {from}: ")), "{output}");
    assert!(output.contains("invalid user ID or password"), "{output}");
    let as_root = [&args[..], &["--user", "root:root"]].concat();

    let (status, output) = Migration::begin(&[&as_root[..], &["--dry-run"]].concat()).ended().await;
    assert!(status.success() && output.contains("would copy 1 keys and 0 leases, at revision 2"), "{output}");
    assert!(!std::path::Path::new(&data).exists());

    let mut migration = Migration::begin(&as_root);
    migration.follows().await;
    root.user_add("late", "secret").await.unwrap();
    let (status, output) = migration.stop().await;
    assert!(!status.success() && output.contains("users or roles of the source were changed"), "{output}");

    let (status, output) = Migration::begin(&[&as_root[..], &["--switch-over"]].concat()).ended().await;
    assert!(status.success(), "{output}");
    target.restart().await;
    let copy = target.client().await.login("root", "root").await;
    assert_eq!(copy.user_list().await.unwrap().users, ["late", "root"]);
    assert_eq!(keys(&copy, 0).await.kvs, keys(&root, 0).await.kvs);
    assert!(target.client().await.put_request(put("a", "2")).await.is_err());
}

#[tokio::test]
async fn a_source_that_compacts_changes_before_their_copy_is_reported() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    client.put("a", "1").await;
    let (_target, data) = empty();
    let mut migration = Migration::begin(&["--from", &source.endpoint(), "--data-dir", &data]);
    migration.follows().await;
    signal(migration.id(), libc::SIGSTOP);
    // More than etcd keeps for a watcher that does not read.
    for _ in 0..600 {
        client.put("a", vec![b'v'; 20_000]).await;
    }
    client.compact_request(CompactionRequest { revision: 600, physical: true }).await.unwrap();
    signal(migration.id(), libc::SIGCONT);
    let (status, output) = migration.ended().await;
    assert!(!status.success() && output.contains("the source has compacted to revision 600"), "{output}");
}

/// The fence of a migration that was killed would be in force at the next copy, too.
#[tokio::test]
async fn a_source_that_is_fenced_is_refused_with_the_remedy() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    client.put("a", "1").await;
    let kind = AlarmType::Corrupt.into();
    let alarm = AlarmRequest { action: AlarmAction::Activate.into(), member_id: 12, alarm: kind };
    client.alarm(alarm).await.unwrap();
    let (_target, data) = empty();
    let (status, output) =
        Migration::begin(&["--from", &source.endpoint(), "--data-dir", &data]).ended().await;
    assert!(!status.success() && output.contains("run etcdctl alarm disarm"), "{output}");
}

/// Without a copy that could be served the source goes on.
#[tokio::test]
async fn an_interrupt_gives_a_migration_up_at_each_stage() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    for lease in 1..=500 {
        client.lease_grant(lease, 3600).await.unwrap();
    }
    for number in 0..10 {
        client.put(format!("k/{number}"), vec![b'v'; 1_000_000]).await;
    }
    let (_server, data) = empty();
    let ends = async |migration: Migration| {
        signal(migration.id(), libc::SIGINT);
        let (status, output) = migration.ended().await;
        assert!(!status.success() && output.contains("stopped before the end of the copy"), "{output}");
        client.put("k/1", "the source is not fenced").await;
    };

    // In the snapshot, whose rest does not come.
    let held = Proxy::to(source.address(), 2_000_000).await;
    let migration = Migration::begin(&["--from", &held.address, "--data-dir", &data]);
    eventually("the snapshot", async || migration.output().contains("receiving").then_some(())).await;
    ends(migration).await;

    // Under the fence, while the leases are asked for.
    let slow = Proxy::to(source.address(), usize::MAX).await;
    slow.delay(Duration::from_millis(200));
    let migration = Migration::begin(&["--from", &slow.address, "--data-dir", &data, "--switch-over"]);
    eventually("the fence", async || client.put_request(put("k/2", "2")).await.is_err().then_some(())).await;
    ends(migration).await;

    // And the same store is filled at last.
    let migration = Migration::begin(&["--from", &source.endpoint(), "--data-dir", &data, "--switch-over"]);
    let (status, output) = migration.ended().await;
    assert!(status.success(), "{output}");
}

/// It comes while the source is followed. The source goes on.
#[tokio::test]
async fn a_key_that_no_subject_can_hold_is_refused_at_any_time() {
    let source = Server::launch(Target::Etcd, &[]).await;
    let client = source.client().await;
    let long = "k".repeat(5000);
    for goes_on in [true, false] {
        client.put("a", "1").await;
        let (_server, data) = empty();
        let mut migration = Migration::begin(&["--from", &source.endpoint(), "--data-dir", &data]);
        if goes_on {
            migration.follows().await;
            client.put(long.as_str(), "v").await;
        }
        let (status, output) = migration.ended().await;
        assert_eq!(status.code(), Some(1), "{output}");
        assert!(
            output.contains("whose subject in NATS would have 50") && output.contains("compact"),
            "{output}"
        );
    }
}
