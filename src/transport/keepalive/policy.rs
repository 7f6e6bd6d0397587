//! grpc-go's rule for the pings of a client (`keepalive.EnforcementPolicy`).

use super::frames::{ACK, DATA, END_STREAM, FrameHead, HEADERS, PING, RST_STREAM};
use std::collections::HashSet;
use std::time::Duration;
use tokio::time::Instant;

/// Least interval between pings while no stream is open.
const IDLE_INTERVAL: Duration = Duration::from_hours(2);
const MAX_STRIKES: u8 = 2;

/// The rule, and the strikes of a client.
#[derive(Debug)]
pub(super) struct PingPolicy {
    min_interval: Duration,
    /// Streams that are open.
    open: HashSet<u32>,
    newest: u32,
    last_ping: Option<Instant>,
    strikes: u8,
    /// Whether the next ping finds the strikes at zero: the server has sent headers or data since the last
    /// one.
    resets_strikes: bool,
}

impl PingPolicy {
    pub(super) fn new(min_interval: Duration) -> PingPolicy {
        PingPolicy {
            min_interval,
            open: HashSet::new(),
            newest: 0,
            last_ping: None,
            strikes: 0,
            resets_strikes: false,
        }
    }

    /// The client has sent a frame.
    pub(super) fn received(&mut self, head: FrameHead, now: impl FnOnce() -> Instant) {
        match head.kind {
            // Trailers come with a number that is not new.
            HEADERS if head.stream > self.newest => {
                self.newest = head.stream;
                self.open.insert(head.stream);
            }
            RST_STREAM => drop(self.open.remove(&head.stream)),
            PING if head.flags & ACK == 0 => self.pinged(now()),
            _ => {}
        }
    }

    /// The server has sent a frame.
    pub(super) fn sent(&mut self, head: FrameHead) {
        let ends = match head.kind {
            DATA | HEADERS => {
                self.resets_strikes = true;
                head.flags & END_STREAM != 0
            }
            kind => kind == RST_STREAM,
        };
        if ends {
            self.open.remove(&head.stream);
        }
    }

    fn pinged(&mut self, now: Instant) {
        let last = self.last_ping.replace(now);
        if std::mem::take(&mut self.resets_strikes) {
            self.strikes = 0;
            return;
        }
        let least = if self.open.is_empty() { IDLE_INTERVAL } else { self.min_interval };
        if last.is_some_and(|last| now < last + least) {
            // One read may hold thousands.
            self.strikes = self.strikes.saturating_add(1);
        }
    }

    /// The highest number of a stream of the client.
    pub(super) fn newest_stream(&self) -> u32 {
        self.newest
    }

    /// Whether the client is to be disconnected.
    pub(super) fn is_broken(&self) -> bool {
        self.strikes > MAX_STRIKES
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::head;
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    fn policy() -> PingPolicy {
        PingPolicy::new(MINUTE)
    }

    #[test]
    fn pings_may_come_once_in_the_interval_while_a_stream_is_open() {
        let mut policy = policy();
        let mut now = Instant::now();
        policy.received(head(HEADERS, 0, 1), || now);
        for _ in 0..10 {
            policy.received(head(PING, 0, 0), || now);
            now += MINUTE;
        }
        assert_eq!(policy.strikes, 0);
        policy.received(head(RST_STREAM, 0, 1), || now);
        for _ in 0..3 {
            assert!(!policy.is_broken());
            policy.received(head(PING, 0, 0), || now);
            now += MINUTE;
        }
        assert!(policy.is_broken(), "no stream is open");
    }

    #[test]
    fn the_fourth_ping_at_once_breaks_the_rule() {
        let mut policy = policy();
        let now = Instant::now();
        for ping in 0..1000 {
            policy.received(head(PING, 0, 0), || now);
            assert_eq!(policy.is_broken(), ping > 2, "after {ping} more");
        }
    }

    #[test]
    fn frames_of_the_server_reset_strikes() {
        let mut policy = policy();
        let mut now = Instant::now();
        policy.received(head(HEADERS, 0, 1), || now);
        for _ in 0..10 {
            for _ in 0..3 {
                policy.received(head(PING, 0, 0), || now);
            }
            assert_eq!(policy.strikes, 2);
            policy.received(head(PING, ACK, 0), || now);
            policy.sent(head(DATA, 0, 1));
            policy.received(head(PING, 0, 0), || now);
            assert_eq!(policy.strikes, 0);
            now += MINUTE;
        }
        policy.sent(head(HEADERS, END_STREAM, 1));
        assert!(policy.open.is_empty());
        policy.received(head(HEADERS, END_STREAM, 1), || now);
        assert!(policy.open.is_empty(), "trailers open nothing");
    }
}
