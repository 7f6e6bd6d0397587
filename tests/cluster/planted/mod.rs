//! The check of histories finds nothing in the record of a store without a fault, and each planted fault:
//! those in records here, those in jetway itself in [`in_jetway`].

mod in_jetway;
mod store;

use support::history::*;

use store::Store;

#[test]
fn a_store_without_a_fault_has_no_violation() {
    for seed in 0..200 {
        let history = Store::run(seed, 60);
        assert_eq!(history.check(), Ok(()), "seed {seed}");
        let kinds: Vec<_> = history.calls.iter().map(|call| &call.outcome).collect();
        assert!(kinds.contains(&&Outcome::Unknown) || seed % 10 != 0, "a call without an answer");
    }
}

/// Plants a fault in records until one has a place for it.
fn planted(plant: impl Fn(&mut History) -> Option<()>) -> Violation {
    for seed in 0..50 {
        let mut history = Store::run(seed, 60);
        if plant(&mut history).is_some() {
            return history.check().expect_err("the fault is found");
        }
    }
    panic!("no record has a place for it");
}

fn events(history: &mut History, watch: usize) -> Vec<&mut Event> {
    let responses = history.watches[watch].iter_mut();
    responses
        .filter_map(|response| match response {
            Response::Events(_, events) => Some(&mut events[0]),
            Response::Progress(_) => None,
        })
        .collect()
}

fn call(history: &mut History, which: impl Fn(&Call) -> bool) -> Option<&mut Call> {
    history.calls.iter_mut().find(|call| which(call))
}

#[test]
fn an_event_that_a_watch_misses_is_found() {
    let found = planted(|history| {
        history.watches[1].remove(3);
        Some(())
    });
    assert!(matches!(found, Violation::EventMissing { watch: 1, .. }), "{found:?}");
}

#[test]
fn an_event_that_comes_twice_is_found() {
    let found = planted(|history| {
        let event = history.watches[1][3].clone();
        history.watches[1].insert(4, event);
        Some(())
    });
    assert!(matches!(found, Violation::EventOutOfOrder { watch: 1, .. }), "{found:?}");
}

#[test]
fn events_out_of_order_are_found() {
    let found = planted(|history| {
        history.watches[0].swap(3, 4);
        Some(())
    });
    assert!(matches!(found, Violation::EventOutOfOrder { .. } | Violation::EventMissing { .. }), "{found:?}");
}

#[test]
fn the_last_event_that_does_not_come_is_found() {
    let found = planted(|history| {
        history.watches[0].truncate(10);
        Some(())
    });
    assert!(matches!(found, Violation::EventMissing { watch: 0, .. }), "{found:?}");
}

#[test]
fn another_value_in_one_watch_is_found() {
    let found = planted(|history| {
        events(history, 1).into_iter().find_map(|event| event.pair.as_mut())?.value.push('x');
        Some(())
    });
    assert!(matches!(found, Violation::OtherEvent { watch: 1, .. }), "{found:?}");
}

#[test]
fn a_wrong_previous_pair_is_found() {
    let found = planted(|history| {
        for watch in 0..2 {
            let changed =
                events(history, watch).into_iter().rev().find_map(|event| event.previous.as_mut())?;
            changed.value.push('x');
        }
        Some(())
    });
    assert!(matches!(found, Violation::WrongPrevious { .. }), "{found:?}");
}

#[test]
fn a_wrong_version_is_found() {
    let found = planted(|history| {
        for watch in 0..2 {
            events(history, watch).into_iter().rev().find_map(|event| event.pair.as_mut())?.version += 1;
        }
        Some(())
    });
    assert!(matches!(found, Violation::WrongPair { .. }), "{found:?}");
}

#[test]
fn progress_ahead_of_an_event_is_found() {
    let found = planted(|history| {
        history.watches[0].insert(3, Response::Progress(6));
        Some(())
    });
    assert!(matches!(found, Violation::ProgressAhead { watch: 0, .. }), "{found:?}");
}

#[test]
fn a_lost_write_is_found() {
    let found = planted(|history| {
        let revision = history.end + 1;
        let request = Request::Put { key: "a".to_owned(), value: "lost".to_owned(), lease: 0 };
        history.calls.push(Call { begin: 1, end: 2, request, outcome: Outcome::Wrote(revision) });
        Some(())
    });
    assert!(matches!(found, Violation::WriteLost(..)), "{found:?}");
}

#[test]
fn a_lost_deletion_is_found() {
    let found = planted(|history| {
        let delete = Request::Delete { key: "a".to_owned() };
        history.calls.push(Call { begin: 1, end: 2, request: delete, outcome: Outcome::Wrote(2000) });
        Some(())
    });
    assert!(matches!(found, Violation::WriteLost(..)), "{found:?}");
}

#[test]
fn another_revision_than_that_of_the_answer_is_found() {
    let found = planted(|history| {
        let put = call(history, |call| {
            matches!((&call.request, &call.outcome), (Request::Put { .. }, Outcome::Wrote(_)))
        })?;
        if let Outcome::Wrote(revision) = &mut put.outcome {
            *revision += 1;
        }
        Some(())
    });
    assert!(matches!(found, Violation::OtherRevision(..)), "{found:?}");
}

/// One more event at the end of all watches.
fn append(history: &mut History, event: impl Fn(i64, &State) -> Event) {
    let mut state = State::new();
    for event in history.events() {
        apply(&mut state, &event);
    }
    history.end += 1;
    let event = event(history.end, &state);
    for watch in &mut history.watches {
        watch.push(Response::Events(Time::MAX, vec![event.clone()]));
    }
}

