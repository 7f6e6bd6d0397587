//! Files, directories and flags that are refused, and the remedies that the refusals name.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jetway::proto::etcdserverpb::RangeRequest;
use support::client::*;
use support::eventually;
use support::server::{Launch, Server, Target, jetway};
use support::snapshot::{Saved, etcdutl, keys, text};
use tempfile::TempDir;

/// Runs `jetway` to its end; returns whether it succeeded, and its output.
async fn run(args: &[&str]) -> (bool, String) {
    let mut command = Command::new(jetway());
    command.args(args);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    (status.success(), text)
}

/// A restore into an empty directory is refused with all of `words`.
pub(crate) async fn is_refused(source: &Path, flags: &[&str], words: &[&str]) {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data");
    let (is_done, output) =
        run(&[&["restore", text(source), "--data-dir", text(&data)], flags].concat()).await;
    assert!(!is_done, "{output}");
    assert!(words.iter().all(|word| output.contains(word)), "{words:?}: {output}");
    assert!(!data.join("nats").exists(), "nothing is written before the file is checked");
}

/// A stopped etcd.
pub(crate) fn data_dir(server: &Server) -> PathBuf {
    server.dir().join("data")
}

#[tokio::test]
async fn damaged_files_are_refused_with_the_place() {
    let server = Server::launch(Target::Etcd, &[]).await;
    let client = server.client().await;
    for number in 0..400 {
        client.put(format!("key/{number}"), vec![b'v'; 500]).await;
    }
    let saved = Saved::of(&client).await;
    let path = saved.path();
    let whole = std::fs::read(&path).unwrap();
    let damage = |content: &[u8]| std::fs::write(&path, content).unwrap();

    damage(&whole[..whole.len() - 4096]);
    is_refused(&path, &[], &["is damaged", "SHA-256"]).await;
    is_refused(&path, &["--skip-hash-check"], &["is cut off"]).await;
    damage(&whole[..1000]);
    is_refused(&path, &[], &["has no checksum"]).await;
    damage(b"no database at all");
    is_refused(&path, &["--skip-hash-check"], &["is no database of etcd"]).await;
    is_refused(Path::new("/no/such/file"), &[], &["/no/such/file", "No such file"]).await;
    let folder = TempDir::new().unwrap();
    is_refused(folder.path(), &[], &["holds no data of an etcd"]).await;

    let mut flipped = whole.clone();
    let value = whole.windows(7).position(|bytes| bytes == b"key/123").unwrap();
    flipped[value + 1] ^= 1;
    damage(&flipped);
    is_refused(&path, &[], &["is damaged", "SHA-256", "--skip-hash-check"]).await;
    // The same page with another number, another kind, or elements behind its end.
    let page = value / 4096 * 4096;
    for (at, words) in [
        (page, "it has the number of another page"),
        (page + 8, "it is neither an inner page nor a leaf"),
        (page + 27, "an element lies behind its end"),
    ] {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        damage(&flipped);
        let place = format!("(at byte {page})");
        is_refused(&path, &["--skip-hash-check"], &["is damaged in page", &place, words]).await;
    }
    damage(&whole);
    let restored = saved.restored_by_jetway(&[]).await;
    assert_eq!(keys(&restored.client().await, 0).await.count, 400);
}

#[tokio::test]
async fn a_store_that_holds_something_is_left_alone() {
    let mut server = Server::launch(Target::Jetway, &[]).await;
    let client = server.client().await;
    client.put("mine", "1").await;
    let saved = Saved::of(&client).await;
    let data = data_dir(&server);
    let path = saved.path();
    let restore = ["restore", text(&path), "--data-dir", text(&data)];
    let (is_done, output) = run(&restore).await;
    assert!(!is_done && output.contains("is in use by another jetway"), "{output}");
    server.stop().await;
    let (is_done, output) = run(&restore).await;
    assert!(!is_done && output.contains("a restore needs an empty bucket"), "{output}");
    server.restart().await;
    assert_eq!(server.client().await.get("mine").await.unwrap().kvs[0].value, "1");
    // Another bucket of the same store is empty.
    server.stop().await;
    let (is_done, output) = run(&[&restore[..], &["--bucket", "other"]].concat()).await;
    assert!(is_done, "{output}");
    let (_, start) = output.split_once("start it with: ").expect("the next command");
    assert!(start.contains("--bucket other"), "{output}");
    server.set_args(&["--bucket", "other"]);
    server.restart().await;
    assert_eq!(server.client().await.get("mine").await.unwrap().kvs[0].value, "1");
}

