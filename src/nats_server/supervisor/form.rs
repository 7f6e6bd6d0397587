//! Changes of the form of the server: alone, or a member of a cluster.

use super::{LONGEST_PAUSE, Plan};
use crate::nats_server::cluster::Members;
use crate::nats_server::data_dir::DataDir;
use crate::nats_server::{Change, ClusterSettings, Error, Form, conversion};
use tokio::sync::oneshot;

/// A change of the form whose first run is awaited.
pub(super) struct PendingChange {
    done: oneshot::Sender<Result<(), Error>>,
    before: Option<ClusterSettings>,
    members_before: Members,
}

impl PendingChange {
    /// Makes the store fit for another form. `None` if that fails, which is answered then.
    pub(super) async fn begin(plan: &mut Plan<'_>, change: Change) -> Option<PendingChange> {
        let Change { form, done } = change;
        let (before, members_before) = (plan.cluster.clone(), plan.members.clone());
        match convert(plan, form) {
            Ok(()) => Some(PendingChange { done, before, members_before }),
            Err(error) => {
                if before.is_none() {
                    go_back(plan.data_dir).await;
                }
                done.send(Err(error)).ok();
                None
            }
        }
    }

    /// The server serves in its new form.
    pub(super) fn done(self) {
        self.done.send(Ok(())).ok();
    }

    /// The server does not start in its new form.
    pub(super) async fn failed(self, plan: &mut Plan<'_>, error: Error) {
        if self.before.is_none() {
            (plan.cluster, plan.members) = (self.before, self.members_before);
            go_back(plan.data_dir).await;
        }
        self.done.send(Err(error)).ok();
    }
}

/// Makes the store fit for another form, in which the server is started next.
fn convert(plan: &mut Plan<'_>, form: Form) -> Result<(), Error> {
    match form {
        Form::Standalone { from_copy } => {
            conversion::to_standalone(plan.data_dir, from_copy)?;
            (plan.cluster, plan.members) = (None, Members::new());
        }
        Form::Member { settings, prepared } => {
            conversion::to_clustered(plan.data_dir, &crate::nats_server::store_dir(&prepared))?;
            (plan.members, plan.cluster) = (settings.members.clone(), Some(*settings));
        }
    }
    Ok(())
}

/// Makes the store again that of a server alone, after a change that has failed. There is no way back from
/// that form to one of a member, since the metadata is gone.
async fn go_back(data_dir: &DataDir) {
    while let Err(error) = conversion::to_standalone(data_dir, false) {
        tracing::error!(%error, "the store cannot be made that of a server alone again yet");
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}
