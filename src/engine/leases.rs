//! Calls that concern leases.

use super::Engine;
use super::handle::unexpected;
use crate::auth::Caller;
use crate::core::State;
use crate::engine::proposal::{Outcome, Proposal};
use crate::error::EtcdError;
use crate::types::{LeaseId, Revision};
use std::sync::Arc;

impl Engine {
    /// Grants a lease; id 0 lets the server choose. Returns id and effective TTL.
    ///
    /// # Errors
    /// [`EtcdError::LeaseExists`], [`EtcdError::LeaseTtlTooLarge`] and those of every call to the writer.
    pub(crate) async fn grant_lease(&self, id: i64, ttl: i64) -> Result<(LeaseId, i64), EtcdError> {
        match self.calls.ask(Proposal::Grant { id, ttl }).await?.outcome {
            Outcome::Lease { id, ttl } => {
                self.counters.granted(ttl);
                Ok((id, ttl))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Ends a lease and deletes its keys, all of which the caller must be allowed to write; returns the
    /// revision that did so, the current one where the lease has no keys.
    ///
    /// # Errors
    /// [`EtcdError::LeaseNotFound`], [`EtcdError::PermissionDenied`] and those of every call to the writer.
    pub(crate) async fn revoke_lease(&self, id: LeaseId, caller: &Caller) -> Result<Revision, EtcdError> {
        match self.calls.ask_as(Proposal::Revoke(id), caller).await?.outcome {
            Outcome::Written(revision) => {
                self.counters.revoked();
                Ok(revision)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Renews a lease; returns its TTL, `None` for a lease that is gone.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub(crate) async fn keep_lease_alive(&self, id: LeaseId) -> Result<Option<i64>, EtcdError> {
        match self.calls.ask(Proposal::KeepAlive(id)).await?.outcome {
            Outcome::Lease { ttl: 0, .. } => Ok(None),
            Outcome::Lease { ttl, .. } => {
                self.counters.renewed();
                Ok(Some(ttl))
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The seconds that a lease has left and was granted, `None` for one that is gone, and a state of that
    /// moment.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub(crate) async fn lease_time_left(
        &self,
        id: LeaseId,
    ) -> Result<(Option<(i64, i64)>, Arc<State>), EtcdError> {
        let answer = self.calls.ask(Proposal::TimeToLive(id)).await?;
        match answer.outcome {
            Outcome::TimeLeft(left) => Ok((left, answer.state)),
            other => Err(unexpected(&other)),
        }
    }

    /// All leases, those that end first in front.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub(crate) async fn all_leases(&self) -> Result<Vec<LeaseId>, EtcdError> {
        match self.calls.ask(Proposal::Leases).await?.outcome {
            Outcome::Leases(leases) => Ok(leases),
            other => Err(unexpected(&other)),
        }
    }

    /// The number of leases.
    pub(crate) fn lease_count(&self) -> usize {
        self.tables.leases.len()
    }

    /// The keys on a lease, ascending.
    pub(crate) fn keys_of(&self, lease: LeaseId) -> Vec<bytes::Bytes> {
        self.tables.attachments.keys(lease)
    }
}
