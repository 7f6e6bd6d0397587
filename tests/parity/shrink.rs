//! Makes a session that shows a difference short: drops what it shows it without.

use crate::pair::{Difference, Pair};
use crate::session::Session;

/// Each attempt starts two servers, so there is an end to them.
const ATTEMPTS: usize = 150;

/// Drops ever smaller pieces for as long as some difference remains.
pub async fn shrink(session: Session, first: Difference) -> (Session, Difference) {
    let mut ops = session.0;
    ops.truncate(first.index + 1);
    let mut shown = first;
    let mut piece = ops.len().div_ceil(2);
    let mut attempts = 0;
    while piece > 0 {
        let mut at = 0;
        let mut dropped = false;
        while at < ops.len() && attempts < ATTEMPTS {
            attempts += 1;
            let mut fewer = ops.clone();
            fewer.drain(at..(at + piece).min(ops.len()));
            let session = Session(fewer);
            match Pair::start().await.run(&session, &session).await {
                Ok(()) => at += piece,
                Err(difference) => {
                    ops = session.0;
                    ops.truncate(difference.index + 1);
                    shown = difference;
                    dropped = true;
                }
            }
        }
        if attempts == ATTEMPTS {
            break;
        }
        // A pass that dropped something may have made earlier pieces droppable.
        if !dropped || piece > 1 {
            piece /= 2;
        }
    }
    (Session(ops), shown)
}
