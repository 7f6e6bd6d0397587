//! The times of calls.

use std::fmt;
use std::time::{Duration, Instant};

/// Calls that were answered: when, and after what time.
#[derive(Debug, Default)]
pub struct Calls(Vec<(Instant, Duration)>);

/// Figures of calls.
#[derive(Debug)]
pub struct Figures {
    pub calls: usize,
    pub p50: Duration,
    pub p99: Duration,
    /// The longest time without an answered call.
    pub longest_gap: Duration,
}

impl Calls {
    /// A call that began then is answered now.
    pub fn answered(&mut self, begun: Instant) {
        self.0.push((Instant::now(), begun.elapsed()));
    }

    pub fn extend(&mut self, other: Calls) {
        self.0.extend(other.0);
    }

    /// The figures of the time between two moments.
    pub fn figures(&self, since: Instant, until: Instant) -> Figures {
        let mut calls: Vec<_> = self.0.iter().filter(|(at, _)| (since..until).contains(at)).collect();
        calls.sort();
        let moments: Vec<_> =
            [since].into_iter().chain(calls.iter().map(|call| call.0)).chain([until]).collect();
        let longest_gap = moments.windows(2).map(|pair| pair[1] - pair[0]).max().expect("two moments");
        let mut times: Vec<_> = calls.iter().map(|call| call.1).collect();
        times.sort();
        let rank = |percent| times.get(times.len() * percent / 100).copied().unwrap_or_default();
        Figures { calls: times.len(), p50: rank(50), p99: rank(99), longest_gap }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figures { calls, p50, p99, longest_gap } = self;
        write!(f, "{calls} calls, p50 {p50:.1?}, p99 {p99:.1?}, longest gap {longest_gap:.1?}")
    }
}
