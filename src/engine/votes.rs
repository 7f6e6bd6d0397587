//! Votes: most members of a cluster confirm that no other instance has become the writer.
//!
//! A vote takes the place of a barrier, which is a message that most servers store and sync. A barrier costs
//! three nats-servers 1.2 ms of CPU, and a vote needs no message of the log (three members on two cores of an
//! AMD EPYC, November 2026).
//!
//! - V1: before a candidate sends its epoch record, most voters promise that they vote for no older epoch.
//!   The writer of the last epoch needs no promise for its next one, because it never confirms anything in
//!   the older one again.
//! - V2: an instance votes for the writer of an epoch if it has promised no later one and has read no later
//!   epoch record. The vote is sent after the call came that it confirms.
//! - V3: a promise is kept in memory alone. An instance votes once it is ready. By then a message that was
//!   stored after its start stands behind the guard of each epoch record that an earlier process of the
//!   member has promised for, so that none of these can be stored any more.
//! - V4: votes and promises count by the member list in the log. The writer needs the votes of most listed
//!   members, and counts those of members that have started, as the log has it. A candidate needs promises,
//!   too, and takes a member that has not started for one that has promised: the writer counts no vote of it.
//!   The writer counts no votes from the record of a change of the list until it is applied. A candidate has
//!   applied everything up to its guard. So both use the same list.
//! - V5: a vote does not tell when it was sent. So it never confirms that a lease was renewed in time.
//!
//! Two majorities have a voter in common. So if most voters confirm an epoch after a call came, no later
//! epoch record of another instance stood in the log at that time.
//!
//! Instances over external NATS have no list of all that may write, and use barriers.

use crate::applier::Tables;
use crate::engine::mode::Mode;
use crate::engine::node::Node;
use crate::types::Epoch;
use std::collections::BTreeSet;

/// The members by whom votes count; none where barriers are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Voters {
    /// Those that have started, as the log has it: they have client URLs there.
    started: BTreeSet<u64>,
    /// All listed ones but learners.
    listed: usize,
}

impl Voters {
    /// Those of the list that is applied.
    pub(super) fn of(mode: &Mode, tables: &Tables) -> Voters {
        if !mode.is_in_cluster() {
            return Voters::default();
        }
        let members = tables.members.all();
        let listed = || members.values().filter(|member| !member.is_learner);
        let started = listed().filter(|member| !member.client_urls.is_empty());
        Voters { started: started.map(|member| member.id).collect(), listed: listed().count() }
    }

    /// Whether these members, each named once, are enough to confirm an epoch.
    pub(super) fn confirm(&self, members: impl IntoIterator<Item = u64>) -> bool {
        2 * self.count(members) > self.listed
    }

    /// Whether the promises of these members, each named once, are enough for a candidate.
    pub(super) fn permit(&self, promised: impl IntoIterator<Item = u64>) -> bool {
        let not_started = self.listed - self.started.len();
        self.listed == 0 || 2 * (self.count(promised) + not_started) > self.listed
    }

    /// Whether the others cannot confirm an epoch any more, once these members vote for a later one.
    pub(super) fn are_blocked_by(&self, members: impl IntoIterator<Item = u64>) -> bool {
        let later = self.count(members);
        later > 0 && 2 * (self.started.len() - later) <= self.listed
    }

    fn count(&self, members: impl IntoIterator<Item = u64>) -> usize {
        members.into_iter().filter(|member| self.started.contains(member)).count()
    }
}

/// The vote of a member: the lowest epoch whose writer it votes for; `None` if it does not vote.
pub(super) type Vote = (u64, Option<Epoch>);

impl Node {
    /// The lowest epoch whose writer this instance votes for; `None` before it is ready (V3).
    pub(super) fn vote(&self) -> Option<Epoch> {
        self.is_ready.then(|| self.promised.max(self.chain.epoch()))
    }

    /// Votes for no writer of an older epoch from now on.
    pub(super) fn promise(&mut self, epoch: Epoch) {
        self.promised = self.promised.max(epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn voters(started: &[u64], listed: usize) -> Voters {
        Voters { started: started.iter().copied().collect(), listed }
    }

    #[test]
    fn most_listed_members_confirm() {
        let three = voters(&[1, 2, 3], 3);
        assert!(!three.confirm([1]) && three.confirm([1, 3]));
        assert!(!three.confirm([1, 7]), "7 is no voter");
        assert!(!voters(&[1, 2, 3, 4], 4).confirm([1, 2]), "half of them is not most");
        assert!(!voters(&[1], 3).confirm([1]), "the others may begin without it");
        assert!(!Voters::default().confirm([1]), "without voters nothing is confirmed");
    }

    #[test]
    fn a_member_that_has_not_started_counts_as_a_promise() {
        assert!(!voters(&[1, 2, 3], 3).permit([1]) && voters(&[1, 2, 3], 3).permit([1, 2]));
        assert!(voters(&[1], 3).permit([1]), "the holder of restored data starts again by itself");
        assert!(voters(&[1], 3).permit([2]), "1 is gone, and could confirm nothing alone");
        assert!(voters(&[1, 2], 3).permit([2]), "3 has not started");
        assert!(!voters(&[1], 2).permit([2]), "1 may still write");
        assert!(Voters::default().permit([]));
    }

    #[test]
    fn every_promise_that_permits_meets_every_vote_that_confirms() {
        for listed in 1..=5_usize {
            for started in 0..=listed {
                let all: Vec<u64> = (1..=started as u64).collect();
                let voters = voters(&all, listed);
                let chosen = |set: u32| all.iter().copied().filter(move |member| set >> member & 1 == 1);
                let sets = || (0..2_u32 << started).filter(|set| set & 1 == 0);
                for (votes, promises) in
                    sets().flat_map(|votes| sets().map(move |promises| (votes, promises)))
                {
                    let overlap = votes & promises != 0;
                    assert!(
                        overlap || !voters.confirm(chosen(votes)) || !voters.permit(chosen(promises)),
                        "{listed} listed, {started} started: votes {votes:b}, promises {promises:b}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_later_vote_blocks_where_the_others_are_too_few() {
        assert!(voters(&[1, 2], 2).are_blocked_by([2]));
        assert!(!voters(&[1, 2, 3], 3).are_blocked_by([2]) && voters(&[1, 2, 3], 3).are_blocked_by([2, 3]));
        assert!(!voters(&[1], 3).are_blocked_by([]), "barriers do for it");
    }
}
