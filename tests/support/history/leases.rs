//! A lease ends no earlier than its time to live after the client asked for it or kept it alive.
//!
//! The server counts from a later moment, and the client sees the end later than it happens. So an end that
//! the client sees too early is too early at the server as well.

use super::{History, Response, Violation};

pub(super) fn check(history: &History) -> Result<(), Violation> {
    for responses in &history.watches {
        for response in responses {
            let Response::Events(arrived, events) = response else { continue };
            for event in events.iter().filter(|event| event.pair.is_none()) {
                let lease = event.previous.as_ref().map_or(0, |before| before.lease);
                let renewals = history.renewals.iter().filter(|renewal| renewal.lease == lease);
                let earliest = renewals.map(|renewal| renewal.asked + renewal.time_to_live).max();
                if lease != 0 && earliest.is_some_and(|earliest| *arrived < earliest) {
                    return Err(Violation::LeaseEndedEarly { lease, event: event.clone() });
                }
            }
        }
    }
    Ok(())
}
