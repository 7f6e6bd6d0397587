//! Each read returns the state at its revision.

use super::{Event, History, Outcome, Pair, Request, State, Violation, apply};

pub(super) fn check(history: &History, events: &[Event]) -> Result<(), Violation> {
    let mut reads: Vec<(i64, &Request, &Vec<Pair>)> = history
        .calls
        .iter()
        .filter_map(|call| match &call.outcome {
            Outcome::Read(revision, pairs) => Some((*revision, &call.request, pairs)),
            _ => None,
        })
        .collect();
    reads.sort_by_key(|read| read.0);
    let mut state = State::new();
    let mut rest = events.iter().peekable();
    for (revision, request, found) in reads {
        if revision > history.end {
            return Err(Violation::RevisionAhead(request.clone(), revision));
        }
        while let Some(event) = rest.next_if(|event| event.revision <= revision) {
            apply(&mut state, event);
        }
        let expected: Vec<Pair> = match request {
            // It has no condition, so it does not read.
            Request::PutAll { .. } => Vec::new(),
            Request::Read { key: None, .. } => state.values().cloned().collect(),
            Request::Read { key: Some(key), .. }
            | Request::Put { key, .. }
            | Request::Delete { key }
            | Request::Swap { key, .. } => state.get(key).cloned().into_iter().collect(),
        };
        // A swap that does not write must have found another revision.
        let was_refused = match request {
            Request::Swap { expected: wanted, .. } => {
                expected.first().map_or(0, |pair| pair.mod_revision) != *wanted
            }
            _ => true,
        };
        if *found != expected || !was_refused {
            return Err(Violation::WrongRead {
                request: request.clone(),
                revision,
                found: found.clone(),
                expected,
            });
        }
    }
    Ok(())
}
