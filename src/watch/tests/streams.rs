//! Streams: their end, their fairness, their requests.

use super::*;

#[test]
fn a_store_that_was_loaded_afresh_ends_every_stream() {
    let mut store = Store::new();
    let (mut live, mut behind) = (store.session(), store.session());
    live.create_at("a", 0);
    drain(&mut live);
    store.put("a", "2");
    behind.create_at("a", 1);
    store.writer.reset();
    store.put("a", "2 again");
    let ends = |session: &mut Call| loop {
        match session.next() {
            Step::Respond(Response { body: Body::Created, .. }) | Step::Yield => {}
            Step::End(EtcdError::Unavailable(_)) => return true,
            other => panic!("{other:?}"),
        }
    };
    assert!(ends(&mut behind), "a stream that reads history sees it by itself");
    store.route();
    assert!(ends(&mut live));
    let mut next = store.session();
    next.create_at("a", 1);
    assert_eq!(read(&mut next), ["0 created @2", "0 +a=2 again#2 @2"]);
    drop((live, behind));
    assert_eq!(store.hub.metrics().streams.get(), 1);
}

#[test]
fn the_end_of_a_stream_frees_everything() {
    let mut store = Store::new();
    let mut session = store.session();
    for n in 0..100 {
        session.create_at("a", 0);
        session.create_at(&format!("a{n}"), 0);
        session.handle(Request::Create(create(KeyRange::Single("a".into()), 0)));
        session.create_at("a", 1);
    }
    for _ in 0..400 {
        assert!(matches!(session.next(), Step::Respond(Response { body: Body::Created, .. })));
    }
    for n in 0..30 {
        store.put("a", &n.to_string());
        store.route();
    }
    let metrics = Arc::clone(store.hub.metrics());
    assert_eq!((metrics.streams.get(), metrics.watchers.get()), (1, 400));
    assert!(metrics.pending.get() > 0 && metrics.slow_watchers.get() >= 100);
    drop(session);
    assert!(store.routing.is_unwatched() && store.hub.registrations().is_empty());
    let left = [&metrics.streams, &metrics.watchers, metrics.pending.as_ref(), &metrics.slow_watchers];
    assert_eq!(left.map(crate::watch::Counter::get), [0; 4]);
}

#[test]
fn many_watchers_behind_do_not_starve_a_live_one() {
    let mut store = Store::new();
    for n in 0..100 {
        store.put("a", &n.to_string());
    }
    store.route();
    let mut session = store.session();
    session.create_at("b", 0);
    for _ in 0..500 {
        session.create_at("a", 2);
    }
    for _ in 0..501 {
        assert!(matches!(session.next(), Step::Respond(Response { body: Body::Created, .. })));
    }
    store.put("b", "now");
    store.route();
    let place = drain(&mut session).iter().position(|response| response.watch_id == 0);
    assert!(place.is_some_and(|place| place <= 1), "at {place:?}");
}

#[test]
fn requests_wait_while_answers_do() {
    let store = Store::new();
    let mut session = store.session();
    while session.control.has_room() {
        session.create_at("a", 0);
    }
    assert!(store.hub.metrics().watchers.get() < 1000);
    assert!(matches!(session.next(), Step::Respond(_)));
    assert!(session.control.has_room());
}

#[test]
fn the_index_and_the_log_have_the_same_history() {
    let mut store = Store::new();
    for n in 0..400 {
        let key = format!("k{}", n % 7);
        match n % 5 {
            0 => store.delete(&key),
            1 => store.write(&[(&key, Some("x")), ("other", None), (&key, Some("y"))]),
            _ => store.put(&key, &n.to_string()),
        };
    }
    store.compact(50);
    let state = store.state();
    for range in [prefix("k"), prefix("k3"), prefix("o"), prefix("z"), KeyRange::Single("k1".into())] {
        let interest = Interest { range, no_put: false, no_delete: true };
        for from in [50, 51, 120, 399, 401] {
            let mut shown = [Vec::new(), Vec::new()];
            for (which, shown) in shown.iter_mut().enumerate() {
                let mut next = Revision(from);
                while next <= state.revision {
                    let slice = crate::watch::history::read_by(&state, &interest, next, which == 0);
                    assert!(slice.next > next, "a slice gets on");
                    for (entry, matched) in slice.revisions {
                        assert!((next..slice.next).contains(&entry.revision()));
                        shown.push((entry.revision(), format!("{matched:?}")));
                    }
                    next = slice.next;
                }
            }
            assert_eq!(shown[0], shown[1]);
        }
    }
}
