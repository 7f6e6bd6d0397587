//! Leaves out lines that repeat, and logs later how often they did.
//!
//! One rule holds for all warnings and errors: a line that was logged less than ten seconds ago is left out
//! and counted. When the ten seconds are over, one line has the count. Lines are the same if they come from
//! the same place with the same fields. The address of a client and the number of an attempt do not count,
//! because each connection and each attempt has its own. A place that logs too many different lines counts as
//! one that repeats itself, so a client that chooses a part of the text cannot fill the log either.
//!
//! `tracing-throttle` does the same in 11,000 lines, for events with tenants and for counters in Redis.

use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// A line is logged at most once in this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// Different lines that one place may log in this time.
const MAX_DIFFERENT: usize = 100;
/// Lines that are known, above which those whose time is over are forgotten.
const MAX_KNOWN: usize = 1000;
/// Characters of a line that are kept: a client may choose a long one.
const LONGEST: usize = 500;
/// The fields that differ from one repetition to the next.
const IGNORED_FIELDS: [&str; 2] = ["peer", "attempt"];

/// A line that was logged.
#[derive(Debug)]
struct Line {
    /// The place in the code that logged it.
    place: u64,
    level: Level,
    text: String,
    until: Instant,
    /// How often it was left out since.
    repeats: u64,
}

/// Lines that were logged lately, by their hashes.
#[derive(Debug, Default)]
struct Known(HashMap<u64, Line>);

/// How a line is dealt with.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Logged,
    /// The first repetition: its count is due at this time.
    Counted(Instant),
    CountedAgain,
}

impl Known {
    fn judge(&mut self, place: u64, level: Level, text: &str, now: Instant) -> Verdict {
        if self.0.len() >= MAX_KNOWN {
            self.0.retain(|_, line| line.until > now || line.repeats > 0);
        }
        let of_place = self.0.values().filter(|line| line.place == place && line.until > now).count();
        let key = hash(&(place, text));
        let key = if self.0.contains_key(&key) || of_place < MAX_DIFFERENT { key } else { place };
        match self.0.get_mut(&key) {
            Some(line) if line.repeats > 0 || line.until > now => {
                line.repeats += 1;
                if line.repeats == 1 { Verdict::Counted(line.until) } else { Verdict::CountedAgain }
            }
            _ => {
                let text = text.chars().take(LONGEST).collect();
                self.0.insert(key, Line { place, level, text, until: now + INTERVAL, repeats: 0 });
                Verdict::Logged
            }
        }
    }

    /// Lines whose count is due. They stay known, so that a flood gives one line in each interval.
    fn due(&mut self, now: Instant) -> Vec<(Level, String, u64)> {
        let due = self.0.values_mut().filter(|line| line.repeats > 0 && line.until <= now);
        due.map(|line| {
            line.until = now + INTERVAL;
            (line.level, line.text.clone(), std::mem::take(&mut line.repeats))
        })
        .collect()
    }
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The layer that leaves repetitions out.
#[derive(Debug)]
pub(super) struct Repeats {
    known: Arc<Mutex<Known>>,
    due: Sender<Instant>,
}

impl Repeats {
    /// Starts the thread that logs the counts.
    pub(super) fn start() -> std::io::Result<Repeats> {
        let (due, times) = channel();
        let known = Arc::<Mutex<Known>>::default();
        let counted = Arc::clone(&known);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || log_counts(&counted, &times))?;
        Ok(Repeats { known, due })
    }
}

fn locked(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn log_counts(known: &Mutex<Known>, times: &Receiver<Instant>) {
    for time in times {
        std::thread::sleep(time.saturating_duration_since(Instant::now()));
        let due = locked(known).due(Instant::now());
        for (level, text, times) in due {
            let (seconds, times) =
                (INTERVAL.as_secs(), if times == 1 { "once".into() } else { format!("{times} times") });
            if level == Level::ERROR {
                tracing::error!("repeated {times} within {seconds} s: {text}");
            } else {
                tracing::warn!("repeated {times} within {seconds} s: {text}");
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.module_path() == Some(module_path!()) {
            return true;
        }
        let mut text = LineText::default();
        event.record(&mut text);
        let text = text.message + &text.fields;
        let verdict =
            locked(&self.known).judge(hash(&metadata.callsite()), *metadata.level(), &text, Instant::now());
        if let Verdict::Counted(until) = verdict {
            // The thread ends with the process.
            self.due.send(until).ok();
        }
        verdict == Verdict::Logged
    }
}

#[derive(Default)]
struct LineText {
    message: String,
    fields: String,
}

impl Visit for LineText {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let written = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name if IGNORED_FIELDS.contains(&name) => Ok(()),
            name => write!(self.fields, " {name}={value:?}"),
        };
        written.expect("a string takes everything");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted_and_logged_once_in_the_interval() {
        let (mut known, start) = (Known::default(), Instant::now());
        let mut judge = |text: &str, after: Duration| known.judge(1, Level::WARN, text, start + after);
        let second = Duration::from_secs(1);
        assert_eq!(judge("a", Duration::ZERO), Verdict::Logged);
        assert_eq!(judge("b", second), Verdict::Logged);
        assert_eq!(judge("a", second), Verdict::Counted(start + INTERVAL));
        assert_eq!(judge("a", second), Verdict::CountedAgain);
        assert_eq!(known.due(start + second), []);
        assert_eq!(known.due(start + INTERVAL), [(Level::WARN, "a".to_owned(), 2)]);
        let mut judge = |after: Duration| known.judge(1, Level::WARN, "a", start + after);
        assert_eq!(judge(INTERVAL + second), Verdict::Counted(start + 2 * INTERVAL), "a flood goes on");
        assert_eq!(known.due(start + 2 * INTERVAL), [(Level::WARN, "a".to_owned(), 1)]);
        let after = start + 4 * INTERVAL;
        assert_eq!(known.judge(1, Level::WARN, "a", after), Verdict::Logged, "it was over");
    }

    #[test]
    fn a_place_cannot_fill_the_log_with_different_lines() {
        let (mut known, now) = (Known::default(), Instant::now());
        let mut logged = |place| {
            let lines = (0..10 * MAX_DIFFERENT).map(|n| known.judge(place, Level::WARN, &n.to_string(), now));
            lines.filter(|verdict| *verdict == Verdict::Logged).count()
        };
        // One more: the first of those that count as the same.
        assert_eq!((logged(1), logged(2)), (MAX_DIFFERENT + 1, MAX_DIFFERENT + 1));
    }

    #[test]
    fn long_lines_take_little_memory_and_differ_by_their_ends() {
        let (mut known, now) = (Known::default(), Instant::now());
        for end in ["a", "b"] {
            let text = "ä".repeat(LONGEST) + end;
            assert_eq!(known.judge(1, Level::WARN, &text, now), Verdict::Logged, "{end}");
        }
        assert!(known.0.values().all(|line| line.text.chars().count() == LONGEST));
    }
}
