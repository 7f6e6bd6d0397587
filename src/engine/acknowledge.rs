//! Watches over the writes under way, all of them together: what JetStream says to them, connections that break, a store
//! that fails, and the clock.
//!
//! Where this instance is the only writer, what is acknowledged is handed to the follower of the key stream at once, which
//! passes it on when it is next in the sequence. So no write needs to be brought back by a consumer.

use super::Inner;
use crate::jetstream::record::Record;
use crate::jetstream::{Acknowledgement, Acknowledgements, LATE, Own};
use crate::types::Sequence;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior};

/// How precisely deadlines are kept.
const TICK: Duration = Duration::from_millis(100);

pub(super) fn spawn(inner: &Arc<Inner>, acknowledgements: Acknowledgements) {
    tokio::spawn(take(Arc::clone(inner), acknowledgements));
    tokio::spawn(watch(Arc::clone(inner)));
}

async fn take(inner: Arc<Inner>, mut acknowledgements: Acknowledgements) {
    loop {
        let next = tokio::select! {
            next = acknowledgements.next() => next,
            () = inner.stop.cancelled() => None,
        };
        let Some(Acknowledgement { operation, stored }) = next else { return };
        let last = stored.as_ref().map_or(0, |sequence| sequence.0);
        let taken = inner.pending.acknowledged(operation, stored.map(drop));
        let Some((sent, bodies)) = taken else { continue };
        let (Some(own), false) = (&*inner.own.load(), bodies.is_empty()) else { continue };
        let first = (last + 1).saturating_sub(bodies.len() as u64);
        for (body, sequence) in bodies.into_iter().zip(first..) {
            let record = Record { sequence: Sequence(sequence), time: 0, body };
            own.tell(Own { record, sent });
        }
    }
}

async fn watch(inner: Arc<Inner>) {
    let mut generation = inner.publisher.generation();
    let mut replaced: Option<Instant> = None;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            error = inner.store_fails() => {
                inner.pending.fail(&error);
                // It stays so for a while; the next look is for what was published meanwhile.
                tick.tick().await;
            }
            () = inner.stop.cancelled() => return,
        }
        let link = inner.publisher.link();
        if link.connected && link.generation != generation {
            generation = link.generation;
            replaced = Some(Instant::now());
        }
        if replaced.is_some_and(|replaced| replaced.elapsed() >= LATE) {
            replaced = None;
            inner.pending.lose_all_before(generation);
        }
        inner.pending.expire(Instant::now());
    }
}
