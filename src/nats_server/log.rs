//! The child's log lines: forwarded to `tracing`, kept for error texts, and searched for write errors of the
//! store.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;

/// Lines kept for error texts.
const KEPT: usize = 50;
/// Lines shown in an error text.
const SHOWN: usize = 8;

/// A refused route is reported at most once in this time.
const REFUSAL_INTERVAL: Duration = Duration::from_mins(1);

/// Levels in ascending order of severity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
enum Level {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// Splits `[<pid>] [INF] text`. A line without a level comes from the Go runtime or the configuration parser,
/// which write fatal errors alone.
fn parse(line: &str) -> (Level, &str) {
    const LEVEL_MARKS: [(&str, Level); 6] = [
        ("[INF]", Level::Info),
        ("[WRN]", Level::Warn),
        ("[ERR]", Level::Error),
        ("[FTL]", Level::Error),
        ("[DBG]", Level::Debug),
        ("[TRC]", Level::Trace),
    ];
    let after_pid =
        line.strip_prefix('[').and_then(|line| line.split_once("] ")).map_or(line, |(_, rest)| rest);
    for (mark, level) in LEVEL_MARKS {
        if let Some(text) = after_pid.strip_prefix(mark) {
            return (level, text.strip_prefix(' ').unwrap_or(text));
        }
    }
    (Level::Error, line)
}

/// Beginnings of warnings that are of no use to an operator: of the password that jetway itself writes into
/// the configuration, and of a step that each start and stop takes.
const UNIMPORTANT: [&str; 2] = ["Plaintext passwords detected", "Metalayer blocking snapshot"];

/// Splits the number of an attempt off, as in `Error trying to connect to route (attempt 3): …`.
fn split_attempt(text: &str) -> (Option<u64>, Cow<'_, str>) {
    let parts = text.split_once(" (attempt ").and_then(|(before, rest)| {
        let (number, after) = rest.split_once(')')?;
        Some((number.parse().ok()?, format!("{before}{after}")))
    });
    match parts {
        Some((attempt, rest)) => (Some(attempt), rest.into()),
        None => (None, text.into()),
    }
}

/// Whether a line reports that a store refuses writes from now on.
fn is_write_error(text: &str) -> bool {
    let text = text.to_lowercase();
    ["critical write error", "no space left on device", "disk quota exceeded", "will be disabled"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Whether a line reports that a store holds a message that cannot be read.
fn is_damage(text: &str) -> bool {
    ["malformed or corrupt message", "checksums do not match", "invalid checksum"]
        .iter()
        .any(|sign| text.contains(sign))
}

/// Whether a line reports that the snapshot of a Raft group cannot be read. The server does not start then,
/// or not with the stream.
pub(super) fn is_damaged_snapshot(text: &str) -> bool {
    text.to_lowercase().contains("snapshot corrupt")
}

/// Whether a route was refused, and by which side: the password of routes follows from the token.
fn refused_route(text: &str) -> Option<Refusal> {
    // Connections of routes have the letters rid, and those of clients cid.
    let (_, reason) = text.split_once(" - rid:")?;
    if reason.contains("authentication error") {
        Some(Refusal::ByThis)
    } else if reason.contains("Authorization Violation") {
        Some(Refusal::ByOther)
    } else {
        None
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    ByThis,
    ByOther,
}

impl Refusal {
    fn report(self, line: &str) {
        let (peer, reason) = split_connection(line);
        match self {
            Refusal::ByThis => tracing::warn!(
                peer,
                reason,
                "this member refuses another one, whose --initial-cluster-token differs. All members of a cluster need the \
                 same one; it is refused until it is started with that"
            ),
            Refusal::ByOther => tracing::warn!(
                peer,
                reason,
                "another member refuses this one, since their --initial-cluster-token differ. All members of a cluster need \
                 the same one; this one is refused until it is started with that"
            ),
        }
    }
}

/// The address and the text of a line about a connection, without its number.
fn split_connection(line: &str) -> (&str, &str) {
    let mut parts = line.splitn(3, " - ");
    let address = parts.next().unwrap_or_default();
    (address, parts.nth(1).unwrap_or_default())
}

/// When each kind of refusal was reported last. A refused server tries again every second.
#[derive(Debug, Default)]
struct Refusals([Option<Instant>; 2]);

impl Refusals {
    /// Whether a refusal is news.
    fn is_due(&mut self, refusal: Refusal) -> bool {
        let last = &mut self.0[refusal as usize];
        let is_due = last.is_none_or(|last| last.elapsed() >= REFUSAL_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

/// The last lines of one run of the child.
#[derive(Clone, Debug, Default)]
pub(super) struct Tail(Arc<Mutex<VecDeque<(Level, String)>>>);

impl Tail {
    fn push(&self, level: Level, text: &str) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT {
            lines.pop_front();
        }
        lines.push_back((level, text.to_owned()));
    }

    /// The newest warnings and errors; empty if there are none.
    pub(super) fn complaints(&self) -> String {
        self.newest(Level::Warn)
    }

    /// The newest warnings and errors, or the newest lines if there are none.
    pub(super) fn summary(&self) -> String {
        [Level::Warn, Level::Trace]
            .into_iter()
            .map(|least| self.newest(least))
            .find(|text| !text.is_empty())
            .unwrap_or_else(|| "(it logged nothing)".into())
    }

    fn newest(&self, least: Level) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let chosen: Vec<&str> =
            lines.iter().filter(|(level, _)| *level >= least).map(|(_, text)| text.as_str()).collect();
        chosen[chosen.len().saturating_sub(SHOWN)..].join("; ")
    }

    pub(super) fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).back().map(|(_, text)| text.clone())
    }
}

/// Reads lines until the child closes its end.
pub(super) async fn forward(
    lines: impl AsyncRead + Unpin,
    tail: Tail,
    write_error: watch::Sender<Option<String>>,
    is_member: bool,
) {
    let mut is_reported = false;
    let mut refusals = Refusals::default();
    let mut lines = BufReader::new(lines);
    let mut line = Vec::new();
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line).await {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "cannot read the log of nats-server any more");
                return;
            }
        }
        let line = String::from_utf8_lossy(&line);
        let (level, text) = parse(line.trim_end());
        // The start banner, drawn in lines and bars.
        if !text.contains(|c: char| c.is_ascii_alphanumeric()) {
            continue;
        }
        let level =
            if UNIMPORTANT.iter().any(|start| text.starts_with(start)) { Level::Debug } else { level };
        tail.push(level, text);
        // One line with the reason stands for them.
        let refusal = refused_route(text).filter(|_| is_member);
        let level = if refusal.is_some() { Level::Debug } else { level };
        if let Some(refusal) = refusal
            && refusals.is_due(refusal)
        {
            refusal.report(text);
        }
        let (attempt, message) = split_attempt(text);
        match level {
            Level::Trace => tracing::trace!(target: "nats_server", "{text}"),
            // jetway's own lines have all that ordinary lines have.
            Level::Debug | Level::Info => tracing::debug!(target: "nats_server", "{text}"),
            Level::Warn => tracing::warn!(target: "nats_server", attempt, "{message}"),
            Level::Error => tracing::error!(target: "nats_server", attempt, "{message}"),
        }
        if level >= Level::Warn && is_member && is_damaged_snapshot(text) {
            if !std::mem::replace(&mut is_reported, true) {
                tracing::error!(
                    reason = text,
                    "the store of this member is damaged, and its server has no copy of the stream. If most of the other members \
                     serve, stop this one, remove its --data-dir, and start it again: it takes a copy from the others"
                );
            }
        } else if level >= Level::Warn && is_damage(text) {
            tracing::error!(
                "nats-server has found a damaged message in the store. jetway serves what it has in memory, and the next \
                 start may refuse the store: save the keys now with `jetway snapshot save FILE`, from which `jetway restore` makes a store"
            );
        }
        if level >= Level::Warn && is_write_error(text) {
            // The first line names the file and the reason. Later lines are its consequences.
            write_error.send_if_modified(|error| {
                let first = error.is_none();
                error.get_or_insert_with(|| text.to_owned());
                first
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_read_from_the_marks() {
        assert_eq!(parse("[12] [INF] Server is ready"), (Level::Info, "Server is ready"));
        assert_eq!(parse("[12] [FTL] no"), (Level::Error, "no"));
        assert_eq!(parse("[12] [DBG] [x] y"), (Level::Debug, "[x] y"));
        assert_eq!(
            parse("nats-server: a.conf:1:2: unknown field"),
            (Level::Error, "nats-server: a.conf:1:2: unknown field")
        );
        assert_eq!(parse("[12] [INF]"), (Level::Info, ""));
        assert_eq!(parse(""), (Level::Error, ""));
    }

    #[test]
    fn the_number_of_an_attempt_is_split_off() {
        let (attempt, text) =
            split_attempt("Error trying to connect to route (attempt 12): dial tcp h:1: refused");
        assert_eq!((attempt, &*text), (Some(12), "Error trying to connect to route: dial tcp h:1: refused"));
        let (attempt, text) = split_attempt("no (attempt to) read");
        assert_eq!((attempt, &*text), (None, "no (attempt to) read"));
    }

    #[tokio::test]
    async fn complaints_come_first_and_write_errors_are_noticed() {
        let text = "[1] [INF] Starting\n[1] [INF]  _ |\n[1] [ERR] JetStream resource: critical write error: no space\n[1] [INF] Bye\n";
        let (tail, (write_error, noticed)) = (Tail::default(), watch::channel(None));
        forward(text.as_bytes(), tail.clone(), write_error, false).await;
        assert_eq!(tail.summary(), "JetStream resource: critical write error: no space");
        assert_eq!(tail.last().as_deref(), Some("Bye"));
        assert_eq!(noticed.borrow().as_deref(), Some("JetStream resource: critical write error: no space"));
    }

    #[test]
    fn a_damaged_message_is_no_write_error() {
        // The words of nats-server 2.15.1 at a compaction of a block with a changed bit.
        let text = "Filestore [KV_jetway] Ignoring non-write error: malformed or corrupt message in 1.blk: invalid checksum";
        assert!(is_damage(text) && !is_write_error(text));
        assert!(!is_damage("JetStream resource: critical write error: no space left on device"));
    }

    #[test]
    fn a_damaged_snapshot_is_recognised() {
        // The words of nats-server 2.15.1.
        for text in [
            "RAFT [GDuFSb67 - S-R3F-LH160oTa] Snapshot corrupt, checksums did not match",
            "RAFT [GDuFSb67 - _meta_] Snapshot corrupt, too short",
            "Can't start JetStream: raft: snapshot corrupt",
        ] {
            assert!(is_damaged_snapshot(text) && !is_damage(text) && !is_write_error(text), "{text}");
        }
        assert!(!is_damaged_snapshot("Stream create failed for 'JW > KV_jetway': insufficient resources"));
    }

    #[test]
    fn a_refused_route_is_reported_once() {
        // The words of nats-server 2.15.1.
        let by_this = "127.0.0.1:33630 - rid:80 - authentication error - User \"jetway\"";
        let by_other = "127.0.0.1:21152 - rid:6 - Route Error 'Authorization Violation'";
        assert_eq!(refused_route(by_this), Some(Refusal::ByThis));
        assert_eq!(refused_route(by_other), Some(Refusal::ByOther));
        assert_eq!(split_connection(by_other), ("127.0.0.1:21152", "Route Error 'Authorization Violation'"));
        for other in [
            "127.0.0.1:33630 - cid:80 - authentication error - User \"jetway\"",
            "127.0.0.1:21152 - rid:6 - Route connection closed: Client Closed",
        ] {
            assert_eq!(refused_route(other), None);
        }
        let mut refusals = Refusals::default();
        assert!(refusals.is_due(Refusal::ByThis) && refusals.is_due(Refusal::ByOther));
        assert!(!refusals.is_due(Refusal::ByThis) && !refusals.is_due(Refusal::ByOther));
    }

    #[test]
    fn only_the_newest_lines_are_kept() {
        let tail = Tail::default();
        for number in 0..2 * KEPT {
            tail.push(Level::Info, &number.to_string());
        }
        assert_eq!(tail.0.lock().unwrap().front().unwrap().1, KEPT.to_string());
        assert_eq!(tail.summary().split("; ").count(), SHOWN);
        assert_eq!(tail.complaints(), "");
        assert_eq!(Tail::default().summary(), "(it logged nothing)");
    }
}
