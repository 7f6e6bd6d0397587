//! `--snapshot-dir s3://…`, against a real S3 server.

use std::process::Command;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};

use support::certificates::{Authority, Template};
use support::eventually;
use support::s3::{BUCKET, S3Server};
use support::server::{Launch, Server, Target, jetway};
use support::snapshot::{QUICK, etcdutl, hash_kv, text};

use crate::{becomes, line, lines, value};

const AT: &str = "jetway_snapshot_last_success_timestamp_seconds";
const SIZE: &str = "jetway_snapshot_last_size_bytes";
const FAILURES: &str = "jetway_snapshot_failures_total";

/// A jetway that saves snapshots below a name in the bucket.
async fn saves(s3: &S3Server, times: &str, name: &str, more: &[(&str, &str)]) -> Server {
    let url = format!("s3://{BUCKET}/{name}");
    let schedule = ["--snapshot-schedule", times, "--snapshot-dir", &url, "--snapshot-retention", "3"];
    let variables = s3.variables();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let launch = Launch {
        args: &[&QUICK[..], &schedule].concat(),
        variables: &[&variables[..], more].concat(),
        ..Launch::default()
    };
    Server::launch_as(Target::Jetway, launch).await
}

/// The objects are whole, larger than a part, the oldest ones go, and those of others stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_in_s3_are_whole_and_as_many_as_asked_for() {
    let s3 = S3Server::start().await;
    let mut server = saves(&s3, "1s", "of/jetway", &[]).await;
    let client = server.client().await;
    let first = eventually("the first object", async || s3.objects("of/jetway").first().cloned()).await;
    let foreign = ["notes.db".to_owned(), format!("snapshot-1{}", &first["snapshot-".len()..])];
    for name in &foreign {
        std::fs::write(s3.object("of/jetway").join(name), "x").unwrap();
    }
    for number in 0..20 {
        client.put(format!("k/{number}"), vec![b'v'; 1_000_000]).await;
    }
    let words =
        ["INFO", "saved a scheduled snapshot", "path=\"s3://backups/of/jetway/snapshot-", "revision=21"];
    line(&server, &words).await;
    assert!(becomes(&server, SIZE, &[], |bytes| bytes > 2e7).await < 3e7);
    eventually("four more snapshots", async || (lines(&server, &words).len() > 4).then_some(())).await;
    assert!(value(&server, AT).await > 1e9);
    assert!(value(&server, FAILURES).await < 0.5);
    let hash = hash_kv(&client, 0).await.hash;
    server.stop().await;
    let own: Vec<_> = s3.objects("of/jetway").into_iter().filter(|name| !foreign.contains(name)).collect();
    assert_eq!(own.len(), 3, "{own:?}");
    assert!(foreign.iter().all(|name| s3.object("of/jetway").join(name).exists()));
    for name in &own {
        let path = s3.object("of/jetway").join(name);
        let copy = server.dir().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        let hashed = etcdutl(&["hashkv", text(&copy)]).await;
        assert!(hashed.starts_with(&format!("{hash}, 21, ")), "{name}: {hashed}");
    }
}

/// A restart takes the time of the last one from its object, and does not save another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_goes_on_behind_a_restart_with_s3() {
    let s3 = S3Server::start().await;
    let mut server = saves(&s3, "1h", "a", &[]).await;
    line(&server, &["saved a scheduled snapshot"]).await;
    let (before, at) = (s3.objects("a"), value(&server, AT).await);
    server.stop().await;
    server.restart().await;
    let again = becomes(&server, AT, &[], |_| true).await;
    assert!((again - at).abs() < 5.0, "{at} {again}");
    assert_eq!(s3.objects("a"), before);
}

