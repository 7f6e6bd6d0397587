//! `jetway snapshot save`, `jetway snapshot status` and `jetway restore` with objects of S3.

use std::process::Command;

use support::contents::fill;
use support::eventually;
use support::proxy::Proxy;
use support::s3::{BUCKET, S3Server};
use support::server::{Launch, Server, Target, jetway};
use support::snapshot::{QUICK, etcdutl, same_history, text};

/// Runs `jetway` with the variables of the store; returns whether it succeeded, and its output.
async fn run(s3: &S3Server, args: &[&str]) -> (bool, String) {
    let mut command = Command::new(jetway());
    command.args(args).envs(s3.variables());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.success(), told)
}

async fn runs(s3: &S3Server, args: &[&str]) -> String {
    let (is_done, told) = run(s3, args).await;
    assert!(is_done, "{args:?}: {told}");
    told
}

async fn fails(s3: &S3Server, args: &[&str], words: &[&str]) {
    let (is_done, told) = run(s3, args).await;
    assert!(!is_done && words.iter().all(|word| told.contains(word)), "{args:?}: {words:?}: {told}");
}

#[tokio::test]
async fn an_object_is_saved_reported_on_and_restored() {
    let s3 = S3Server::start().await;
    let url = format!("s3://{BUCKET}/by/hand.db");
    for source in [Target::Etcd, Target::Jetway] {
        let server = Server::launch(source, &QUICK).await;
        let client = server.client().await;
        let floor = fill(&client).await;
        let saved = runs(&s3, &["snapshot", "save", &url, "--endpoints", &server.endpoint()]).await;
        assert!(saved.contains(&format!("Snapshot saved at {url}\n")), "{saved}");
        let file = s3.object("by/hand.db");
        let status = runs(&s3, &["snapshot", "status", &url, "-w", "json"]).await;
        assert_eq!(status, etcdutl(&["snapshot", "status", text(&file), "-w", "json"]).await);
        let mut restored = Server::create(Target::Jetway, Launch { args: &QUICK, ..Launch::default() });
        let data = restored.dir().join("data");
        runs(&s3, &["restore", &url, "--data-dir", text(&data)]).await;
        restored.restart().await;
        same_history(&client, &restored.client().await, floor, false).await;
    }
    assert_eq!(s3.uploads(), 0);
}

#[tokio::test]
async fn objects_that_are_no_snapshots_are_refused() {
    let s3 = S3Server::start().await;
    let server = Server::launch(Target::Jetway, &QUICK).await;
    let url = format!("s3://{BUCKET}/a.db");
    let data = server.dir().join("restored");
    let restore = ["restore", &url, "--data-dir", text(&data)];
    fails(&s3, &restore, &[&url, "no such object"]).await;
    fails(&s3, &["snapshot", "status", &url], &[&url, "no such object"]).await;
    let elsewhere = "s3://no-such-bucket/a.db";
    fails(&s3, &["restore", elsewhere], &[elsewhere, "no such bucket"]).await;
    let bucket = format!("s3://{BUCKET}");
    for args in [&["restore", &bucket][..], &["snapshot", "status", &bucket], &["snapshot", "save", &bucket]]
    {
        fails(&s3, args, &[&bucket, "names no object", "s3://BUCKET/NAME"]).await;
    }
    fails(&s3, &["snapshot", "status", "gs://b/a"], &["gs://b/a", "s3://BUCKET"]).await;
    fails(&s3, &["restore", "s3://"], &["s3://: names no bucket"]).await;
    runs(&s3, &["snapshot", "save", &url, "--endpoints", &server.endpoint()]).await;
    let whole = std::fs::read(s3.object("a.db")).unwrap();
    let mut damaged = whole.clone();
    damaged[5000] ^= 1;
    std::fs::write(s3.object("a.db"), &damaged).unwrap();
    fails(&s3, &restore, &[&url, "SHA-256"]).await;
    fails(&s3, &["snapshot", "status", &url], &[&url, "SHA-256"]).await;
    assert!(!data.join("nats").exists());
}

/// S3 answers with a page of XML.
#[tokio::test]
async fn a_wrong_secret_is_reported_in_one_line() {
    let s3 = S3Server::start().await;
    let server = Server::launch(Target::Jetway, &QUICK).await;
    let url = format!("s3://{BUCKET}/a.db");
    let mut command = Command::new(jetway());
    command.args(["snapshot", "save", &url, "--endpoints", &server.endpoint()]);
    command.envs(s3.variables()).env("AWS_SECRET_ACCESS_KEY", "another");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("SignatureDoesNotMatch"), "{told}");
    assert!(told.contains(&url) && !told.contains('<') && told.lines().count() == 1, "{told}");
}

/// A save that fails leaves neither an object nor parts of one, and an older object as it is.
#[tokio::test]
async fn a_save_that_fails_leaves_nothing_in_s3() {
    let s3 = S3Server::start().await;
    let server = Server::launch(Target::Jetway, &QUICK).await;
    let client = server.client().await;
    let url = format!("s3://{BUCKET}/a.db");
    let save = ["snapshot", "save", &url, "--endpoints", &server.endpoint()];
    runs(&s3, &save).await;
    let older = std::fs::read(s3.object("a.db")).unwrap();
    for number in 0..40 {
        client.put(format!("k/{number}"), vec![b'v'; 1_000_000]).await;
    }
    // Enough for some parts, and not for all of them.
    let proxy = Proxy::to(server.address(), 25_000_000).await;
    let words = ["has ended the snapshot after", "nothing was saved"];
    let save = ["snapshot", "save", &url, "--endpoints", &proxy.address];
    tokio::join!(fails(&s3, &save, &words), async {
        eventually("an upload", async || (s3.uploads() > 0).then_some(())).await;
        proxy.break_off();
    });
    assert_eq!(s3.uploads(), 0);
    assert_eq!(std::fs::read(s3.object("a.db")).unwrap(), older);
    let elsewhere = "s3://no-such-bucket/a.db";
    fails(
        &s3,
        &["snapshot", "save", elsewhere, "--endpoints", &server.endpoint()],
        &[elsewhere, "no such bucket"],
    )
    .await;
}
