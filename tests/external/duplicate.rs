//! Two processes with the name and the client URLs of one member: one of them serves.

use support::eventually;
use support::nats::Nats;
use support::server::{Server, signal};

/// The flags of a process that reaches `node` and advertises the URL of `other`.
fn flags_as(other: &Server, node: &Nats) -> [String; 4] {
    let endpoint = format!("{}&replicas=1", node.endpoint());
    ["--endpoint".into(), endpoint, "--advertise-client-urls".into(), other.endpoint()]
}

fn plain(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

async fn id_of(server: &Server) -> u64 {
    server.client().await.status().await.unwrap().header.unwrap().member_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_with_the_id_of_a_living_one_is_refused() {
    let nats = Nats::start().await;
    let first = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    let client = first.client().await;
    client.put("/k", "v").await;
    let flags = flags_as(&first, &nats);
    for _ in 0..2 {
        let (status, log) = Server::fails_to_start(&plain(&flags)).await;
        assert!(!status.success());
        let id = format!("{:x}", id_of(&first).await);
        for named in [&id[..], &format!("pid {}", first.pid()), &first.endpoint(), "--name"] {
            assert!(log.contains(named), "{named} is missing:\n{log}");
        }
    }
    assert_eq!(client.kv("/k").await.unwrap().value, "v");
    assert_eq!(client.members().await.unwrap().members.len(), 1);
    // The remedy that the error names.
    let named = Server::start_with(&[&plain(&flags)[..], &["--name", "second"]].concat()).await;
    assert_ne!(id_of(&named).await, id_of(&first).await);
    eventually("two members", async || (client.members().await.ok()?.members.len() == 2).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_takes_the_place_of_one_that_died_a_moment_ago() {
    let nats = Nats::start().await;
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(Server::start_with(&["--endpoint", &nats.endpoint()]).await);
    }
    for round in 0..6 {
        let server = &mut servers[round % 2];
        let id = id_of(server).await;
        server.kill9();
        server.restart().await;
        assert_eq!(id_of(server).await, id);
    }
    let client = servers[0].client().await;
    eventually("two members", async || (client.members().await.ok()?.members.len() == 2).then_some(())).await;
}

/// Waits until one of the two has ended with the words for it; returns the place of the other one.
async fn one_stays(servers: &mut [Server; 2]) -> usize {
    let ended = eventually("one of two processes to end", async || {
        (0..2).find(|at| servers[*at].has_ended().is_some())
    })
    .await;
    let log = servers[ended].log();
    assert!(log.contains("is another process already") && log.contains("--name"), "{log}");
    1 - ended
}

/// A process that answers nothing has lost its name; should it go on, both cannot stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_process_that_stood_still_and_its_successor_one_stays() {
    let nats = Nats::start().await;
    let still = Server::start_with(&["--endpoint", &nats.endpoint()]).await;
    still.client().await.put("/k", "v").await;
    signal(still.pid(), libc::SIGSTOP);
    let next = Server::start_with(&plain(&flags_as(&still, &nats))).await;
    signal(still.pid(), libc::SIGCONT);
    let mut both = [still, next];
    let stays = one_stays(&mut both).await;
    let client = both[stays].client().await;
    eventually("a read", async || client.get("/k").await.ok()).await;
    client.put("/k", "w").await;
    assert!(both[stays].has_ended().is_none());
}

/// Each asks before the server of the other knows of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_start_at_once_one_stays() {
    let nodes = Nats::cluster().await;
    let mut first = Server::prepare(&["--endpoint", &format!("{}&replicas=1", nodes[0].endpoint())]);
    let mut second = Server::prepare(&plain(&flags_as(&first, &nodes[1])));
    first.begin();
    second.begin();
    let mut both = [first, second];
    let stays = one_stays(&mut both).await;
    let client = support::client::Client::lazy(&both[stays].endpoint());
    eventually("a write", async || client.put_request(support::client::put("/k", "v")).await.ok()).await;
    assert!(both[stays].has_ended().is_none());
}
