//! A call that begins after another one has ended comes behind it.
//!
//! A write has the place of its revision. A read lies behind the write of its revision and before the next
//! one. So places are twice the revision for a write, and one more for a read.

use super::writes::Revisions;
use super::{History, Outcome, Request, Time, Violation};

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    // A call that ends when another one begins is not before it.
    Begin,
    End,
}

pub(super) fn check(history: &History, revisions: &Revisions) -> Result<(), Violation> {
    let mut moments: Vec<(Time, Moment, usize)> = Vec::new();
    for (at, call) in history.calls.iter().enumerate() {
        moments.push((call.begin, Moment::Begin, at));
        moments.push((call.end, Moment::End, at));
    }
    moments.sort_unstable();
    let mut highest = 0;
    for (_, moment, at) in moments {
        let call = &history.calls[at];
        let is_free = matches!(call.request, Request::Read { is_serializable: true, .. });
        let place = match (&call.outcome, revisions[at]) {
            (_, Some(revision)) => revision * 2,
            (Outcome::Read(revision, _), None) if !is_free => revision * 2 + 1,
            _ => continue,
        };
        match moment {
            // Another write cannot have the place of this one.
            Moment::Begin if place < highest => {
                return Err(Violation::OutOfOrder {
                    request: call.request.clone(),
                    revision: place / 2,
                    after: highest / 2,
                });
            }
            // A write without an answer may happen at any later time.
            Moment::End if call.outcome != Outcome::Unknown => highest = highest.max(place),
            _ => {}
        }
    }
    Ok(())
}
