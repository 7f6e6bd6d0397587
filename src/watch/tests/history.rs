//! Watchers in the past: the floor, slices of history, readers that fall behind.

use super::*;

#[test]
fn a_start_below_the_floor_is_created_then_compacted_and_keeps_its_id() {
    let mut store = Store::new();
    store.put_each("a", 2..=6);
    store.compact(4);
    store.route();
    let mut session = store.session();
    session.create_at("a", 3);
    session.create_at("a", 4);
    session.handle(Request::Create(Create { watch_id: 0, prev_kv: true, ..create(prefix("a"), 4) }));
    let lines = read(&mut session);
    assert_eq!(lines[..4], ["0 created @6", "1 created @6", "2 created @6", "0 compacted 4 @0"]);
    assert_eq!(lines[4..], ["1 +a=4#4 +a=5#5 +a=6#6 @6", "2 +a=4#4 +a=5#5<4 +a=6#6<5 @6"]);
    // The watch id stays in use until the client cancels it.
    session.handle(Request::Progress);
    session.handle(Request::Create(Create { watch_id: 3, ..create(prefix("a"), 0) }));
    session.handle(Request::Cancel(0));
    session.handle(Request::Cancel(0));
    session.handle(Request::Progress);
    assert_eq!(route_and_read(&store, &mut session), ["3 created @6", "0 canceled @6", "-1 progress @6"]);
}

#[test]
fn a_delete_at_the_floor_is_still_sent() {
    let mut store = Store::new();
    store.put("a", "2");
    store.delete("a");
    store.put("b", "4");
    store.compact(3);
    let mut session = store.session();
    session.handle(Request::Create(Create { prev_kv: true, ..create(prefix("a"), 3) }));
    assert_eq!(read(&mut session), ["0 created @4", "0 -a=#3 @4"]);
}

#[test]
fn a_canceled_watcher_is_silent_also_about_what_was_on_its_way() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    session.create_at("a", 0);
    drain(&mut session);
    store.put("a", "2");
    store.route();
    session.handle(Request::Cancel(0));
    session.handle(Request::Cancel(0));
    session.handle(Request::Cancel(17));
    // The same id again is another watcher.
    session.handle(Request::Create(Create { watch_id: 9, ..create(prefix("a"), 0) }));
    session.handle(Request::Cancel(9));
    session.handle(Request::Create(Create { watch_id: 9, ..create(prefix("a"), 0) }));
    assert_eq!(
        read(&mut session),
        ["0 canceled @2", "9 created @2", "9 canceled @2", "9 created @2", "1 +a=2#2 @2"]
    );
    store.put("a", "3");
    assert_eq!(route_and_read(&store, &mut session), ["1 +a=3#3 @3", "9 +a=3#3 @3"]);
}

#[test]
fn long_history_comes_in_slices_with_the_current_revision_in_the_header() {
    let mut store = Store::new();
    store.put_each("a", 2..=13);
    let mut session = store.session();
    session.create_at("a", 2);
    let responses = drain(&mut session);
    let shape: Vec<_> =
        responses[1..].iter().map(|response| (events(response).len(), response.revision.0)).collect();
    assert_eq!(shape, [(5, 13), (5, 13), (2, 13)]);
}

#[test]
fn large_history_is_cut_at_whole_revisions() {
    let mut store = Store::new();
    let large = "x".repeat(3000);
    for _ in 0..4 {
        store.write(&[("a1", Some(&large)), ("a2", Some(&large))]);
    }
    let mut session = store.session();
    session.create_at("a", 2);
    let shape: Vec<_> = drain(&mut session)[1..].iter().map(|response| events(response).len()).collect();
    assert_eq!(shape, [2, 2, 2, 2]);
}

#[test]
fn a_slow_reader_falls_back_to_the_log_and_misses_nothing() {
    let mut store = Store::new();
    let (mut slow, mut quick) = (store.session(), store.session());
    for session in [&mut slow, &mut quick] {
        session.create_at("a", 0);
        session.create_at("a", 0);
        session.handle(Request::Create(Create { watch_id: 5, ..create(prefix("b"), 0) }));
    }
    drain(&mut slow);
    drain(&mut quick);
    let writes = 3 * DELIVERIES as i64;
    let mut quick_revisions = Vec::new();
    for n in 0..writes {
        store.put("a", &n.to_string());
        store.route();
        quick_revisions
            .extend(drain(&mut quick).iter().filter(|response| response.watch_id == 1).map(|r| r.revision.0));
        let pending = store.hub.metrics().pending.get();
        assert!(pending <= DELIVERIES as u64, "{pending} pending");
    }
    store.put("b", "live");
    store.route();
    assert_eq!(quick_revisions, (2..2 + writes).collect::<Vec<_>>());
    let responses = drain(&mut slow);
    for watch_id in [0, 1] {
        let seen: Vec<i64> = responses
            .iter()
            .filter(|response| response.watch_id == watch_id)
            .flat_map(events)
            .map(|event| event.kv.expect("kv").mod_revision)
            .collect();
        assert_eq!(seen, (2..2 + writes).collect::<Vec<_>>());
    }
    let live: Vec<_> = responses.iter().filter(|response| response.watch_id == 5).cloned().collect();
    assert_eq!(show(&live).len(), 1);
    // Afterwards all of them are live again.
    store.put("a", "x");
    assert_eq!(route_and_read(&store, &mut slow).len(), 2);
    assert_eq!(store.hub.metrics().slow_watchers.get(), 0);
}

#[test]
fn a_reader_too_slow_for_compaction_is_cancelled() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    for n in 0..20 {
        store.put("a", &n.to_string());
        store.route();
    }
    store.compact(20);
    let lines = read(&mut session);
    assert_eq!(lines.len(), 2 + DELIVERIES);
    assert_eq!(lines.last().map(String::as_str), Some("0 compacted 20 @0"));
}

#[test]
fn compaction_past_the_hub_is_not_passed_over_in_silence() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    session.create_at("a", 5);
    drain(&mut session);
    store.put_each("a", 2..=6);
    store.compact(4);
    assert_eq!(route_and_read(&store, &mut session), ["1 +a=5#5 @5", "1 +a=6#6 @6", "0 compacted 4 @0"]);
}
