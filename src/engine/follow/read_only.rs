//! Following without a writer in reach: on a mirror, whose writer writes to another stream, behind a fence,
//! and while a migration fills the stream.

use super::Following;
use crate::engine::node::{Node, NodeError};
use crate::log::{ReadOnly, StreamInfo};
use crate::types::Epoch;
use std::time::Duration;
use tokio::time::Instant;

/// Time between two looks at how far a mirror is.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long a mirror may hear nothing of its origin before it is served as it is. After a restart of either
/// server it takes up to 15 s until it hears again.
const SILENCE: Duration = Duration::from_secs(20);

impl Node {
    /// No barrier can be stored that would make this instance ready, so it is ready when it has read what
    /// there is. A mirror must have come to its origin's end once, unless the origin is not there.
    pub(super) async fn read_only_tick(
        &mut self,
        following: &mut Following,
        reason: ReadOnly,
    ) -> Result<(), NodeError> {
        // From a promotion on any instance may write, and none did before.
        following.is_writer_gone = true;
        if reason == ReadOnly::Unfinished {
            self.status.set_no_leader(reason.to_string());
            // All until now is loaded at once, so that the rest takes no time.
            if following.is_caught_up && self.chain.is_whole() && self.chain.epoch() > Epoch(0) {
                self.loaded().await?;
                self.begin_serving();
            }
            return Ok(());
        }
        let is_mirror = matches!(reason, ReadOnly::Mirror { .. });
        if self.is_ready {
            match self.epoch.as_ref().filter(|_| is_mirror && self.hears_of_origin()) {
                Some(epoch) => self.status.set_leader(epoch.member.id),
                None if is_mirror => {
                    let silent = format!("the mirror hears nothing of its origin; {reason}");
                    self.status.set_no_leader(silent);
                }
                None => self.status.set_no_leader(reason.to_string()),
            }
            return Ok(());
        }
        let is_read = following.is_caught_up && self.chain.is_whole() && self.chain.epoch() > Epoch(0);
        if !is_read || following.looked.is_some_and(|looked| looked.elapsed() < LOOK_INTERVAL) {
            return Ok(());
        }
        following.looked = Some(Instant::now());
        let is_whole = match self.log.info().await {
            Ok(info) => match info.lag() {
                Some(lag) if lag.is_in_contact() => lag.is_level() && info.last() <= self.chain.position(),
                Some(_) => following.begun.elapsed() > SILENCE,
                None => true,
            },
            Err(_) => false,
        };
        if is_whole {
            self.ready().await?;
        }
        Ok(())
    }

    /// Whether the mirror has heard of its origin at the last look.
    fn hears_of_origin(&self) -> bool {
        let measured = self.space.measured();
        let stream = measured.borrow().stream.as_ref().and_then(StreamInfo::lag);
        stream.is_some_and(|lag| lag.is_in_contact())
    }
}
