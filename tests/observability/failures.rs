//! Ten failures, read by an operator who has the output and nothing else: each names the thing that happened
//! and a remedy.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use serde_json::json;
use support::client::put;
use support::eventually;
use support::nats::Nats;
use support::server::Server;

use crate::line;

/// Starts jetway where it cannot serve. Its last line must hold all of `words`.
async fn ends(args: &[&str], words: &[&str]) {
    let (status, output) = Server::fails_to_start(args).await;
    assert!(!status.success(), "{args:?}: {output}");
    contains_all(&output, words);
}

/// The last line holds all of `words`, and nothing is a library's own line.
fn contains_all(output: &str, words: &[&str]) {
    let last = output.trim_end().lines().last().unwrap_or_default();
    for word in words {
        assert!(last.contains(word), "{word:?} is not in the last line of\n{output}");
    }
    assert!(!output.contains("async_nats"), "{output}");
}

#[tokio::test]
async fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", taken.local_addr().unwrap());
    ends(
        &["--listen-client-urls", &url],
        &["--listen-client-urls", &url, "Address already in use", "give another address"],
    )
    .await;
}

#[tokio::test]
async fn a_data_directory_that_cannot_be_written() {
    let place = "/proc/no-place-for-data";
    ends(&["--data-dir", place], &[place, "--data-dir must name a directory that jetway may write"]).await;
}

/// The limit of JetStream's account stands for the disk, which `tests/full_disk.rs` fills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room() {
    let config = "accounts { A { jetstream: { max_file: 9000000 }, users: [{ user: a, password: a }] } }";
    let nats = Nats::start_with(config).await;
    let endpoint = format!("nats://a:a@{}?bucket=test", nats.address());
    let server = Server::start_with(&["--endpoint", &endpoint]).await;
    let client = server.client().await;
    eventually("a refusal", async || client.put_request(put("/k", vec![b'x'; 500 << 10])).await.err()).await;
    let logged = line(&server, &["WARN", "an alarm is raised", "NOSPACE"]).await;
    for word in
        ["the storage of the JetStream account", "of 9000000 bytes", "compact", "etcdctl alarm disarm"]
    {
        assert!(logged.contains(word), "{word:?} is not in {logged}");
    }
}

#[tokio::test]
async fn wrong_credentials() {
    let nats = Nats::start_with("authorization { user: u, password: p }").await;
    let endpoint = format!("nats://u:wrong@{}", nats.address());
    let words = [nats.address(), "refused the credentials".into(), "check --endpoint, --nats-creds".into()];
    ends(&["--endpoint", &endpoint], &words.each_ref().map(String::as_str)).await;
}

#[tokio::test]
async fn a_nats_that_is_not_there() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let endpoint = format!("nats://{free}");
    ends(
        &["--endpoint", &endpoint],
        &["no connection to NATS", &free, "Connection refused", "check --endpoint and that the server is up"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_that_goes_away() {
    let mut nats = Nats::start().await;
    let server = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = server.client().await;
    nats.kill9();
    let refused = client.put_request(put("/k", "v")).await.expect_err("nobody stores it");
    assert!(refused.message().starts_with("jetway: NATS is unreachable: "), "{refused}");
    let logged = line(&server, &["WARN", "the connection to NATS is lost"]).await;
    assert!(logged.contains("tries to connect again") && logged.contains("cause="), "{logged}");
    line(&server, &["WARN", "this instance does not write any more", "reason="]).await;
}

#[tokio::test]
async fn a_missing_nats_server() {
    let program = "/no/such/nats-server";
    ends(
        &["--nats-server", program],
        &["no nats-server binary found", program, "not an executable file", "go install", "--nats-server"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_store() {
    let mut server = Server::start_with(&["--sync", "group"]).await;
    let client = server.client().await;
    for n in 0..20 {
        client.put(format!("/k{n}"), "value").await;
    }
    server.stop().await;
    let messages = server.dir().join("data/nats/jetstream/$G/streams/KV_jetway/msgs");
    flip_the_middle_of_the_first_block(&messages);
    assert!(!server.ends().await.success(), "{}", server.log());
    contains_all(
        &server.log(),
        &["the log has lost messages behind sequence", "Restore a copy", "--accept-data-loss"],
    );
    let named = line(&server, &["ERROR", "damaged records are taken out of the store", "1.blk"]).await;
    let copy = server.dir().join("data/damaged/KV_jetway-1.blk");
    assert!(named.contains(copy.to_str().unwrap()) && copy.exists(), "{named}");
}

fn flip_the_middle_of_the_first_block(folder: &Path) {
    let blocks = fs::read_dir(folder).unwrap().flatten().map(|file| file.path());
    let block = blocks.filter(|path| path.extension().is_some_and(|extension| extension == "blk")).min();
    let block = block.expect("there is a block");
    let mut bytes = fs::read(&block).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(block, bytes).unwrap();
    fs::remove_file(folder.join("index.db")).unwrap();
}

#[tokio::test]
async fn bad_tls_files() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("junk.pem"), "junk").unwrap();
    let refused = async |file: &str, words: &[&str]| {
        let flags = ["--listen-client-urls", "https://127.0.0.1:0", "--cert-file", file, "--key-file", file];
        ends(&flags, words).await;
    };
    let (junk, missing) = (path("junk.pem"), path("missing.pem"));
    refused(&junk, &["--cert-file", &junk, "no certificate in PEM form", "BEGIN CERTIFICATE"]).await;
    refused(&missing, &["--cert-file", &missing, "No such file", "give a file that"]).await;
}

#[tokio::test]
async fn a_bucket_of_another_program() {
    let nats = Nats::start().await;
    let foreign = json!({ "name": "KV_test", "subjects": ["$KV.test.>"], "storage": "file" });
    nats.api("STREAM.CREATE.KV_test", &foreign).await;
    // An empty stream would be taken for one that was made for jetway.
    nats.publish("$KV.test.key", "", "of another program").await;
    ends(
        &["--endpoint", &nats.endpoint()],
        &[
            "stream KV_test",
            "not a jetway bucket (another program made it)",
            "choose another bucket",
            "bucket=",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_instance_of_the_same_name() {
    let nats = Nats::start().await;
    let first = Server::start_with(&["--endpoint", &nats.endpoint(), "--name", "twin"]).await;
    let urls = first.endpoint();
    let flags = ["--endpoint", &nats.endpoint(), "--name", "twin", "--advertise-client-urls", &urls];
    let pid = format!("pid {}", first.pid());
    ends(&flags, &["is another process already", &pid, "\"twin\"", "Give each instance its own --name"])
        .await;
}

/// A log that goes to a file has the reason of the end as well.
#[tokio::test]
async fn a_log_in_a_file_has_the_reason_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    ends(&["--data-dir", "/proc/no-place", "--log-outputs", file.to_str().unwrap()], &["/proc/no-place"])
        .await;
    let log = fs::read_to_string(&file).unwrap();
    let last = log.lines().last().unwrap();
    assert!(
        last.contains("ERROR") && last.contains("jetway ends") && last.contains("/proc/no-place"),
        "{log}"
    );
}
