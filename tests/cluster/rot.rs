//! Bits of one copy that have changed while its member was away.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use support::client::{Client, all};
use support::cluster::Cluster;
use support::eventually;
use support::server::Target;

use super::faults::all_meet;
use super::forming::{all_hold_the_same, writes_again};
use super::members::started;
use super::stream_leader::is_led_by;

const KEYS: usize = 60;
const BYTES: usize = 200_000;

async fn all_serve_what_was_written(clients: &[Client]) {
    all_hold_the_same(clients).await;
    for client in clients {
        let kvs = client.range(all("/k/")).await.unwrap().kvs;
        assert_eq!(kvs.len(), KEYS);
        assert!(kvs.iter().all(|kv| kv.value.iter().all(|byte| *byte == b'a')));
    }
}

/// Whichever server leads the stream, what is damaged in its copy is read from another one. The log names the
/// server, and the remedy that it names works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_copy_is_named_and_another_one_is_read() {
    if Target::from_env() == Target::Etcd {
        return;
    }
    let mut cluster = Cluster::start(3).await;
    let clients = cluster.clients().await;
    all_meet(&cluster, &clients).await;
    for key in 0..KEYS {
        clients[0].put(format!("/k/{key}"), "a".repeat(BYTES)).await;
    }
    assert!(cluster.members[2].stop().await.success());
    let data = cluster.members[2].dir().join("data");
    flip_a_bit_of_each_block(&data.join("nats/jetstream/JW/streams/KV_jetway/msgs"));
    cluster.members[2].restart().await;
    // The stream's leader follows the writer, if the damage is not found before.
    let leader = cluster.leader(&clients).await;
    if leader != 2 {
        let id = started(&clients[0], cluster.name(2)).await.id;
        clients[leader].move_leader(id).await.unwrap();
    }
    eventually("the damaged copy to lead", async || {
        (is_led_by(&cluster, 2).await || is_named(&cluster)).then_some(())
    })
    .await;
    for gone in [0, 1] {
        cluster.members[gone].kill_machine();
        writes_again(&clients[2]).await;
        cluster.members[gone].restart().await;
        all_serve_what_was_written(&clients).await;
    }
    assert!(is_named(&cluster), "nobody names the server");
    assert!(cluster.members[2].stop().await.success());
    fs::remove_dir_all(data).unwrap();
    cluster.members[2].restart().await;
    cluster.has_copies_on(0, &[0, 1, 2]).await;
    cluster.members[0].kill_machine();
    cluster.members[0].restart().await;
    all_serve_what_was_written(&clients).await;
}

/// Whether a member reports that the third one's copy is damaged.
fn is_named(cluster: &Cluster) -> bool {
    cluster.members.iter().any(|member| is_named_in(&member.log(), "m3"))
}

/// Whether a log names the copy of a server as damaged.
pub fn is_named_in(log: &str, server: &str) -> bool {
    let words = ["the copy of the stream on this server lacks messages", &format!("server=\"{server}\"")];
    log.lines().any(|line| words.iter().all(|word| line.contains(word)))
}

fn flip_a_bit_of_each_block(blocks: &Path) {
    let mut flipped = 0;
    for entry in fs::read_dir(blocks).unwrap() {
        let path = entry.unwrap().path();
        let content = fs::read(&path).unwrap();
        let value = content.windows(1000).position(|bytes| bytes.iter().all(|byte| *byte == b'a'));
        let Some(value) = value else { continue };
        fs::File::options().write(true).open(&path).unwrap().write_all_at(b"A", value as u64 + 500).unwrap();
        flipped += 1;
    }
    assert!(flipped > 0, "no value in {}", blocks.display());
}
