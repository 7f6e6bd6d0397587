//! Progress answers, periodic and on request.

use jetway::proto::etcdserverpb::*;

use support::client::*;
use support::keys::*;
use support::server::Server;
use support::watch::*;

/// WAT-31, WAT-33, WAT-36
#[tokio::test]
async fn progress_of_a_synced_stream_is_the_current_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_key("a")).await;
    watch.watch(WatchCreateRequest { start_revision: 1, ..watch_key("b") }).await;
    for n in 2..=5 {
        client.put("elsewhere", "x").await;
        let (answer, before, _) = watch.progress_and_before().await;
        assert!(before.is_empty());
        assert_eq!((answer.watch_id, revision(&answer.header)), (-1, n));
        assert!(is_progress(&answer));
        assert_eq!((&answer.cancel_reason[..], answer.fragment), ("", false));
    }
}

/// WAT-31: kube-apiserver serves consistent reads from its cache on this.
#[tokio::test]
async fn progress_never_overtakes_an_event() {
    let server = Server::start().await;
    let client = server.client().await;
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all("k/")).await;
    let writer = {
        let client = client.clone();
        tokio::spawn(async move {
            for n in 0..400 {
                client.put(format!("k/{}", n % 5), "x").await;
            }
        })
    };
    let mut delivered = 1;
    while delivered < 401 {
        watch.ask_progress();
        let message = watch.next().await;
        for event in &message.events {
            assert_eq!(pair(event).mod_revision, delivered + 1, "each revision has one event");
            delivered += 1;
        }
        if message.events.is_empty() {
            // Every revision changes a watched key, so none up to this one may be missing.
            assert!(is_progress(&message));
            assert!(revision(&message.header) <= delivered, "progress {message:?} but delivered {delivered}");
        }
    }
    writer.await.unwrap();
}

/// WAT-31, WAT-34: a watcher that reads history holds the answer back.
#[tokio::test]
async fn progress_waits_for_a_watcher_that_reads_history() {
    let server = Server::start().await;
    let client = server.client().await;
    let value = vec![b'v'; 10_000];
    for n in 0..1500 {
        client.put(format!("k/{}", n % 5), &value).await;
    }
    for _ in 0..5 {
        let mut watch = WatchStream::open(&client);
        watch.watch(WatchCreateRequest { start_revision: 2, ..watch_all("k/") }).await;
        let (answer, before, _) = watch.progress_and_before().await;
        let events: usize = before.iter().map(|message| message.events.len()).sum();
        assert_eq!((events, revision(&answer.header)), (1500, 1501));
    }
}

/// WAT-33
#[tokio::test]
async fn a_stream_without_watchers_gets_no_progress() {
    let server = Server::shared().await;
    let client = server.client().await;
    let mut watch = WatchStream::open(&client);
    watch.ask_progress();
    watch.watch(watch_key(unique("none"))).await;
    watch.cancel(0);
    assert!(watch.next().await.canceled);
    watch.ask_progress();
    // The answer would have to come before that of a later request.
    watch.watch(WatchCreateRequest { watch_id: 9, ..watch_key(unique("none")) }).await;
}

/// WAT-12, WAT-33
#[tokio::test]
async fn progress_waits_for_future_watchers_and_for_cancels_after_compaction() {
    let server = Server::start().await;
    let client = server.client().await;
    for _ in 2..=6 {
        client.put("a", "x").await;
    }
    client.compact(5).await.unwrap();
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_key("a")).await;
    assert_eq!(watch.progress().await, 6);

    watch.watch(WatchCreateRequest { watch_id: 7, start_revision: 2, ..watch_key("a") }).await;
    assert_eq!(watch.next().await.compact_revision, 5);
    watch.ask_progress();
    watch.cancel(7);
    let next = watch.next().await;
    assert_eq!((next.watch_id, next.canceled), (7, true), "no progress before the lost watcher is cancelled");
    assert_eq!(watch.progress().await, 6);

    watch.watch(WatchCreateRequest { watch_id: 8, start_revision: 9, ..watch_key("a") }).await;
    watch.ask_progress();
    watch.cancel(8);
    let next = watch.next().await;
    assert_eq!((next.watch_id, next.canceled), (8, true), "no progress while one waits for the future");
    assert_eq!(watch.progress().await, 6);
}

/// WAT-32
#[tokio::test]
async fn an_idle_watch_gets_periodic_progress_on_request() {
    let server = Server::start_with(&["--watch-progress-notify-interval", "200ms"]).await;
    let client = server.client().await;
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { watch_id: 5, progress_notify: true, ..watch_key("a") }).await;
    watch.watch(WatchCreateRequest { watch_id: 6, ..watch_key("a") }).await;
    for _ in 0..3 {
        let written = client.put("elsewhere", "x").await;
        loop {
            let message = watch.next().await;
            assert!(is_progress(&message), "{message:?}");
            assert_eq!(message.watch_id, 5, "only where asked for");
            assert!(revision(&message.header) <= written);
            if revision(&message.header) == written {
                break;
            }
        }
    }
}

/// WAT-31, WAT-32
#[tokio::test]
async fn periodic_progress_never_overtakes_an_event() {
    let server = Server::start_with(&["--watch-progress-notify-interval", "100ms"]).await;
    let client = server.client().await;
    let mut watch = WatchStream::open(&client);
    watch.watch(WatchCreateRequest { progress_notify: true, ..watch_key("a") }).await;
    for _ in 0..5 {
        let mut due = Vec::new();
        for _ in 0..20 {
            due.push(client.put("a", "x").await);
            client.put("elsewhere", "x").await;
        }
        // A tick after events is skipped, so the answer comes when the events are over.
        loop {
            let message = watch.next().await;
            let reported = revision(&message.header);
            if !is_progress(&message) {
                let outlines = message.events.iter().map(|event| outline(event).2);
                assert_eq!(
                    outlines.collect::<Vec<_>>(),
                    due.drain(..message.events.len()).collect::<Vec<_>>()
                );
            } else if due.is_empty() && reported == client.revision().await {
                break;
            } else {
                assert!(
                    due.first().is_none_or(|&due| reported < due),
                    "progress {reported}, but {due:?} are to come"
                );
            }
        }
    }
}
