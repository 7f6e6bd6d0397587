//! etcd's own command line: one session against etcd and against the server under test, outputs compared.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::server::{Server, Target, peer, spawn};

/// Runs etcdctl and returns what it printed, its errors and its exit code, without what depends on ids and time.
fn etcdctl(server: &Server, args: &str, input: &str) -> String {
    let mut command = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
    command.args(["--endpoints", &server.endpoint()]).args(split(args));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn(command).unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&server.address(), "ADDRESS");
    // etcdctl's own log lines are JSON with times in them.
    let errors: Vec<_> =
        text(&output.stderr).lines().filter(|line| !line.starts_with('{')).map(String::from).collect();
    let stdout = text(&output.stdout);
    let stdout = serde_json::from_str(&stdout).map_or(stdout, |mut json: Value| {
        mask(&mut json);
        json.to_string()
    });
    format!("{stdout}{}\n{:?}", errors.join("\n"), output.status.code())
}

/// Splits at spaces; `''` is an empty argument.
fn split(args: &str) -> Vec<&str> {
    args.split(' ').map(|arg| if arg == "''" { "" } else { arg }).collect()
}

/// Hides ids, sizes and Raft's counters in JSON output.
fn mask(value: &mut Value) {
    const HIDDEN: [&str; 12] = [
        "cluster_id",
        "member_id",
        "raft_term",
        "ID",
        "leader",
        "raftIndex",
        "raftTerm",
        "raftAppliedIndex",
        "dbSize",
        "dbSizeInUse",
        "took",
        "peerURLs",
    ];
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                if HIDDEN.contains(&&name[..]) {
                    *field = Value::from("HIDDEN");
                } else {
                    mask(field);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

const TXN: &str = "mod(\"a\") > \"0\"\nval(\"a\") = \"2\"\n\nput b 1\nget a\nget --prefix a\n\nget b\n\n";
const TXN_FAILS: &str = "ver(\"a\") = \"99\"\n\nput b 1\n\nget b\ndel b\n\n";

/// Commands whose output has no id and no time in it.
const SESSION: &[(&str, &str)] = &[
    ("put a 1", ""),
    ("put a 2 --prev-kv", ""),
    ("put a/1 x", ""),
    ("put a/2", "from the input"),
    ("put empty ''", ""),
    ("get a", ""),
    ("get missing", ""),
    ("get a --rev 2", ""),
    ("get a --rev 99", ""),
    ("get --prefix a", ""),
    ("get --prefix a --keys-only", ""),
    ("get --prefix a --count-only -w json", ""),
    ("get --prefix a --limit 1 -w json", ""),
    ("get --prefix a --order DESCEND --sort-by VALUE", ""),
    ("get --from-key a/1 -w json", ""),
    ("get --prefix '' -w json", ""),
    ("get a a/2 --print-value-only", ""),
    ("txn -i", TXN),
    ("txn", TXN_FAILS),
    ("txn", "mod(\"a\") = \"0\"\n\nput a 1\nput a 2\n\n\n"),
    ("del b", ""),
    ("put b --ignore-value", ""),
    ("put a --ignore-value", ""),
    ("put c x --lease 1234", ""),
    ("del a/1 --prev-kv", ""),
    ("del --prefix a/", ""),
    ("del missing", ""),
    ("get --prefix '' -w json", ""),
    ("lease revoke 1234", ""),
    ("lease timetolive 1234", ""),
    ("lease list", ""),
    ("compaction 5", ""),
    ("compaction 5", ""),
    ("compaction 9999", ""),
    ("compaction 6 --physical", ""),
    ("get a --rev 5", ""),
    ("get a --rev 6 -w json", ""),
    ("alarm list", ""),
    ("alarm disarm", ""),
    ("endpoint status -w json", ""),
    ("member list -w json", ""),
    ("auth status", ""),
];

#[tokio::test]
async fn a_session_prints_what_it_prints_against_etcd() {
    let (etcd, server) =
        tokio::join!(Server::launch(Target::Etcd, &[]), Server::launch(Target::from_env(), &[]));
    for (args, input) in SESSION {
        let (mut expected, mut printed) = (etcdctl(&etcd, args, input), etcdctl(&server, args, input));
        if args.starts_with("endpoint status") {
            // Which versions there are is for another test; that there is no error shows here.
            let versions = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
            (expected, printed) = (versions(&expected), versions(&printed));
        }
        assert_eq!(printed, expected, "etcdctl {args}");
    }
    let healthy = etcdctl(&server, "endpoint health", "");
    assert!(healthy.contains("ADDRESS is healthy: successfully committed proposal"), "{healthy}");
    let defragmented = etcdctl(&server, "defrag", "");
    assert!(defragmented.starts_with("Finished defragmenting etcd member[http://ADDRESS]"), "{defragmented}");
}

#[tokio::test]
async fn leases_work_through_etcdctl() {
    let server = Server::start().await;
    let granted = etcdctl(&server, "lease grant 600", "");
    let id = granted.split(' ').nth(1).unwrap().to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(600s)\n\nSome(0)"));
    etcdctl(&server, &format!("put a x --lease {id}"), "");
    let left = etcdctl(&server, &format!("lease timetolive {id} --keys"), "");
    assert!(left.starts_with(&format!("lease {id} granted with TTL(600s), remaining(5")), "{left}");
    assert!(left.contains("attached keys([a])"), "{left}");
    assert!(etcdctl(&server, "lease list", "").starts_with(&format!("found 1 leases\n{id}")));
    let renewed = etcdctl(&server, &format!("lease keep-alive --once {id}"), "");
    assert!(renewed.starts_with(&format!("lease {id} keepalived with TTL(600)")), "{renewed}");
    assert!(etcdctl(&server, &format!("lease revoke {id}"), "").starts_with(&format!("lease {id} revoked")));
    assert_eq!(etcdctl(&server, "get a", ""), "\nSome(0)");
}

#[tokio::test]
async fn a_watch_prints_history_and_what_follows() {
    let server = Server::start().await;
    etcdctl(&server, "put a 1", "");
    etcdctl(&server, "put a 2", "");
    let mut command = Command::new(peer("JETWAY_TEST_ETCDCTL", "etcdctl"));
    command.args(["--endpoints", &server.endpoint(), "watch", "--prefix", "a", "--rev", "2", "--prev-kv"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut watch = spawn(command).unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut read = |count: usize| -> Vec<String> { lines.by_ref().take(count).map(Result::unwrap).collect() };
    assert_eq!(read(3), ["PUT", "a", "1"]);
    assert_eq!(read(5), ["PUT", "a", "1", "a", "2"]);
    etcdctl(&server, "del a", "");
    assert_eq!(read(5), ["DELETE", "a", "2", "a", ""]);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

/// The load of etcdctl's own check, which takes a minute. Its verdict on the speed depends on the machine; that
/// no request fails does not.
#[tokio::test]
async fn check_perf_runs_without_an_error() {
    let server = Server::start().await;
    let printed = etcdctl(&server, "check perf --load s", "");
    assert!(printed.contains("Throughput is"), "{printed}");
    assert!(!printed.contains("too many errors"), "{printed}");
    assert!(server.client().await.revision().await > 1000, "the load was there");
}
