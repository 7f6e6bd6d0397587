//! The rights of a NATS user: enough, too few, and taken away.

use std::process::Command;

use jetway::proto::etcdserverpb::CompactionRequest;
use tokio::task::JoinSet;

use crate::access::refused;
use crate::instances::instances;
use support::client::{all, op, put, run};
use support::eventually;
use support::nats::Nats;

/// The output of `jetway nats-permissions`.
fn printed(args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jetway"));
    let output = command.arg("nats-permissions").args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The configuration of a server with one user.
fn user(permissions: &str) -> String {
    format!("authorization {{ users: [ {{ user: jw, password: pw\n{permissions} }} ] }}")
}

/// The printed rights are enough for everything that is done with NATS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_rights_are_enough() {
    const KEYS: usize = 40_000;
    let nats = Nats::start_with(&user(&printed(&["--bucket", "jetway"]))).await;
    let endpoint = format!("nats://jw:pw@{}?bucket=jetway", nats.address());
    let (mut servers, clients) = instances(&endpoint, 2).await;
    let value = "v".repeat(2000);
    let mut writes = JoinSet::new();
    for first in (0..KEYS).step_by(100) {
        let ops = (first..first + 100).map(|at| op(put(format!("/k/{at}"), &value))).collect();
        let client = clients[first / 100 % 2].clone();
        writes.spawn(async move { client.txn(run(ops)).await.unwrap() });
        if writes.len() == 32 {
            writes.join_next().await.unwrap().unwrap();
        }
    }
    while let Some(written) = writes.join_next().await {
        written.unwrap();
    }
    // Removals, calls between instances, a change of the writer, and a start that has much to read.
    let floor = clients[1].put("/k/0", "w").await;
    let compact = CompactionRequest { revision: floor, physical: true };
    clients[1].compact_request(compact).await.unwrap();
    assert!(clients[0].status().await.unwrap().db_size_in_use > 80_000_000);
    servers[0].stop().await;
    clients[1].put("/k/1", "w").await;
    servers[0].restart().await;
    let client = servers[0].client().await;
    assert_eq!(client.range(all("/k/")).await.unwrap().count, KEYS as i64);
    client.put("/k/2", "w").await;
    for server in &servers {
        assert!(!server.log().contains("ermissions"), "{}", server.log());
    }
}

/// Each right without which nothing works is missed at the start.
#[tokio::test]
async fn a_user_with_too_few_rights_is_refused_with_the_subjects() {
    for (missing, words) in [
        ("publish: { deny: \"$JS.FC.>\" }", &["publish to \"$JS.FC.KV_b.>\""][..]),
        ("publish: { deny: \"$KV.b.>\" }", &["publish to \"$KV.b.>\""]),
        (
            "publish: { allow: [ \"$JS.API.>\", \"$KV.b.>\", \"_INBOX.>\" ] }",
            &["$JS.FC.KV_b.>", "jetway.b.>"],
        ),
        ("subscribe: { deny: \"jetway.>\" }", &["subscribe to \"jetway.b.>\""]),
        ("subscribe: { deny: \"_INBOX.>\" }", &["subscribe to \"_INBOX.>\""]),
        ("publish: { deny: \"$JS.API.CONSUMER.>\" }", &["CONSUMER.CREATE.KV_b.>", "CONSUMER.DELETE.KV_b.>"]),
        // A right that is not always needed is missed when it is.
        ("publish: { deny: \"$JS.API.STREAM.CREATE.>\" }", &["$JS.API.STREAM.CREATE.KV_b"]),
    ] {
        let nats = Nats::start_with(&user(&format!("permissions: {{ {missing} }}"))).await;
        let output = refused(&["--endpoint", &format!("nats://jw:pw@{}?bucket=b", nats.address())]).await;
        assert!(words.iter().all(|word| output.contains(word)), "{missing}: {output}");
        assert!(
            output.contains("may not") && output.contains("jetway nats-permissions --bucket b"),
            "{output}"
        );
    }
}

/// A right that is taken away is logged once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_that_is_lost_is_logged_once_with_its_subject() {
    let rights = printed(&["--bucket", "b"]);
    let mut nats = Nats::start_with(&user(&rights)).await;
    let (servers, clients) = instances(&format!("nats://jw:pw@{}?bucket=b", nats.address()), 1).await;
    clients[0].put("/k", "v").await;
    nats.set_config(&user(&rights.replace("\"$KV.b.>\",", "")));
    nats.signal(libc::SIGHUP);
    let line = eventually("the missing right in the log", async || {
        clients[0].put_request(put("/k", "w")).await.err();
        let log = servers[0].log();
        log.lines().find(|line| line.contains("WARN") && line.contains("$KV.b.>")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("Permissions Violation") && line.contains("publish to"), "{line}");
    assert!(line.contains("jetway nats-permissions --bucket b"), "{line}");
    // Other calls meet it as well, and it is not logged again.
    for at in 0..3 {
        clients[0].put_request(put(format!("/other/{at}"), "w")).await.unwrap_err();
    }
    assert_eq!(servers[0].log().matches("Permissions Violation").count(), 1, "{}", servers[0].log());
    // Given back, it works again.
    nats.set_config(&user(&rights));
    nats.signal(libc::SIGHUP);
    eventually("a write", async || clients[0].put_request(put("/k", "w")).await.ok()).await;
}

/// The rights follow the names that the command line has.
#[test]
fn the_printed_rights_follow_the_flags() {
    let page = printed(&["--nats-js-domain", "hub", "--nats-inbox-prefix", "_INBOX.jw", "--bucket", "b"]);
    for subject in ["$JS.hub.API.$KV.b.>", "$JS.hub.API.STREAM.INFO.KV_b", "_INBOX.jw.>", "jetway.b.>"] {
        assert!(page.contains(&format!("\"{subject}\"")), "{subject}: {page}");
    }
    assert!(printed(&["--endpoint", "nats://h?bucket=c"]).contains("\"$KV.c.>\""));
    assert!(printed(&[]).contains("--allow-sub 'jetway.jetway.>,_INBOX.>'"));
    // The page of the operators shows the same.
    let page = include_str!("../../docker/OPERATING.md");
    let block = printed(&[]);
    let block = &block[block.find("permissions: {").unwrap()..];
    assert!(page.contains(block), "docker/OPERATING.md must hold:\n{block}");
}
