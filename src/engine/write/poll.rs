//! Polls: the writer asks the voters whether they still vote for it, on behalf of answers that rest on no
//! record. All answers that came before a poll share it, and one poll is in flight at a time.
//!
//! Another instance's calls carry its vote, which confirms them without a poll where it is enough.

use super::{WriteError, Writing};
use crate::engine::node::Node;
use crate::engine::proposal::{Call, Proposal, Waiter, WireQuestion, WireVote};
use crate::engine::votes::{Vote, Voters};
use crate::record::Body;
use crate::types::{Epoch, LogIndex, Sequence};
use prost::Message as _;
use std::time::Duration;
use tokio::time::Instant;

/// The longest wait for votes. Then a barrier takes their place.
const POLL_TIMEOUT: Duration = Duration::from_millis(200);
/// The time without polls behind one that has failed.
const PAUSE: Duration = Duration::from_secs(2);

/// The polls of a writer.
pub(super) struct Polls {
    /// Answers for the next poll, each with the newest record that it rests on.
    joined: Vec<(Sequence, Waiter)>,
    in_flight: Option<Poll>,
    /// No poll begins before.
    pause: Instant,
    /// The index of the last record that changes the members (V4).
    members_at: LogIndex,
}

struct Poll {
    /// Its number. No other poll of this process has it, so that a late vote counts for none.
    number: u64,
    sent: Instant,
    waiters: Vec<(Sequence, Waiter)>,
    votes: Vec<Vote>,
}

impl Polls {
    pub(super) fn new() -> Polls {
        Polls { joined: Vec::new(), in_flight: None, pause: Instant::now(), members_at: LogIndex::NONE }
    }

    /// Whether no answer waits.
    pub(super) fn is_idle(&self) -> bool {
        self.joined.is_empty() && self.in_flight.is_none()
    }

    /// A record of this index is appended.
    pub(super) fn appended(&mut self, index: LogIndex, body: &Body) {
        if matches!(body, Body::Member(..)) {
            self.members_at = index;
        }
    }

    /// The next poll confirms an answer, which rests on records up to a sequence.
    pub(super) fn join(&mut self, rests_on: Sequence, waiter: Waiter) {
        self.joined.push((rests_on, waiter));
    }

    /// Takes all answers.
    pub(super) fn take_all(&mut self) -> Vec<Waiter> {
        let polled = self.in_flight.take().map(|poll| poll.waiters);
        let all = polled.into_iter().flatten().chain(std::mem::take(&mut self.joined));
        all.map(|(_, waiter)| waiter).collect()
    }
}

/// Whether votes may confirm the answer to a call (V5).
pub(super) fn may_be_confirmed(call: &Call) -> bool {
    !matches!(call.proposal, Proposal::KeepAlive(_))
}

impl Node {
    /// The voters; none while the record of a change of them is not applied.
    fn voters(&self, writing: &Writing) -> Voters {
        if self.reader.snapshot().log_index < writing.polls.members_at {
            return Voters::default();
        }
        Voters::of(&self.mode, &self.tables)
    }

    /// Whether these votes and that of this instance confirm the epoch.
    pub(super) fn is_confirmed(&self, writing: &Writing, votes: &[Vote]) -> bool {
        self.voters(writing).confirm(self.voting(votes, |vote| vote <= self.chain.epoch()))
    }

    /// Whether too many voters have promised to vote for a later epoch, so that votes confirm this one no
    /// more.
    pub(super) fn is_outvoted(&self, writing: &Writing, votes: &[Vote]) -> bool {
        self.voters(writing).are_blocked_by(self.voting(votes, |vote| vote > self.chain.epoch()))
    }

    /// The members that vote so, by these votes and that of this instance.
    fn voting(&self, votes: &[Vote], is_such: impl Fn(Epoch) -> bool) -> Vec<u64> {
        let own = (self.settings.member.id, self.vote());
        let votes = votes.iter().filter(|vote| vote.0 != own.0).chain([&own]);
        votes.filter(|(_, vote)| vote.is_some_and(&is_such)).map(|(member, _)| *member).collect()
    }