fn put_again(revision: i64, state: &State, value: &str) -> Event {
    let previous = state["a"].clone();
    let pair = Pair {
        value: value.to_owned(),
        mod_revision: revision,
        version: previous.version + 1,
        ..previous.clone()
    };
    Event { revision, key: "a".to_owned(), pair: Some(pair), previous: Some(previous) }
}

fn has_a(history: &History) -> Option<String> {
    let mut state = State::new();
    for event in history.events() {
        apply(&mut state, &event);
    }
    state.get("a").map(|pair| pair.value.clone())
}

#[test]
fn a_write_that_happens_twice_is_found() {
    let found = planted(|history| {
        let value = has_a(history)?;
        append(history, |revision, state| put_again(revision, state, &value));
        Some(())
    });
    assert!(matches!(found, Violation::WrittenTwice(..)), "{found:?}");
}

#[test]
fn a_transaction_that_is_written_in_part_is_found() {
    let found = planted(|history| {
        has_a(history)?;
        let puts = ["a", "b"].map(|key| (key.to_owned(), format!("of {key}"))).to_vec();
        let request = Request::PutAll { puts };
        history.calls.push(Call { begin: 1, end: Time::MAX, request, outcome: Outcome::Unknown });
        append(history, |revision, state| put_again(revision, state, "of a"));
        Some(())
    });
    assert!(matches!(found, Violation::WrittenInPart(..)), "{found:?}");
}

#[test]
fn events_of_one_transaction_that_come_apart_are_found() {
    let found = planted(|history| {
        let whole = history.watches[1]
            .iter()
            .position(|response| matches!(response, Response::Events(_, events) if events.len() > 1))?;
        let mut rest = history.watches[1][whole].clone();
        if let (Response::Events(_, first), Response::Events(_, rest)) =
            (&mut history.watches[1][whole], &mut rest)
        {
            *rest = first.split_off(1);
        }
        history.watches[1].insert(whole + 1, rest);
        Some(())
    });
    assert!(matches!(found, Violation::EventOutOfOrder { watch: 1, .. }), "{found:?}");
}

#[test]
fn a_write_that_nobody_asked_for_is_found() {
    let found = planted(|history| {
        has_a(history)?;
        append(history, |revision, state| put_again(revision, state, "nobody's"));
        Some(())
    });
    assert!(matches!(found, Violation::NotAsked(..)), "{found:?}");
}

#[test]
fn a_deletion_that_nobody_asked_for_is_found() {
    let found = planted(|history| {
        has_a(history)?;
        let may_be = |call: &Call| {
            call.request == Request::Delete { key: "a".to_owned() } && call.outcome == Outcome::Unknown
        };
        if history.calls.iter().any(may_be) {
            return None;
        }
        append(history, |revision, state| {
            let previous = Some(state["a"].clone());
            Event { revision, key: "a".to_owned(), pair: None, previous }
        });
        Some(())
    });
    assert!(matches!(found, Violation::NotAsked(..)), "{found:?}");
}

#[test]
fn a_swap_over_another_revision_is_found() {
    let found = planted(|history| {
        let swap = call(history, |call| {
            matches!((&call.request, &call.outcome), (Request::Swap { .. }, Outcome::Wrote(_)))
        })?;
        if let Request::Swap { expected, .. } = &mut swap.request {
            *expected += 1;
        }
        Some(())
    });
    assert!(matches!(found, Violation::ConditionIgnored(..)), "{found:?}");
}

#[test]
fn a_stale_read_is_found() {
    let found = planted(|history| {
        let read = history.calls.iter().position(|call| {
            let is_serializable = matches!(call.request, Request::Read { is_serializable: true, .. });
            matches!(call.outcome, Outcome::Read(revision, _) if revision > 5) && !is_serializable
        })?;
        // The same read, long after.
        let mut late = history.calls[read].clone();
        (late.begin, late.end) = (1_000_000, 1_000_001);
        history.calls.push(late);
        Some(())
    });
    assert!(matches!(found, Violation::OutOfOrder { .. }), "{found:?}");
}

#[test]
fn a_write_with_a_revision_before_an_earlier_answer_is_found() {
    let found = planted(|history| {
        let write = call(history, |call| matches!(call.outcome, Outcome::Wrote(revision) if revision < 5))?;
        (write.begin, write.end) = (1_000_000, 1_000_001);
        Some(())
    });
    assert!(matches!(found, Violation::OutOfOrder { .. }), "{found:?}");
}

#[test]
fn a_read_of_another_state_is_found() {
    let found = planted(|history| {
        let read = call(history, |call| {
            let is_serializable = matches!(call.request, Request::Read { is_serializable: true, .. });
            is_serializable && matches!(&call.outcome, Outcome::Read(_, pairs) if !pairs.is_empty())
        })?;
        if let Outcome::Read(_, pairs) = &mut read.outcome {
            pairs.pop();
        }
        Some(())
    });
    assert!(matches!(found, Violation::WrongRead { .. }), "{found:?}");
}

#[test]
fn a_read_of_a_revision_that_does_not_exist_is_found() {
    let found = planted(|history| {
        let end = history.end;
        let read = call(history, |call| matches!(call.request, Request::Read { is_serializable: true, .. }))?;
        if let Outcome::Read(revision, _) = &mut read.outcome {
            *revision = end + 1;
        }
        Some(())
    });
    assert!(matches!(found, Violation::RevisionAhead(..)), "{found:?}");
}

#[test]
fn a_lease_that_ends_early_is_found() {
    let found = planted(|history| {
        history.renewals[0].asked += 10;
        Some(())
    });
    assert!(matches!(found, Violation::LeaseEndedEarly { lease: 7, .. }), "{found:?}");
}
