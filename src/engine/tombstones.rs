//! Tombstones that wait for their removal until nats-server has noted the removals before them.
//!
//! nats-server 2.15.1 does not note each removal at once. A block that notes removals in earlier blocks stays
//! when its own last message is removed, and no block notes that removal. The message is there again after
//! the server was killed. Two minutes after it was removed at the latest (`sync_interval`, in a store of its
//! own and by default), the server writes such a block again without the message. In 30 stores that were
//! filled at random and then killed, one message came back; with a sync interval that had passed, none did in
//! 120.
//!
//! An older value that comes back does no harm while a tombstone or a newer value stands behind it. So a
//! tombstone goes only [`NOTED`] after the values before it. If one of them is there by then, a server was
//! killed in between: the value is removed again, and the time begins again.

use crate::log::Present;
use crate::types::Sequence;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// The time within which nats-server has noted a removal for certain: its interval, the time that its work
/// takes, and as much again.
pub(super) const NOTED: Duration = Duration::from_mins(5);

/// Tombstones, and the other messages that were removed of late.
#[derive(Debug, Default)]
pub(super) struct WaitingTombstones {
    waiting: VecDeque<(Instant, Vec<Sequence>)>,
    removed: VecDeque<(Instant, Vec<Sequence>)>,
}

impl WaitingTombstones {
    /// Notes messages that were removed at `now`.
    pub(super) fn add_removed(&mut self, now: Instant, sequences: Vec<Sequence>) {
        self.forget_noted(now);
        if !sequences.is_empty() {
            self.removed.push_back((now, sequences));
        }
    }

    /// Takes tombstones that cover nothing any more at `now`.
    pub(super) fn add(&mut self, now: Instant, tombstones: Vec<Sequence>) {
        if !tombstones.is_empty() {
            self.waiting.push_back((now + NOTED, tombstones));
        }
    }

    /// The time at which the first ones may go.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.front().map(|(due, _)| *due)
    }

    /// Takes the first ones if their time has come.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Vec<Sequence>> {
        self.waiting.pop_front_if(|(due, _)| *due <= now).map(|(_, tombstones)| tombstones)
    }

    /// Messages that are there again.
    pub(super) fn came_back(&self, present: &Present) -> Vec<Sequence> {
        let is_there = |at: &Sequence| !present.is_gone(*at);
        let mut back: Vec<Sequence> =
            self.removed.iter().flat_map(|(_, sequences)| sequences).copied().filter(is_there).collect();
        back.sort_unstable();
        back
    }

    /// All wait as long as if everything had been removed at `now`.
    pub(super) fn begin_again(&mut self, now: Instant) {
        for (due, _) in &mut self.waiting {
            *due = now + NOTED;
        }
        for (removed, _) in &mut self.removed {
            *removed = now;
        }
    }

    /// Forgets removals that were noted before the first of the tombstones covered nothing any more.
    fn forget_noted(&mut self, now: Instant) {
        let uncovered = self.due().map_or(now, |due| due - NOTED);
        while self.removed.pop_front_if(|(at, _)| *at + NOTED <= uncovered).is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(of: &[u64]) -> Vec<Sequence> {
        of.iter().copied().map(Sequence).collect()
    }

    #[test]
    fn tombstones_go_when_the_removals_before_them_are_noted() {
        let begin = Instant::now();
        let second = begin + Duration::from_secs(100);
        let mut tombstones = WaitingTombstones::default();
        assert_eq!(tombstones.due(), None);
        tombstones.add(begin, sequences(&[7, 8]));
        tombstones.add(second, sequences(&[]));
        tombstones.add(second, sequences(&[9]));
        assert_eq!(tombstones.due(), Some(begin + NOTED));
        assert!(tombstones.take_due(begin + NOTED - Duration::from_millis(1)).is_none());
        assert_eq!(tombstones.take_due(begin + NOTED).unwrap(), sequences(&[7, 8]));
        assert!(tombstones.take_due(begin + NOTED).is_none());
        assert_eq!(tombstones.take_due(second + NOTED).unwrap(), sequences(&[9]));
    }

    #[test]
    fn a_message_that_is_there_again_makes_them_wait_once_more() {
        let begin = Instant::now();
        let mut tombstones = WaitingTombstones::default();
        tombstones.add_removed(begin, sequences(&[2, 5, 6]));
        tombstones.add(begin, sequences(&[7]));
        let present = |first, removed: &[u64]| Present::all_but(Sequence(first), sequences(removed));
        // All that stood before the first message are gone.
        assert_eq!(tombstones.came_back(&present(3, &[5, 6])), []);
        assert_eq!(tombstones.came_back(&present(1, &[4, 6])), sequences(&[2, 5]));
        let later = begin + NOTED;
        tombstones.begin_again(later);
        assert!(tombstones.take_due(later).is_none());
        assert!(tombstones.take_due(later + NOTED).is_some());
    }

    #[test]
    fn removals_that_are_noted_are_forgotten() {
        let begin = Instant::now();
        let all = Present::all_but(Sequence(1), []);
        let mut tombstones = WaitingTombstones::default();
        tombstones.add_removed(begin, sequences(&[2]));
        tombstones.add(begin, sequences(&[4]));
        tombstones.add_removed(begin + NOTED, sequences(&[3]));
        assert_eq!(tombstones.came_back(&all), sequences(&[2, 3]), "a tombstone waits for the first one");
        tombstones.add(begin + NOTED, sequences(&[5]));
        tombstones.take_due(begin + NOTED).unwrap();
        tombstones.add_removed(begin + NOTED, Vec::new());
        assert_eq!(tombstones.came_back(&all), sequences(&[3]));
        tombstones.take_due(begin + 2 * NOTED).unwrap();
        tombstones.add_removed(begin + 2 * NOTED, Vec::new());
        assert_eq!(tombstones.came_back(&all), []);
    }
}
