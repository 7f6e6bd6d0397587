//! The sequences that a stream holds.
//!
//! JetStream lists all sequences that were ever removed behind the first message. A key that never changes
//! keeps the first message where it is. So the list grows as long as the stream lives: with 100 writes a
//! second it has 8.6 million numbers after a day, and NATS closes a connection to which it owes 256 MiB. A
//! longer list is made of what is there instead: a consumer reads the headers of all messages.

use super::Log;
use super::api::ApiError;
use super::consumer::ConsumeError;
use crate::types::Sequence;
use thiserror::Error;

/// Most removed sequences that JetStream is asked for: about 10 MB. A debug build asks for few, so that tests
/// cover both ways.
const MOST_LISTED: u64 = if cfg!(debug_assertions) { 20 } else { 1_000_000 };

/// The sequences of a stream are not known now.
#[derive(Debug, Error)]
pub enum PresentError {
    /// JetStream has not answered.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// They could not be read.
    #[error(transparent)]
    Consume(#[from] ConsumeError),
}

/// The sequences that a stream holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    first: Sequence,
    /// First and last sequence of each gap behind it, ascending.
    gaps: Vec<(Sequence, Sequence)>,
}

impl Present {
    /// All from `first` on but those in `removed`, which ascends.
    pub(crate) fn all_but(first: Sequence, removed: impl IntoIterator<Item = Sequence>) -> Present {
        let mut gaps: Vec<(Sequence, Sequence)> = Vec::new();
        for at in removed {
            match gaps.last_mut() {
                Some((_, last)) if last.next() == at => *last = at,
                _ => gaps.push((at, at)),
            }
        }
        Present { first, gaps }
    }

    /// Those in `present`, which ascends, and all behind the last one.
    fn these(present: impl IntoIterator<Item = Sequence>) -> Option<Present> {
        let mut present = present.into_iter();
        let first = present.next()?;
        let (mut gaps, mut next) = (Vec::new(), first.next());
        for at in present {
            if next < at {
                gaps.push((next, Sequence(at.0 - 1)));
            }
            next = at.next();
        }
        Some(Present { first, gaps })
    }

    /// Whether the message at a sequence was removed.
    pub(crate) fn is_gone(&self, at: Sequence) -> bool {
        at < self.first || is_within(&self.gaps, at)
    }

    /// The removed ones from `from` to `to`, ascending.
    pub(crate) fn gone_within(&self, from: Sequence, to: Sequence) -> impl Iterator<Item = Sequence> {
        let before_first = (from.0..self.first.0.min(to.0 + 1)).map(Sequence);
        let met = self.gaps.partition_point(|(_, last)| *last < from);
        let gaps = self.gaps[met..].iter().take_while(move |(first, _)| *first <= to);
        let within =
            gaps.flat_map(move |(first, last)| (first.0.max(from.0)..=last.0.min(to.0)).map(Sequence));
        before_first.chain(within)
    }

    /// The last one that was removed in front of a message, or of which that is known.
    pub(crate) fn last_gone(&self) -> Sequence {
        self.gaps.last().map_or(Sequence(self.first.0.saturating_sub(1)), |(_, last)| *last)
    }
}

/// Whether one of these ranges, which ascend, holds a sequence.
pub(crate) fn is_within(ranges: &[(Sequence, Sequence)], at: Sequence) -> bool {
    let next = ranges.partition_point(|(_, last)| *last < at);
    ranges.get(next).is_some_and(|(first, _)| *first <= at)
}

impl Log {
    /// The sequences that the stream holds. If very many were removed, a copy may answer that is not the
    /// leader's: messages behind its last one count as present.
    ///
    /// # Errors
    /// [`PresentError`]; a later try may succeed.
    pub async fn present(&self) -> Result<Present, PresentError> {
        let state = self.info().await?.state;
        let span = (state.last_seq + 1).saturating_sub(state.first_seq);
        if span.saturating_sub(state.messages) <= MOST_LISTED {
            let state = self.api().stream_info_with_deleted(self.stream()).await?.state;
            return Ok(Present::all_but(Sequence(state.first_seq), state.deleted.into_iter().map(Sequence)));
        }
        let mut consumer = self.consume_headers().await?;
        let mut present = Vec::new();
        let mut is_last = consumer.pending() == 0;
        while !is_last {
            let delivered = consumer.next().await?;
            present.extend(delivered.messages.into_iter().map(|(at, _)| at));
            is_last = delivered.is_last;
        }
        let first = Sequence(state.first_seq);
        Ok(Present::these(present).unwrap_or_else(|| Present::all_but(first, [])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sequences(of: &[u64]) -> Vec<Sequence> {
        of.iter().copied().map(Sequence).collect()
    }

    #[test]
    fn both_ways_find_the_same() {
        let listed = Present::all_but(Sequence(3), sequences(&[4, 7, 8, 9, 12]));
        let read = Present::these(sequences(&[3, 5, 6, 10, 11, 13])).unwrap();
        assert_eq!(listed, read);
        let gone: Vec<u64> = (1..15).filter(|at| read.is_gone(Sequence(*at))).collect();
        assert_eq!(gone, [1, 2, 4, 7, 8, 9, 12]);
        assert_eq!(read.last_gone(), Sequence(12));
        assert_eq!(Present::these([]), None);
    }

    #[test]
    fn gaps_are_cut_off_at_both_ends() {
        let present = Present::all_but(Sequence(3), sequences(&[4, 7, 8, 9, 12]));
        let within = |from, to| present.gone_within(Sequence(from), Sequence(to)).collect::<Vec<_>>();
        assert_eq!(within(1, 20), sequences(&[1, 2, 4, 7, 8, 9, 12]));
        assert_eq!(within(2, 2), sequences(&[2]));
        assert_eq!(within(8, 8), sequences(&[8]));
        assert_eq!(within(8, 12), sequences(&[8, 9, 12]));
        assert_eq!(within(5, 6), []);
        assert_eq!(within(9, 8), []);
    }
}