#[tokio::test]
async fn flags_that_make_no_sense_are_refused_with_a_remedy() {
    let server = Server::launch(Target::Etcd, &[]).await;
    let saved = Saved::of(&server.client().await).await;
    for (flags, words) in [
        (&["--bump-revision", "5"][..], &["--bump-revision 5", "--mark-compacted"][..]),
        (&["--mark-compacted"], &["--mark-compacted", "--bump-revision"]),
        (&["--bump-revision=many"], &["'many'", "--bump-revision"]),
        (&["--bump-revision", "9223372036854775807", "--mark-compacted"], &["give less"]),
        (&["--nats-creds", "file"], &["--nats-creds", "--endpoint"]),
        (&["--discovery-srv", "example.com"], &["--discovery-srv example.com", "give --initial-cluster"]),
        (&["--initial-cluster", "a=http://a:1,b=http://b:1"], &["couldn't find local name \"default\""]),
    ] {
        is_refused(&saved.path(), flags, words).await;
    }
    let (is_done, output) = run(&["restore"]).await;
    assert!(!is_done && output.contains("<FILE>"), "{output}");
}

/// The words that users of etcdutl type.
#[tokio::test]
async fn etcdutls_command_line_restores() {
    let server = Server::launch(Target::Etcd, &[]).await;
    let client = server.client().await;
    for value in 0..9 {
        client.put(format!("k/{}", value % 4), format!("{value}")).await;
    }
    client.delete("k/1").await;
    let saved = Saved::of(&client).await;
    let mut etcd = Server::create(Target::Etcd, Launch::default());
    let mut jetway = Server::create(Target::Jetway, Launch::default());
    let url = format!("http://{}", etcd.peer_address());
    let (path, cluster) = (saved.path(), format!("default={url}"));
    let words = ["--name", "default", "--initial-cluster", &cluster, "--initial-advertise-peer-urls", &url];
    let bump = ["--bump-revision", "1000", "--mark-compacted", "--skip-hash-check"];
    let restore = |data: PathBuf| {
        let head = ["snapshot", "restore", text(&path), "--data-dir"].map(str::to_owned);
        let tail = words.iter().chain(&bump).map(ToString::to_string);
        head.into_iter().chain([text(&data).to_owned()]).chain(tail).collect::<Vec<_>>()
    };
    let theirs = restore(data_dir(&etcd));
    etcdutl(&theirs.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let ours = restore(data_dir(&jetway));
    let (is_done, output) = run(&ours.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(is_done, "{output}");
    assert!(output.contains("at revision 1011, compacted to 1011"), "{output}");
    etcd.restart().await;
    jetway.restart().await;
    let (theirs, ours) = (etcd.client().await, jetway.client().await);
    assert_eq!(ours.revision().await, theirs.revision().await);
    assert_eq!(keys(&ours, 0).await.kvs, keys(&theirs, 0).await.kvs);
    // etcd compacts in the background after its start.
    eventually("the revisions before to be compacted", async || {
        keys_at(&theirs, 1010).await.err().filter(|text| text.contains("compacted"))
    })
    .await;
    assert_eq!(keys_at(&ours, 1010).await, keys_at(&theirs, 1010).await);
    assert_eq!(ours.put("k/0", "x").await, theirs.put("k/0", "x").await);
    assert_eq!(ours.get("k/0").await.unwrap().kvs, theirs.get("k/0").await.unwrap().kvs);
    // A store that etcdutl has marked so is restored once more.
    let again = Saved::of(&theirs).await.restored_by_jetway(&[]).await;
    assert_eq!(keys(&again.client().await, 0).await.kvs, keys(&theirs, 0).await.kvs);
    assert_eq!(again.client().await.revision().await, 1012);
}

async fn keys_at(client: &Client, revision: i64) -> Result<i64, String> {
    let request = RangeRequest { revision, ..all("") };
    client.range(request).await.map(|answer| answer.count).map_err(|error| error.message().to_owned())
}
