//! Each event has one call that asked for it, and each answered write has its event.

use std::collections::HashMap;

use super::{Event, History, Outcome, Request, Violation};

/// The revision that each call wrote, by its place in the record; `None` if it wrote none.
pub(super) type Revisions = Vec<Option<i64>>;

pub(super) fn check(history: &History, events: &[Event]) -> Result<Revisions, Violation> {
    let mut revisions = vec![None; history.calls.len()];
    let mut puts: HashMap<&str, &Event> = HashMap::new();
    let mut deletions: HashMap<(&str, i64), &Event> = HashMap::new();
    for event in events {
        match &event.pair {
            None => drop(deletions.insert((&event.key, event.revision), event)),
            Some(pair) => {
                if puts.insert(&pair.value, event).is_some() {
                    let value = pair.value.clone();
                    return Err(Violation::WrittenTwice(Request::Put {
                        key: event.key.clone(),
                        value,
                        lease: 0,
                    }));
                }
            }
        }
    }
    // The deletions that clients do not know of have no value by which they are found.
    let mut maybe_deleted: HashMap<&str, usize> = HashMap::new();
    for (call, revision) in history.calls.iter().zip(&mut revisions) {
        match (&call.request, &call.outcome) {
            (Request::Put { key, value, .. } | Request::Swap { key, value, .. }, outcome) => {
                *revision = written(&call.request, (key, value), outcome, &mut puts)?;
                check_condition(&call.request, *revision, events)?;
            }
            (Request::PutAll { puts: wanted }, outcome) => {
                let mut of_each = Vec::new();
                for (key, value) in wanted {
                    of_each.push(written(&call.request, (key, value), outcome, &mut puts)?);
                }
                *revision = of_each[0];
                if of_each.iter().any(|of| of != revision) {
                    return Err(Violation::WrittenInPart(call.request.clone()));
                }
            }
            (Request::Delete { key }, Outcome::Wrote(at)) => {
                if deletions.remove(&(key.as_str(), *at)).is_none() {
                    return Err(Violation::WriteLost(call.request.clone(), *at));
                }
                *revision = Some(*at);
            }
            (Request::Delete { key }, Outcome::Unknown) => *maybe_deleted.entry(key).or_default() += 1,
            _ => {}
        }
    }
    if let Some(event) = puts.into_values().min_by_key(|event| event.revision) {
        return Err(Violation::NotAsked(event.clone()));
    }
    let mut rest: Vec<&Event> = deletions.into_values().collect();
    rest.sort_by_key(|event| event.revision);
    for event in rest {
        let has_lease = event.previous.as_ref().is_some_and(|before| before.lease != 0);
        match maybe_deleted.get_mut(event.key.as_str()) {
            _ if has_lease => {}
            Some(count) if *count > 0 => *count -= 1,
            _ => return Err(Violation::NotAsked(event.clone())),
        }
    }
    Ok(revisions)
}

/// Takes the event of a value, and compares it with the outcome.
fn written(
    request: &Request,
    (key, value): (&str, &str),
    outcome: &Outcome,
    puts: &mut HashMap<&str, &Event>,
) -> Result<Option<i64>, Violation> {
    let event = match outcome {
        // Left where it is, for nobody has asked for it then.
        Outcome::Read(..) => return Ok(None),
        _ => puts.remove(value).filter(|event| event.key == *key),
    };
    match (event, outcome) {
        (None, Outcome::Wrote(revision)) => Err(Violation::WriteLost(request.clone(), *revision)),
        (Some(event), Outcome::Wrote(revision)) if event.revision != *revision => {
            Err(Violation::OtherRevision(request.clone(), *revision))
        }
        (event, _) => Ok(event.map(|event| event.revision)),
    }
}

/// A swap writes over the revision that it names, and over no other.
fn check_condition(request: &Request, revision: Option<i64>, events: &[Event]) -> Result<(), Violation> {
    let (Request::Swap { key, expected, .. }, Some(revision)) = (request, revision) else { return Ok(()) };
    let first = events.partition_point(|event| event.revision < revision);
    let event = events[first..].iter().find(|event| event.key == *key);
    let before = event.and_then(|event| event.previous.as_ref()).map_or(0, |pair| pair.mod_revision);
    if before == *expected {
        return Ok(());
    }
    Err(Violation::ConditionIgnored(request.clone(), revision))
}