    /// Begins a poll for the answers that wait for one. They wait for a barrier where most voters have not
    /// been heard of lately, or have not answered the last poll.
    pub(super) async fn begin_poll(&mut self, writing: &mut Writing) {
        if writing.polls.joined.is_empty() || writing.polls.in_flight.is_some() {
            return;
        }
        if self.is_confirmed(writing, &[]) {
            let waiters = std::mem::take(&mut writing.polls.joined);
            return self.confirm(writing, waiters).await;
        }
        let live = self.peers.values().filter(|peer| peer.is_live()).map(|peer| peer.member.id);
        let are_heard = self.voters(writing).confirm(live.chain([self.settings.member.id]));
        let may_poll = are_heard && Instant::now() >= writing.polls.pause;
        let Some(messenger) = self.messenger.clone().filter(|_| may_poll) else {
            writing.unproved.extend(writing.polls.joined.drain(..).map(|(_, waiter)| waiter));
            return;
        };
        let number = self.next_operation().counter;
        let question = WireQuestion { instance: self.start, epoch: 0, poll: number };
        messenger.poll(question.encode_to_vec()).await;
        let waiters = std::mem::take(&mut writing.polls.joined);
        writing.polls.in_flight = Some(Poll { number, sent: Instant::now(), waiters, votes: Vec::new() });
    }

    /// Takes a vote.
    pub(super) async fn take_vote(
        &mut self,
        writing: &mut Writing,
        vote: &WireVote,
    ) -> Result<(), WriteError> {
        let Some(poll) = writing.polls.in_flight.as_mut().filter(|poll| poll.number == vote.poll) else {
            return Ok(());
        };
        poll.votes.retain(|(member, _)| *member != vote.member);
        poll.votes.push((vote.member, vote.epoch.map(Epoch)));
        let votes = std::mem::take(&mut poll.votes);
        let is_confirmed = self.is_confirmed(writing, &votes);
        // A successor that this writer has named needs such promises.
        let is_outvoted = !writing.is_settling() && self.is_outvoted(writing, &votes);
        if is_confirmed {
            let poll = writing.polls.in_flight.take();
            self.confirm(writing, poll.map(|poll| poll.waiters).unwrap_or_default()).await;
            self.end_turn(writing).await;
        } else if is_outvoted {
            return Err(WriteError::Outvoted);
        } else if let Some(poll) = &mut writing.polls.in_flight {
            poll.votes = votes;
        }
        Ok(())
    }

    /// Gives up a poll that is not answered in time: its answers wait for a barrier.
    ///
    /// # Errors
    /// Some member votes for a later epoch. Another epoch has the votes of all.
    pub(super) fn give_up_late_poll(&self, writing: &mut Writing) -> Result<(), WriteError> {
        let late = writing.polls.in_flight.take_if(|poll| poll.sent.elapsed() > POLL_TIMEOUT);
        let Some(Poll { waiters, votes, .. }) = late else { return Ok(()) };
        writing.unproved.extend(waiters.into_iter().map(|(_, waiter)| waiter));
        writing.polls.pause = Instant::now() + PAUSE;
        let is_later = |vote| vote > self.chain.epoch();
        if !writing.is_settling() && !self.voting(&votes, is_later).is_empty() {
            return Err(WriteError::Outvoted);
        }
        Ok(())
    }

    /// Sends confirmed answers, each behind the records that it rests on: another instance may have read
    /// these, and answered their calls, before they are acknowledged here.
    pub(super) async fn confirm(
        &mut self,
        writing: &mut Writing,
        waiters: impl IntoIterator<Item = (Sequence, Waiter)>,
    ) {
        let mut ready = Vec::new();
        for (rests_on, waiter) in waiters {
            if writing.pipeline.has_emitted(rests_on) {
                ready.push(waiter);
            } else {
                writing.proofs.entry(rests_on).or_default().push(waiter);
            }
        }
        if !ready.is_empty() {
            self.complete(ready, self.chain.index()).await;
        }
    }
}
