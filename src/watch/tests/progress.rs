//! Progress responses.

use super::*;

#[test]
fn progress_is_reported_only_where_all_watchers_have_everything() {
    let mut store = Store::new();
    let mut session = store.session();
    session.handle(Request::Progress);
    assert!(read(&mut session).is_empty(), "no watchers, no answer");
    session.create_at("a", 0);
    session.handle(Request::Progress);
    assert_eq!(read(&mut session), ["0 created @1", "-1 progress @1"]);
    // Earlier events come first, also those that the hub had not routed at the request.
    store.put("a", "2");
    session.handle(Request::Progress);
    store.put("b", "3");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=2#2 @2", "-1 progress @3"]);
    // A watcher in the future, one that catches up.
    session.create_at("a", 9);
    session.handle(Request::Progress);
    session.handle(Request::Cancel(1));
    session.create_at("a", 2);
    session.handle(Request::Progress);
    assert_eq!(read(&mut session), ["1 created @3", "1 canceled @3", "2 created @3", "2 +a=2#2 @3"]);
    session.handle(Request::Progress);
    assert_eq!(read(&mut session), ["-1 progress @3"]);
}

#[test]
fn a_request_for_progress_is_not_helped_by_what_comes_after_it() {
    let mut store = Store::new();
    let mut session = store.session();
    session.handle(Request::Progress);
    session.create_at("a", 0);
    assert_eq!(read(&mut session), ["0 created @1"], "there were no watchers");
    store.put("a", "2");
    store.compact(2);
    store.route();
    session.create_at("a", 1);
    drain(&mut session);
    session.handle(Request::Progress);
    session.handle(Request::Cancel(1));
    assert_eq!(read(&mut session), ["1 canceled @2"], "one was lost to compaction");
}

#[test]
fn progress_does_not_count_for_a_watcher_that_fell_behind_before_it() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    drain(&mut session);
    for n in 0..2 * DELIVERIES {
        store.put("a", &n.to_string());
    }
    session.handle(Request::Progress);
    store.route();
    let lines = read(&mut session);
    assert!(lines.iter().all(|line| !line.contains("progress")), "{lines:?}");
    assert!(lines.last().is_some_and(|line| line.contains("#17")), "{lines:?}");
}

#[test]
fn a_progress_mark_from_before_a_watcher_joined_counts_only_for_what_it_has() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("b", 0);
    store.put_each("a", 2..=4);
    drain(&mut session);
    store.route();
    session.handle(Request::Progress);
    session.create_at("a", 2);
    // The progress mark for revision 4 is queued. The new watcher has no event yet.
    assert_eq!(read(&mut session), ["1 created @4", "1 +a=2#2 +a=3#3 +a=4#4 @4"]);
}

#[test]
fn the_ticker_reports_progress_to_idle_live_watchers_that_want_it() {
    let mut store = Store::new();
    let mut session = store.session();
    let notified = |range: &str, start| {
        Request::Create(Create { progress_notify: true, ..create(prefix(range), start) })
    };
    session.handle(notified("a", 0));
    session.create_at("a", 0);
    session.handle(notified("b", 7));
    drain(&mut session);
    session.tick();
    assert_eq!(read(&mut session), ["0 progress @1"]);
    store.put("a", "2");
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=2#2 @2", "1 +a=2#2 @2"]);
    session.tick();
    assert!(read(&mut session).is_empty(), "events were sent since the last tick");
    session.tick();
    assert_eq!(read(&mut session), ["0 progress @2"]);
    // The event in flight comes first.
    store.put("a", "3");
    session.tick();
    assert_eq!(route_and_read(&store, &mut session), ["0 +a=3#3 @3", "1 +a=3#3 @3", "0 progress @3"]);
    session.tick();
    session.handle(Request::Cancel(0));
    assert_eq!(read(&mut session), ["0 canceled @3"]);
}

#[test]
fn a_revision_without_events_is_progress_too() {
    let mut store = Store::new();
    let mut session = store.session();
    session.create_at("a", 0);
    store.writer.advance(Revision(5), LogIndex(9));
    store.writer.publish();
    session.handle(Request::Progress);
    assert_eq!(route_and_read(&store, &mut session), ["0 created @1", "-1 progress @5"]);
}