/// A bucket that is not there is named at the start, and the next time is the next try.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bucket_that_is_not_there_is_reported_and_stops_nothing() {
    let s3 = S3Server::start().await;
    let bucket = s3.object("");
    std::fs::remove_dir(&bucket).unwrap();
    let server = saves(&s3, "1s", "a", &[]).await;
    let words =
        ["WARN", "--snapshot-dir s3://backups/a", "there is no such bucket", "make it, or name another one"];
    line(&server, &[&words[..], &["a scheduled snapshot was not saved"]].concat()).await;
    line(&server, &["WARN", "scheduled snapshots cannot be listed", "there is no such bucket"]).await;
    becomes(&server, FAILURES, &[], |failures| failures > 1.5).await;
    server.client().await.put("a", "b").await;
    std::fs::create_dir(&bucket).unwrap();
    becomes(&server, AT, &[], |at| at > 1e9).await;
    assert!(!s3.objects("a").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_are_reported() {
    let s3 = S3Server::start().await;
    let server = saves(&s3, "1s", "a", &[("AWS_SECRET_ACCESS_KEY", "wrong")]).await;
    line(
        &server,
        &["WARN", "a scheduled snapshot was not saved", "credentials of AWS' variables do not permit it"],
    )
    .await;
    assert!(s3.objects("a").is_empty());
}

/// The system's authorities do not know the server's, and AWS' own variable names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_go_to_s3_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("authority of the store");
    let pair = authority.issue(Template { name: "store", ..Template::default() });
    let path = |name: &str| folder.path().join(name);
    for (name, content) in [("ca", &authority.cert), ("cert", &pair.cert), ("key", &pair.key)] {
        std::fs::write(path(name), content).unwrap();
    }
    let s3 = S3Server::start_tls(&path("cert"), &path("key")).await;
    let server = saves(&s3, "1h", "a", &[("AWS_CA_BUNDLE", text(&path("ca")))]).await;
    line(&server, &["saved a scheduled snapshot"]).await;
    assert_eq!(s3.objects("a").len(), 1);
    let stranger = saves(&s3, "1h", "b", &[]).await;
    line(&stranger, &["WARN", "scheduled snapshots cannot be listed"]).await;
    assert!(s3.objects("b").is_empty());
}

/// The parts of an upload that has no end would lie in the bucket for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_during_an_upload_leaves_no_parts() {
    let s3 = S3Server::start().await;
    let mut server = saves(&s3, "1s", "a", &[]).await;
    let client = server.client().await;
    for number in 0..60 {
        client.put(format!("k/{number}"), vec![b'v'; 1_000_000]).await;
    }
    eventually("an upload", async || (s3.uploads() > 0).then_some(())).await;
    server.stop().await;
    assert_eq!(s3.uploads(), 0);
}

/// The content that is read back is compared with what was uploaded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_reads_back_otherwise_is_removed() {
    let s3 = S3Server::start().await;
    let endpoint = format!("http://{}", damaging(s3.address()).await);
    let server = saves(&s3, "1s", "a", &[("AWS_ENDPOINT_URL", &endpoint)]).await;
    server.client().await.put("k", vec![0xee; 1000]).await;
    let words = ["WARN", "a scheduled snapshot was not saved", "read back after the upload", "was removed"];
    line(&server, &words).await;
    let saved = lines(&server, &["saved a scheduled snapshot"]).len();
    eventually("the objects before it alone", async || (s3.objects("a").len() == saved).then_some(())).await;
}

/// A proxy to an S3 server, in whose answers each byte 0xEE is another one. No header has it.
async fn damaging(server: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&server).await.unwrap();
            tokio::spawn(async move {
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let requests = tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
                let mut bytes = vec![0; 65536];
                while let Ok(read @ 1..) = from_server.read(&mut bytes).await {
                    bytes[..read].iter_mut().filter(|byte| **byte == 0xee).for_each(|byte| *byte = 0xef);
                    if to_client.write_all(&bytes[..read]).await.is_err() {
                        break;
                    }
                }
                requests.abort();
            });
        }
    });
    address
}

/// Mistakes that show without the network end the start.
#[tokio::test]
async fn mistakes_about_s3_end_the_start() {
    for (url, variables, words) in [
        ("s3://", &[][..], &["--snapshot-dir s3://: names no bucket", "s3://BUCKET/PREFIX"][..]),
        (
            "s3://b/p",
            &[("AWS_ACCESS_KEY_ID", "id")],
            &["--snapshot-dir s3://b/p", "AWS_SECRET_ACCESS_KEY", "set both"],
        ),
        (
            "s3://b/p",
            &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1")],
            &["--snapshot-dir s3://b/p", "no credentials for http://127.0.0.1:1", "set AWS_ACCESS_KEY_ID"],
        ),
        (
            "s3://b/p",
            &[("AWS_ENDPOINT_URL", "127.0.0.1:1")],
            &["AWS_ENDPOINT_URL is 127.0.0.1:1", "http://minio:9000"],
        ),
    ] {
        let mut command = Command::new(jetway());
        command.args(["--snapshot-schedule", "1h", "--snapshot-dir", url]).env_clear();
        command.envs(variables.iter().copied());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(
            !output.status.success() && words.iter().all(|word| told.contains(word)),
            "{words:?}: {told}"
        );
    }
}
