//! Makes a session that shows a difference short: drops what it shows it without.

use std::time::{Duration, Instant};

use crate::pair::{Difference, Pair};
use crate::session::Session;

/// Drops ever smaller pieces for as long as some difference remains.
///
/// Each attempt starts two servers and may wait long for an event that does not come, so `time` puts an end
/// to them.
pub async fn shrink(session: Session, first: Difference, time: Duration) -> (Session, Difference) {
    let Session { setup, steps: mut ops } = session;
    ops.truncate(first.index + 1);
    let mut shown = first;
    let mut piece = ops.len().div_ceil(2);
    let end = Instant::now() + time;
    while piece > 0 {
        let mut at = 0;
        let mut dropped = false;
        while at < ops.len() && Instant::now() < end {
            let mut fewer = ops.clone();
            fewer.drain(at..(at + piece).min(ops.len()));
            let session = Session { setup, steps: fewer };
            match Pair::check(&session).await {
                Ok(()) => at += piece,
                Err(difference) => {
                    ops = session.steps;
                    ops.truncate(difference.index + 1);
                    shown = difference;
                    dropped = true;
                }
            }
        }
        if Instant::now() >= end {
            break;
        }
        // A pass that dropped something may have made earlier pieces droppable.
        if !dropped || piece > 1 {
            piece /= 2;
        }
    }
    (Session { setup, steps: ops }, shown)
}
