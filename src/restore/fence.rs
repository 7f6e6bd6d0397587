//! The fence of a migration that has failed.

use super::RestoreError;
use super::follow::{Source, SourceCallError};
use super::migrate::RETRY;
use super::outcome::{MigrateError, Migrated};
use crate::client::ClientSettings;
use std::slice;
use std::time::{Duration, Instant};

/// How long the fence of a migration that has failed may take to be lifted.
const LIFT_TIMEOUT: Duration = Duration::from_secs(10);

/// Lifts the fence if a step of the migration has failed, and returns the outcome of that step.
///
/// # Errors
/// The step's, [`MigrateError::StillFenced`] and [`MigrateError::LeftFenced`].
pub(super) async fn lifted_after_failure(
    from: &[ClientSettings],
    outcome: Result<Migrated, MigrateError>,
    fenced: &mut Option<u64>,
) -> Result<Migrated, MigrateError> {
    let Err(reason) = outcome else { return outcome };
    let Some(member) = fenced.take() else { return Err(reason) };
    match reason {
        // The copy may be one that can be served, and two stores must not be written to.
        MigrateError::Restore(reason @ RestoreError::Uncertain(_)) => Err(MigrateError::LeftFenced(reason)),
        // The source goes on, as it is the only whole store.
        reason => match lift_fence(from, member).await {
            Ok(()) => Err(reason),
            Err(error) => Err(MigrateError::StillFenced { reason: Box::new(reason), error }),
        },
    }
}

/// Lifts the fence of a member by the first endpoint that does it. A source that has lost a member needs a
/// moment.
async fn lift_fence(from: &[ClientSettings], member: u64) -> Result<(), SourceCallError> {
    let begun = Instant::now();
    loop {
        let mut lifted = Ok(());
        for endpoint in from {
            let lift = async { Source::connect(slice::from_ref(endpoint)).await?.fence(member, false).await };
            lifted = lift.await;
            if lifted.is_ok() {
                return Ok(());
            }
        }
        if begun.elapsed() >= LIFT_TIMEOUT {
            return lifted;
        }
        tokio::time::sleep(RETRY).await;
    }
}
