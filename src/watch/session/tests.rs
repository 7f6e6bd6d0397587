//! Marks of progress that count, and marks that do not.

use super::*;
use crate::watch::control::Request;
use crate::watch::tests::{Store, create, drain, prefix};

#[test]
fn a_mark_pushed_while_a_watcher_was_on_its_way_to_join_does_not_count() {
    let mut store = Store::new();
    let mut call = store.session();
    assert_eq!(store.put("a", "x"), 2);
    call.control.handle(Request::Create(create(prefix("b"), 0)));
    call.control.handle(Request::Create(create(prefix("a"), 2)));
    call.control.handle(Request::Progress);
    // Handles all requests but that for progress.
    store.routing.answer(3);
    let created = [call.session.next(), call.session.next()];
    assert!(matches!(created, [Step::Respond(_), Step::Respond(_)]), "{created:?}");
    // It reads history up to revision 2 and asks to join, before the routing task goes on to 4 and pushes
    // a progress mark.
    assert!(matches!(call.session.next(), Step::Respond(Response { revision: Revision(2), .. })));
    (3..=4).for_each(|n| assert_eq!(store.put("a", "x"), n));
    store.routing.answer(1);
    store.routing.route_only();
    let responses: Vec<_> =
        drain(&mut call).iter().map(|response| (response.watch_id, response.revision.0)).collect();
    assert_eq!(responses, [(1, 3), (1, 4)]);
}

#[test]
fn progress_asked_for_before_the_first_watcher_is_not_reported() {
    let store = Store::new();
    let mut call = store.session();
    call.control.handle(Request::Progress);
    call.control.handle(Request::Create(create(prefix("a"), 0)));
    let responses: Vec<_> = drain(&mut call).into_iter().map(|response| response.body).collect();
    assert!(matches!(responses[..], [Body::Created]), "{responses:?}");
}

#[test]
fn a_mark_older_than_what_a_watcher_has_caught_up_with_is_not_reported() {
    let mut store = Store::new();
    let mut call = store.session();
    call.handle(Request::Create(create(prefix("b"), 0)));
    drain(&mut call);
    (2..=4).for_each(|n| assert_eq!(store.put("a", "x"), n));
    call.handle(Request::Progress);
    store.route();
    (5..=6).for_each(|n| assert_eq!(store.put("a", "x"), n));
    // The mark of 4 waits while another watcher catches up, with what the routing task has not routed
    // yet.
    call.session.live_run = LIVE_RUN;
    call.handle(Request::Create(create(prefix("a"), 2)));
    let responses: Vec<_> =
        drain(&mut call).iter().map(|response| (response.watch_id, response.revision.0)).collect();
    assert_eq!(responses, [(1, 6), (1, 6)], "created, and events up to 6");
}
