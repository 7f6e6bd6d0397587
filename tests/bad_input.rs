//! Mistakes of those who start jetway: each gives an error that names the remedy, and ends in
//! an exit or an etcd error, never in a panic or a hang.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use support::nats::Nats;
use support::server::Server;

/// Starts jetway with flags with which it must not serve. Everything in `words` must be in its output.
async fn refused(args: &[&str], words: &[&str]) {
    let began = Instant::now();
    let (status, output) = Server::fails_to_start(args).await;
    assert!(status.code().is_some_and(|code| code != 0), "{args:?} ended with {status}: {output}");
    assert!(!output.contains("panicked"), "{output}");
    for word in words {
        assert!(output.contains(word), "{word:?} is not in jetway's output for {args:?}: {output}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{args:?} took {:?}", began.elapsed());
}

#[tokio::test]
async fn invalid_flags_are_named() {
    // In the words of Go's flags, which know one dash.
    refused(&["--no-such-flag"], &["-no-such-flag", "--help"]).await;
    refused(&["--max-txn-ops", "many"], &["-max-txn-ops", "many", "expected a number"]).await;
    refused(&["--listen-client-urls", "localhost:1"], &["-listen-client-urls", "localhost:1", "http://"])
        .await;
    refused(&["--endpoint", "http://127.0.0.1:1"], &["--endpoint", "nats"]).await;
    refused(&["--endpoint", "nats://127.0.0.1:1?colour=red"], &["--endpoint", "colour"]).await;
}

#[tokio::test]
async fn a_busy_port_is_named_with_its_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    for flag in ["--listen-client-urls", "--listen-metrics-urls"] {
        refused(&[flag, &url], &[flag, &url, "in use"]).await;
    }
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
async fn a_second_instance_on_a_data_directory_is_refused_and_the_first_serves() {
    let first = Server::start().await;
    let client = first.client().await;
    let data = first.dir().join("data");
    let pid = first.pid().to_string();
    refused(&["--data-dir", data.to_str().unwrap()], &["in use by another jetway", &pid, "--data-dir"]).await;
    let written = client.put("/k", "v").await;
    assert_eq!(client.kv("/k").await.unwrap().mod_revision, written);
}

#[tokio::test]
async fn a_missing_or_unusable_nats_server_is_named_with_the_remedy() {
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

/// A listener that jetway would not know of is refused in each spelling that nats-server itself takes.
#[tokio::test]
async fn a_listener_in_the_nats_config_is_refused_in_every_spelling() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("more.conf");
    fs::write(dir.path().join("part.conf"), "listen: 0.0.0.0:4333\n").unwrap();
    // jetway's own `listen` replaces the same word in a file of kine's, which has settings of kine's server.
    for (text, is_replaced) in [
        ("listen: 0.0.0.0:4333", true),
        ("{ debug: false }\nlisten: 0.0.0.0:4333", true),
        ("{ debug: false }\n{ Listen = \"0.0.0.0:4333\" }", false),
        ("{\"debug\": false, \"LISTEN\": \"0.0.0.0:4333\"}", false),
        ("debug: false # a comment\rlisten 0.0.0.0:4333", true),
        ("P: 4333; 'port' = $P", false),
        ("debug: false\ninclude 'part.conf'", true),
    ] {
        fs::write(&file, text).unwrap();
        let checked = Command::new(support::nats::binary()).arg("-t").arg("-c").arg(&file).output().unwrap();
        assert!(checked.status.success(), "nats-server does not take {text:?}: {checked:?}");
        let path = file.to_str().unwrap();
        let words = ["--nats-config", path, "it sets `", "which is jetway's to set"];
        refused(&["--nats-config", path], &words).await;
        if !is_replaced {
            refused(&["--endpoint", &format!("nats://?serverConfig={path}")], &words).await;
        }
    }
}

#[tokio::test]
async fn an_unreachable_nats_is_named() {
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
async fn a_bucket_of_another_program_is_refused_and_not_changed() {
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
