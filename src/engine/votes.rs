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
//! - V4: the voters are those of the member list in the log. One member changes at a time, so any majority
//!   before a change and any majority behind it have a voter in common. The writer counts no votes from the
//!   record of a change until it is applied. A candidate has applied everything up to its guard.
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

/// The members whose votes count; none where barriers are used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Voters(BTreeSet<u64>);

impl Voters {
    /// Those of the members that are applied: the ones that have started and are no learners.
    pub(super) fn of(mode: &Mode, tables: &Tables) -> Voters {
        if !mode.is_in_cluster() {
            return Voters::default();
        }
        let members = tables.members.all();
        let voters = members.values().filter(|member| !member.is_learner && !member.name.is_empty());
        Voters(voters.map(|member| member.id).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether these members, each named once, are most of the voters.
    pub(super) fn is_majority(&self, members: impl IntoIterator<Item = u64>) -> bool {
        let count = members.into_iter().filter(|member| self.0.contains(member)).count();
        2 * count > self.0.len()
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

    #[test]
    fn most_voters_are_a_majority() {
        let voters = Voters([1, 2, 3].into());
        assert!(!voters.is_majority([]));
        assert!(!voters.is_majority([1]));
        assert!(voters.is_majority([1, 3]));
        assert!(!voters.is_majority([1, 7]), "7 is no voter");
        assert!(!Voters([1, 2, 3, 4].into()).is_majority([1, 2]), "half of them is not most");
        assert!(!Voters::default().is_majority([1]), "without voters nothing is confirmed");
    }
}
