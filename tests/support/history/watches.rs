//! The events of each watch: all of them, once, in order, with the right pairs.

use super::{Event, History, Pair, Response, State, Violation, apply};

pub(super) fn check(history: &History, events: &[Event]) -> Result<(), Violation> {
    for (watch, responses) in history.watches.iter().enumerate() {
        check_order(history, watch, responses)?;
        check_progress(watch, responses)?;
        let seen = responses.iter().flat_map(|response| match response {
            Response::Events(_, events) => events.as_slice(),
            Response::Progress(_) => &[],
        });
        let mut expected = events.iter();
        for event in seen {
            if expected.next() != Some(event) {
                return Err(Violation::OtherEvent { watch, event: Some(event.clone()) });
            }
        }
        if let Some(event) = expected.next() {
            return Err(Violation::OtherEvent { watch, event: Some(event.clone()) });
        }
    }
    check_pairs(events)
}

/// Each revision has events, all of them come together, and no key has two.
fn check_order(history: &History, watch: usize, responses: &[Response]) -> Result<(), Violation> {
    let mut last = history.begin;
    for response in responses {
        let Response::Events(_, events) = response else { continue };
        for whole in events.chunk_by(|one, next| one.revision == next.revision) {
            let revision = whole[0].revision;
            if revision <= last {
                return Err(Violation::EventOutOfOrder { watch, event: whole[0].clone() });
            }
            if revision != last + 1 {
                return Err(Violation::EventMissing { watch, revision: last + 1 });
            }
            let mut keys: Vec<_> = whole.iter().map(|event| &event.key).collect();
            keys.sort();
            keys.dedup();
            if keys.len() < whole.len() {
                return Err(Violation::EventOutOfOrder { watch, event: whole[0].clone() });
            }
            last = revision;
        }
    }
    if last < history.end {
        return Err(Violation::EventMissing { watch, revision: last + 1 });
    }
    Ok(())
}

fn check_progress(watch: usize, responses: &[Response]) -> Result<(), Violation> {
    let mut progress = i64::MIN;
    for response in responses {
        match response {
            Response::Progress(revision) => progress = progress.max(*revision),
            Response::Events(_, events) => {
                if let Some(event) = events.iter().find(|event| event.revision <= progress) {
                    return Err(Violation::ProgressAhead { watch, progress, event: event.clone() });
                }
            }
        }
    }
    Ok(())
}

/// The pairs are those that the events before them lead to.
fn check_pairs(events: &[Event]) -> Result<(), Violation> {
    let mut state = State::new();
    for event in events {
        let previous = state.get(&event.key).cloned();
        if event.previous != previous {
            return Err(Violation::WrongPrevious { event: event.clone(), expected: previous });
        }
        let expected = event.pair.as_ref().map(|pair| Pair {
            key: event.key.clone(),
            create_revision: previous.as_ref().map_or(event.revision, |before| before.create_revision),
            mod_revision: event.revision,
            version: previous.as_ref().map_or(1, |before| before.version + 1),
            ..pair.clone()
        });
        // A deletion of a key that is not there is no event.
        if event.pair != expected || event.pair.is_none() && previous.is_none() {
            return Err(Violation::WrongPair { event: event.clone(), expected });
        }
        apply(&mut state, event);
    }
    Ok(())
}
