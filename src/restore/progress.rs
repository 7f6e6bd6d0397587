//! The lines that report how far a migration is.

use super::outcome::Step;
use super::pages::QUIET;
use std::time::{Duration, Instant};

/// The time between two lines of progress.
const INTERVAL: Duration = Duration::from_secs(5);

/// The lines of a migration: one for each kind of step, then one for each interval.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    reported: Option<Instant>,
    is_following: bool,
    is_waiting: bool,
    is_retrying: bool,
}

impl Progress {
    /// The line for a step, if one is due.
    pub(crate) fn line(&mut self, step: Step) -> Option<String> {
        let begins_to_follow = matches!(step, Step::Following(..)) && !self.is_following;
        self.is_following |= begins_to_follow;
        let begins_to_wait = matches!(step, Step::Waiting(_)) && !self.is_waiting;
        self.is_waiting |= begins_to_wait;
        // The next line of this kind reports that it goes on.
        self.is_following &= !matches!(step, Step::Retrying);
        let is_due = matches!(step, Step::Retrying) && !self.is_retrying
            || self.reported.is_none_or(|reported| reported.elapsed() >= INTERVAL);
        self.is_retrying = matches!(step, Step::Retrying);
        if !is_due && !begins_to_follow && !begins_to_wait {
            return None;
        }
        self.reported = Some(Instant::now());
        Some(match step {
            Step::Receiving(received, all) => format!("receiving the snapshot: {received} of {all} bytes"),
            Step::Listing(keys) => format!("reading the keys: {keys} so far"),
            Step::Waiting(now) => format!(
                "the source is at revision {now} and cannot be fenced: stop its writers. The copy ends once it has stood still \
                 for {QUIET:?}"
            ),
            Step::Writing(written, all) => format!("writing the snapshot: {written} of {all} versions"),
            Step::Following(copied, now) => {
                let lag = (now.0 - copied.0).max(0);
                format!("following the source: copied to revision {copied}, {lag} behind")
            }
            Step::Retrying => "the source cannot be reached; trying again".to_owned(),
        })
    }
}
