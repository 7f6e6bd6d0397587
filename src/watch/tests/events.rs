//! Creation of watchers, and the events that they get.

use super::*;

#[test]
fn a_live_watcher_gets_each_revision_by_itself() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    assert_eq!(read(&mut session), ["0 created @1"]);
    store.put("a1", "x");
    store.put("b1", "x");
    store.delete("a1");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a1=x#2 @2", "0 -a1=#4 @4"]);
}

#[test]
fn events_of_one_revision_stay_together_in_the_order_of_the_transaction() {
    let mut store = Store::new();
    let mut live = store.session();
    live.create_at("a", 0);
    store.write(&[("a3", Some("1")), ("b", Some("2")), ("a1", Some("3")), ("a2", None), ("a3", None)]);
    let mut late = store.session();
    late.create_at("a", 1);
    let expect = "0 +a3=1#2 +a1=3#2 -a2=#2 -a3=#2 @2";
    assert_eq!(route_and_read(&store, &mut live), ["0 created @1", expect]);
    assert_eq!(read(&mut late), ["0 created @2", expect]);
}

#[test]
fn events_show_exactly_what_etcd_shows() {
    let mut store = Store::new();
    let mut session = store.session();
    session.handle(Request::Create(Create { prev_kv: true, ..create(prefix("a"), 0) }));
    store.put("a", "1");
    store.put("a", "2");
    store.delete("a");
    store.write(&[("a", Some("3")), ("a", Some("4"))]);
    store.write(&[("a", Some("5")), ("a", None)]);
    store.route();
    let events: Vec<_> = drain(&mut session).iter().flat_map(events).collect();
    let shown: Vec<_> = events.iter().map(show_event).collect();
    let expect = ["+a=1#2", "+a=2#3<1", "-a=#4<2", "+a=3#5", "+a=4#5", "+a=5#6<4", "-a=#6<4"];
    assert_eq!(shown, expect);
    let (updated, deleted) = (events[1].kv.clone().expect("kv"), events[2].kv.clone().expect("kv"));
    assert_eq!((updated.create_revision, updated.version), (2, 2));
    let bare = mvccpb::KeyValue { key: "a".into(), mod_revision: 4, ..mvccpb::KeyValue::default() };
    assert_eq!(deleted, bare);
}

#[test]
fn ids_are_counted_up_past_those_in_use_and_never_reused_by_the_server() {
    let store = Store::new();
    let mut session = store.session();
    let with_id = |watch_id| Request::Create(Create { watch_id, ..create(prefix("a"), 0) });
    for request in [with_id(1), with_id(0), with_id(0), with_id(-7), with_id(1), Request::Cancel(2)] {
        session.handle(request);
    }
    for request in [with_id(0), with_id(2), Request::Cancel(2), with_id(2), with_id(2)] {
        session.handle(request);
    }
    let twice = "-1 refused: mvcc: duplicate watch ID provided on the WatchStream @1";
    assert_eq!(
        read(&mut session),
        [
            "1 created @1",
            "0 created @1",
            "2 created @1",
            "-7 created @1",
            twice,
            "2 canceled @1",
            "3 created @1",
            "2 created @1",
            "2 canceled @1",
            "2 created @1",
            twice
        ]
    );
}

#[test]
fn a_range_without_keys_is_refused_in_band() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    let inverted = KeyRange::from_wire(Bytes::from_static(b"b"), &Bytes::from_static(b"b"));
    session.handle(Request::Create(create(inverted, 0)));
    session.create_at("b", 0);
    store.put("b", "1");
    assert_eq!(
        route_and_read(&store, &mut session),
        ["0 created @1", "-1 refused: mvcc: watcher range is empty @1", "1 created @1", "1 +b=1#2 @2"]
    );
}

#[test]
fn a_start_in_the_past_is_inclusive_and_goes_on_live() {
    let mut store = Store::new();
    store.put_each("a", 2..=5);
    store.route();
    let mut session = store.session();
    session.create_at("a", 3);
    assert_eq!(read(&mut session), ["0 created @5", "0 +a=3#3 +a=4#4 +a=5#5 @5"]);
    store.put("a", "6");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=6#6 @6"]);
}

#[test]
fn a_start_in_the_future_is_silent_until_then() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 4);
    store.put_each("a", 2..=5);
    assert_eq!(route_and_read(&store, &mut session), ["0 created @1", "0 +a=4#4 @4", "0 +a=5#5 @5"]);
}

#[test]
fn nothing_before_the_created_header_comes_and_everything_behind_it() {
    let mut store = Store::new();
    let mut session = store.session();
    store.put("a", "2");
    // The hub has not seen revision 2 yet.
    session.create_at("a", 0);
    store.put("a", "3");
    assert_eq!(route_and_read(&store, &mut session), ["0 created @2", "0 +a=3#3 @3"]);
}

#[test]
fn created_comes_at_once_and_history_behind_all_answers() {
    let mut store = Store::new();
    store.put("a", "2");
    let mut session = store.session();
    session.create_at("a", 2);
    session.create_at("a", 1);
    assert_eq!(read(&mut session), ["0 created @2", "1 created @2", "0 +a=2#2 @2", "1 +a=2#2 @2"]);
}

#[test]
fn filters_drop_events_and_empty_batches() {
    let mut store = Store::new();
    store.put("a", "2");
    let mut session = store.session();
    for (no_put, no_delete) in [(true, false), (false, true), (true, true)] {
        session.handle(Request::Create(Create { no_put, no_delete, ..create(prefix("a"), 2) }));
    }
    drain(&mut session);
    store.write(&[("a1", None), ("a2", Some("x"))]);
    store.put("a", "4");
    store.delete("a");
    assert_eq!(
        route_and_read(&store, &mut session),
        ["0 -a1=#3 @3", "1 +a2=x#3 @3", "1 +a=4#4 @4", "0 -a=#5 @5"]
    );
}
